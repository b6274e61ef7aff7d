"""The text of a scrape: every declared series, with its labels and bounded values."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from cloister.api.app import rest_middleware
from cloister.api.metrics.counts import Meters, RequestCounts, TrafficCounts
from cloister.api.metrics.names import OTHER, BoundedNames
from cloister.api.metrics.page import Page
from cloister.api.metrics.scrape import Scraper
from cloister.api.metrics.series import SERIES
from cloister.control.nodes import NodeSight, NodeStatus, NodeView
from cloister.errors import NoCapacityError, UnavailableError
from cloister.model.cluster import ClusterNode
from cloister.model.durations import CREATION_BOUNDS_S, Durations
from cloister.model.node import CreationTimes, NodeInfo
from cloister.model.volume import Volume, VolumeUse


class FakeApi:
    """The parts of the API that a scrape reads, with live sandboxes of ``teams`` teams, each of a template of its own."""

    def __init__(self, teams: int, sandboxes: int, node: NodeInfo | None) -> None:
        self.names = {f"team_{number}": f"name {number}" for number in range(teams)}
        self.node = node
        self.rows = [
            SimpleNamespace(
                team_id=f"team_{number % teams}",
                state="running",
                runtime="namespace",
                template=f"template-{number % teams}",
                template_id="t",
                build_id="b",
            )
            for number in range(sandboxes)
        ]
        self.keys = self.sandboxes = self.volumes = self
        self.forks = SimpleNamespace(copies=Counter(done=2))
        self.audit = SimpleNamespace(lost=0)
        self.pausing = SimpleNamespace(wakes=1)
        self.nodes = SimpleNamespace(list=self.list_nodes)
        self.logs = SimpleNamespace(runs=Counter({("python", "ok"): 3}))

    async def list_nodes(self) -> list[NodeView]:
        """See Nodes."""
        row = ClusterNode(node_id="node_1", address="a:1", joined_at=1.0, token_id="t")
        sight = NodeSight(is_connected=True, is_lost=False, trouble="", info=full_node())
        return [NodeView(row=row, status=NodeStatus.READY, sight=sight, sandboxes=())]

    async def node_info(self) -> NodeInfo:
        """See Sandboxes."""
        if self.node is None:
            raise UnavailableError("away")
        return self.node

    async def team_names(self) -> dict[str, str]:
        """See Keys."""
        return self.names

    async def all(self) -> list[Volume]:
        """See Volumes: one of each team."""
        return [
            Volume(volume_id=f"of {team}", team_id=team, name="v", size_mib=64, created_at=1.0)
            for team in dict.fromkeys(row.team_id for row in self.rows)
        ]

    async def uses(self) -> dict[str, VolumeUse]:
        """See Volumes."""
        if self.node is None:
            return {}
        return {
            one.volume_id: VolumeUse(volume_id=one.volume_id, size_bytes=64 << 20, used_bytes=3, files=1, sandboxes=0)
            for one in await self.all()
        }

    def all_live(self) -> list[Any]:
        """See Sandboxes."""
        return self.rows

    def count_ends(self) -> Counter[str]:
        """See Sandboxes."""
        return Counter(killed=4)


def full_node() -> NodeInfo:
    """A node that reports each number."""
    times = Durations(CREATION_BOUNDS_S)
    times.add(0.02)
    times.add(90)
    connections = {"lost//": 1, **{f"{what}/allowed/public": 5 for what in ("connections", "sent_bytes", "received_bytes")}}
    return NodeInfo(
        node_id="n",
        version="9",
        instance=0,
        creations={"forked": 2},
        zygotes={"agent": 1},
        disk={"size": 9, "free": 8, "promised": 1, "spare": 7, "reserve": 2, "stopped": 0},
        memory={"available": 5, "reserve": 1},
        connections={**connections, "refused_packets/refused/denyOut": 6},
        creation_times=(CreationTimes(way="forked", kind="stock", times=times.counts()),),
        descriptors={"supervisor": 30},
        descriptor_limits={"supervisor": 1024},
        outdated={"base": 3},
        updates_checked_at=5.0,
    )


def scraper(api: FakeApi) -> Scraper:
    """A scraper of it, whose process has answered requests."""
    meters = Meters(started_at=1.0, descriptors=lambda: (10, 100))
    meters.requests.requests["GET", "/sandboxes", "2xx"] += 1
    meters.requests.times["GET", "/sandboxes"] = Durations(CREATION_BOUNDS_S)
    meters.requests.refusals["no_capacity"] += 1
    meters.traffic.completed(49999, 200)
    return Scraper(cast("Any", api), meters)


async def read(one: Scraper) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples of a scrape: their values, by name and then by the values of their labels in the declared order."""
    labels = {name: series.labels for series in SERIES for name in series.sample_names}
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families((await one.gather()).render().decode()):
        for sample in family.samples:
            names = (*labels[sample.name], "le") if sample.name.endswith("_bucket") else labels[sample.name]
            assert set(sample.labels) == set(names), sample
            found.setdefault(sample.name, {})[tuple(sample.labels[name] for name in names)] = sample.value
    return found


