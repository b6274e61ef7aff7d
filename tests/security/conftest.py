"""A server for all attack tests of each tier, and sandboxes to attack from and to be attacked.

The namespace runtime is two tiers, since its processes start in two ways: forked from zygotes, and cold. A test marked ``every_tier`` runs on
gVisor too; the mark says what holds the attack off on each runtime, for the table of attacks (framework/attack_table.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.attack_table import EVERY_TIER
from framework.control_plane import control_plane
from framework.server import Server, running_server
from framework.stage import OPTIONS, Stage, host_secret, make_on_tier

__all__ = ["control_plane"]

_NAMESPACE = ("forked", "cold")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A server of each tier on which the test holds, unless its module names one."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "server" in metafunc.fixturenames and "server_tier" not in named:
        tiers = OPTIONS if metafunc.definition.get_closest_marker(EVERY_TIER) else _NAMESPACE
        metafunc.parametrize("server_tier", list(tiers), indirect=True, scope="session")


@pytest.fixture(scope="session")
def server_tier(request: pytest.FixtureRequest) -> str:
    """How sandboxes are isolated and started: ``forked`` from zygotes, ``cold``, or on ``gvisor``."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(server_tier: str, request: pytest.FixtureRequest, stock_templates: None) -> Iterator[Server]:
    """One whose sandboxes are of the tier."""
    if server_tier == "gvisor":
        request.getfixturevalue("runsc")
    with running_server(*OPTIONS[server_tier]) as running:
        yield running


@pytest.fixture(scope="session")
def stage(server: Server, server_tier: str) -> Iterator[Stage]:
    """A sandbox in which all attacks of a family are attempted by one call, for tests that look at one outcome each."""
    with host_secret() as secret:
        sandbox = make_on_tier(server, server_tier)
        yield Stage(sandbox, server_tier, secret)
        sandbox.kill()


@pytest.fixture
def attacker(server: Server, server_tier: str) -> Iterator[Sandbox]:
    """A sandbox whose code is hostile."""
    sandbox = make_on_tier(server, server_tier)
    yield sandbox
    sandbox.kill()


@pytest.fixture
def neighbour(server: Server, server_tier: str) -> Iterator[Sandbox]:
    """Another tenant's sandbox on the same server."""
    sandbox = make_on_tier(server, server_tier)
    yield sandbox
    sandbox.kill()


@pytest.fixture(params=["user", "root"])
def user(request: pytest.FixtureRequest) -> str:
    """Whose identity the attack has inside: the ordinary user, or root by sudo."""
    return str(request.param)
