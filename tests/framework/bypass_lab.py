"""A sandbox whose code tries to get past its egress policy, the hosts that would see it, and the table of what it tries."""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2b_code_interpreter import Sandbox

from framework.pretend_internet import HOST_ADDRESS, OTHER_HOST, PRIVATE_ADDRESS, RESOLVER, SHARED_HOST, PretendInternet
from framework.server import Server

__all__ = ["ALLOWED", "NAMED", "WILD", "Attack", "BypassLab"]

_PROGRAM = Path(__file__).with_name("programs") / "bypasses.py"
_PLACE = "/tmp/bypasses.py"
ALLOWED, WILD = "api.example.net", "*.wild.example"
NAMED = {"allow_out": [ALLOWED, WILD], "deny_out": ["0.0.0.0/0"]}
"""The policy of most attacks: two patterns of names, and nothing else."""


@dataclass(frozen=True)
class Attack:
    """A row of the table: code that is run inside, and what must not have been seen outside.

    ``code`` is an expression of Python with the functions of programs/bypasses.py. In it ``PATH`` is a path that no other request
    has, and ``{OTHER}`` and the like in braces are addresses.
    """

    name: str
    code: str
    network: dict[str, Any] | None = None
    """The policy; None: :data:`NAMED`."""
    answer: str = r"closed"
    """A pattern of what the sandbox sees, from its beginning."""
    unseen: str = OTHER_HOST
    """No packet may arrive at this address."""
    reached: tuple[str, str] | None = None
    """Address and name of the only request that may arrive; None: none may."""
    user: str = "root"


class BypassLab:
    """One sandbox, whose policy changes from row to row."""

    def __init__(self, server: Server, internet: PretendInternet) -> None:
        self.server = server
        self.internet = internet
        self.hosts = internet.hosts
        for name in ("a.wild.example", "b.wild.example"):
            internet.answer(name, SHARED_HOST)
        for name in ("wild.example", "evil-wild.example", "awild.example", "a.wild.example.evil.example", "secret.api.example.net"):
            internet.answer(name, OTHER_HOST)
        self.sandbox = self.make({})
        self._network: dict[str, Any] = {}
        self.addresses = {
            "OTHER": OTHER_HOST,
            "SHARED": SHARED_HOST,
            "RESOLVER": RESOLVER,
            "PRIVATE": PRIVATE_ADDRESS,
            "HOST": HOST_ADDRESS,
        }
        self.addresses["GATEWAY"] = self.run("resolver()")

    def make(self, network: dict[str, Any], **options: Any) -> Sandbox:
        """A further sandbox with the attacks in it."""
        sandbox = Sandbox.create(timeout=900, network=network, **options, **self.server.sdk)
        sandbox.files.write(_PLACE, _PROGRAM.read_text())
        return sandbox

    def follow(self, network: dict[str, Any]) -> None:
        """Give the sandbox another policy."""
        if network != self._network:
            self.sandbox.update_network(network)
            self._network = network

    def run(self, code: str, *, sandbox: Sandbox | None = None, user: str = "root") -> str:
        """The value of an expression inside, as text."""
        program = f"import sys; sys.path.insert(0, '/tmp'); from bypasses import *; print({code})"
        done = (sandbox or self.sandbox).commands.run(f"python3 -c {shlex.quote(program)}", user=user, timeout=60)
        return str(done.stdout).strip()

    def arrived(self, path: str) -> list[dict[str, Any]]:
        """The requests for a path that the hosts got."""
        return [request for request in self.hosts.requests() if request["path"] == path]

    def fail(self, attack: Attack) -> None:
        """Make an attack, and see that it fails: by its answer, the requests and the packets that arrived. Raises: AssertionError."""
        self.follow(attack.network or NAMED)
        path = f"/{secrets.token_hex(8)}"
        before = self.internet.packets(destination=attack.unseen)
        answer = self.run(self.fill(attack.code).replace("PATH", repr(path)), user=attack.user)
        arrived = [(request["server"][0], request["host"]) for request in self.arrived(path)]
        packets = self.internet.packets(destination=attack.unseen) - before
        assert (packets, arrived) == (0, [attack.reached] if attack.reached else []), answer
        assert re.match(attack.answer, answer, re.DOTALL), answer

    def fill(self, code: str) -> str:
        """The code with addresses for the words in braces."""
        for word, address in self.addresses.items():
            code = code.replace(f"{{{word}}}", address)
        return code
