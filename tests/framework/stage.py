"""The place where the attacks of ``framework/attacks`` are attempted: a sandbox of a tier. They must not change the host."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import secrets
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from cloister.agent import __path__ as agent_path
from framework.attack_table import held_by
from framework.attacks import __path__ as attacks_path
from framework.attacks.base import Attack, Outcome
from framework.server import Server
from framework.starts import make_started

__all__ = ["OPTIONS", "Stage", "cases", "host_secret", "make_on_tier", "view_of_host"]

OPTIONS = {
    "forked": ("--zygotes", "true"),
    "cold": ("--zygotes", "false"),
    "gvisor": ("--default-runtime", "gvisor"),
}
"""Of the server for each tier."""
_COLD: dict[str, list[str]] = {"forked": [], "cold": ["kernel", "agent"]}
_PLACE = "/opt/attacks"
_SETTINGS = ("kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/panic", "kernel/pid_max", "kernel/shm_rmid_forced",
             "vm/overcommit_memory", "user/max_user_namespaces", "net/ipv4/ip_forward", "fs/file-max")  # fmt: skip


def make_on_tier(server: Server, tier: str) -> Sandbox:
    """A sandbox that is isolated and started as the tier says."""
    return make_started(server, _COLD[tier]) if tier in _COLD else Sandbox.create(timeout=3600, **server.sdk)


@contextlib.contextmanager
def host_secret() -> Iterator[Path]:
    """A file of the host that every user there may read, while the block lasts."""
    path = Path("/tmp") / f"cloister-secret-{secrets.token_hex(8)}"
    path.write_text(f"of the host {secrets.token_hex(8)}")
    path.chmod(0o644)
    try:
        yield path
    finally:
        path.unlink()


def view_of_host() -> dict[str, object]:
    """Parts of the host that no sandbox may change. Loop devices are left out: servers beside this one have their disks on them."""
    programs = sorted(Path(agent_path[0]).rglob("*.py"))
    return {
        "name": (socket.gethostname(), os.uname().nodename),
        "settings": {name: path.read_text() for name in _SETTINGS if (path := Path("/proc/sys", name)).exists()},
        "programs": hashlib.sha256(b"".join(path.read_bytes() for path in programs)).hexdigest(),
        "swap": Path("/proc/swaps").read_text().count("\n") if Path("/proc/swaps").exists() else 0,
        "clock": time.time() > 1.6e9,
        "devices": sorted(path.name for path in Path("/dev").iterdir() if path.is_block_device() and not path.name.startswith("loop")),
    }


@dataclass
class Stage:
    """One sandbox. A family of attacks is attempted there once, as root, for the first test that asks for an outcome."""

    sandbox: Sandbox
    tier: str
    secret: Path
    _outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def check(self, family: str, attack: Attack) -> Outcome:
        """The outcome of an attack. Raises: AssertionError if it was done, or failed for a reason that shows nothing."""
        if family not in self._outcomes:
            self._outcomes[family] = self._attempt(family)
        outcome = self._outcomes[family][attack.name]
        assert outcome.kind in {"refused", "without effect"}, f"{attack.name}: {outcome}"
        shows = outcome.kind != "refused" or outcome.text in attack.refusals
        assert shows, f"{attack.name}: refused by {outcome.text}, which shows nothing"
        return outcome

    def _attempt(self, family: str) -> dict[str, Outcome]:
        before = view_of_host()
        for path in Path(next(iter(attacks_path))).glob("*.py"):
            self.sandbox.files.write(f"{_PLACE}/{path.name}", path.read_text(), user="root")
        command = f"cd {Path(_PLACE).parent} && ATTACK_SECRET={shlex.quote(str(self.secret))} python3 -m attacks {family}"
        done = self.sandbox.commands.run(command, user="root", timeout=120)
        assert self.secret.read_text() not in done.stdout
        assert view_of_host() == before
        return {name: Outcome(**outcome) for name, outcome in json.loads(done.stdout).items()}


def cases(family: str) -> list[object]:
    """The attacks of a family as parameters of a test, with what holds each off."""
    attacks: list[Attack] = importlib.import_module(f"framework.attacks.{family}").FAMILY.attacks
    return [
        pytest.param(attack, id=attack.name.replace(" ", "_"), marks=held_by(namespace=attack.namespace, gvisor=attack.gvisor))
        for attack in attacks
    ]
