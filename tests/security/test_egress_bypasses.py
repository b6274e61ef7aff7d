"""A sandbox whose policy allows names only, against that policy (I4): a row of the table is a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framework.bypass_lab import NAMED, Attack, BypassLab
from framework.bypasses_by_name import NAME_ATTACKS
from framework.pretend_internet import PretendInternet
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def lab(online_server: Server, internet: PretendInternet) -> Iterator[BypassLab]:
    """A sandbox that attacks."""
    made = BypassLab(online_server, internet)
    yield made
    made.sandbox.kill()


@pytest.mark.parametrize("name", ["api.example.net", "API.example.net", "a.wild.example"])
def test_allowed_names_are_reached(lab: BypassLab, name: str) -> None:
    """By both ports, at the address that the resolver gives: so the attacks do not fail for want of a network."""
    lab.follow(NAMED)
    answers = lab.run(f"tcp('{name}', 80, get('{name}', '/')), tls('{name}', '{name}', get('{name}', '/'))")
    assert answers.count("HTTP/1.1 200") == 2, answers


@pytest.mark.parametrize("attack", NAME_ATTACKS, ids=lambda attack: attack.name)
def test_sandbox_with_names_cannot_use(lab: BypassLab, attack: Attack) -> None:
    """No request and no packet arrives where the policy does not let it."""
    lab.fail(attack)
