"""The table of series: every name that ``GET /metrics`` has, with its labels. No I/O.

A scrape, docs/howto/monitoring.md, the dashboard and the alert rules in ``deploy/`` are checked against it. To add a series, add a row
here and a row to the table of the page, and fill it in :mod:`cloister.api.metrics.scrape`.

Invariant: the number of time series is bounded. The values of a label are words of this server's code, or pass
:class:`~cloister.api.metrics.names.BoundedNames`. No label has an id, an address or a path of a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["GROUPS", "SERIES", "Series"]


@dataclass(frozen=True)
class Series:
    """One metric family. Counters begin at zero when the process that counts starts."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names of its samples in a scrape."""
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count")) if self.kind == "histogram" else (self.name,)

    @property
    def shown(self) -> str:
        """Name and labels, as the documentation has them."""
        return f"{self.name}{{{','.join(self.labels)}}}" if self.labels else self.name


_SERVER = (
    Series("cloister_info", "gauge", "1, with the version of the server.", ("version",)),
    Series("cloister_supervisor_up", "gauge", "1 if the supervisor answers; if 0, the series that it counts are missing."),
    Series("cloister_node_up", "gauge", "1 if a node of the cluster answers and takes sandboxes, or is drained.", ("node",)),
    Series("cloister_node_draining", "gauge", "1 while a node of the cluster takes no new sandboxes.", ("node",)),
    Series("cloister_node_sandboxes", "gauge", "Sandboxes on a node of the cluster, paused ones too.", ("node",)),
    Series("cloister_node_memory_bytes", "gauge", "Memory of a node of the cluster that programs can take.", ("node",)),
    Series("cloister_draining", "gauge", "1 while an operator drains the server: it takes no new sandboxes."),
    Series("cloister_process_start_time_seconds", "gauge", "When a process of the server started, as Unix time.", ("process",)),
    Series("cloister_process_open_descriptors", "gauge", "Open descriptors of a process of the server.", ("process",)),
    Series("cloister_process_max_descriptors", "gauge", "The most descriptors that the process may open.", ("process",)),
)
_SANDBOXES = (
    Series("cloister_sandboxes", "gauge", "Live sandboxes, without paused ones."),
    Series("cloister_sandboxes_by_state", "gauge", "Sandboxes that have not ended, by state.", ("state",)),
    Series("cloister_sandboxes_by_team", "gauge", "The same by team; teams beyond the first 50 are `other`.", ("team", "state")),
    Series(
        "cloister_sandboxes_by_template", "gauge", "The same by template; those beyond the first 50 are `other`.", ("template", "state")
    ),
    Series("cloister_volumes_by_team", "gauge", "Volumes by team; teams beyond the first 50 are `other`.", ("team",)),
    Series(
        "cloister_volume_bytes_by_team", "gauge", "What they may take (`size`) and take now (`used`), by team, in bytes.", ("team", "kind")
    ),
    Series("cloister_sandboxes_by_runtime", "gauge", "The same, by the runtime that isolates them.", ("runtime",)),
    Series("cloister_creations_total", "counter", "Sandboxes created, by the way they started.", ("start",)),
    Series("cloister_creation_seconds", "histogram", "Time of a creation in the supervisor.", ("start", "template")),
    Series("cloister_ends_total", "counter", "Sandboxes that ended, by reason.", ("reason",)),
    Series("cloister_limits_met_total", "counter", "How often sandboxes met a limit of their own.", ("limit",)),
    Series("cloister_forks_total", "counter", "Copies that forks made, or could not make.", ("outcome",)),
    Series("cloister_pool_sandboxes", "gauge", "Sandboxes made ahead: `ready`, and `wanted` for the templates in use.", ("kind",)),
    Series("cloister_zygotes", "gauge", "Zygotes that are ready.", ("kind",)),
)
_REQUESTS = (
    Series("cloister_requests_total", "counter", "Requests to the API, by route and class of status.", ("method", "route", "status")),
    Series("cloister_request_seconds", "histogram", "Time to the answer of the API.", ("method", "route")),
    Series("cloister_refusals_total", "counter", "Requests refused with 429, 503 or 507, by the code of the error.", ("cause",)),
    Series(
        "cloister_traffic_requests_total", "counter", "Requests to sandboxes: to the `agent`, `interpreter`, or others.", ("to", "status")
    ),
    Series("cloister_audit_records_lost_total", "counter", "Changes without a record in the audit log."),
    Series("cloister_first_answer_seconds", "histogram", "Time from a request that runs code to its first output or end."),
    Series("cloister_runs_total", "counter", "Runs of code that ended, as the sandboxes report them.", ("language", "outcome")),
)
_BUILDS = (
    Series("cloister_builds", "gauge", "Template builds that wait or run.", ("status",)),
    Series("cloister_builds_ended_total", "counter", "Template builds that ended; a cancelled one is an error.", ("status",)),
    Series(
        "cloister_template_outdated_packages", "gauge", "Packages of a stock template that have updates.", ("template",)
    ),
    Series("cloister_template_check_time_seconds", "gauge", "When templates were last checked for updates, as Unix time; 0: never."),
)
_PAUSES = (
    Series("cloister_paused_sandboxes", "gauge", "Paused sandboxes, by what is kept of them.", ("kind",)),
    Series("cloister_paused_memory_bytes", "gauge", "Memory of frozen sandboxes, where it is.", ("place",)),
    Series("cloister_paused_memory_moves_total", "counter", "Frozen sandboxes whose memory was moved; `none`: it failed.", ("way",)),
    Series("cloister_paused_memory_stuck", "gauge", "1 while memory is low and frozen sandboxes can be moved nowhere."),
    Series("cloister_changes_total", "counter", "Pauses and resumes, by their outcome.", ("change", "outcome")),
    Series("cloister_wakes_total", "counter", "Resumes that traffic to a sandbox began."),
)
_HOST = (
    Series("cloister_host_memory_bytes", "gauge", "Memory `available`, and the `reserve` below which requests are refused.", ("kind",)),
    Series("cloister_refused_for_memory_total", "counter", "Creations, resumes and builds refused for lack of memory."),
    Series("cloister_disk_bytes", "gauge", "The data directory's file system; see below for the kinds.", ("kind",)),
    Series("cloister_sandboxes_stopped_for_space_total", "counter", "Sandboxes stopped because the disk was full and they grew fastest."),
)
_NETWORK = (
    Series("cloister_network_egress_connections_total", "counter", "Connections that ended or were refused.", ("verdict", "reason")),
    Series("cloister_network_egress_bytes_total", "counter", "Their bytes: `sent`, `received`.", ("way", "verdict", "reason")),
    Series("cloister_network_egress_refused_packets_total", "counter", "Packets that the kernel refused.", ("verdict", "reason")),
    Series("cloister_network_egress_unrecorded_total", "counter", "Connections in no record: there were too many at once."),
)
GROUPS: dict[str, tuple[Series, ...]] = {
    "Processes of the server": _SERVER,
    "Sandboxes": _SANDBOXES,
    "Requests and runs": _REQUESTS,
    "Builds": _BUILDS,
    "Pauses": _PAUSES,
    "Memory and disk of the host": _HOST,
    "Network of sandboxes": _NETWORK,
}
"""By the headings of the documentation."""
SERIES: tuple[Series, ...] = tuple(series for group in GROUPS.values() for series in group)
