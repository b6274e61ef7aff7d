"""A sandbox against lists of addresses, and against the addresses that no list may open (I4): a row of the table is a test."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from framework.bypass_lab import Attack, BypassLab
from framework.bypasses_by_address import ADDRESS_ATTACKS
from framework.inside import address_of
from framework.pretend_internet import OTHER_HOST, SHARED_HOST, PretendInternet
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def lab(online_server: Server, internet: PretendInternet) -> Iterator[BypassLab]:
    """A sandbox that attacks, a neighbour, and a web server on the host."""
    made = BypassLab(online_server, internet)
    neighbour = made.make({})
    listener = http.server.ThreadingHTTPServer(("0.0.0.0", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    made.addresses |= {"NEIGHBOUR": address_of(neighbour), "HOST_PORT": str(listener.server_port)}
    yield made
    listener.shutdown()
    listener.server_close()
    for sandbox in (made.sandbox, neighbour):
        sandbox.kill()


@pytest.mark.parametrize("attack", ADDRESS_ATTACKS, ids=lambda attack: attack.name)
def test_sandbox_cannot_reach(lab: BypassLab, attack: Attack) -> None:
    """No request and no packet arrives where the policy does not let it."""
    lab.fail(attack)


def test_allowed_addresses_are_reached(lab: BypassLab) -> None:
    """An allowed address among denied ones, and all but a denied one: so the attacks do not fail for want of a network."""
    for network, answers in (
        ({"allow_out": [SHARED_HOST], "deny_out": ["0.0.0.0/0"]}, 3),
        ({"deny_out": [OTHER_HOST]}, 3),
        ({"allow_out": [f"{SHARED_HOST}/31"], "deny_out": ["198.51.100.0/24"]}, 3),
    ):
        lab.follow(network)
        found = lab.run(
            "tcp('{SHARED}', 80, get('x', '/')), tcp('{SHARED}', 7777, b'HTTP/1.1 200'), udp('{SHARED}', 7777, b'HTTP')".replace(
                "{SHARED}", SHARED_HOST
            )
        )
        assert found.count("HTTP/1.1 200") + found.count("48545450") == answers, found
