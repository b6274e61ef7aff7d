"""Captures of sandboxes: what another team, the api process or a busy sandbox could get by a snapshot or a fork."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.errors import ConflictError
from cloister.ids import new_build_id
from cloister.model.build import BuildRequest
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.node import catalog
from cloister.nodewire.requests import TakeSnapshot
from cloister.runtime.spec import AgentTree
from cloister.template.building import clientbuild
from framework.pausable import node_in
from framework.waiting import turns

OWN = Template(template_id="t", name="n", build_id=new_build_id(), layers=("a",), authors=("mine",))
CAPTURE = replace(OWN, given_envs={"KEY": "secret"}, given_by="mine")


def test_team_cannot_get_the_variables_of_a_snapshot_of_another() -> None:
    """A published snapshot runs for every team; the variables of the captured sandbox are its own team's, and in no text of it."""
    assert CAPTURE.envs_for("mine", {}) == {"KEY": "secret"}
    assert CAPTURE.envs_for("mine", {"B": "b"}) == {"B": "b"}
    for other in ("other", ""):
        assert CAPTURE.envs_for(other, {}) == {}
    assert replace(CAPTURE, given_by="").envs_for("", {}) == {}
    assert "secret" not in repr(CAPTURE)
    assert Template.from_json(CAPTURE.to_json()) == CAPTURE


@pytest.mark.parametrize("team_id", ["mine", "other"])
def test_author_cannot_find_the_variables_in_a_template_built_upon_a_snapshot(team_id: str) -> None:
    """They stay with the snapshot: its deletion deletes them."""
    request = BuildRequest(build_id=new_build_id(), template_id="t2", team_id=team_id, name="n2", parent=CAPTURE.build_id)
    parts = SimpleNamespace(find_parent=lambda _: CAPTURE)
    log = SimpleNamespace(add=lambda *_: None)
    base = clientbuild._base(request, cast("Any", parts), Limits(), cast("Any", log), cast("Any", None))
    assert "secret" not in str(base.to_json())
    assert base.envs_for("mine", {}) == {}


def test_team_cannot_take_the_zones_by_forks() -> None:
    """All copies of all forks share one zone, and it is the one in which no template's code runs outside of sandboxes."""
    agent = AgentTree(interpreter=(), agent=Path("/agent"))
    copies = [replace(OWN, layers=("a", str(number)), for_copies=True) for number in range(20)]
    keys = {catalog.zone_key(one, agent, team_id) for one in copies for team_id in ("mine", "other")}
    assert keys == {catalog.zone_key(replace(OWN, authors=("another",)), agent, "mine")}
    assert {catalog.zone_team(one, "mine") for one in copies} == {""}
    assert catalog.zone_key(OWN, agent, "mine") not in keys


async def test_api_process_cannot_thaw_a_paused_sandbox_by_a_snapshot(tmp_path: Path) -> None:
    """A pause waits for the snapshot under way; one that is asked for meanwhile would thaw the sandbox at its end, so it is refused."""
    began, may_end = threading.Event(), threading.Event()

    def take(*_: object) -> Any:
        began.set()
        assert may_end.wait(10)

    async with node_in(tmp_path, snapshots=SimpleNamespace(of=take)) as node:
        sandbox = await node.create()
        ask = TakeSnapshot("one", new_build_id(), "t", "n")
        taking = asyncio.create_task(node.handlers.snapshot(ask))
        assert await asyncio.to_thread(began.wait, 5)
        pause = asyncio.create_task(node.pause())
        await turns()
        late = asyncio.create_task(node.handlers.snapshot(ask))
        await turns()
        may_end.set()
        with pytest.raises(ConflictError, match="being paused"):
            await late
        await asyncio.gather(taking, pause)
        assert "freeze" in sandbox.calls
        with pytest.raises(ConflictError, match="paused"):
            await node.handlers.snapshot(ask)
