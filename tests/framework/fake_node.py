"""A node without sandboxes: the real node server, over a service whose sandboxes are network namespaces with small HTTP servers in them.

Lets the control plane, the ingress and the SDKs be tested without templates or a runtime. Each sandbox has a network namespace of its own
(made by a thread that enters it), so that sandboxes use the same ports and are reached only by descriptors, as real ones are. Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from cloister.errors import AlreadyExistsError, CloisterError, ConflictError, NotFoundError, SandboxNotFoundError, TemplateNotFoundError
from cloister.ids import new_node_id, new_sandbox_id
from cloister.model.build import BuildLogEntry, BuildReport, BuildRequest, BuildStatus, EndedBuild
from cloister.model.drain import Drained
from cloister.model.lifecycle import Pause, PauseKind, TimeoutAction
from cloister.model.node import EndedSandbox, NodeInfo, PausedSandbox, Sample, SandboxMetrics, TimedStep
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState, transition
from cloister.model.team_traffic import TeamTraffic
from cloister.model.template import Template
from cloister.node.events import EventBroadcaster
from cloister.node.server import Implementations, NodeServer
from cloister.nodewire.requests import (
    AskEnds,
    AskMetrics,
    BuildRef,
    ChangeDrain,
    Kill,
    ListSandboxes,
    PauseSandbox,
    ReportBuild,
    Reserve,
    ResumeSandbox,
    SandboxPage,
    SandboxRef,
    SetDeadline,
    SetNetwork,
    SetTeamTraffic,
    TakeSnapshot,
)
from cloister.protocol.dialled import Dialled, on_loopback
from framework.fake_ports import execute, health, interpreter_health
from framework.fake_resolver import FakeResolver
from framework.fake_templates import TEMPLATES, FakeTemplates
from framework.fake_volumes import FakeVolumes
from framework.held import Hold

__all__ = ["TEMPLATES", "FakeNode", "FakeSandbox"]

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def _new_thread() -> ThreadPoolExecutor:
    """A thread inside a new network namespace with loopback up; sockets made in it stay there."""

    def enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket() as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))

    thread = ThreadPoolExecutor(1)
    thread.submit(enter).result()
    return thread


@dataclass
class FakeSandbox:
    """One sandbox; ``serve`` adds a server on a port of it."""

    record: SandboxRecord
    request: SandboxRequest
    thread: ThreadPoolExecutor
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    timer: asyncio.TimerHandle | None = None
    dials: int = 0
    agent: Callable[[web.Request], Awaitable[web.Response]] = health
    """What answers on the agent's port."""

    async def serve(self, port: int, handler: Callable[[web.Request], Any]) -> None:
        """Answer every request on ``port`` by ``handler``."""
        app = web.Application(client_max_size=1 << 40)
        app.router.add_route("*", "/{tail:.*}", handler)
        await self.serve_app(port, app)

    async def serve_app(self, port: int, app: web.Application) -> None:
        """Serve ``app`` on ``port``."""
        listener = await self.make_socket(lambda: socket.create_server(("127.0.0.1", port)))
        runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.0, max_field_size=1 << 17, max_line_size=1 << 17, auto_decompress=False
        )
        await runner.setup()
        self.stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener).start()

    async def serve_raw(self, port: int, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        """Hand connections to ``port`` to ``handler``."""
        listener = await self.make_socket(lambda: socket.create_server(("127.0.0.1", port)))
        tasks: set[asyncio.Task[Any]] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await handler(reader, writer)
            except (asyncio.CancelledError, ConnectionError):
                writer.transport.abort()
            finally:
                tasks.discard(task)
                writer.close()

        async def end() -> None:
            server.close()
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        server = await asyncio.start_server(handle, sock=listener)
        self.stack.push_async_callback(end)

    async def make_socket(self, make: Callable[[], socket.socket]) -> socket.socket:
        """Run ``make`` inside the sandbox's network."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, make)


class FakeNode(FakeResolver, FakeVolumes, FakeTemplates):
    """A :class:`~cloister.nodewire.methods.NodeMethods` and its server, which can be stopped and started as if the supervisor had died."""

    def __init__(self, path: Path, *, allowed_uids: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.path = path
        self.allowed_uids = allowed_uids
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.ends: dict[str, EndedSandbox] = {}
        self.create_fault: CloisterError | None = None
        self.create_delay_s = 0.0
        self.pause_fault: CloisterError | None = None
        self.resume_fault: CloisterError | None = None
        self.hold = Hold()
        self.pauses = self.resumes = 0
        self.node_id = new_node_id()
        self.creates = 0
        self.builds: dict[str, BuildRequest] = {}
        self.reports: dict[str, BuildReport] = {}
        self.snapshots: dict[str, Template] = {}
        self.dropped: list[str] = []
        self.builds_run = False
        """Whether builds run by themselves, as :meth:`_run_build` has it, or wait for :meth:`report`."""
        self.build_step_s = 0.02
        self.snapshot_fault: CloisterError | None = None
        self.saves_memory: tuple[str, ...] = ()
        self.team_traffic: tuple[TeamTraffic, ...] = ()
        self.captures: list[TakeSnapshot] = []
        """Every request for one, also for those that failed."""
        self._running: set[asyncio.Task[None]] = set()
        self._networks: list[ThreadPoolExecutor] = []
        self.resolver = self._new_network()
        self._server: NodeServer | None = None

    async def start(self) -> None:
        """Serve the protocol."""
        parts = Implementations(sandboxes=self, builds=self, volumes=self)
        self._server = NodeServer(parts, self.path, allowed_uids={os.getuid(), *self.allowed_uids}, events=EventBroadcaster())
        await self._server.start()

    async def die(self) -> None:
        """Stop serving, as a killed supervisor does; sandboxes go on."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.close()

    async def close(self) -> None:
        """End everything."""
        for task in tuple(self._running):
            task.cancel()
        for sandbox_id in tuple(self.sandboxes):
            await self.kill(Kill(sandbox_id, EndReason.STOPPED))
        await self.die()
        if self._dns is not None:
            for sock in self._dns:
                sock.close()
        await self.close_volumes()
        for network in self._networks:  # also that of a sandbox whose creation or end was cut off
            network.shutdown()

    def _new_network(self) -> ThreadPoolExecutor:
        self._networks.append(_new_thread())
        return self._networks[-1]

    def find(self, sandbox_id: str) -> FakeSandbox:
        """A live sandbox, or SandboxNotFoundError."""
        if (sandbox := self.sandboxes.get(sandbox_id)) is None:
            raise SandboxNotFoundError(f"no sandbox {sandbox_id}")
        return sandbox

    def find_running(self, sandbox_id: str) -> FakeSandbox:
        """A live sandbox, or SandboxNotFoundError, or ConflictError if it is paused."""
        sandbox = self.find(sandbox_id)
        if sandbox.record.state is not SandboxState.RUNNING:
            raise ConflictError(f"sandbox {sandbox_id} is {sandbox.record.state}")
        return sandbox

    async def reserve(self, request: Reserve) -> str:
        """See SandboxMethods: nothing is made ahead here."""
        del request
        return new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See SandboxMethods."""
        self.creates += 1
        if request.sandbox_id in self.sandboxes:
            raise AlreadyExistsError(request.sandbox_id)
        if not self.can_run(request.template):
            raise TemplateNotFoundError(request.template)
        await asyncio.sleep(self.create_delay_s)
        if self.create_fault is not None:
            raise self.create_fault
        record = SandboxRecord(
            sandbox_id=request.sandbox_id,
            template=request.template,
            team_id=request.team_id,
            runtime="fake",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=request.limits or Limits(),
            egress=request.egress,
            access_token=request.access_token,
            client=request.client,
            lifecycle=request.lifecycle,
            volumes=request.volumes,
        )
        sandbox = FakeSandbox(record, request, self._new_network())

        async def answer(request: web.Request) -> web.Response:
            return await sandbox.agent(request)  # looked up late, so that tests can replace it

        await sandbox.serve(49983, answer)
        interpreter = web.Application()
        interpreter.router.add_post("/execute", execute)
        interpreter.router.add_get("/health", interpreter_health)
        await sandbox.serve_app(49999, interpreter)
        self.sandboxes[request.sandbox_id] = sandbox
        self._arm(sandbox)
        return record

    def _arm(self, sandbox: FakeSandbox) -> None:
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        loop = asyncio.get_running_loop()
        left_s = max(0.0, sandbox.record.end_at - time.time())
        sandbox.timer = loop.call_later(left_s, lambda: loop.create_task(self._at_deadline(sandbox.record)))

    async def _at_deadline(self, record: SandboxRecord) -> None:
        if record.lifecycle.on_timeout is TimeoutAction.KILL:
            await self.kill(Kill(record.sandbox_id, EndReason.EXPIRED))
            return
        memory = record.lifecycle.on_timeout is TimeoutAction.PAUSE
        paused = await self.pause(PauseSandbox(record.sandbox_id, memory))
        if self._server is not None and paused.pause is not None:
            self._server.events.sandbox_paused(PausedSandbox(sandbox_id=record.sandbox_id, pause=paused.pause))

    async def kill(self, request: Kill) -> bool:
        """See SandboxMethods."""
        sandbox = self.sandboxes.pop(request.sandbox_id, None)
        if sandbox is None:
            return False
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        await sandbox.stack.aclose()
        sandbox.thread.shutdown()
        ended = EndedSandbox(sandbox_id=request.sandbox_id, reason=request.reason, at=time.time())
        self.ends[request.sandbox_id] = ended
        if self._server is not None:
            self._server.events.sandbox_ended(ended)
        return True

    async def set_deadline(self, request: SetDeadline) -> None:
        """See SandboxMethods."""
        sandbox = self.find_running(request.sandbox_id)
        sandbox.record = replace(sandbox.record, end_at=request.end_at)
        self._arm(sandbox)

    async def change_drain(self, _request: ChangeDrain) -> Drained:
        """See SandboxMethods. It is never drained."""
        return Drained(state=None, running=0, paused={})

    async def set_network(self, request: SetNetwork) -> None:
        """See SandboxMethods."""
        sandbox = self.find_running(request.sandbox_id)
        client = sandbox.record.client
        if client is not None:
            client = replace(client, egress=request.egress, network=request.network)
        sandbox.record = replace(sandbox.record, egress=request.egress, client=client)

    async def set_team_traffic(self, request: SetTeamTraffic) -> None:
        """See SandboxMethods: its sandboxes have no traffic, so it only remembers the bounds."""
        self.team_traffic = request.teams

    async def pause(self, request: PauseSandbox) -> SandboxRecord:
        """See SandboxMethods: its programs go on, as this node runs them itself."""
        sandbox = self.find(request.sandbox_id)
        if sandbox.record.state is SandboxState.RUNNING:
            self.pauses += 1
            await self.hold.passed()
            if self.pause_fault is not None:
                raise self.pause_fault
            if self.find(request.sandbox_id).record.state is not SandboxState.RUNNING:
                return sandbox.record
            if sandbox.timer is not None:
                sandbox.timer.cancel()
            pause = Pause(kind=PauseKind.FROZEN if request.memory else PauseKind.FILES, at=time.time())
            sandbox.record = transition(transition(sandbox.record, SandboxState.PAUSING), SandboxState.PAUSED, pause=pause)
        return sandbox.record

    async def resume(self, request: ResumeSandbox) -> SandboxRecord:
        """See SandboxMethods."""
        sandbox = self.find(request.sandbox_id)
        if sandbox.record.state is SandboxState.PAUSED:
            self.resumes += 1
            await self.hold.passed()
            if self.resume_fault is not None:
                raise self.resume_fault
            self.find(request.sandbox_id)
            begun = transition(sandbox.record, SandboxState.RESUMING, lifecycle=request.lifecycle or sandbox.record.lifecycle)
            sandbox.record = transition(begun, SandboxState.RUNNING, pause=None, started_at=time.time(), end_at=request.end_at)
            self._arm(sandbox)
        return sandbox.record

    async def list(self, request: ListSandboxes) -> SandboxPage:
        """See SandboxMethods."""
        return SandboxPage.of((sandbox.record for sandbox in self.sandboxes.values()), request)

    async def ended(self, request: AskEnds) -> Sequence[EndedSandbox]:
        """See SandboxMethods."""
        return [self.ends[one] for one in request.sandbox_ids if one in self.ends]

    async def get(self, request: SandboxRef) -> SandboxRecord:
        """See SandboxMethods."""
        return self.find(request.sandbox_id).record

    async def creation_steps(self, request: SandboxRef) -> Sequence[TimedStep]:
        """See SandboxMethods: one step."""
        return (TimedStep(name="make it", began_at=self.find(request.sandbox_id).record.started_at, seconds=0.001),)

    async def metrics(self, request: AskMetrics) -> SandboxMetrics:
        """See SandboxMethods: one sample, now."""
        self.find(request.sandbox_id)
        now = time.time()
        samples = [Sample(at=now, cpu_used_pct=12.5, mem_used_bytes=10 << 20, mem_cache_bytes=1 << 20, disk_used_bytes=1 << 20)]
        if (request.start or 0) > now or (request.end or now) < int(now):
            samples = []
        return SandboxMetrics(mem_limit_bytes=1 << 30, disk_total_bytes=5 << 30, samples=tuple(samples[-(request.newest or 1) :]))

    async def dial(self, request: SandboxRef) -> Dialled:
        """See SandboxMethods."""
        sandbox = self.find_running(request.sandbox_id)
        sandbox.dials += 1
        return on_loopback(await sandbox.make_socket(socket.socket))

    async def ping(self) -> NodeInfo:
        """See SandboxMethods."""
        return NodeInfo(node_id=self.node_id, version="fake", instance=0, saves_memory=self.saves_memory)

    def can_run(self, template: str) -> bool:
        """Whether it is a stock template's name, or the id of a build that is ready and was not dropped."""
        if template in {one.name for one in TEMPLATES} or template in self.snapshots:
            return True
        report = self.reports.get(template)
        return report is not None and report.status is BuildStatus.READY

    async def start_build(self, request: BuildRequest) -> None:
        """See BuildMethods: it waits until a test says otherwise by :meth:`report`, or runs by itself."""
        if request.build_id in self.builds:
            return
        self.builds[request.build_id] = request
        self.reports.setdefault(request.build_id, BuildReport(build_id=request.build_id, status=BuildStatus.WAITING, total=0))
        if self.builds_run:
            task = asyncio.create_task(self._run_build(request))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run_build(self, request: BuildRequest) -> None:
        """Log each step, and fail where a command is ``exit <number>`` or the base ``missing``, or the ready command is ``false``."""
        steps = [("base", "FROM", request.parent or (request.image.reference if request.image else ""))]
        steps += [(str(number), step.kind, " ".join(step.args)) for number, step in enumerate(request.steps, 1)]
        for name, kind, text in [*steps, ("finalize", "READY", request.ready_cmd)]:
            await asyncio.sleep(self.build_step_s)
            report = self.reports.get(request.build_id)
            if report is None or report.status.is_final:
                return
            fault = _fault(kind, text)
            lines = [BuildLogEntry(at=time.time(), level="info", message=f"[{name}] {kind} {text}", step=name)]
            if fault is not None:
                lines.append(BuildLogEntry(at=time.time(), level="error", message=fault, step=name))
            report = replace(report, status=BuildStatus.BUILDING, entries=(*report.entries, *lines))
            if fault is not None:
                await self.report(replace(report, status=BuildStatus.ERROR, message=fault, step=name))
                return
            await self.report(report)
        await self.report(replace(self.reports[request.build_id], status=BuildStatus.READY))

    async def report(self, report: BuildReport) -> None:
        """Make this what is said of a build; an end is told to the peers."""
        self.reports[report.build_id] = report
        if report.status.is_final and self._server is not None:
            ended = EndedBuild(build_id=report.build_id, status=report.status, message=report.message, step=report.step)
            self._server.events.build_ended(ended)

    async def report_build(self, request: ReportBuild) -> BuildReport:
        """See BuildMethods."""
        if (report := self.reports.get(request.build_id)) is None:
            raise NotFoundError(f"there is no build {request.build_id}")
        window = report.entries[request.offset : request.offset + request.limit]
        return replace(report, total=len(report.entries), entries=window)

    async def cancel_build(self, request: BuildRef) -> bool:
        """See BuildMethods."""
        report = self.reports.get(request.build_id)
        if report is None or report.status.is_final:
            return False
        await self.report(replace(report, status=BuildStatus.ERROR, message="the build was cancelled"))
        return True

    async def drop_build(self, request: BuildRef) -> None:
        """See BuildMethods."""
        self.dropped.append(request.build_id)
        for known in (self.builds, self.reports, self.snapshots):
            known.pop(request.build_id, None)

    async def snapshot(self, request: TakeSnapshot) -> Template:
        """See SandboxMethods: the sandbox's template under another name."""
        self.find(request.sandbox_id)
        self.captures.append(request)
        await self.hold.passed()
        if self.snapshot_fault is not None:
            raise self.snapshot_fault
        made = replace(TEMPLATES[0], template_id=request.template_id, name=request.name, build_id=request.build_id)
        return self.snapshots.setdefault(request.build_id, made)


def _fault(kind: str, text: str) -> str | None:
    if kind == "RUN" and text.startswith("exit "):
        return f"failed to run command '{text}': command failed: exit status {text[5:]}"
    if kind == "FROM" and text == "missing":
        return "failed to pull image 'missing': not found"
    return "ready command failed: exit status 1" if kind == "READY" and text == "false" else None


@contextlib.asynccontextmanager
async def fake_node(path: Path) -> AsyncIterator[FakeNode]:
    """A serving fake node."""
    node = FakeNode(path)
    await node.start()
    try:
        yield node
    finally:
        await node.close()
