"""A peer of a real server's supervisor that speaks for its api process: for tests of what the node does about builds."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.local import LocalNode
from cloister.errors import NodeUnreachableError
from cloister.model.build import BuildReport, BuildRequest, BuildStatus, BuildStep
from cloister.node.instance import RUN_ROOT
from cloister.nodewire.requests import BuildRef, ReportBuild
from framework.server import Server

__all__ = ["NodePeer", "build_request", "run"]

_T = TypeVar("_T")


def run(*commands: str) -> tuple[BuildStep, ...]:
    """A ``RUN`` step for each command."""
    return tuple(BuildStep(kind="RUN", args=(command,)) for command in commands)


def build_request(*steps: BuildStep, **fields: Any) -> BuildRequest:
    """A build on the base template, by default of a new team, which finds no steps in the cache."""
    build_id = str(uuid.uuid4())
    known = {"template_id": build_id[:8], "team_id": build_id, "name": "tested", "parent": "base"}
    return BuildRequest(build_id=build_id, steps=steps, **{**known, **fields})


@dataclass(frozen=True)
class NodePeer:
    """Each call is a connection of its own, which waits for a supervisor that is starting."""

    server: Server
    started: list[str] = field(default_factory=list)

    def call(self, work: Callable[[NodeClient], Awaitable[_T]]) -> _T:
        """What ``work`` gives."""

        async def inner() -> _T:
            node = LocalNode(self.socket_path(), wait_s=60.0)

            async def greet(_node: NodeClient) -> None:
                pass

            node.start(NodeListener(greet, lambda _ended: None))
            try:
                return await work(node.calls)
            finally:
                await node.close()

        return asyncio.run(inner())

    def start(self, request: BuildRequest) -> str:
        """Ask for a build; its id."""
        self.call(lambda node: node.start_build(request))
        self.started.append(request.build_id)
        return request.build_id

    def drop_all(self) -> None:
        """Leave nothing of what was started to the store that all tests share."""
        while self.started:
            self.drop(self.started.pop())

    def report(self, build_id: str) -> BuildReport:
        """All of a build's report."""
        return self.call(lambda node: node.report_build(ReportBuild(build_id, 0, 1000)))

    def cancel(self, build_id: str) -> bool:
        """End a build."""
        return self.call(lambda node: node.cancel_build(BuildRef(build_id)))

    def drop(self, build_id: str) -> None:
        """Forget a build."""
        self.call(lambda node: node.drop_build(BuildRef(build_id)))

    def lines(self, build_id: str) -> list[str]:
        """A build's log."""
        return [entry.message for entry in self.report(build_id).entries]

    def wait(self, build_id: str, is_so: Callable[[BuildReport], object], timeout_s: float = 90.0) -> BuildReport:
        """The first report that ``is_so``."""
        until = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(NodeUnreachableError):
                report = self.report(build_id)
                if is_so(report):
                    return report
                assert not report.status.is_final, f"{report.message}\n{self.lines(build_id)}"
                assert time.monotonic() < until, report
            time.sleep(0.05)

    def wait_ready(self, build_id: str, timeout_s: float = 90.0) -> BuildReport:
        """The report once it is ready."""
        return self.wait(build_id, lambda report: report.status is BuildStatus.READY, timeout_s)

    def wait_failed(self, build_id: str, timeout_s: float = 90.0) -> BuildReport:
        """The report once it has failed."""
        return self.wait(build_id, lambda report: report.status is BuildStatus.ERROR, timeout_s)

    def wait_line(self, build_id: str, text: str, timeout_s: float = 60.0) -> BuildReport:
        """The report once a line of the log is this one; write ``echo be''gun``, so that it is not the step's title."""
        return self.wait(build_id, lambda report: any(text == entry.message for entry in report.entries), timeout_s)

    def socket_path(self) -> Path:
        """The supervisor's socket."""
        claims = (RUN_ROOT / "instances").iterdir()
        number = next(claim.name for claim in claims if claim.read_text() == str(self.server.data_dir.resolve()))
        return RUN_ROOT / number / "supervisor.sock"
