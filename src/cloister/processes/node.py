"""``cloister node``: the supervisor process. Started by ``cloister serve``; root, no TCP listener.

SIGTERM stops cleanly, with the sandboxes as the setting on_stop says. SIGHUP, which the kernel sends when the launcher dies, leaves the
sandboxes for the next supervisor; so does SIGUSR1, unless there are none: then nothing is left.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from cloister.config.settings import Settings
from cloister.linux.files import remove_partial
from cloister.linux.identity import die_with_parent
from cloister.linux.meminfo import memory_mib
from cloister.linux.shutdown import host_goes_down
from cloister.model.connection import ConnectionRecord
from cloister.network.dns_relay import host_nameservers
from cloister.node.adoption import Adoption
from cloister.node.authorities import authority_by
from cloister.node.background import BackgroundTasks, WorkerThreads
from cloister.node.builds.async_queue import AsyncBuildQueue
from cloister.node.builds.node_stages import BuildDependencies, make_build_queue
from cloister.node.builds.preparation import BuildPreparation
from cloister.node.builds.queue import BuildQueue
from cloister.node.catalog import Catalog
from cloister.node.connections import ConnectionLog
from cloister.node.creation.admission import Admission
from cloister.node.creation.creator import Creator
from cloister.node.creation.pool import PoolSize
from cloister.node.creation.steps import CreationSteps
from cloister.node.descriptors import DescriptorCounts
from cloister.node.diskguard import DiskGuard
from cloister.node.drain import Drain, drain_file
from cloister.node.ends import EndLog
from cloister.node.events import EventBroadcaster
from cloister.node.eviction import Eviction
from cloister.node.frozen_sandboxes import LiveFrozenSandboxes
from cloister.node.garbage_collection import collect_garbage
from cloister.node.handlers import NodeHandlers
from cloister.node.host import NodeHost, close_host, open_host
from cloister.node.identity import load_node_id
from cloister.node.journal import Journal, journal_of
from cloister.node.kernelguard import KernelGuard
from cloister.node.limits import NodeLimits, host_limits
from cloister.node.live import LiveSandboxes
from cloister.node.memory_captures import MemoryCaptures
from cloister.node.memory_reserve import HostReserve, MemoryReserve
from cloister.node.network_changes import NetworkChanges
from cloister.node.origin import find_origin
from cloister.node.paused_memory import MemoryPolicy, PausedMemory
from cloister.node.pausing import Pausing, PausingParts
from cloister.node.planned_stop import PlannedStop, Saving
from cloister.node.probing import probe_runtimes
from cloister.node.recent_templates import RecentTemplates
from cloister.node.resolver_sockets import ResolverSockets
from cloister.node.runtimes import RuntimeKinds, runtime_kinds
from cloister.node.sampler import Sampler
from cloister.node.server import Implementations, NodeServer
from cloister.node.snapshot_queue import SnapshotQueue
from cloister.node.snapshots import Snapshots
from cloister.node.status import NodeFacts, NodeStatus
from cloister.node.stop_plan import OnStop
from cloister.node.supervisor import Supervisor
from cloister.node.sweeper import Sweeper
from cloister.node.trees_in_use import forget_server, note_server, trees_in_use
from cloister.node.volume_contents import VolumeContents
from cloister.node.volumes import NodeVolumes
from cloister.telemetry.logging import configure_logging
from cloister.template.bootstrap import host_bootstrap
from cloister.template.building.copier import BuildResources
from cloister.template.garbage import GarbageCollector
from cloister.template.layers import LayerStore
from cloister.tls.sandbox_authority import SandboxAuthorities

__all__ = ["run_node"]

_THREADS = 16
_CONNECTIONS_S = 1.0
"""Connections are read at least so often: their record shows them soon, and sources keep a bounded number."""
"""Number of threads for the node's short blocking calls."""


def run_node(
    settings: Settings,
    *,
    parent: int | None,
    ready_fd: int | None,
    kinds: RuntimeKinds = runtime_kinds,
    goes_down: Callable[[], bool] = host_goes_down,
) -> None:
    """Serve the node protocol until a signal comes.

    ``parent`` is the launcher's process id: the kernel sends SIGHUP when the launcher dies. ``ready_fd`` receives one line of JSON
    when the node serves. ``kinds`` gives the runtimes that the node opens. ``goes_down`` says at a stop whether the host does.
    """
    configure_logging(settings.log_level, settings.log_format, process="node")
    die_with_parent(signal.SIGHUP, parent)
    asyncio.run(_serve(settings, ready_fd, kinds, goes_down))


