"""A node of a cluster as an api process knows it: its view follows every change, and is made once while there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from cloister.cluster.base import Need
from cloister.cluster.members import LOST_S, Member
from cloister.model.cluster import ClusterNode
from cloister.model.node import NodeInfo
from cloister.model.template import Template

_ROW = ClusterNode(node_id="n1", address="host:1", joined_at=1.0, token_id="t")
_INFO = NodeInfo(node_id="n1", version="1", instance=0, room={"mem_mib": 8192, "cpu_count": 4, "live": 2, "max_sandboxes": 10})
_NEED = Need(template="base", cpu_count=2.0, mem_mib=1024)
_BASE = Template(template_id="tplbase", name="base", build_id="b-1", layers=())


@dataclass
class _Link:
    """The parts of a link at which a member looks."""

    is_connected: bool = True
    is_leaving: bool = False
    heard_at: float = 0.0
    trouble: str = ""


def _member() -> Member:
    member = Member(_ROW, cast("Any", _Link()))
    member.learn(_INFO, 0.0)
    return member


def test_a_view_is_made_once_while_nothing_changes() -> None:
    """A choice looks at every node, so a view must cost next to nothing."""
    member = _member()
    assert member.view() is member.view()


def test_a_view_follows_what_is_placed() -> None:
    """From the choice until a report that has the sandbox; a creation that failed counts no more."""
    member = _member()
    assert member.view().reserved.slots == 2
    member.count("one", _NEED)
    assert (member.view().reserved.slots, member.view().reserved.cpu_count) == (3, 2.0)
    member.count("two", _NEED)
    member.discount("two", is_made=False)
    assert member.view().reserved.slots == 3
    member.discount("one", is_made=True)
    assert member.view().reserved.slots == 3
    member.learn(replace(_INFO, room={**_INFO.room, "live": 3}), float("inf"))
    assert member.view().reserved.slots == 3
    assert member.view().reserved.cpu_count == 0


def test_a_view_follows_the_node() -> None:
    """Its templates, its drain, its connection and its silence."""
    member = _member()
    assert not member.view().layers
    member.templates = (_BASE,)
    assert member.view().layers == {"base", "b-1"}
    member.row = replace(_ROW, is_draining=True)
    assert member.view().is_drained
    assert not member.view().is_lost
    member.silence_s = LOST_S
    assert member.view().is_lost
    member.silence_s = 0.0
    assert not member.view().is_lost
    cast("Any", member.link).is_connected = False
    assert member.view().is_lost
