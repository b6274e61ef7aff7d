"""A node without sandboxes: the real node server, over a service whose sandboxes are network namespaces with small HTTP servers in them.

Lets the control plane, the ingress and the SDKs be tested without templates or a runtime. Each sandbox has a network namespace of its own
(made by a thread that enters it), so that sandboxes use the same ports and are reached only by descriptors, as real ones are. Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from cloister.errors import AlreadyExistsError, CloisterError, NotFoundError, SandboxNotFoundError, TemplateNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.build import BuildLogEntry, BuildReport, BuildRequest, BuildStatus, EndedBuild
from cloister.model.node import EndedSandbox, NodeInfo, Sample, SandboxMetrics, SandboxStats
from cloister.model.resources import Limits
from cloister.model.sandbox import EndReason, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.template import Template
from cloister.node.server import DnsSockets, NodeServer

__all__ = ["TEMPLATES", "FakeNode", "FakeSandbox"]

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

TEMPLATES = tuple(
    Template(template_id=f"tpl{name.replace('-', '')}", name=name, build_id="5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e", layers=("0" * 64,))
    for name in ("base", "code-interpreter-v1")
)


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


async def _execute(request: web.Request) -> web.StreamResponse:
    """Say what was asked as standard output; ``forever`` never ends, ``boom`` is an error."""
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    code = body["code"]

    async def say(**event: Any) -> None:
        await response.write(json.dumps(event).encode() + b"\n")

    await say(type="number_of_executions", execution_count=1)
    while code == "forever":
        await say(type="stdout", text="tick\n", timestamp=0)
        await asyncio.sleep(0.05)
    if code == "boom":
        await say(type="error", name="Boom", value="it burst", traceback="Traceback: it burst")
    else:
        await say(type="stdout", text=code + "\n", timestamp=0)
        await say(type="result", text=code, is_main_result=True)
    await say(type="end_of_execution")
    return response


async def _health(_request: web.Request) -> web.Response:
    return web.Response(status=204)


async def _interpreter_health(_request: web.Request) -> web.Response:
    return web.Response(text="OK")


@dataclass
class FakeSandbox:
    """One sandbox; ``serve`` adds a server on a port of it."""

    record: SandboxRecord
    request: SandboxRequest
    thread: ThreadPoolExecutor
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    timer: asyncio.TimerHandle | None = None
    dials: int = 0
    agent: Callable[[web.Request], Awaitable[web.Response]] = _health
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


class FakeNode:
    """A :class:`~cloister.node.server.NodeService` and its server, which can be stopped and started as if the supervisor had died."""

    def __init__(self, path: Path, *, allowed_uids: tuple[int, ...] = ()) -> None:
        self.path = path
        self.allowed_uids = allowed_uids
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.create_fault: CloisterError | None = None
        self.create_delay_s = 0.0
        self.creates = 0
        self.builds: dict[str, BuildRequest] = {}
        self.reports: dict[str, BuildReport] = {}
        self.snapshots: dict[str, Template] = {}
        self.dropped: list[str] = []
        self.builds_run = False
        """Whether builds run by themselves, as :meth:`_run_build` has it, or wait for :meth:`report`."""
        self.build_step_s = 0.02
        self.snapshot_fault: CloisterError | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._networks: list[ThreadPoolExecutor] = []
        self.resolver = self._new_network()
        self._server: NodeServer | None = None
        self._dns: DnsSockets | None = None

    async def start(self) -> None:
        """Serve the protocol."""
        self._server = NodeServer(self, self, self.path, allowed_uids={os.getuid(), *self.allowed_uids})
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
            await self.kill(sandbox_id, EndReason.STOPPED)
        await self.die()
        if self._dns is not None:
            self._dns.udp.close()
            self._dns.tcp.close()
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

    async def reserve(self, _template: str) -> str:
        """See NodeService: nothing is made ahead here."""
        return new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See NodeService."""
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
            runtime="fake",
            state=SandboxState.RUNNING,
            started_at=time.time(),
            end_at=request.end_at,
            limits=request.limits or Limits(),
            allow_internet=request.allow_internet,
            attributes=request.attributes,
        )
        sandbox = FakeSandbox(record, request, self._new_network())

        async def answer(request: web.Request) -> web.Response:
            return await sandbox.agent(request)  # looked up late, so that tests can replace it

        await sandbox.serve(49983, answer)
        interpreter = web.Application()
        interpreter.router.add_post("/execute", _execute)
        interpreter.router.add_get("/health", _interpreter_health)
        await sandbox.serve_app(49999, interpreter)
        self.sandboxes[request.sandbox_id] = sandbox
        self._arm(sandbox)
        return record

    def _arm(self, sandbox: FakeSandbox) -> None:
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        loop = asyncio.get_running_loop()
        left_s = max(0.0, sandbox.record.end_at - time.time())
        sandbox.timer = loop.call_later(left_s, lambda: loop.create_task(self.kill(sandbox.record.sandbox_id, EndReason.EXPIRED)))

    async def kill(self, sandbox_id: str, reason: EndReason) -> bool:
        """See NodeService."""
        sandbox = self.sandboxes.pop(sandbox_id, None)
        if sandbox is None:
            return False
        if sandbox.timer is not None:
            sandbox.timer.cancel()
        await sandbox.stack.aclose()
        sandbox.thread.shutdown()
        if self._server is not None:
            await self._server.broadcast_ended(EndedSandbox(sandbox_id=sandbox_id, reason=reason))
        return True

    async def set_deadline(self, sandbox_id: str, end_at: float) -> None:
        """See NodeService."""
        sandbox = self.find(sandbox_id)
        sandbox.record = replace(sandbox.record, end_at=end_at)
        self._arm(sandbox)

    async def list(self) -> tuple[SandboxRecord, ...]:
        """See NodeService."""
        return tuple(sandbox.record for sandbox in self.sandboxes.values())

    async def get(self, sandbox_id: str) -> SandboxRecord:
        """See NodeService."""
        return self.find(sandbox_id).record

    async def stats(self, sandbox_id: str) -> SandboxStats:
        """See NodeService."""
        self.find(sandbox_id)
        return SandboxStats(
            cpu_used_s=0.1,
            mem_used_bytes=10 << 20,
            mem_limit_bytes=1 << 30,
            oom_kills=0,
            pids=3,
            disk_used_bytes=1 << 20,
            disk_total_bytes=5 << 30,
        )

    async def metrics(self, sandbox_id: str, start: float | None, end: float | None, newest: int | None) -> SandboxMetrics:
        """See NodeService: one sample, now."""
        self.find(sandbox_id)
        now = time.time()
        samples = [Sample(at=now, cpu_used_pct=12.5, mem_used_bytes=10 << 20, mem_cache_bytes=1 << 20, disk_used_bytes=1 << 20)]
        if (start or 0) > now or (end or now) < int(now):
            samples = []
        return SandboxMetrics(mem_limit_bytes=1 << 30, disk_total_bytes=5 << 30, samples=tuple(samples[-(newest or 1) :]))

    async def dial(self, sandbox_id: str) -> socket.socket:
        """See NodeService."""
        sandbox = self.find(sandbox_id)
        sandbox.dials += 1
        return await sandbox.make_socket(socket.socket)

    async def templates(self) -> tuple[Template, ...]:
        """See NodeService."""
        return TEMPLATES

    async def dns_sockets(self) -> DnsSockets:
        """See NodeService."""
        if self._dns is None:

            def bind(kind: socket.SocketKind) -> socket.socket:
                sock = socket.socket(socket.AF_INET, kind)
                sock.bind(("127.0.0.1", 53))
                if kind is socket.SOCK_STREAM:
                    sock.listen()
                return sock

            udp, tcp = (self.resolver.submit(bind, kind).result() for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
            self._dns = DnsSockets(udp, tcp, ("127.0.0.1",))
        return self._dns

    async def ping(self) -> NodeInfo:
        """See NodeService."""
        return NodeInfo(version="fake", instance=0)

    def can_run(self, template: str) -> bool:
        """Whether it is a stock template's name, or the id of a build that is ready and was not dropped."""
        if template in {one.name for one in TEMPLATES} or template in self.snapshots:
            return True
        report = self.reports.get(template)
        return report is not None and report.status is BuildStatus.READY

    async def start_build(self, request: BuildRequest) -> None:
        """See NodeService: it waits until a test says otherwise by :meth:`report`, or runs by itself."""
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
            await self._server.broadcast_build_ended(ended)

    async def report_build(self, build_id: str, offset: int, limit: int) -> BuildReport:
        """See NodeService."""
        if (report := self.reports.get(build_id)) is None:
            raise NotFoundError(f"there is no build {build_id}")
        return replace(report, total=len(report.entries), entries=report.entries[offset : offset + limit])

    async def cancel_build(self, build_id: str) -> bool:
        """See NodeService."""
        report = self.reports.get(build_id)
        if report is None or report.status.is_final:
            return False
        await self.report(replace(report, status=BuildStatus.ERROR, message="the build was cancelled"))
        return True

    async def drop_build(self, build_id: str) -> None:
        """See NodeService."""
        self.dropped.append(build_id)
        self.builds.pop(build_id, None)
        self.reports.pop(build_id, None)
        self.snapshots.pop(build_id, None)

    async def snapshot(self, sandbox_id: str, build_id: str, template_id: str, name: str) -> Template:
        """See NodeService: the sandbox's template under another name."""
        self.find(sandbox_id)
        if self.snapshot_fault is not None:
            raise self.snapshot_fault
        return self.snapshots.setdefault(build_id, replace(TEMPLATES[0], template_id=template_id, name=name, build_id=build_id))


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
