"""Attacks by root of a sandbox, on every tier: forked and cold sandboxes of the namespace runtime, and gVisor (docs/attacks.md).

Each family of ``framework/attacks`` is attempted by one call into one sandbox; a test here looks at one outcome. Afterwards the host is as
before, and the file of the host that attacks look for has not been read (``framework/stage.py``).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from framework.attacks.base import Attack, Outcome
from framework.attacks.calls import CALLS, Call
from framework.stage import Stage, cases

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.every_tier]

Record = Callable[[str, object], None]


def _check(stage: Stage, family: str, attack: Attack, record_property: Record) -> Outcome:
    outcome = stage.check(family, attack)
    record_property("result", outcome.text or outcome.kind)
    return outcome


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("attack", cases("calls"))
def test_root_of_a_sandbox_cannot_by_a_system_call(stage: Stage, attack: Attack, record_property: Record) -> None:
    """A system call that no sandbox needs does nothing. Seccomp refuses it before the host's kernel looks at its arguments."""
    outcome = _check(stage, "calls", attack, record_property)
    assert stage.tier == "gvisor" or outcome.kind == "without effect" or outcome.text in {"EPERM", "ENOSYS"}, outcome


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("attack", cases("namespaces"))
def test_root_of_a_sandbox_cannot_by_namespaces(stage: Stage, attack: Attack, record_property: Record) -> None:
    """No namespace gives power over the sandbox's network, mounts or host."""
    _check(stage, "namespaces", attack, record_property)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("attack", cases("files"))
def test_root_of_a_sandbox_cannot_by_files(stage: Stage, attack: Attack, record_property: Record) -> None:
    """No file of the host can be read, and none of the server's changed."""
    _check(stage, "files", attack, record_property)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("attack", cases("probes"))
def test_root_of_a_sandbox_cannot_by_probing(stage: Stage, attack: Attack, record_property: Record) -> None:
    """Nothing that a tool for breaking out looks for is there."""
    _check(stage, "probes", attack, record_property)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("attack", cases("powers"))
def test_root_of_a_sandbox_cannot_by_identity(stage: Stage, attack: Attack, record_property: Record) -> None:
    """No identity, capability, signal or priority reaches beyond the sandbox."""
    _check(stage, "powers", attack, record_property)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("attack", cases("network"))
def test_root_of_a_sandbox_cannot_by_sockets(stage: Stage, attack: Attack, record_property: Record) -> None:
    """No socket is of another kind, has another address, or changes the network."""
    _check(stage, "network", attack, record_property)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("attack", cases("escapes"))
def test_root_of_a_sandbox_cannot_by_a_known_escape(stage: Stage, attack: Attack, record_property: Record) -> None:
    """No published way out of containers gets past its first steps."""
    _check(stage, "escapes", attack, record_property)


_REFUSED = ("-1 1", "-1 38")


@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in CALLS if one.harmless is not None])
def test_what_a_sandbox_cannot_call_is_there_for_the_host(one: Call) -> None:
    """A call of the same number by the host's root reaches the check of its arguments. So the sandbox refuses it, not a mistake in the test."""
    arguments = ", ".join(repr(value) for value in (*(one.harmless or ()), 0, 0, 0, 0, 0, 0)[:6])
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall({one.number}, {arguments}), ctypes.get_errno())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.stdout.strip() == "-1 38":
        pytest.skip(f"this machine cannot tell: its kernel has no {one.name}")
    assert done.stdout.strip() not in _REFUSED
