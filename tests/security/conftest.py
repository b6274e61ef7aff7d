"""A server for all attack tests, once with zygotes and once without, and sandboxes to attack from and to be attacked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server


@pytest.fixture(scope="session", params=["forked", "cold"])
def server(request: pytest.FixtureRequest, stock_templates: None) -> Iterator[Server]:
    """A server whose sandboxes' processes are forked from zygotes, and one whose are started by exec."""
    with running_server("--zygotes", "true" if request.param == "forked" else "false") as running:
        yield running


def start_of(server: Server, sandbox: Sandbox) -> list[str]:
    """Which of the sandbox's processes were started cold, by the server's log."""
    for line in server.log.read_text().splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "sandbox.created" and entry.get("sandbox_id") == sandbox.sandbox_id and "cold" in entry:
            return list(entry["cold"])
    raise AssertionError(f"the server's log does not tell how {sandbox.sandbox_id} was started")


def make(server: Server, request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox that is started as the server's name says."""
    wanted = [] if request.node.callspec.params["server"] == "forked" else ["kernel", "agent"]
    for _ in range(60):
        sandbox = Sandbox.create(timeout=300, **server.sdk)
        if start_of(server, sandbox) == wanted:
            return sandbox
        sandbox.kill()
        time.sleep(0.5)  # the zygotes are not ready yet
    raise AssertionError(f"no sandbox was started with {wanted} cold")


@pytest.fixture
def attacker(server: Server, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox whose code is hostile."""
    sandbox = make(server, request)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def neighbour(server: Server, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Another tenant's sandbox on the same server."""
    sandbox = make(server, request)
    yield sandbox
    sandbox.kill()


@pytest.fixture(params=["user", "root"])
def user(request: pytest.FixtureRequest) -> str:
    """Whose identity the attack has inside: the ordinary user, or root by sudo."""
    return str(request.param)
