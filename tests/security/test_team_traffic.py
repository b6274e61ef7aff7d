"""The traffic of all sandboxes of a team together is bounded, and another team's is not. In a laboratory."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cloister.model.network import PUBLIC_EGRESS
from cloister.model.team_traffic import TeamTraffic
from cloister.network.slots import NetworkNode, SlotOwner
from framework.network_lab import FAR, Lab, Namespace, can_connect, disable_rule, lab, next_datagram, running_node

pytestmark = pytest.mark.root

_SO_RCVBUFFORCE = 33
_PACKET = bytes(1000)
_FLOOD = 1500
_BOUND = 200


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        yield found


def _join(made: Lab, node: NetworkNode, slot: int, team_id: str) -> Namespace:
    sandbox = made.sandbox()
    node.attach(slot, sandbox.fd, PUBLIC_EGRESS, SlotOwner(f"sandbox{slot}", team_id))
    return sandbox


def _sink(made: Lab) -> socket.socket:
    sink = made.far.open_socket(socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
    sink.bind((FAR, 9000))
    return sink


def _received(receiver: socket.socket) -> int:
    """Datagrams that have arrived."""
    count = 0
    while next_datagram(receiver, 0.2) is not None:
        count += 1
    return count


def _send(origin: Namespace, count: int, ports: int = 1) -> None:
    """Send datagrams from one socket, or each from one of its own."""
    for _ in range(ports):
        with origin.open_socket(socket.SOCK_DGRAM) as sock:
            for _ in range(count // ports):
                try:
                    sock.sendto(_PACKET, (FAR, 9000))
                except OSError:
                    continue  # the refusal of an earlier one


def _reasons(node: NetworkNode) -> set[tuple[int, str]]:
    return {(one.slot, one.target.reason) for one in node.take_refusals() if one.target}


def test_team_cannot_send_more_packets_than_its_bound(made: Lab) -> None:
    """Of two sandboxes' floods about the bound arrives together; another team's flood arrives; the log has the reason."""
    with running_node(made) as node, _sink(made) as sink:
        node.bound_teams([TeamTraffic(team_id="team_red", packets_per_s=_BOUND)])
        one, other, foreign = _join(made, node, 1, "team_red"), _join(made, node, 2, "team_red"), _join(made, node, 3, "team_blue")
        _send(one, _FLOOD)
        _send(other, _FLOOD)
        assert _BOUND <= _received(sink) < _FLOOD
        _send(foreign, _FLOOD)
        assert _received(sink) == _FLOOD
        assert _reasons(node) == {(1, "team_too_many_packets"), (2, "team_too_many_packets")}
        disable_rule(made.router(), "cloister", "team-packet-rate")
        _send(one, _FLOOD)
        assert _received(sink) == _FLOOD, "the flood is no faster than the bound: the test proves nothing"


def test_team_cannot_open_connections_faster_than_its_bound(made: Lab) -> None:
    """Two sandboxes together open about as many as the bound says; another team is not part of it."""
    with running_node(made) as node, _sink(made) as sink:
        node.bound_teams([TeamTraffic(team_id="team_red", connections_per_s=_BOUND // 4)])
        one, other, foreign = _join(made, node, 1, "team_red"), _join(made, node, 2, "team_red"), _join(made, node, 3, "team_blue")
        _send(one, 600, 600)
        _send(other, 600, 600)
        assert _BOUND <= _received(sink) < 1000
        _send(foreign, 900, 900)
        assert _received(sink) == 900
        assert {reason for _, reason in _reasons(node)} == {"team_too_many_new_connections"}
        disable_rule(made.router(), "cloister", "team-connection-rate")
        _send(one, 900, 900)
        assert _received(sink) == 900, "connections are no faster than the bound: the test proves nothing"


def test_team_cannot_exceed_its_volume(made: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traffic of an ended sandbox counts for the next ones too, in both directions. The next day begins anew."""
    connects = partial(can_connect, timeout_s=0.3)
    with running_node(made) as node, _sink(made) as sink, made.far.listen(FAR):
        node.bound_teams([TeamTraffic(team_id="team_red", volume_mib_per_day=1)])
        one, foreign = _join(made, node, 1, "team_red"), _join(made, node, 3, "team_blue")
        with one.open_socket(socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
            asking.sendto(_PACKET, (FAR, 9000))
            _, asker = sink.recvfrom(2000)
            for _ in range(600):
                sink.sendto(_PACKET, asker)
            assert _received(asking) == 600
            _send(one, 600)
            assert 300 < _received(sink) < 500
            sink.sendto(_PACKET, asker)
            assert next_datagram(asking) is None
        node.release(1)
        heir = _join(made, node, 2, "team_red")
        assert not connects(heir, FAR)
        assert connects(foreign, FAR)
        assert (2, "team_volume_used_up") in _reasons(node)
        tomorrow = time.time() + 86_400
        with monkeypatch.context() as later:
            later.setattr(time, "time", lambda: tomorrow)
            node.refresh()
        assert connects(heir, FAR)
        _send(heir, 1200)
        assert not connects(heir, FAR)
        for rule in ("team-volume", "team-volume-inward"):
            disable_rule(made.router(), "cloister", rule)
        assert connects(heir, FAR)


@pytest.mark.parametrize("way", ["egress", "ingress"])
def test_team_cannot_send_or_be_sent_to_faster_than_its_rate(made: Lab, way: str) -> None:
    """Of a flood of 3 MB to or from two sandboxes at once only about a second's bytes pass. Without the rule all of it does."""
    with running_node(made) as node, _sink(made) as sink:
        node.bound_teams([TeamTraffic(team_id="team_red", mbit_per_s=4)])
        sandboxes = [_join(made, node, slot, "team_red") for slot in (1, 2)]
        passed = partial(_passed, sandboxes, sink, is_outward=way == "egress")
        assert 400 < passed() < 2000
        disable_rule(made.router(), "cloister", f"team-{way}-rate")
        assert passed() == 2 * _FLOOD


def _passed(sandboxes: list[Namespace], sink: socket.socket, *, is_outward: bool) -> int:
    """The datagrams that arrive of ``_FLOOD`` that each sandbox sends, or is sent."""
    if is_outward:
        for sandbox in sandboxes:
            _send(sandbox, _FLOOD)
        return _received(sink)
    count = 0
    for sandbox in sandboxes:
        with sandbox.open_socket(socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
            asking.sendto(b"here", (FAR, 9000))
            _, asker = sink.recvfrom(2000)
            for _ in range(_FLOOD):
                sink.sendto(_PACKET, asker)
            count += _received(asking)
    return count


def test_team_cannot_leave_its_bounds_by_sandboxes_that_were_there_before(made: Lab) -> None:
    """A bound holds at once for live sandboxes, for one that was made ahead, after a restart of the server, and until it is taken away."""
    with running_node(made) as node, _sink(made) as sink:
        early = _join(made, node, 1, "team_red")
        ahead = _join(made, node, 2, "")
        node.join_team(2, "team_red")
        node.bound_teams([TeamTraffic(team_id="team_red", packets_per_s=_BOUND)])
        for sandbox in (early, ahead):
            _send(sandbox, _FLOOD)
            assert 0 < _received(sink) < _FLOOD
        node.close()
        node.start()
        _send(early, _FLOOD)
        assert 0 < _received(sink) < _FLOOD
        late = _join(made, node, 3, "team_red")
        _send(late, _FLOOD)
        assert 0 < _received(sink) < _FLOOD
        node.bound_teams([TeamTraffic(team_id="team_red", packets_per_s=100_000), TeamTraffic(team_id="team_blue", mbit_per_s=1)])
        _send(late, _FLOOD)
        assert _received(sink) == _FLOOD
        node.bound_teams([])
        _send(early, _FLOOD)
        assert _received(sink) == _FLOOD
        for slot in (1, 2, 3):
            node.release(slot)
