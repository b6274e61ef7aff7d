"""The api process's parts, put together: store, control plane, REST API, ingress and the resolver, around one node client.

Owns their order of starting and stopping. Holds no rule of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from cloister.api.app import add_routes, rest_middleware
from cloister.api.handlers import Api
from cloister.api.runner import JsonErrorRunner
from cloister.cli.client_env import ClientEnv, read_client_env, server_url, write_client_env
from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.local import LocalNodeClient
from cloister.config.settings import Settings
from cloister.control.build_terms import BuildPolicy
from cloister.control.builds import Builds
from cloister.control.keys import DEFAULT_TEAM, Keys
from cloister.control.logs import SandboxLogs
from cloister.control.reconcile import Reconciler
from cloister.control.registry import Registry
from cloister.control.sandboxes import Sandboxes, SandboxPolicy, describe_end
from cloister.control.snapshots import Snapshots
from cloister.control.templates import Templates
from cloister.control.uploads import UploadPolicy, Uploads
from cloister.errors import AuthenticationError, CloisterError, NodeUnreachableError
from cloister.model.sandbox import SandboxState
from cloister.network.dns_relay import DnsRelay
from cloister.proxy.agent_reports import AgentReports
from cloister.proxy.app import Ingress
from cloister.proxy.forward import MAX_HEAD_BYTES, MAX_HEADERS, READ_BUFFER_BYTES
from cloister.proxy.routes import Gone, Route
from cloister.store.logs import LogStore
from cloister.store.sqlite import SqliteStore
from cloister.store.uploads import UploadFiles

__all__ = ["ApiServer", "TlsListener"]

_log = structlog.get_logger("cloister.api")
_KEEP_ALIVE_S = 620.0
"""Longer than the SDKs keep idle connections (300 s), so that they are the ones to close."""
_SHUTDOWN_S = 5.0
_PRUNE_S = 600.0


@dataclass(frozen=True)
class TlsListener:
    """A second listener, whose connections are encrypted."""

    listener: socket.socket
    context: ssl.SSLContext


class RegistryRoutes:
    """The registry, as the data plane asks it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find(self, sandbox_id: str) -> Route | Gone | None:
        """See :class:`~cloister.proxy.routes.Routes`."""
        row = self._registry.live(sandbox_id)
        if row is not None:
            return Route(sandbox_id, row.access_token, row.traffic_token) if row.state is SandboxState.RUNNING else None
        ended = self._registry.ended(sandbox_id)
        return None if ended is None else Gone(describe_end(ended))

    def access_tokens(self) -> Iterator[tuple[str, str]]:
        """See :class:`~cloister.proxy.routes.Routes`."""
        for row in self._registry.all_live():
            if row.state is SandboxState.RUNNING and row.access_token:
                yield row.sandbox_id, row.access_token


