"""Nodes that lie, or answer without sense: they hurt no sandbox of another node, and no creation elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.cluster.base import Need, NodeClient, NodeListener, live_sandboxes
from cloister.cluster.link import NodeLink
from cloister.cluster.remote import _BeatingChannel
from cloister.cluster.session import Channel
from cloister.cluster.told import can_be, within_its_say
from cloister.cluster.wire import packed
from cloister.errors import CloisterError, InternalError
from cloister.ids import new_node_id, new_sandbox_id
from cloister.model.node import EndedSandbox, NodeInfo
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxState
from cloister.model.team_traffic import TeamTraffic
from cloister.nodewire.framing import Message
from cloister.nodewire.requests import ListSandboxes, Reserve, SandboxPage, SandboxRef, SetTeamTraffic
from framework.fake_cluster import fake_cluster
from framework.fake_node import FakeNode
from framework.waiting import eventually_async

_NODE, _OTHER = new_node_id(), new_node_id()


def _record(sandbox_id: str, **changes: Any) -> SandboxRecord:
    made = SandboxRecord(
        sandbox_id=sandbox_id,
        template="base",
        runtime="fake",
        state=SandboxState.RUNNING,
        started_at=1.0,
        end_at=2e9,
        limits=Limits(),
        team_id="team",
    )
    return replace(made, **changes)


def _answering(answer: Any) -> NodeClient:
    async def call(_request: Any) -> Any:
        return answer

    return within_its_say(cast("NodeClient", SimpleNamespace(ping=call, get=call, list=call, ended=call)), _NODE)


async def test_a_node_cannot_take_the_place_of_a_teams_template(tmp_path: Path) -> None:
    """A template that a node offers to all teams, and that is no stock template, is passed over."""
    async with fake_cluster(tmp_path, 1) as cluster:
        names = {template.name for template in await cluster.fleet.calls.templates()}
        cluster.refused.add("base")
        assert {template.name for template in await cluster.fleet.calls.templates()} == names - {"base"}
        assert "base" in names


async def test_a_node_cannot_give_itself_the_id_of_another_node() -> None:
    """In no report: a reconciliation that believed it would end the other node's sandboxes."""
    for node_id in (_NODE, _OTHER):
        node = _answering(NodeInfo(node_id=node_id, version="1", instance=0))
        if node_id == _NODE:
            assert (await node.ping()).node_id == _NODE
        else:
            with pytest.raises(InternalError, match=_NODE):
                await node.ping()


async def test_a_node_cannot_answer_with_another_sandbox() -> None:
    """Nor with times or ids that are none."""
    mine, others = new_sandbox_id(), new_sandbox_id()
    assert (await _answering(_record(mine)).get(SandboxRef(mine))).sandbox_id == mine
    for record in (_record(others), _record(mine, end_at=float("nan")), _record(mine, started_at=10**400)):
        with pytest.raises(InternalError):
            await _answering(record).get(SandboxRef(mine))
    with pytest.raises(InternalError):
        await _answering(SandboxPage((_record("x" * 99),), more=False)).list(ListSandboxes())
    ended = EndedSandbox(sandbox_id=mine, reason=EndReason.CRASHED, at=float("inf"))
    assert not can_be(ended)
    with pytest.raises(InternalError):
        await cast("Any", _answering((ended,))).ended(None)


@pytest.mark.parametrize("page", [SandboxPage((), more=True), SandboxPage((_record("a" * 20),), more=True)], ids=["empty", "repeated"])
async def test_a_list_without_end_is_refused(page: SandboxPage) -> None:
    """It would fill the memory of the api process."""
    with pytest.raises(InternalError):
        await live_sandboxes(_answering(page))


class _Senseless(NodeLink):
    """A link whose every connection has one message without sense."""

    retry_s = 0.01
    connections = 0

    async def _connect(self) -> Channel:
        self.connections += 1
        return cast("Channel", SimpleNamespace(receive=self._receive, close=lambda: None))

    async def _receive(self) -> Message:
        return Message({"event": "sandbox.ended"})


async def test_a_message_without_sense_does_not_end_the_attempts_to_connect() -> None:
    """The node may be mended."""

    async def agree(_node: NodeClient) -> None:
        await asyncio.Event().wait()

    link = _Senseless()
    link.start(NodeListener(agree, lambda _: None))
    await eventually_async(lambda: link.connections > 1)
    await link.close()


async def test_a_node_that_sends_without_end_leaves_the_loop_to_others() -> None:
    """Messages that are in memory already are read without a wait."""
    reader = asyncio.StreamReader()
    reader.feed_data(packed({"beat": 1}) * 1000)
    heard: list[Message] = []
    reading = asyncio.create_task(_BeatingChannel(reader, cast("asyncio.StreamWriter", None), heard.append, None).receive())
    await asyncio.sleep(0)
    assert len(heard) <= 1
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.root
async def test_a_node_cannot_give_out_the_id_of_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The creation would take the place of that sandbox in the registry."""
    taken = new_sandbox_id()

    async def reserve(_node: FakeNode, _request: Reserve) -> str:
        return taken

    monkeypatch.setattr(FakeNode, "reserve", reserve)
    async with fake_cluster(tmp_path, 1) as cluster:
        assert await cluster.fleet.reserve(Need(template="base"), "team") == taken
        assert await cluster.fleet.reserve(Need(template="base"), "team") != taken
        cluster.fleet._reserved.clear()
        cluster.homes[taken] = _OTHER
        assert await cluster.fleet.reserve(Need(template="base"), "team") != taken


@pytest.mark.root
@pytest.mark.parametrize("room", [{"else": 1}, {"mem_mib": 10**400, "live": -(10**400), "cpu_count": 1, "max_sandboxes": 10**400}])
async def test_any_report_leaves_creations_a_place(tmp_path: Path, room: dict[str, int]) -> None:
    """A node's numbers are computed with for each creation of the cluster."""
    async with fake_cluster(tmp_path, 2) as cluster:
        member = next(iter(cluster.fleet.members.values()))
        assert member.info is not None
        member.info = replace(member.info, room=room)
        assert cluster.fleet.place(new_sandbox_id(), Need(template="base", cpu_count=1, mem_mib=512)) in cluster.nodes


@pytest.mark.root
async def test_a_node_that_refuses_bounds_keeps_no_other_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one fails; both others are told."""
    bound = TeamTraffic(team_id="team", mbit_per_s=5)
    async with fake_cluster(tmp_path, 3) as cluster:
        first, *others = cluster.fleet.members.values()

        async def refuse(_request: SetTeamTraffic) -> None:
            raise CloisterError("no")

        monkeypatch.setattr(first.calls, "set_team_traffic", refuse)
        await cluster.fleet.calls.set_team_traffic(SetTeamTraffic((bound,)))
        assert [one.traffic for one in others] == [(bound,)] * 2


@pytest.mark.root
async def test_the_fleet_checks_what_a_node_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For calls on the node of a sandbox too."""

    async def get(_node: FakeNode, _request: SandboxRef) -> SandboxRecord:
        return _record("a" * 20)

    monkeypatch.setattr(FakeNode, "get", get)
    async with fake_cluster(tmp_path, 1) as cluster:
        mine = new_sandbox_id()
        cluster.homes[mine] = next(iter(cluster.nodes))
        with pytest.raises(InternalError):
            await cluster.fleet.calls.get(SandboxRef(mine))
