"""One server for all attack tests, and sandboxes to attack from and to be attacked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server


@pytest.fixture
def attacker(server: Server) -> Iterator[Sandbox]:
    """A sandbox whose code is hostile."""
    sandbox = Sandbox.create(timeout=300, **server.sdk)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def neighbour(server: Server) -> Iterator[Sandbox]:
    """Another tenant's sandbox on the same server."""
    sandbox = Sandbox.create(timeout=300, **server.sdk)
    yield sandbox
    sandbox.kill()


@pytest.fixture(params=["user", "root"])
def user(request: pytest.FixtureRequest) -> str:
    """Whose identity the attack has inside: the ordinary user, or root by sudo."""
    return str(request.param)
