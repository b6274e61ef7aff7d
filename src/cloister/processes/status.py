"""The state of a server on this host: whether its processes answer, its sandboxes and what they hold, and what a stop would do.

The journal and the kernel say which sandboxes there are, so that a stopped server has a state too. Reads only; a supervisor that is asked
sends its events to no other than the api process.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cloister.config.client_env import read_client_env
from cloister.config.settings import Settings
from cloister.errors import CloisterError
from cloister.linux.cgroup import CgroupTree, find_tree
from cloister.linux.meminfo import HostMemory, host_memory
from cloister.model.node import NodeInfo
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node.instance import instance_of
from cloister.node.journal import journal_of
from cloister.node.kept_disks import image_in
from cloister.node.stop_plan import OnStop, StopPlan, has_processes, plan_reboot_without_server, plan_stop
from cloister.processes.node_calls import ask_node

__all__ = ["SandboxStatus", "ServerStatus", "take_status"]

_ANSWER_S = 5.0


@dataclass(frozen=True, kw_only=True)
class SandboxStatus:
    """A sandbox and what it holds, in bytes."""

    sandbox_id: str
    team_id: str
    template: str
    runtime: str
    state: SandboxState
    kind: str
    """How it is paused; empty if it is not."""
    since: float
    """When its state began: the start of the current run, or of the pause (epoch seconds)."""
    end_at: float | None
    """Its deadline; None while it is paused."""
    resident: int
    swapped: int
    disk: int
    """Space on the host of its disk, and of its memory if that is on disk."""
    why_not_deeper: str


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """The state of the server of one data directory."""

    instance: int | None
    """None: nothing of the server is on this host, but perhaps files."""
    node: NodeInfo | None
    """None: the supervisor does not answer."""
    api_url: str
    """Empty: no server has run on the data directory yet."""
    is_api_up: bool
    sandboxes: tuple[SandboxStatus, ...]
    host: HostMemory
    stop: StopPlan | None
    """The effect of a stop now; None: no supervisor answers."""
    reboot: StopPlan
    """The effect if the host goes down."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        node = None if self.node is None else asdict(self.node)
        return {
            "instance": self.instance,
            "node": node,
            "api": {"url": self.api_url, "is_up": self.is_api_up},
            "host_memory": asdict(self.host),
            "stop": None if self.stop is None else self.stop.to_json(),
            "reboot": self.reboot.to_json(),
            "sandboxes": [asdict(one) for one in self.sandboxes],
        }


def take_status(settings: Settings) -> ServerStatus:
    """The state now. Needs root."""
    number = instance_of(settings.data_dir, settings.run_dir)
    run_dir = settings.run_dir / ("none" if number is None else str(number))
    journal = journal_of(settings.data_dir, run_dir)
    records = [entry.record for entry in journal.entries().entries if entry.record.state is not SandboxState.CREATING]
    node = _ask_node(run_dir / "supervisor.sock")
    tree = None if number is None else find_tree(number)
    url = _url(settings.data_dir)
    stop, reboot = None, plan_reboot_without_server(records)
    if node is not None:
        plan = partial(plan_stop, records, OnStop(node.on_stop), saves_memory=node.saves_memory)
        stop, reboot = plan(), plan(host_goes_down=True)
    return ServerStatus(
        instance=number,
        node=node,
        api_url=url,
        is_api_up=bool(url) and _answers(url),
        sandboxes=tuple(_measured(record, tree, journal.directory_of(record.sandbox_id)) for record in records),
        host=host_memory(),
        stop=stop,
        reboot=reboot,
    )


def _measured(record: SandboxRecord, tree: CgroupTree | None, directory: Path) -> SandboxStatus:
    pause, held = record.pause, (0, 0)
    if tree is not None and has_processes(record):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            held = tree.resident_bytes(record.sandbox_id), tree.swapped_bytes(record.sandbox_id)
    return SandboxStatus(
        sandbox_id=record.sandbox_id,
        team_id=record.team_id,
        template=record.template if record.client is None else record.client.template,
        runtime=record.runtime,
        state=record.state,
        kind="" if pause is None else pause.kind,
        since=record.started_at if pause is None else pause.at,
        end_at=record.end_at if pause is None else None,
        resident=held[0],
        swapped=held[1],
        disk=_space_of(directory / "disk.img", *image_in(directory).glob("*")),
        why_not_deeper="" if pause is None else pause.why_not_deeper,
    )


def _space_of(*paths: Path) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a resume or the end of the sandbox removes it at any time
            total += path.lstat().st_blocks * 512
    return total


def _ask_node(path: Path) -> NodeInfo | None:
    """None: no supervisor answers there."""
    try:
        return asyncio.run(ask_node(path, lambda node: node.ping(), timeout_s=_ANSWER_S))
    except CloisterError:  # perhaps it is just ending
        return None


def _url(data_dir: Path) -> str:
    try:
        return read_client_env(data_dir).api_url
    except CloisterError:
        return ""


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine itself, whatever proxy the shell has
    try:
        with opener.open(f"{url}/health", timeout=_ANSWER_S) as answer:
            return bool(answer.status < 300)
    except OSError:
        return False
