"""Puts the parts of a node together on this host: instance number, network, control groups, seccomp filter, runtime, host layer.

Used by the supervisor and by template builds, each for a data directory of its own. Owns no policy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import structlog

from cloister.config.settings import Settings
from cloister.linux.cgroup import find_tree
from cloister.linux.seccomp import allowing, compile_bpf, load_profile
from cloister.network.dns_process import relay_process
from cloister.network.slots import NetworkConfig, NetworkNode
from cloister.node.instance import Instance, claim_instance
from cloister.runtime.namespace.rootfs import make_dev_tree
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.namespace.zygotes import ZygoteFilters, ZygoteHost
from cloister.template.hostlayer import HostLayer, HostLayerConfig, build_host_layer

__all__ = ["NodeHost", "build_host", "close_host", "open_host"]

_log = structlog.get_logger("cloister.node")


@dataclass(frozen=True, kw_only=True)
class NodeHost:
    """The parts of one node."""

    instance: Instance
    network: NetworkNode
    runtime: NamespaceRuntime
    host_layer: HostLayer


def open_host(settings: Settings, upstream_dns: tuple[str, ...]) -> NodeHost:
    """Claim the instance of ``settings.data_dir`` and make or adopt its parts.

    Raises: IsolationError, AlreadyExistsError (the directory is being served), NoCapacityError, UnavailableError.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    instance = claim_instance(settings.data_dir, settings.run_dir)
    config = NetworkConfig(instance.number, instance.run_dir, settings.network_cidr, upstream_dns, settings.allow_private)
    network = NetworkNode(config)
    network.start()
    cgroups = find_tree(instance.number)
    dev_tree = make_dev_tree(settings.data_dir / "node" / "dev")
    zygotes = ZygoteHost(enabled=settings.zygotes, dev_tree=dev_tree, cgroups=cgroups, filters=_filters(), tell=_tell)
    runtime = NamespaceRuntime(run_dir=instance.run_dir, uid_base=instance.uid_base, cgroups=cgroups, network=network, zygotes=zygotes)
    layer_config = HostLayerConfig(
        resolver=network.gateway_address, extra_ca_file=settings.extra_ca_file, include_credentials=settings.include_credentials
    )
    host_layer = build_host_layer(settings.data_dir / "hostlayer", layer_config)
    runtime.holds.take((host_layer.path,))
    os.utime(host_layer.path)
    return NodeHost(instance=instance, network=network, runtime=runtime, host_layer=host_layer)


def _tell(event: str, fields: Mapping[str, object]) -> None:
    (_log.info if event == "zygote.ready" else _log.warning)(event, **fields)


def _filters() -> ZygoteFilters:
    profile = load_profile(Path(str(resources.files("cloister.runtime.namespace") / "profiles" / "default.json")))
    return ZygoteFilters(zygote=compile_bpf(allowing(profile, "setns")), sandbox=compile_bpf(profile))


@contextmanager
def build_host(settings: Settings, upstream_dns: tuple[str, ...]) -> Iterator[NodeHost]:
    """The parts of a node for the time of a build, its resolver included; everything of it is gone afterwards.

    A sandbox that an earlier build on this data directory left, because it was killed, has ended when this is there.
    """
    host = open_host(settings, upstream_dns)
    try:
        host.runtime.sweep(set)
        udp, tcp = host.network.dns_sockets()
        with udp, tcp, relay_process(udp, tcp, upstream_dns, host.instance.api_uid):
            yield host
    finally:
        close_host(host)


def close_host(host: NodeHost) -> None:
    """Remove every kernel object of the node and forget its number."""
    host.runtime.stop()
    for path in sorted(host.instance.run_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    host.instance.run_dir.rmdir()
    host.instance.release()
