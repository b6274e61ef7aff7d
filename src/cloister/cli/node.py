"""``cloister node``: the supervisor process. Started by ``cloister serve``; root, no TCP listener.

SIGTERM stops cleanly (and ends the sandboxes, unless on_stop is ``keep``); SIGHUP, which the kernel sends when the launcher dies, leaves
the sandboxes for the next supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from functools import partial

import structlog

from cloister.cli.template import host_bootstrap
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.linux.identity import die_with_parent
from cloister.network.dns_relay import host_nameservers
from cloister.node.build_work import BuildHost, make_builds
from cloister.node.building import Building
from cloister.node.catalog import Catalog
from cloister.node.ceiling import host_ceiling
from cloister.node.creation import Creator
from cloister.node.host import close_host, open_host
from cloister.node.housekeeping import keep_house
from cloister.node.journal import Journal
from cloister.node.livetrees import live_trees
from cloister.node.maker import Maker
from cloister.node.pool import PoolSize
from cloister.node.recent import Recent
from cloister.node.server import NodeServer
from cloister.node.snapshots import Snapshots
from cloister.node.supervisor import Supervisor
from cloister.node.warming import Warming
from cloister.telemetry.logging import configure_logging
from cloister.template.building.copier import BuildPlace
from cloister.template.garbage import Collector
from cloister.template.layers import LayerStore

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("node", help="the supervisor process (started by serve)")
    parser.add_argument("--parent", type=int, help="process id of who starts this, without whom it is not to run")
    parser.add_argument("--ready-fd", type=int, help="descriptor to which one line of JSON is written when the node serves")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the node protocol until a signal comes."""
    settings = load(args, os.environ)
    configure_logging(settings.log_level, settings.log_format, process="node")
    die_with_parent(signal.SIGHUP, args.parent)
    asyncio.run(_serve(settings, args.ready_fd))
    return 0


async def _serve(settings: Settings, ready_fd: int | None) -> None:
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    upstream_dns = settings.dns_upstreams or host_nameservers()
    host = open_host(settings, upstream_dns)
    store = LayerStore(settings.store_dir)
    catalog = Catalog(store, host.host_layer, settings.default_limits(), settings.start_timeout_s)
    journal = Journal(settings.data_dir / "node" / "sandboxes")
    creator = Creator(host.runtime, catalog, journal, settings.disk_reserve_mib)
    built = {template.name: template.template_id for template in catalog.templates()}
    pool = PoolSize(settings.pool_size, tuple(built[name] for name in settings.pool_templates if name in built))
    maker = Maker(creator, catalog, host.runtime.has_room, pool)
    supervisor = Supervisor(host, catalog, journal, maker, upstream_dns)
    supervisor.sampler.interval_s = settings.metrics_interval_s
    supervisor.ceiling = host_ceiling(settings.default_limits(), settings.max_cpu_count, settings.max_mem_mib, settings.max_disk_mib)
    place = BuildPlace(runtime=host.runtime, store=store, agent_tree=catalog.agent_tree, disk_reserve_mib=settings.disk_reserve_mib)
    supervisor.snapshots = Snapshots(place, catalog.find)
    shared = BuildHost(
        host=host,
        store=store,
        catalog=catalog,
        bootstrap=host_bootstrap(),
        warming=Warming(maker.warm, maker.end_made_ahead, catalog.lending),
    )
    building = Building(make_builds(settings, shared), supervisor.ceiling)
    server = NodeServer(supervisor, building, host.instance.run_dir / "supervisor.sock", allowed_uids={host.instance.api_uid})
    supervisor.on_ended = server.broadcast_ended
    supervisor.on_note = server.broadcast_note
    supervisor.count_builds = building.counts
    recent = Recent(settings.data_dir / "node" / "recent.json")
    supervisor.on_asked = recent.note
    building.on_ended = server.broadcast_build_ended
    await supervisor.start()
    await building.load()
    await server.start()
    collector = Collector(store, partial(live_trees, settings.run_dir), [settings.data_dir / "hostlayer"])
    housekeeping = asyncio.create_task(keep_house(collector, settings.layer_retention_s))
    beginning = asyncio.create_task(building.begin_after(supervisor.is_resolver_served))
    warming = asyncio.create_task(recent.warm(pool.always, maker.warm))
    if ready_fd is not None:
        told = {"instance": host.instance.number, "run_dir": str(host.instance.run_dir), "api_uid": host.instance.api_uid}
        with os.fdopen(ready_fd, "w") as ready:
            json.dump({**told, "why_unusable": catalog.why_unusable()}, ready)
    number = await signals.get()
    keep = number is signal.SIGHUP or settings.on_stop == "keep"
    structlog.get_logger("cloister.node").info("node.stopping", signal=number.name, keep_sandboxes=keep)
    await server.close()
    beginning.cancel()
    warming.cancel()
    housekeeping.cancel()
    await asyncio.to_thread(host.runtime.stop_preparing)  # builds and creations under way wait for it
    await building.stop()
    await supervisor.stop(keep_sandboxes=keep)
    if not keep:
        close_host(host)
