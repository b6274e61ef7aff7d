"""A server for all attack tests, once with zygotes and once without, and sandboxes to attack from and to be attacked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server
from framework.starts import make_started


@pytest.fixture(scope="session", params=["forked", "cold"])
def server(request: pytest.FixtureRequest, stock_templates: None) -> Iterator[Server]:
    """A server whose sandboxes' processes are forked from zygotes, and one whose are started by exec."""
    with running_server("--zygotes", "true" if request.param == "forked" else "false") as running:
        yield running


def make(server: Server, request: pytest.FixtureRequest) -> Sandbox:
    """A sandbox that is started as the server's name says."""
    return make_started(server, [] if request.node.callspec.params["server"] == "forked" else ["kernel", "agent"])


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
