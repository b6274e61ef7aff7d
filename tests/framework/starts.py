"""Sandboxes of which a test knows how their processes were started: forked from zygotes or cold, made ahead or not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from e2b import Sandbox as SandboxBase
from e2b_code_interpreter import Sandbox

from framework.server import Server

__all__ = ["creation_of", "from_pool", "make_started"]

_Made = TypeVar("_Made", bound=SandboxBase)


def creation_of(server: Server, sandbox: SandboxBase) -> dict[str, Any]:
    """The server's log entry of the sandbox's creation; ``cold`` names the processes that were not forked."""
    for line in server.log.read_text().splitlines():
        entry: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "sandbox.created" and entry.get("sandbox_id") == sandbox.sandbox_id and "cold" in entry:
            return entry
    raise AssertionError(f"the server's log does not tell how {sandbox.sandbox_id} was started")


def make_started(server: Server, cold: list[str]) -> Sandbox:
    """A sandbox of whose processes exactly those in ``cold`` were started cold."""
    for _ in range(60):
        sandbox = Sandbox.create(timeout=3600, **server.sdk)
        if creation_of(server, sandbox)["cold"] == cold:
            return sandbox
        sandbox.kill()
        time.sleep(0.5)  # the zygotes are not ready yet
    raise AssertionError(f"no sandbox was started with {cold} cold")


def from_pool(make: Callable[[], _Made], server: Server, *, made_ahead: bool = True) -> _Made:
    """The first sandbox of ``make`` that was made ahead. Else ``make`` asks for what none is, and it must not be."""
    for _ in range(60):
        sandbox = make()
        if creation_of(server, sandbox)["made_ahead"] == made_ahead:
            return sandbox
        sandbox.kill()
        assert made_ahead, "it was made ahead"
        time.sleep(0.5)  # the pool is being filled
    raise AssertionError("no sandbox of the pool was handed over")