async def test_each_declared_series_is_in_a_scrape() -> None:
    """The declared ones are there, with exactly their labels; one that is not declared fails the reading above."""
    found = await read(scraper(FakeApi(teams=2, sandboxes=4, node=full_node())))
    missing = {name for series in SERIES for name in series.sample_names} - set(found)
    assert not missing
    assert found["cloister_disk_bytes"]["reserve",] == 2
    assert found["cloister_ends_total"]["killed",] == 4
    assert found["cloister_template_outdated_packages"]["base",] == 3
    assert found["cloister_template_check_time_seconds"][()] == 5
    buckets = found["cloister_creation_seconds_bucket"]
    assert (buckets["forked", "stock", "0.01"], buckets["forked", "stock", "0.025"], buckets["forked", "stock", "60.0"]) == (0, 1, 1)
    assert buckets["forked", "stock", "+Inf"] == 2
    assert found["cloister_creation_seconds_sum"]["forked", "stock"] == pytest.approx(90.02)


async def test_a_scrape_without_a_supervisor() -> None:
    """It says that the supervisor is away, and has the numbers of the API."""
    found = await read(scraper(FakeApi(teams=1, sandboxes=1, node=None)))
    assert found["cloister_supervisor_up"][()] == 0
    assert found["cloister_sandboxes"][()] == 1
    assert "cloister_creations_total" not in found


async def test_the_number_of_series_is_bounded() -> None:
    """10,000 teams with as many templates give 51 values of each label, whichever teams come later; no sandbox is lost."""
    api = FakeApi(teams=10_000, sandboxes=10_000, node=full_node())
    one = scraper(api)
    first = await read(one)
    for row in api.rows:
        row.team_id, row.template = f"team_{9_999 - int(row.team_id[5:])}", row.template + "-new"
    later = await read(one)
    for label in ("team", "template"):
        name = f"cloister_sandboxes_by_{label}"
        values = {labels[0] for found in (first, later) for labels in found[name]}
        assert len(values) == 51, label
        assert sum(later[name].values()) == 10_000
    assert (len(later["cloister_volumes_by_team"]), sum(later["cloister_volumes_by_team"].values())) == (51, 10_000)
    assert sum(value for labels, value in later["cloister_volume_bytes_by_team"].items() if labels[1] == "used") == 30_000
    assert sum(len(samples) for samples in later.values()) < 600


def test_the_largest_teams_keep_their_names() -> None:
    """While there is room, names are admitted in the order of their counts; those that are known stay."""
    names = BoundedNames(most=2)
    assert names.bound({("small", "running"): 1, ("large", "running"): 5, ("large", "paused"): 1, ("middle", "running"): 3}) == {
        ("large", "running"): 5,
        ("large", "paused"): 1,
        ("middle", "running"): 3,
        (OTHER, "running"): 1,
    }
    assert names.bound({("small", "running"): 9, ("middle", "paused"): 1}) == {(OTHER, "running"): 9, ("middle", "paused"): 1}


def test_a_page_takes_what_is_declared() -> None:
    """An unknown name, and a wrong number of labels, are errors of the code."""
    with pytest.raises(KeyError):
        Page().put("cloister_unknown", 1)
    with pytest.raises(ValueError, match="has the labels"):
        Page().put("cloister_sandboxes_by_team", 1, "team")


async def test_requests_are_counted_by_route() -> None:
    """A path counts for its route, one that has none for ``unmatched``, whatever its method; refusals count by their code."""
    counts = RequestCounts()

    async def handle(request: web.Request) -> web.Response:
        if request.match_info["one"] == "full":
            raise NoCapacityError("full")
        return web.Response()

    app = web.Application(middlewares=[rest_middleware(counts)])
    app.router.add_get("/things/{one}", handle)
    async with TestClient(TestServer(app)) as client:
        for method, path in (("GET", "/things/1"), ("GET", "/things/2"), ("GET", "/things/full"), ("GET", "/x/1"), ("PURGE", "/things/1")):
            await client.request(method, path)
    assert counts.requests == {
        ("GET", "/things/{one}", "2xx"): 2,
        ("GET", "/things/{one}", "5xx"): 1,
        ("any", "unmatched", "4xx"): 2,
    }
    assert counts.refusals == {"no_capacity": 1}
    assert set(counts.times) == {("GET", "/things/{one}"), ("any", "unmatched")}


def test_traffic_is_counted_by_kind_of_port() -> None:
    """The agent's two ports are told apart; all others are programs. A request that was interrupted has no status."""
    counts = TrafficCounts()
    for port, status in ((49983, 200), (49999, 502), (1, 404), (65535, 0)):
        counts.completed(port, status)
    assert counts.requests == {("agent", "2xx"): 1, ("interpreter", "5xx"): 1, ("program", "4xx"): 1, ("program", "aborted"): 1}