@dataclass(frozen=True)
class _Node:
    """The parts of a node that its process starts and stops."""

    supervisor: Supervisor
    plan_stop: Callable[[], PlannedStop]
    creator: Creator
    builds: AsyncBuildQueue
    volumes: NodeVolumes
    resolver: ResolverSockets
    server: NodeServer


async def _serve(settings: Settings, ready_fd: int | None, kinds: RuntimeKinds, goes_down: Callable[[], bool]) -> None:
    signals = _catch_signals()
    upstream_dns = settings.dns_upstreams or host_nameservers()
    host = open_host(settings, upstream_dns, kinds)
    store = LayerStore(settings.store_dir)
    note_server(settings.store_dir, settings.data_dir)
    authority_for = authority_by(SandboxAuthorities(settings.data_dir / "node").pem, inspects=settings.inspect_tls)
    catalog = Catalog(store, host.host_layer, settings.default_limits(), settings.start_timeout_s, authority_for)
    recent = RecentTemplates(settings.data_dir / "node" / "recent.json")
    pool = _pool_size(settings, host, catalog)
    drain = Drain(drain_file(settings.data_dir))
    node = _compose(settings, host, _Shared(store, catalog, recent, pool, upstream_dns, drain))
    await node.supervisor.start()
    node.volumes.open()
    await node.builds.load()
    await node.server.start()
    collector = GarbageCollector(store, partial(trees_in_use, settings.run_dir, settings.store_dir), [settings.data_dir / "hostlayer"])
    background = BackgroundTasks()
    background.spawn(collect_garbage(collector, settings.layer_retention_s))
    background.spawn(node.builds.begin_after(node.resolver.are_served))
    background.spawn(recent.warm(pool.always, node.creator.warm))
    probing = asyncio.create_task(probe_runtimes(host.runtimes, catalog, settings.data_dir / "node" / "boxes"))
    if ready_fd is not None:
        await asyncio.to_thread(_say_ready, ready_fd, host, catalog)
    number = await signals.get()
    structlog.get_logger("cloister.node").info(
        "node.stopping", signal=number.name, on_stop=settings.on_stop, drained=drain.state is not None
    )
    await node.server.close()
    background.cancel()
    await asyncio.to_thread(host.runtimes.stop_preparing)  # builds and creations under way wait for it
    await node.builds.stop()
    await asyncio.to_thread(node.volumes.close)
    await probing  # no other part knows its sandbox
    keep = await _settle_sandboxes(node.plan_stop(), number, goes_down)
    if number in (signal.SIGTERM, signal.SIGINT):
        await asyncio.to_thread(drain.end)
    await node.supervisor.stop(keep_sandboxes=keep)
    if not keep:
        close_host(host)
        forget_server(settings.store_dir, settings.data_dir)


async def _settle_sandboxes(stop: PlannedStop, number: signal.Signals, goes_down: Callable[[], bool]) -> bool:
    """Whether sandboxes are to live on without a supervisor. A planned stop pauses some first."""
    if number is signal.SIGHUP:
        return True
    if number is signal.SIGUSR1:
        return stop.has_sandboxes()
    try:
        is_last = await asyncio.to_thread(goes_down)
    except OSError as error:
        is_last = False
        structlog.get_logger("cloister.node").warning("host.state_unknown", error=str(error), taken_as="it runs on")
    return await stop.run(host_goes_down=is_last)


@dataclass(frozen=True)
class _Shared:
    """Objects that several parts of a node use."""

    store: LayerStore
    catalog: Catalog
    recent: RecentTemplates
    pool: PoolSize
    upstream_dns: tuple[str, ...]
    drain: Drain


def _snapshots(settings: Settings, host: NodeHost, shared: _Shared, journal: Journal, captures: MemoryCaptures) -> Snapshots:
    place = _build_place(settings, host, shared)
    return Snapshots(place, shared.catalog.find, lambda sandbox_id: find_origin(journal.directory_of(sandbox_id)), captures)


def _captures(settings: Settings, host: NodeHost, shared: _Shared) -> MemoryCaptures:
    captures = MemoryCaptures(settings.data_dir / "node" / "captures", host.runtimes, host.resources.space)
    captures.sweep(shared.store.has_build)
    return captures


