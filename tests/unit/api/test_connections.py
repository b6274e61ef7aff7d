"""Which connections there may be, and which give way."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from aiohttp.test_utils import make_mocked_request

from cloister.api.connections import Connection, ConnectionPolicy, Connections, Refusal
from cloister.api.peers import Peers


@dataclass
class Table:
    """Connections under a clock of the test's own; ``ended`` names those that had to go, ``late`` those whose head was late."""

    most: int = 3
    most_per_peer: int = 3
    now: float = 100.0
    ended: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        policy = ConnectionPolicy(most=self.most, most_per_peer=self.most_per_peer, head_timeout_s=10, stall_timeout_s=10)
        self.connections = Connections(policy, lambda: self.now)

    def admit(self, name: str, peer: str | None = "peer") -> Connection:
        """A new connection."""
        connection = self.connections.admit(peer)
        assert isinstance(connection, Connection)
        connection.abort = lambda: self.ended.append(name)
        connection.expire = lambda: self.late.append(name)
        return connection


def test_the_one_that_waits_longest_gives_way() -> None:
    """Waiting counts from the acceptance, or from the last answer; a connection at work stays."""
    table = Table()
    first, second, _ = table.admit("first"), table.admit("second"), table.admit("third")
    table.connections.work(first)
    table.connections.work(second)
    table.connections.wait(second, has_begun=False)
    table.admit("fourth")
    table.admit("fifth")
    assert table.ended == ["third", "second"]
    assert len(table.connections) == 3


def test_a_new_one_is_refused_when_all_are_at_work() -> None:
    """The refusal says whose bound it is."""
    table = Table(most=2, most_per_peer=1)
    table.connections.work(table.admit("a", "one"))
    assert table.connections.admit("one") is Refusal.PEER
    table.connections.work(table.admit("b", "two"))
    assert table.connections.admit("three") is Refusal.SERVER
    assert table.ended == []


def test_a_peer_displaces_itself_first() -> None:
    """A peer at its bound closes its own, however long others wait; a proxy has no bound but the server's."""
    table = Table(most=10, most_per_peer=1)
    table.admit("other", "other")
    table.admit("old", "peer")
    table.admit("new", "peer")
    for number in range(7):
        table.admit(f"proxied {number}", None)
    assert table.ended == ["old"]


def test_a_lost_connection_gives_its_place_back_once() -> None:
    """Losing is safe to repeat, and nothing is left of a peer without connections."""
    table = Table(most=1)
    connection = table.admit("a")
    for _ in range(2):
        table.connections.lose(connection)
    table.connections.wait(connection, has_begun=True)
    table.connections.begin(connection, 10)
    assert len(table.connections) == 0
    table.connections.work(table.admit("b"))
    assert table.connections.admit("peer") is not None
    assert table.ended == []


def test_a_head_has_its_time_and_an_idle_connection_has_none() -> None:
    """The time runs from the acceptance, or from the first byte of a later head."""
    table = Table()
    table.admit("silent")
    idle, slow = table.admit("idle"), table.admit("slow")
    for connection in (idle, slow):
        table.connections.work(connection)
        table.connections.wait(connection, has_begun=False)
    table.now += 5
    table.connections.begin(slow, 1)
    table.now += 5
    table.connections.expire()
    assert table.late == ["silent"]
    table.connections.begin(slow, 1)
    table.now += 5
    table.connections.expire()
    assert table.late == ["silent", "slow"]


def test_heads_together_have_a_bound() -> None:
    """Connections with unfinished heads give way when all heads together are too large; the count goes down with them."""
    table = Table(most=10, most_per_peer=10)
    for number in range(4):
        table.connections.begin(table.admit(str(number)), 10 << 20)
    assert table.ended == ["0"]
    table.connections.begin(table.admit("4"), 1)
    assert table.ended == ["0"]


@pytest.mark.parametrize(
    ("remote", "forwarded", "peer"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:203.0.113.9", "", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
    ],
)
def test_who_a_client_is(remote: str, forwarded: str, peer: str) -> None:
    """Only a trusted proxy is believed about other addresses, and only what it has appended itself."""
    request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": forwarded}).clone(remote=remote)
    assert Peers(["10.0.0.0/8"]).of(request) == peer


def test_trusted_proxies_have_no_bound_of_their_own() -> None:
    """Addresses of a proxy, also as IPv6 writes them, are counted under no key."""
    peers = Peers(["10.0.0.0/8"])
    assert [peers.bounded(address) for address in ("10.1.2.3", "::ffff:10.1.2.3")] == [None, None]
    assert peers.bounded("11.1.2.3") == "11.1.2.3"
