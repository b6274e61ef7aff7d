"""The order in which nodes are asked for a new sandbox. Properties are checked on many generated clusters."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from cloister.cluster.placement import Misfit, Need, NodeView, Room, choose, misfit, misfits

_NOTHING = Room(mem_mib=0, cpu_count=0, slots=0)
_ROOM = Room(mem_mib=1024, cpu_count=2, slots=1)
_NEED = Need(room=_ROOM, runtime="namespace", template="base", team_id="red")
_LARGE = Room(mem_mib=65_536, cpu_count=128, slots=64)


def _node(node_id: str, used: int = 0, **fields: object) -> NodeView:
    reserved = Room(mem_mib=used * 1024, cpu_count=used * 2, slots=used)
    node = NodeView(node_id=node_id, capacity=_LARGE, reserved=reserved, runtimes=frozenset({"namespace"}))
    return replace(node, **fields)  # type: ignore[arg-type]  # the tests name the fields


def _cluster(random: Random) -> list[NodeView]:
    """Nodes of all kinds, some of them full."""
    return [_any_node(random, f"n{number}") for number in range(random.randrange(30))]


def _any_node(random: Random, node_id: str) -> NodeView:
    slots = random.choice([0, 1, 8, 512])
    return NodeView(
        node_id=node_id,
        capacity=Room(mem_mib=random.choice([0, 512, 8192, 262_144]), cpu_count=random.choice([0, 1.5, 16, 256]), slots=slots),
        reserved=Room(mem_mib=random.uniform(0, 8192), cpu_count=random.uniform(0, 16), slots=random.randint(0, slots)),
        runtimes=frozenset(random.sample(["namespace", "gvisor"], random.randint(1, 2))),
        is_drained=random.random() < 0.1,
        is_lost=random.random() < 0.1,
        layers=frozenset(random.sample(["base", "other"], random.randint(0, 2))),
        zygotes=frozenset(random.sample(["base", "other"], random.randint(0, 1))),
        teams={"red": random.randint(0, 5)},
    )


def _cases() -> Iterator[tuple[list[NodeView], Need, int]]:
    random = Random(1)
    for seed in range(500):
        room = Room(mem_mib=random.choice([128, 1024, 4096]), cpu_count=random.choice([0.1, 1, 2, 8]), slots=1)
        yield _cluster(random), replace(_NEED, room=room, runtime=random.choice(["namespace", "gvisor"])), seed


def _fill(nodes: list[NodeView], need: Need, random: Random) -> list[NodeView]:
    """The nodes when no further sandbox has a place; each choice knows all earlier ones."""
    by_id = {node.node_id: node for node in nodes}
    while order := choose(list(by_id.values()), need, random):
        by_id[order[0]] = by_id[order[0]].reserving(need)
    return list(by_id.values())


def test_each_node_with_room_is_named_once() -> None:
    """The answer has the nodes with room, all of them, and no other."""
    for nodes, need, seed in _cases():
        order = choose(nodes, need, Random(seed))
        assert sorted(order) == sorted(node.node_id for node in nodes if misfit(node, need) is None)
        assert len(order) + misfits(nodes, need).total() == len(nodes)


def test_room_is_beside_all_that_is_reserved() -> None:
    """No resource of a chosen node is promised twice, and the node may be used."""
    for nodes, need, seed in _cases():
        chosen = set(choose(nodes, need, Random(seed)))
        for node in (one.reserving(need) for one in nodes if one.node_id in chosen):
            assert node.reserved.mem_mib <= node.capacity.mem_mib
            assert node.reserved.cpu_count <= node.capacity.cpu_count
            assert node.reserved.slots <= node.capacity.slots
            assert need.runtime in node.runtimes
            assert not node.is_lost
            assert not node.is_drained


def test_the_same_random_numbers_give_the_same_order() -> None:
    """A choice can be repeated; among equal nodes, the random generator decides."""
    for nodes, need, seed in _cases():
        assert choose(nodes, need, Random(seed)) == choose(nodes, need, Random(seed))
    twins = [_node("a"), _node("b")]
    assert {choose(twins, _NEED, Random(seed))[0] for seed in range(50)} == {"a", "b"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"is_lost": True}, Misfit.LOST),
        ({"is_drained": True}, Misfit.DRAINED),
        ({"node_id": "refused"}, Misfit.EXCLUDED),
        ({"runtimes": frozenset({"gvisor"})}, Misfit.RUNTIME),
        ({"reserved": Room(mem_mib=0, cpu_count=0, slots=64)}, Misfit.SLOTS),
        ({"reserved": Room(mem_mib=65_000, cpu_count=0, slots=0)}, Misfit.MEMORY),
        ({"reserved": Room(mem_mib=0, cpu_count=126.5, slots=0)}, Misfit.PROCESSORS),
    ],
)
def test_a_node_that_does_not_fit_is_left_out(fields: dict[str, object], reason: Misfit) -> None:
    """Each reason alone is enough, even if the node has the template."""
    need = replace(_NEED, excluded=frozenset({"refused"}))
    bad = replace(_node("bad", zygotes=frozenset({"base"})), **fields)  # type: ignore[arg-type]  # as above
    nodes = [bad, _node("good")]
    for seed in range(20):
        assert choose(nodes, need, Random(seed)) == ["good"]
    assert misfits(nodes, need) == Counter({reason: 1})


def test_shares_of_a_processor_add_up_to_a_whole_one() -> None:
    """Ten times 0.1 is one processor, although the sum of the floats is not."""
    node = replace(_node("a"), capacity=Room(mem_mib=65_536, cpu_count=1, slots=64))
    tenth = replace(_NEED, room=Room(mem_mib=10, cpu_count=0.1, slots=1))
    assert _fill([node], tenth, Random(1))[0].reserved.slots == 10


@pytest.mark.parametrize("used", [10, 40])
@pytest.mark.parametrize("resource", ["mem_mib", "cpu_count", "slots"])
def test_the_less_loaded_comes_first(used: int, resource: str) -> None:
    """The fullest resource is a node's load, and neither a template nor a team makes up for it."""
    load = replace(_NOTHING, **{resource: getattr(_node("x", used).reserved, resource)})
    full = _node("full", reserved=load, zygotes=frozenset({"base"}), layers=frozenset({"base"}))
    for seed in range(20):
        assert choose([full, _node("empty", teams={"red": 9})], _NEED, Random(seed)) == ["empty", "full"]