def _compose(settings: Settings, host: NodeHost, shared: _Shared) -> _Node:
    """Make the parts of a node, each from those above it. Starts nothing."""
    catalog, limits = shared.catalog, _limits(settings)
    journal, ends = _open_journal(settings, host), EndLog(settings.data_dir / "node" / "ended.jsonl")
    threads, events = WorkerThreads(_THREADS, "node"), EventBroadcaster()
    connections, sampler = _watch(settings, host, threads, events)
    live = LiveSandboxes(limits=limits, journal=journal, ends=ends, sampler=sampler, events=events, threads=threads)
    reserve, captures = MemoryReserve(settings.memory_reserve_mib), _captures(settings, host, shared)
    steps = CreationSteps(host.runtimes, catalog, journal, HostReserve(settings.disk_reserve_mib, reserve), captures)
    admission = Admission(limits, live, reserve, shared.drain)
    creator = Creator(steps, shared.pool, admission=admission, live=live, recent=shared.recent)
    pausing = Pausing(PausingParts(live, creator, admission, journal, sampler, events, threads))
    snapshots = SnapshotQueue(_snapshots(settings, host, shared, journal, captures), pausing.on_broken)
    guards = _make_guards(settings, host, live, pausing, threads)
    supervisor = Supervisor(
        adoption=Adoption(runtimes=host.runtimes, journal=journal, ends=ends, live=live, threads=threads),
        sweeper=Sweeper(host=host, live=live, being_created=creator.ids, threads=threads),
        guards=(sampler.run, connections.run, guards.disk.run, guards.kernel.run, guards.paused_memory.run),
        creator=creator,
        live=live,
        pausing=pausing,
        snapshots=snapshots,
        threads=threads,
    )
    builds = AsyncBuildQueue(_build_queue(settings, host, shared, creator, captures), limits, events)
    status = NodeStatus(
        facts=_facts(settings, host),
        creations=creator,
        zygotes=host.runtimes.prepared,
        builds=builds.counts,
        disk=guards.disk.counts,
        memory=reserve.counts,
        paused=lambda: {**live.count_paused(), **guards.paused_memory.counts()},
        changes=pausing.counts,
        saves_memory=partial(_saves_memory, host),
        connections=connections.counts,
        limits_met=sampler.limits_met,
        descriptors=_descriptors(host),
        room=partial(_room, settings, live),
        drain=shared.drain,
        store=shared.store,
    )
    handlers = NodeHandlers(
        live=live,
        creator=creator,
        pausing=pausing,
        ends=ends,
        sampler=sampler,
        snapshots=snapshots,
        catalog=catalog,
        resolver=ResolverSockets(host.network.dns_sockets, shared.upstream_dns, threads),
        status=status,
        network=NetworkChanges(live, threads, host.network, catalog.authority_for),
        threads=threads,
        drain=shared.drain,
        plan_stop=partial(_planned_stop, settings, host, live, pausing, shared.drain),
    )
    volumes = _volumes(settings, host, catalog, live)
    server = _server(host, Implementations(sandboxes=handlers, builds=builds, volumes=volumes), events)
    return _Node(supervisor, handlers.plan_stop, creator, builds, volumes, handlers.resolver, server)


def _volumes(settings: Settings, host: NodeHost, catalog: Catalog, live: LiveSandboxes) -> NodeVolumes:
    disks = host.resources.volumes
    contents = VolumeContents(settings.data_dir / "node" / "content", disks, host.run_step, catalog.agent_tree)
    return NodeVolumes(disks, contents, live.records)


def _server(host: NodeHost, parts: Implementations, events: EventBroadcaster) -> NodeServer:
    return NodeServer(parts, host.instance.run_dir / "supervisor.sock", allowed_uids={host.instance.api_uid}, events=events)


def _watch(settings: Settings, host: NodeHost, threads: WorkerThreads, events: EventBroadcaster) -> tuple[ConnectionLog, Sampler]:
    """Readers of the kernel's counts of all sandboxes, at one interval."""
    interval_s, in_thread = settings.metrics_interval_s, threads.run

    def take_connections() -> tuple[Sequence[ConnectionRecord], int]:
        host.network.note_look_ups(host.egress.take_look_ups())
        return host.network.take_connections()

    def take_records() -> tuple[Sequence[ConnectionRecord], int]:
        records, lost = host.egress.take_records()
        return host.network.named(records), lost

    sources = (take_connections, take_records)
    connections = ConnectionLog(events=events, in_thread=in_thread, sources=sources, interval_s=min(interval_s, _CONNECTIONS_S))
    sampler = Sampler(
        events=events,
        in_thread=in_thread,
        take_refusals=host.network.take_refusals,
        interval_s=interval_s,
        count_refusals=connections.count_refusals,
    )
    return connections, sampler


@dataclass(frozen=True)
class _Guards:
    """They bound the sandboxes on this host."""

    disk: DiskGuard
    kernel: KernelGuard
    paused_memory: PausedMemory


