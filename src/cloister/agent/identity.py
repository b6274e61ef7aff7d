"""Makes the agent that of a copy of its sandbox (``POST /resumed``): identity, names, random generators.

A copy has the memory of the original, so every generator in it would draw the same numbers as in all other copies. The agent renews its
own and tells its kernels. Programs that clients started cannot be told; those that ask the kernel (getrandom, /dev/urandom) need not be.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path

from cloister.agent.events import EventLog
from cloister.agent.interpreter.contexts import Contexts
from cloister.agent.randomness import renew_randomness
from cloister.agent.state import AgentState
from cloister.agent.told import DIRECTORY, tell_ids
from cloister.agent.trust import follow_authority
from cloister.protocol.copied_sandbox import CopiedSandbox

__all__ = ["become_copy"]


def become_copy(
    copy: CopiedSandbox,
    state: AgentState,
    events: EventLog,
    contexts: Contexts | None,
    etc: Path = Path("/etc"),
    told: Path = DIRECTORY,
) -> None:
    """Be the agent of ``copy`` from now on. Raises: OSError: the host name or the ids cannot be written."""
    if copy.hostname is not None:
        _rename(etc, copy.hostname)
    state.become_copy(copy)
    if copy.hostname is not None:
        tell_ids(state.document, told)
    events.begin_anew()
    follow_authority(copy.ca_bundle, events)
    renew_randomness()
    if contexts is not None:
        contexts.renew_kernels()
        contexts.settle(is_copy=True)


def _rename(etc: Path, hostname: str) -> None:
    """Replace the original's name in the files that have it, and the machine's id."""
    name, hosts = etc / "hostname", etc / "hosts"
    before = name.read_text(encoding="utf-8").strip()
    name.write_text(f"{hostname}\n", encoding="utf-8")
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(etc / "machine-id", os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{uuid.uuid4().hex}\n")
    if before:
        text = hosts.read_text(encoding="utf-8")
        hosts.write_text(re.sub(rf"(?<![\w.-]){re.escape(before)}(?![\w.-])", hostname, text), encoding="utf-8")
