"""``GET /metrics``: gathers the numbers of all processes of the server, for the operator alone, by a key of their own.

Reads what the others count; counts nothing itself. If the supervisor is away, the numbers of the api process are answered all the same.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from cloister.api.auth import check_scope
from cloister.api.handlers import Api
from cloister.api.metrics.counts import Meters
from cloister.api.metrics.names import BoundedNames
from cloister.api.metrics.page import Page
from cloister.control.nodes import NodeStatus
from cloister.errors import UnavailableError
from cloister.model.lifecycle import PauseKind
from cloister.model.node import NodeInfo
from cloister.model.sandbox import EndReason, SandboxState
from cloister.model.team import KeyScope

__all__ = ["METRICS_PATH", "Scraper"]

METRICS_PATH = "/metrics"
_NODE_WAIT_S = 3.0
"""Prometheus gives up after ten seconds by default."""
_WAYS = ("made_ahead", "forked", "cold")
_DISK = ("size", "free", "promised", "spare", "reserve")
_MOVES = {"checkpoint": "checkpointed", "swap": "paged_out", "none": "not_moved"}
_CHANGES = (("pause", "done"), ("pause", "failed"), ("resume", "done"), ("resume", "failed"))
_STATES = tuple(state.value for state in SandboxState if state not in (SandboxState.ENDING, SandboxState.ENDED))
"""Those of the control plane's rows."""


@dataclass(frozen=True)
class Scraper:
    """Answers scrapes. Event loop only."""

    api: Api
    meters: Meters
    _teams: BoundedNames = field(default_factory=BoundedNames)
    _templates: BoundedNames = field(default_factory=BoundedNames)

    async def answer(self, request: web.Request) -> web.Response:
        """The answer to ``GET /metrics``.

        Raises:
            AuthenticationError, PermissionDeniedError, TooManyFailuresError: the request has no valid metrics key.
        """
        await check_scope(self.api, request, KeyScope.METRICS)
        page = await self.gather()
        text = await asyncio.to_thread(page.render)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def gather(self) -> Page:
        """All numbers now."""
        page, api = Page(), self.api
        try:
            async with asyncio.timeout(_NODE_WAIT_S):
                node = await api.sandboxes.node_info()
        except (UnavailableError, TimeoutError):
            page.put("cloister_supervisor_up", 0)
        else:
            page.put("cloister_supervisor_up", 1)
            _put_node(page, node)
        await self._put_nodes(page)
        await self._put_process(page)
        await self._put_sandboxes(page)
        await self._put_volumes(page)
        self._put_requests(page)
        return page

    async def _put_nodes(self, page: Page) -> None:
        """Those of a cluster; one machine has none."""
        for view in await self.api.nodes.list():
            node_id = view.row.node_id
            page.put("cloister_node_up", int(view.sight.is_connected), node_id)
            page.put("cloister_node_draining", int(view.status is NodeStatus.DRAINING), node_id)
            page.put("cloister_node_sandboxes", len(view.sandboxes), node_id)
            if view.sight.info is not None:
                page.put("cloister_node_memory_bytes", view.sight.info.memory.get("available", 0), node_id)

    async def _put_process(self, page: Page) -> None:
        count, most = await asyncio.to_thread(self.meters.descriptors)
        page.put("cloister_process_start_time_seconds", self.meters.started_at, "api")
        if count is not None and most is not None:
            page.put("cloister_process_open_descriptors", count, "api")
            page.put("cloister_process_max_descriptors", most, "api")

    async def _put_sandboxes(self, page: Page) -> None:
        api, names = self.api, await self.api.keys.team_names()
        states, runtimes = Counter[str](), Counter[str]()
        teams, templates = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for row in api.sandboxes.all_live():
            states[row.state] += 1
            runtimes[row.runtime or ""] += 1
            teams[names.get(row.team_id, "unknown"), row.state] += 1
            templates["unnamed" if row.template == row.template_id and row.build_id is not None else row.template, row.state] += 1
        del runtimes[""]  # those being created
        page.put("cloister_sandboxes", states.total() - states[SandboxState.PAUSED])
        page.put_all("cloister_sandboxes_by_state", states, _STATES)
        page.put_all("cloister_sandboxes_by_runtime", dict(sorted(runtimes.items())))
        for name, known, counts in (("team", self._teams, teams), ("template", self._templates, templates)):
            for labels, count in known.bound(counts).items():
                page.put(f"cloister_sandboxes_by_{name}", count, *labels)
        page.put_all("cloister_ends_total", api.sandboxes.count_ends(), tuple(EndReason))
        page.put_all("cloister_forks_total", api.forks.copies, ("done", "failed"))
        page.put("cloister_wakes_total", api.pausing.wakes)

    async def _put_volumes(self, page: Page) -> None:
        """Without their use while the supervisor is away."""
        names, rows = await self.api.keys.team_names(), await self.api.volumes.all()
        try:
            async with asyncio.timeout(_NODE_WAIT_S):
                uses = await self.api.volumes.uses() if rows else {}
        except TimeoutError:
            uses = {}
        counts = Counter[tuple[str, str]]()
        for row in rows:
            team, use = names.get(row.team_id, "unknown"), uses.get(row.volume_id)
            counts[team, "count"] += 1
            counts[team, "size"] += row.size_mib << 20
            if use is not None:
                counts[team, "used"] += use.used_bytes
        for (team, kind), value in self._teams.bound(counts).items():
            if kind == "count":
                page.put("cloister_volumes_by_team", value, team)
            else:
                page.put("cloister_volume_bytes_by_team", value, team, kind)

    def _put_requests(self, page: Page) -> None:
        requests, traffic = self.meters.requests, self.meters.traffic
        for key, count in requests.requests.items():
            page.put("cloister_requests_total", count, *key)
        for route, times in requests.times.items():
            page.put_durations("cloister_request_seconds", times.counts(), *route)
        page.put("cloister_audit_records_lost_total", self.api.audit.lost)
        page.put_all("cloister_refusals_total", requests.refusals)
        for to, count in traffic.requests.items():
            page.put("cloister_traffic_requests_total", count, *to)
        page.put_durations("cloister_first_answer_seconds", traffic.first_answers.counts())
        for run, count in self.api.logs.runs.items():
            page.put("cloister_runs_total", count, *run)