def test_a_tie_goes_to_the_template_then_to_the_team() -> None:
    """Among nodes of about the same load: a zygote, then layers, then the fewest sandboxes of the team."""
    zygote = _node("zygote", used=1, zygotes=frozenset({"base"}), teams={"red": 3})
    layers = _node("layers", used=1, layers=frozenset({"base"}), teams={"red": 2})
    crowd, calm = _node("crowd", teams={"red": 1}), _node("calm", teams={"blue": 1})
    for better, worse in [(zygote, layers), (layers, calm), (layers, crowd), (calm, crowd)]:
        for seed in range(20):
            assert choose([better, worse], _NEED, Random(seed)) == [better.node_id, worse.node_id]


def test_the_template_is_found_among_many_nodes() -> None:
    """In a large cluster, sandboxes go where their template is, until these nodes are fuller than the others by a band."""
    nodes = {f"n{number}": _node(f"n{number}", layers=frozenset({"base"} if number < 4 else ())) for number in range(200)}
    random = Random(1)
    places = Counter[str]()
    for _ in range(100):
        first = choose(list(nodes.values()), _NEED, random)[0]
        places[first] += 1
        nodes[first] = nodes[first].reserving(_NEED)
    assert set(list(places)[:4]) == {"n0", "n1", "n2", "n3"}
    assert max(places.values()) <= 64 // 20 + 2
    assert len(places) > 40


def test_a_team_is_spread() -> None:
    """Each of ten nodes gets its share of a team's sandboxes; the other team fills some nodes a little more."""
    nodes = [_node(f"n{number}", used=number % 2, teams={"blue": number % 2}) for number in range(10)]
    by_id = {node.node_id: node for node in nodes}
    random = Random(1)
    for _ in range(40):
        first = choose(list(by_id.values()), _NEED, random)[0]
        by_id[first] = by_id[first].reserving(_NEED)
    counts = [node.teams.get("red", 0) for node in by_id.values()]
    assert max(counts) - min(counts) <= 3


def test_no_sandbox_is_refused_before_all_nodes_are_full() -> None:
    """Nodes of different sizes fill up to the last place."""
    sizes = [1, 2, 7, 31, 64]
    nodes = [_node(f"n{size}", capacity=Room(mem_mib=size * 1024, cpu_count=size * 2, slots=size)) for size in sizes]
    full = _fill(nodes, _NEED, Random(1))
    assert [node.reserved.slots for node in full] == sizes
    assert misfits(full, _NEED) == Counter({Misfit.SLOTS: len(sizes)})
    assert choose([], _NEED, Random(1)) == []


def test_old_data_does_not_make_a_crowd() -> None:
    """Twenty processes place 2,000 sandboxes on 100 nodes and hear of each other's only after 200; no node gets far more than its share."""
    real = Counter({f"n{number}": 0 for number in range(100)})
    for batch in range(10):
        seen = [_node(node_id, used) for node_id, used in real.items()]
        for process in range(20):
            views, random = {node.node_id: node for node in seen}, Random(batch * 100 + process)
            for _ in range(10):
                first = choose(list(views.values()), _NEED, random)[0]
                views[first] = views[first].reserving(_NEED)
                real[first] += 1
    assert statistics.mean(real.values()) == 20
    assert max(real.values()) <= 28
    assert min(real.values()) >= 12