def _make_guards(settings: Settings, host: NodeHost, live: LiveSandboxes, pausing: Pausing, threads: WorkerThreads) -> _Guards:
    resources = host.resources
    eviction = Eviction(live, resources.space, resources.groups.tree, threads)
    policy = MemoryPolicy(reserve=settings.memory_reserve_mib << 20, after_s=settings.paused_to_disk_s)
    return _Guards(
        DiskGuard(resources.space, eviction.for_space),
        KernelGuard(resources.groups, eviction.for_kernel_memory, live.team_of),
        PausedMemory(
            LiveFrozenSandboxes(live, threads), policy, checkpoint=pausing.move_to_disk, can_checkpoint=lambda: bool(_saves_memory(host))
        ),
    )


def _saves_memory(host: NodeHost) -> tuple[str, ...]:
    """The runtimes in which checkpoints work; known when they were probed."""
    return tuple(runtime.name for runtime in host.runtimes.all() if runtime.capabilities.checkpoint)


def _planned_stop(settings: Settings, host: NodeHost, live: LiveSandboxes, pausing: Pausing, drain: Drain) -> PlannedStop:
    saving = Saving(
        freeze=partial(pausing.save, memory=True),
        keep_files=partial(pausing.save, memory=False),
        checkpoint=pausing.checkpoint,
        saves_memory=_saves_memory(host),
    )
    return PlannedStop(drain.action_of_stop(OnStop(settings.on_stop)), saving, live.records)


def _room(settings: Settings, live: LiveSandboxes) -> dict[str, int]:
    return {
        "cpu_count": os.cpu_count() or 1,
        "mem_mib": memory_mib("MemTotal"),
        "live": len(live.counted()),
        "max_sandboxes": settings.max_sandboxes,
    }


def _facts(settings: Settings, host: NodeHost) -> NodeFacts:
    return NodeFacts(
        node_id=load_node_id(settings.data_dir / "node"),
        instance=host.instance.number,
        runtimes=tuple(runtime.name for runtime in host.runtimes.all()),
        on_stop=settings.on_stop,
        started_at=time.time(),
    )


def _descriptors(host: NodeHost) -> DescriptorCounts:
    return DescriptorCounts({"supervisor": os.getpid, "launcher": os.getppid, "egress": lambda: host.egress.pid})


def _build_queue(settings: Settings, host: NodeHost, shared: _Shared, creator: Creator, captures: MemoryCaptures) -> BuildQueue:
    dependencies = BuildDependencies(
        host=host,
        store=shared.store,
        catalog=shared.catalog,
        bootstrap=host_bootstrap(),
        preparation=BuildPreparation(creator.warm, creator.drop_build, shared.catalog.with_unrecorded),
        captures=captures,
    )
    return make_build_queue(settings, dependencies)


def _build_place(settings: Settings, host: NodeHost, shared: _Shared) -> BuildResources:
    return BuildResources(
        runtime=host.builder,
        space=host.resources.space,
        store=shared.store,
        agent_tree=shared.catalog.agent_tree,
        disk_reserve_mib=settings.disk_reserve_mib,
    )


def _pool_size(settings: Settings, host: NodeHost, catalog: Catalog) -> PoolSize:
    """None is made ahead where the default runtime cannot create a sandbox before its request."""
    size = settings.pool_size if host.runtime.capabilities.hand_over else 0
    built = {template.name: template.template_id for template in catalog.templates()}
    return PoolSize(size, tuple(built[name] for name in settings.pool_templates if name in built))


def _open_journal(settings: Settings, host: NodeHost) -> Journal:
    directory = settings.data_dir / "node"
    journal = journal_of(settings.data_dir, host.instance.run_dir)
    journal.open()
    remove_partial(directory)
    return journal


def _limits(settings: Settings) -> NodeLimits:
    sizes = host_limits(
        settings.default_limits(), settings.max_cpu_count, settings.max_mem_mib, settings.max_disk_mib, settings.max_disk_mib_per_team
    )
    return dataclasses.replace(
        sizes,
        lifetime_s=float(settings.max_timeout_s),
        sandboxes=settings.max_sandboxes,
        team_sandboxes=settings.max_sandboxes_per_team,
        team_paused=settings.max_paused_per_team,
        paused_s=float(settings.paused_retention_s),
    )


def _catch_signals() -> asyncio.Queue[signal.Signals]:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


def _say_ready(ready_fd: int, host: NodeHost, catalog: Catalog) -> None:
    told = {"instance": host.instance.number, "run_dir": str(host.instance.run_dir), "api_uid": host.instance.api_uid}
    told["egress_uid"] = host.instance.egress_uid
    with os.fdopen(ready_fd, "w") as ready:
        json.dump({**told, "why_unusable": catalog.why_unusable()}, ready)
