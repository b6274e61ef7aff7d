"""The runtimes that one test runs on, the weakest first. A sandbox is in one by the metadata of its request, on one server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server

__all__ = ["TIERS", "create_on", "tier", "tier_sandbox", "tier_server"]

TIERS = ("namespace", "gvisor")


def create_on(server: Server, runtime: str, template: str | None = None, **more: Any) -> Sandbox:
    """A sandbox on a runtime; the caller kills it."""
    return Sandbox.create(template, metadata={"cloister.runtime": runtime}, **more, **server.sdk)


@pytest.fixture(params=TIERS, scope="module")
def tier(request: pytest.FixtureRequest) -> str:
    """The name of a runtime."""
    return str(request.param)


@pytest.fixture(scope="module")
def tier_server(runsc: None) -> Iterator[Server]:
    """A server that has both runtimes, for the tests of a module."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def tier_sandbox(tier_server: Server, tier: str) -> Iterator[Sandbox]:
    """One sandbox of the default template on a runtime, for the tests of a module."""
    made = create_on(tier_server, tier)
    yield made
    made.kill()