class ApiServer:
    """One api process's work. Use :meth:`start`, then :meth:`close`."""

    def __init__(self, settings: Settings, listener: socket.socket, node_socket: Path, *, tls: TlsListener | None = None) -> None:
        self._settings = settings
        self._listener = listener
        self._tls = tls
        self._node = LocalNodeClient(node_socket, wait_s=settings.node_wait_s, call_timeout_s=max(60.0, settings.start_timeout_s + 15.0))
        self._stack = AsyncExitStack()
        self._relay: DnsRelay | None = None

    async def start(self) -> None:
        """Open the store, begin to connect to the node, and serve on the listener."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            store = await SqliteStore.open(settings.data_dir / "api" / "cloister.db")
            stack.push_async_callback(store.close)
            registry = Registry(store, retention_s=settings.ended_retention_s)
            await registry.load()
            stack.push_async_callback(registry.close)
            keys = Keys(store)
            await self._publish_key(keys)
            templates = Templates(self._node, store)
            stack.push_async_callback(templates.close)
            policy = SandboxPolicy(max_timeout_s=settings.max_timeout_s, max_per_team=settings.max_sandboxes_per_team)
            sandboxes = Sandboxes(self._node, registry, templates, policy)
            sandboxes.remember_idempotency_keys()
            stack.push_async_callback(sandboxes.close)
            uploads = await self._open_uploads(stack, store)
            builds = Builds(self._node, store, templates, uploads, build_policy(settings))
            await builds.load()
            stack.push_async_callback(builds.close)
            self.builds = builds
            snapshots = Snapshots(self._node, store, templates, builds, sandboxes)
            stack.push_async_callback(snapshots.close)
            ingress = Ingress(RegistryRoutes(registry), self._node)
            stack.push_async_callback(ingress.close)
            logs = await self._open_logs(stack, registry, sandboxes, ingress)
            registry.on_end(ingress.end)
            reconciler = Reconciler(store, registry, sandboxes, templates, builds)
            stack.push_async_callback(self._stop_relay)
            stack.push_async_callback(self._node.close)
            self._node.start(NodeListener(lambda node: self._greet(node, reconciler), sandboxes.ended, logs.noted, builds.ended))
            pruning = asyncio.create_task(_prune(registry, logs, builds, settings.ended_retention_s))
            stack.push_async_callback(_cancel, pruning)
            app = web.Application(middlewares=[ingress.middleware(), rest_middleware], client_max_size=settings.max_body_mib << 20)
            api = Api(keys, sandboxes, templates, builds, uploads, snapshots, logs, settings.domain)
            add_routes(app, api, lambda: self._node.is_connected)
            # Until the node has been asked, an id that the store does not know may yet be a sandbox; connections queue meanwhile.
            with contextlib.suppress(NodeUnreachableError):
                await self._node.wait_connected()
            await self._serve(app, stack)
            self._stack = stack.pop_all()

    async def _open_uploads(self, stack: AsyncExitStack, store: SqliteStore) -> Uploads:
        settings = self._settings
        policy = UploadPolicy(
            max_bytes=settings.max_upload_mib << 20,
            total_bytes=settings.upload_total_mib << 20,
            reserve_bytes=settings.disk_reserve_mib << 20,
        )
        uploads = Uploads(UploadFiles(settings.data_dir / "api" / "uploads"), store.templates, policy)
        await uploads.open()
        stack.push_async_callback(uploads.close)
        return uploads

    async def _open_logs(self, stack: AsyncExitStack, registry: Registry, sandboxes: Sandboxes, ingress: Ingress) -> SandboxLogs:
        """The sandboxes' logs, told of every sandbox that begins and ends."""
        settings = self._settings
        store = LogStore(
            settings.data_dir / "api" / "logs", sandbox_bytes=settings.log_sandbox_kib << 10, total_bytes=settings.log_total_mib << 20
        )
        await store.open()
        stack.push_async_callback(store.close)
        agents = AgentReports(ingress.connector)
        stack.push_async_callback(agents.close)
        logs = SandboxLogs(store, registry, agents)
        stack.push_async_callback(logs.close)
        sandboxes.on_created, sandboxes.before_kill = logs.created, logs.last_look
        ingress.on_agent_used = logs.used
        registry.on_end(agents.end)
        registry.on_end(logs.ended)
        asking = asyncio.create_task(logs.run())
        stack.push_async_callback(_cancel, asking)
        return logs

    async def close(self) -> None:
        """Stop accepting, give what is under way a moment, and close everything."""
        await self._stack.aclose()

    async def _serve(self, app: web.Application, stack: AsyncExitStack) -> None:
        runner = JsonErrorRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_KEEP_ALIVE_S,
            shutdown_timeout=_SHUTDOWN_S,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEADERS,
            read_bufsize=READ_BUFFER_BYTES,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, self._listener, backlog=1024).start()
        if self._tls is not None:
            await web.SockSite(runner, self._tls.listener, backlog=1024, ssl_context=self._tls.context).start()

    async def _publish_key(self, keys: Keys) -> None:
        """Have ``client.env`` hold a key that works and the present address."""
        await keys.ensure_default_team()
        secret = None
        with contextlib.suppress(CloisterError):
            secret = read_client_env(self._settings.data_dir).api_key
        try:
            await keys.authenticate(secret)
        except AuthenticationError:
            _, secret = await keys.create(DEFAULT_TEAM, "default")
        host, port = self._listener.getsockname()[:2]
        settings = self._settings
        authority = self._tls is not None and settings.tls_cert_file is None
        write_client_env(
            settings.data_dir,
            ClientEnv(
                server_url(host, port),
                secret or "",
                settings.domain,
                by_tls=self._tls is not None,
                ca_dir=settings.data_dir / "ca" if authority else None,
            ),
        )

    async def _greet(self, node: NodeClient, reconciler: Reconciler) -> None:
        await reconciler.run(node)
        await self._stop_relay()
        try:
            sockets = await node.dns_sockets()
            relay = DnsRelay(sockets.udp, sockets.tcp, sockets.upstreams)
            await relay.start()
        except (CloisterError, OSError):
            _log.exception("resolver.not_started")
            return
        self._relay = relay
        _log.info("resolver.started", upstreams=list(sockets.upstreams))

    async def _stop_relay(self) -> None:
        if self._relay is not None:
            await self._relay.stop()
            self._relay = None


def build_policy(settings: Settings) -> BuildPolicy:
    """What the settings say about template builds."""
    return BuildPolicy(
        cpu_count=settings.default_cpu_count,
        mem_mib=settings.default_mem_mib,
        disk_mib=settings.default_disk_mib,
        max_cpu_count=settings.max_template_cpu_count,
        max_mem_mib=settings.max_template_mem_mib,
        max_disk_mib=settings.max_template_disk_mib,
        max_builds=settings.max_builds_per_team,
        max_templates=settings.max_templates_per_team,
    )


async def _prune(registry: Registry, logs: SandboxLogs, builds: Builds, retention_s: float) -> None:
    while True:
        await asyncio.sleep(_PRUNE_S)
        began = time.monotonic()
        try:
            await registry.prune()
            await logs.prune(retention_s)
            await builds.prune()
        except (CloisterError, OSError):
            _log.exception("registry.not_pruned")
        _log.debug("registry.pruned", duration_s=time.monotonic() - began)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
