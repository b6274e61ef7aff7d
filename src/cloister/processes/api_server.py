"""Composes the parts of the api process: store, control plane, REST API, ingress and resolver, around the nodes.

Owns the order in which they start and stop; has no rules itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from cloister import __version__
from cloister.agentclient.events import AgentReports
from cloister.agentclient.health import AgentHealth
from cloister.api.accesslog import access_log_class
from cloister.api.app import add_routes, rest_middleware
from cloister.api.failures import Failures
from cloister.api.handlers import Api, Deadlines
from cloister.api.metrics.counts import Meters
from cloister.api.peers import Peers
from cloister.api.runner import JsonErrorRunner
from cloister.api.traces import RequestTraces
from cloister.api.volume_content import VolumeConnector, VolumeContent
from cloister.config.client_env import ClientEnv, read_client_env, server_url, write_client_env
from cloister.config.settings import Settings
from cloister.control.audit import AuditLog
from cloister.control.builds.builds import Builds
from cloister.control.captures import Captures
from cloister.control.deliveries import Deliveries
from cloister.control.forks import Forks
from cloister.control.header_values import HeaderValues
from cloister.control.identity import Identity
from cloister.control.keys import Keys
from cloister.control.lifecycle_events import LifecycleEvents
from cloister.control.logs import SandboxLogs
from cloister.control.networks import Networks
from cloister.control.pausing import Pausing
from cloister.control.quotas import Quotas
from cloister.control.reconcile import Reconciler, UseCases
from cloister.control.registry import Registry
from cloister.control.sandboxes import Sandboxes
from cloister.control.secrets import Secrets
from cloister.control.shared_registry import SharedRegistry
from cloister.control.snapshots import Snapshots
from cloister.control.team_admin import TeamAdmin
from cloister.control.team_metrics import TeamMetrics
from cloister.control.team_traffic import TeamTraffics
from cloister.control.teams import Teams
from cloister.control.templates import Templates
from cloister.control.uploads import NeededUploads, UploadLimits, Uploads
from cloister.control.volumes import Volumes
from cloister.control.webhooks import Webhooks
from cloister.errors import CloisterError
from cloister.linux.process import count_descriptors, descriptor_limit
from cloister.model.addresses import told_domain
from cloister.network.dns_relay import host_nameservers
from cloister.nodewire.methods import NodeEvent
from cloister.processes.api_nodes import LocalSide, NodeSide
from cloister.processes.api_proxies import AddressLookup, ProxyLookup
from cloister.processes.api_receivers import WebhookReceivers
from cloister.processes.api_routes import RegistryRoutes
from cloister.processes.api_upkeep import cancel, deliver_events, keep_agreeing, prune
from cloister.processes.api_values import ValuesServer
from cloister.processes.policies import build_settings, connection_policy, sandbox_policy, volume_policy
from cloister.proxy.app import Ingress
from cloister.proxy.forward import MAX_HEADERS, READ_BUFFER_BYTES
from cloister.proxy.upstream import ActiveRequests
from cloister.store.audit import AuditFiles
from cloister.store.base import Store
from cloister.store.logs import LogStore
from cloister.store.opening import open_store
from cloister.store.sealing import SealingKeys
from cloister.store.signing import SigningKeys
from cloister.store.uploads import UploadFiles
from cloister.store.volume_tokens import VolumeTokens
from cloister.telemetry.tracing import Tracer, TraceSettings, open_tracer

if TYPE_CHECKING:
    from cloister.processes.api_cluster import ClusterSide

__all__ = ["ApiServer", "TlsListener", "ValuesListener", "load_cluster"]

_log = structlog.get_logger("cloister.api")
_KEEP_ALIVE_S = 620.0
"""Longer than the SDKs keep idle connections (300 s), so that the SDKs close them first."""
_SHUTDOWN_S = 5.0


@dataclass(frozen=True)
class TlsListener:
    """The second listener, with TLS."""

    listener: socket.socket
    context: ssl.SSLContext


@dataclass(frozen=True)
class ValuesListener:
    """The socket of the server of header values, and the user that may connect to it."""

    listener: socket.socket
    uid: int


def _count_descriptors() -> tuple[int | None, int | None]:
    pid = os.getpid()
    return count_descriptors(pid), descriptor_limit(pid)


def _lookup(settings: Settings) -> AddressLookup:
    return AddressLookup(settings.dns_upstreams or host_nameservers())


class ApiServer:
    """The server of one api process. Call :meth:`start`, then :meth:`close`."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        node_socket: Path | None,
        *,
        tls: TlsListener | None = None,
        values: ValuesListener | None = None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._tls = tls
        self._values = values
        self._peers = Peers(settings.trusted_proxies)
        self._side = _open_side(settings, node_socket)
        self._fleet = self._side.fleet
        self._node = self._fleet.calls
        self._meters = Meters(started_at=time.time(), descriptors=_count_descriptors)
        self._tracer: Tracer | None = None
        self._sealing = SealingKeys(settings.data_dir / "api" / "secrets.key")
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Open the store, start connecting to the node, and serve on the listener."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            store = await open_store(settings.data_dir, settings.database_url)
            stack.push_async_callback(store.close)
            registry = await self._open_registry(stack, store)
            keys = await self._open_keys(stack, store)
            templates = Templates(self._node, store)
            stack.push_async_callback(templates.close)
            self._tracer = self._open_tracer(stack)
            self.ingress = ingress = self._open_ingress(stack, registry)
            logs = await self._open_logs(stack, registry, ingress)
            sandboxes = self._open_sandboxes(stack, store, registry, templates, logs)
            pausing = self._open_pausing(stack, registry, sandboxes, ingress, logs)
            needed_uploads = NeededUploads()
            uploads = await self._open_uploads(stack, store, needed_uploads)
            self.builds = builds = Builds(self._fleet, store, templates, uploads, needed_uploads, build_settings(settings))
            await builds.load()
            stack.push_async_callback(builds.close)
            snapshots, forks = self._open_captures(stack, store, templates, builds, sandboxes)
            secrets, identity = await self._open_secrets(stack, store, registry)
            volumes, content = await self._open_volumes(stack, store, registry)
            reconciler = Reconciler(store, registry, UseCases(sandboxes, pausing, templates, builds.reconciliation))
            nodes = self._side.open_nodes(store, registry)
            await self._connect_nodes(stack, registry, reconciler, deliver_events(sandboxes, pausing, logs, builds.ends))
            works = (registry.prune, partial(logs.prune, settings.ended_retention_s))
            stack.push_async_callback(cancel, asyncio.create_task(prune(registry, works, (builds.garbage.prune, volumes.settle))))
            app = self._make_app(stack, ingress, sandboxes)
            self.failures = failures = Failures(self._peers, settings.max_failed_keys)
            ingress.note_failure = failures.note
            api = Api(
                keys,
                self._open_team_admin(stack, store, sandboxes, builds, volumes),
                self._open_team_metrics(stack, registry, store),
                sandboxes,
                pausing,
                templates,
                builds,
                uploads,
                snapshots,
                forks,
                self._open_networks(stack, registry, sandboxes),
                secrets,
                volumes,
                identity,
                logs,
                self._told_domain(),
                failures,
                Deadlines(settings.body_timeout_s, settings.stall_timeout_s),
                self._open_audit(stack),
                self._open_events(stack, store, registry),
                self._peers,
                nodes,
            )
            add_routes(app, api, self._meters, content, lambda: self._side.is_ready)
            await self._wait_node(volumes)
            await self._serve(app, stack)
            self._stack = stack.pop_all()

    def _open_sandboxes(
        self, stack: AsyncExitStack, store: Store, registry: Registry, templates: Templates, logs: SandboxLogs
    ) -> Sandboxes:
        policy = sandbox_policy(self._settings)
        traffic = TeamTraffics(self._node, store.teams, policy)
        stack.push_async_callback(cancel, asyncio.create_task(traffic.run()))
        sandboxes = Sandboxes(self._fleet, registry, templates, Quotas(registry, policy, store.teams), logs, traffic)
        stack.push_async_callback(sandboxes.close)
        return sandboxes

    async def _wait_node(self, volumes: Volumes) -> None:
        """Until the node reports its sandboxes, an id that the store does not know may be a sandbox. Connections queue meanwhile."""
        if await self._side.wait():
            await volumes.settle()

    def _open_ingress(self, stack: AsyncExitStack, registry: Registry) -> Ingress:
        routes, dialer = RegistryRoutes(registry), self._side.dialer
        meter, stall_s = self._meters.traffic, self._settings.stall_timeout_s
        ingress = Ingress(routes, dialer, domain=self._told_domain(), stall_s=stall_s, meter=meter, tracer=self._tracer)
        stack.push_async_callback(ingress.close)
        return ingress

    def _open_tracer(self, stack: AsyncExitStack) -> Tracer | None:
        settings = self._settings
        if settings.otlp_endpoint is None:
            return None
        choices = TraceSettings(
            endpoint=settings.otlp_endpoint, ratio=settings.trace_ratio, most_per_s=settings.max_traced_per_s, version=__version__
        )
        tracer = open_tracer(choices)
        stack.push_async_callback(asyncio.to_thread, tracer.close)
        return tracer

    def _make_app(self, stack: AsyncExitStack, ingress: Ingress, sandboxes: Sandboxes) -> web.Application:
        traces = None if self._tracer is None else RequestTraces(self._tracer, sandboxes)
        if traces is not None:
            stack.push_async_callback(traces.close)
        middlewares = [ingress.middleware(), rest_middleware(self._meters.requests, traces)]
        return web.Application(middlewares=middlewares, client_max_size=self._settings.max_body_mib << 20)

    async def _open_keys(self, stack: AsyncExitStack, store: Store) -> Keys:
        keys = Keys(store)
        stack.push_async_callback(keys.close)
        await self._publish_key(keys)
        return keys

    def _open_networks(self, stack: AsyncExitStack, registry: Registry, sandboxes: Sandboxes) -> Networks:
        networks = Networks(self._node, registry, sandboxes, ProxyLookup(self._settings.allow_private, _lookup(self._settings)).check)
        stack.push_async_callback(networks.close)
        return networks

    async def _open_registry(self, stack: AsyncExitStack, store: Store) -> Registry:
        settings = self._settings
        times = {"retention_s": settings.ended_retention_s, "paused_retention_s": settings.paused_retention_s}
        registry = Registry(store, **times) if store.sharing is None else SharedRegistry(store, store.sharing, **times)
        await registry.load()
        stack.push_async_callback(registry.close)
        return registry

    async def _connect_nodes(
        self, stack: AsyncExitStack, registry: Registry, reconciler: Reconciler, deliver: Callable[[NodeEvent], None]
    ) -> None:
        stack.push_async_callback(reconciler.close)
        await self._side.start(stack, reconciler.run, deliver)
        if registry.is_shared:
            stack.push_async_callback(cancel, asyncio.create_task(keep_agreeing(registry, lambda: self._side.compare(reconciler.run))))

    async def _open_uploads(self, stack: AsyncExitStack, store: Store, needed: NeededUploads) -> Uploads:
        settings = self._settings
        limits = UploadLimits(
            max_bytes=settings.max_upload_mib << 20,
            total_bytes=settings.upload_total_mib << 20,
            reserve_bytes=settings.disk_reserve_mib << 20,
        )
        uploads = Uploads(UploadFiles(settings.data_dir / "api" / "uploads"), store.templates, limits, needed)
        await uploads.open()
        stack.push_async_callback(uploads.close)
        return uploads

    async def _open_logs(self, stack: AsyncExitStack, registry: Registry, ingress: Ingress) -> SandboxLogs:
        """The sandboxes' logs. The registry notifies them of every end."""
        settings = self._settings
        store = LogStore(
            settings.data_dir / "api" / "logs", sandbox_bytes=settings.log_sandbox_kib << 10, total_bytes=settings.log_total_mib << 20
        )
        await store.open()
        stack.push_async_callback(store.close)
        agents = AgentReports(ingress.connector, ActiveRequests())
        stack.push_async_callback(agents.close)
        logs = SandboxLogs(store, registry, agents)
        stack.push_async_callback(logs.close)
        ingress.on_agent_used = logs.used
        registry.on_unreachable(agents.end)
        registry.on_end(logs.ended)
        asking = asyncio.create_task(logs.run())
        stack.push_async_callback(cancel, asking)
        return logs

    def _open_team_admin(self, stack: AsyncExitStack, store: Store, sandboxes: Sandboxes, builds: Builds, volumes: Volumes) -> TeamAdmin:
        team_admin = TeamAdmin(Teams(store), sandboxes, builds.deletion, volumes)
        stack.push_async_callback(team_admin.close)
        return team_admin

    def _open_team_metrics(self, stack: AsyncExitStack, registry: Registry, store: Store) -> TeamMetrics:
        team_metrics = TeamMetrics(registry, store.teams)
        sampling = asyncio.create_task(team_metrics.run())
        stack.push_async_callback(cancel, sampling)
        return team_metrics

    def _open_pausing(
        self, stack: AsyncExitStack, registry: Registry, sandboxes: Sandboxes, ingress: Ingress, logs: SandboxLogs
    ) -> Pausing:
        """Pauses and resumes, by traffic too."""
        agents = AgentHealth(ingress.connector)
        stack.push_async_callback(agents.close)
        pausing = Pausing(self._node, registry, sandboxes, agents, logs)
        stack.push_async_callback(pausing.close)
        registry.on_unreachable(ingress.end)
        ingress.set_waker(pausing)
        return pausing

    def _open_events(self, stack: AsyncExitStack, store: Store, registry: Registry) -> Deliveries:
        """Lifecycle events, webhooks, and the task that delivers the ones to the others. The keys are open."""
        settings = self._settings
        receivers = WebhookReceivers(_lookup(settings), settings.webhook_allow_private)
        events = LifecycleEvents(store.events, retention_s=settings.events_retention_s, most_per_team=settings.max_events_per_team)
        webhooks = Webhooks(store.events, self._sealing, receivers.check_host, most=settings.max_webhooks_per_team)
        deliveries = Deliveries(store.events, webhooks, events, receivers, lambda: registry.is_leader)
        registry.on_event(deliveries.look)
        registry.on_due(deliveries.look)
        deliveries.start()
        stack.push_async_callback(deliveries.close)
        return deliveries

    def _open_audit(self, stack: AsyncExitStack) -> AuditLog:
        settings = self._settings
        files = AuditFiles(settings.data_dir / "api" / "audit", total_bytes=settings.audit_total_mib << 20)
        self.audit = audit = AuditLog(files, is_required=settings.audit_required)
        audit.start()
        stack.push_async_callback(audit.close)
        return audit

    async def _open_secrets(self, stack: AsyncExitStack, store: Store, registry: Registry) -> tuple[Secrets, Identity]:
        """Secrets and identity tokens, and the server that gives both to the egress process."""
        signing = SigningKeys(self._settings.data_dir / "api" / "identity.json")
        await asyncio.to_thread(self._sealing.open)
        await asyncio.to_thread(signing.open)
        secrets = Secrets(store.secrets, self._sealing, most=self._settings.max_secrets_per_team)
        await secrets.report_lost()
        identity = Identity(signing, self._issuer())
        fill = HeaderValues(registry, secrets, identity).fill
        self._side.answer_values(fill)
        if self._values is not None:
            values = ValuesServer(self._values.listener, self._values.uid, fill)
            await values.start()
            stack.push_async_callback(values.close)
        return secrets, identity

    async def _open_volumes(self, stack: AsyncExitStack, store: Store, registry: Registry) -> tuple[Volumes, VolumeContent]:
        tokens = VolumeTokens(self._settings.data_dir / "api" / "volumes.key")
        await asyncio.to_thread(tokens.open)
        volumes = Volumes(self._fleet, store.volumes, tokens, volume_policy(self._settings), is_shared=registry.is_shared)
        content = VolumeContent(VolumeConnector(volumes.dial), self._settings.stall_timeout_s)
        stack.push_async_callback(content.close)
        return volumes, content

    def _issuer(self) -> str:
        """The URL in identity tokens, under which their verifiers find this server."""
        settings = self._settings
        if settings.identity_issuer is not None:
            return settings.identity_issuer
        host, port = self._listener.getsockname()[:2]
        return server_url(host, port) if settings.public_domain is None else f"https://api.{settings.public_domain}"

    def _open_captures(
        self, stack: AsyncExitStack, store: Store, templates: Templates, builds: Builds, sandboxes: Sandboxes
    ) -> tuple[Snapshots, Forks]:
        captures = Captures(self._node, builds.snapshots, sandboxes)
        snapshots = Snapshots(store, templates, builds, captures)
        stack.push_async_callback(snapshots.close)
        forks = Forks(sandboxes, builds.snapshots, captures)
        stack.push_async_callback(forks.close)
        return snapshots, forks

    async def close(self) -> None:
        """Stop accepting, give running requests a moment, and close everything."""
        await self._stack.aclose()

    async def _serve(self, app: web.Application, stack: AsyncExitStack) -> None:
        runner = JsonErrorRunner(
            app,
            connection_policy(self._settings),
            self._peers,
            handler_cancellation=True,
            access_log=logging.getLogger("cloister.access") if self._settings.access_log else None,
            access_log_class=access_log_class(self._peers),
            auto_decompress=False,
            keepalive_timeout=_KEEP_ALIVE_S,
            shutdown_timeout=_SHUTDOWN_S,
            max_headers=MAX_HEADERS,
            read_bufsize=READ_BUFFER_BYTES,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        self.runner = runner
        await runner.listen(self._listener)
        if self._tls is not None:
            await runner.listen(self._tls.listener, self._tls.context)

    def _told_domain(self) -> str:
        return told_domain(self._settings.domain, self._listener.getsockname()[1])

    async def _publish_key(self, keys: Keys) -> None:
        """Write ``client.env`` with the current address and a valid key, or without a key if the default one was revoked."""
        secret = None
        with contextlib.suppress(CloisterError):
            secret = read_client_env(self._settings.data_dir).api_key
        secret = await keys.ensure_default_key(secret)
        host, port = self._listener.getsockname()[:2]
        settings = self._settings
        authority = self._tls is not None and settings.tls_cert_file is None
        write_client_env(
            settings.data_dir,
            ClientEnv(
                server_url(host, port),
                secret,
                self._told_domain(),
                is_public=settings.public_domain is not None,
                by_tls=self._tls is not None,
                ca_dir=settings.data_dir / "ca" if authority else None,
            ),
        )


def _open_side(settings: Settings, node_socket: Path | None) -> NodeSide:
    if node_socket is not None:
        return LocalSide(settings, node_socket)
    return load_cluster()(settings)


def load_cluster() -> type[ClusterSide]:
    """Import all that a cluster needs. A process that is about to lose the right to read its code calls this before."""
    from cloister.processes.api_cluster import ClusterSide  # noqa: PLC0415 - one machine needs nothing of it

    return ClusterSide