def _put_node(page: Page, node: NodeInfo) -> None:
    """The numbers that are born in the supervisor."""
    page.put("cloister_info", 1, node.version)
    page.put("cloister_draining", int(node.drain is not None))
    page.put("cloister_process_start_time_seconds", node.started_at, "supervisor")
    page.put_all("cloister_process_open_descriptors", node.descriptors)
    page.put_all("cloister_process_max_descriptors", node.descriptor_limits)
    page.put_all("cloister_creations_total", node.creations, _WAYS)
    for one in node.creation_times:
        page.put_durations("cloister_creation_seconds", one.times, one.way, one.kind)
    page.put_all("cloister_limits_met_total", node.limits_met, ("memory", "processes", "disk"))
    page.put_all("cloister_pool_sandboxes", node.pool, ("ready", "wanted"))
    page.put_all("cloister_zygotes", node.zygotes)
    page.put_all("cloister_builds", node.builds, ("waiting", "building"))
    page.put_all("cloister_template_outdated_packages", node.outdated)
    page.put("cloister_template_check_time_seconds", node.updates_checked_at)
    page.put_all("cloister_builds_ended_total", node.builds, ("ready", "error"))
    page.put_all("cloister_disk_bytes", node.disk, [kind for kind in _DISK if kind in node.disk])
    page.put("cloister_sandboxes_stopped_for_space_total", node.disk.get("stopped", 0))
    page.put_all("cloister_host_memory_bytes", node.memory, [kind for kind in ("available", "reserve") if kind in node.memory])
    page.put("cloister_refused_for_memory_total", node.memory.get("refused", 0))
    _put_pauses(page, node)
    _put_network(page, node)


def _put_pauses(page: Page, node: NodeInfo) -> None:
    page.put_all("cloister_paused_sandboxes", node.paused, tuple(PauseKind))
    page.put("cloister_paused_memory_bytes", node.paused.get("resident", 0), "memory")
    page.put("cloister_paused_memory_bytes", node.paused.get("swapped", 0), "swap")
    page.put("cloister_paused_memory_stuck", node.paused.get("stuck", 0))
    for way, name in _MOVES.items():
        page.put("cloister_paused_memory_moves_total", node.paused.get(name, 0), way)
    for change, outcome in _CHANGES:
        page.put("cloister_changes_total", node.changes.get(f"{change}_{outcome}", 0), change, outcome)


def _put_network(page: Page, node: NodeInfo) -> None:
    """Connections by verdict and reason. The reasons are the kinds of rules and refusals, and hold no words of clients."""
    page.put("cloister_network_egress_unrecorded_total", node.connections.get("lost//", 0))
    for key, count in node.connections.items():
        what, verdict, reason = key.split("/", 2)
        if what in ("connections", "refused_packets"):
            page.put(f"cloister_network_egress_{what}_total", count, verdict, reason)
        elif what in ("sent_bytes", "received_bytes"):
            page.put("cloister_network_egress_bytes_total", count, what.removesuffix("_bytes"), verdict, reason)
