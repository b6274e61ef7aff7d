"""Puts the parts of a node together on this host: instance number, shared resources, runtimes, host layer.

The supervisor and template builds use it, each for a data directory of its own. Owns what the runtimes share (network, control groups,
disks, ids): it is made before the first runtime is opened and removed after the last one has stopped. Owns no policy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network

import structlog

from cloister.config.checks import teams_runtimes
from cloister.config.settings import Settings
from cloister.disks.rates import DiskRates
from cloister.disks.ready import Disks
from cloister.disks.space import DiskSpace
from cloister.disks.volumes import VolumeDisks
from cloister.egresswire.values import VALUES_SOCKET
from cloister.errors import UnavailableError
from cloister.linux.blkio import Rates
from cloister.linux.cgroup import find_tree
from cloister.linux.treelocks import TreeLocks
from cloister.model.secret import Secret
from cloister.network.bounds import TrafficBounds
from cloister.network.plan import AddressPlan
from cloister.network.slots import NetworkConfig, NetworkNode
from cloister.node.egress_group import EgressGroup
from cloister.node.egress_process import EgressConfig, EgressProcess
from cloister.node.instance import Instance, claim_instance
from cloister.node.journal import journal_of
from cloister.node.layout import make_directories
from cloister.node.resolver import resolver_process
from cloister.node.runtimes import RuntimeKinds, runtime_kinds
from cloister.runtime.base import Runtime
from cloister.runtime.blocks import Blocks
from cloister.runtime.groups import Groups
from cloister.runtime.registry import RuntimeKind, RuntimeRules, Runtimes
from cloister.runtime.resources import NodeResources
from cloister.runtime.spec import StepSpec
from cloister.template.hostlayer import BUNDLE, HostLayer, HostLayerConfig, build_host_layer
from cloister.tls.sandbox_authority import SandboxAuthorities

__all__ = ["NodeHost", "build_host", "close_host", "open_host"]

_log = structlog.get_logger("cloister.node")


@dataclass(frozen=True, kw_only=True)
class NodeHost:
    """The parts of one node."""

    instance: Instance
    resources: NodeResources
    runtimes: Runtimes
    host_layer: HostLayer
    egress: EgressProcess

    @property
    def network(self) -> NetworkNode:
        """The network that all runtimes share."""
        return self.resources.network

    @property
    def runtime(self) -> Runtime:
        """The default runtime."""
        return self.runtimes.default

    @property
    def builder(self) -> Runtime:
        """The runtime that runs the steps of builds. Raises: InvalidRequestError: none can."""
        return self.runtimes.builder

    def run_step(self, step: StepSpec, log: Callable[[bytes], None], /) -> int:
        """Run a step of a template (:meth:`Runtime.run_step`). Raises also: InvalidRequestError: no runtime can."""
        return self.builder.run_step(step, log)

    def sweep(self, known: Callable[[], set[str]]) -> list[str]:
        """Remove what belongs to no sandbox that is ``known``, first with each runtime, then what no runtime claims; says what."""
        self.resources.groups.thaw_strangers(known)
        return [*self.runtimes.sweep(known), *self.resources.groups.sweep(known, self.resources.tell)]

    def survey(self) -> list[str]:
        """Every kernel object that this node holds now, a line each."""
        self.resources.disks.settle()
        groups = [f"control group {name}" for name in sorted(self.resources.groups.tree.names())]
        return [*self.runtimes.survey(), *groups, *self.network.survey()]

    def stop(self) -> None:
        """Remove every sandbox and helper, and then what the runtimes share.

        A part that fails does not keep the others; its error is raised. A control group that a runtime has left is ended.
        """
        with ExitStack() as parts:  # in reverse
            parts.callback(self.resources.groups.tree.remove_all)
            parts.callback(self.network.stop)
            parts.callback(self.resources.groups.end_all, self.resources.tell)
            parts.callback(self.egress.close)
            parts.callback(self.runtimes.stop)
            parts.callback(self.resources.rates.close)
            parts.callback(self.resources.disks.close)


def open_host(settings: Settings, upstream_dns: tuple[str, ...], kinds: RuntimeKinds = runtime_kinds) -> NodeHost:
    """Claim the instance of ``settings.data_dir`` and make or adopt its parts. ``kinds`` gives the runtimes to open.

    Raises: IsolationError, AlreadyExistsError (the directory is being served), NoCapacityError, UnavailableError, InvalidRequestError
    (the setting default_runtime names none of ``kinds``).
    """
    for path, mode in make_directories(settings):
        _log.warning("directory.mode_corrected", path=str(path), was=f"{mode:04o}")
    instance = claim_instance(settings.data_dir, settings.run_dir)
    network = _network_config(settings, instance, upstream_dns)
    plan = AddressPlan(network)
    layer_config = HostLayerConfig(
        resolver=str(plan.gateway), extra_ca_file=settings.extra_ca_file, include_credentials=settings.include_credentials
    )
    host_layer = build_host_layer(settings.data_dir / "hostlayer", layer_config)
    groups = Groups(find_tree(instance.number))
    egress = EgressProcess(_egress_config(settings, instance, plan, host_layer, groups))
    resources = _shared_resources(settings, instance, NetworkNode(network, egress), groups)
    runtimes = _open_runtimes(settings, kinds(settings), resources)
    resources.tree_locks.lock((host_layer.path,))
    os.utime(host_layer.path)
    return NodeHost(instance=instance, resources=resources, runtimes=runtimes, host_layer=host_layer, egress=egress)


def _open_runtimes(settings: Settings, kinds: Sequence[RuntimeKind], resources: NodeResources) -> Runtimes:
    unavailable = {}
    for kind in kinds:
        try:
            kind.try_out(settings.run_dir)
        except UnavailableError as error:
            unavailable[kind.name] = str(error)
    rules = RuntimeRules(forbidden=frozenset(settings.forbidden_runtimes), of_teams=teams_runtimes(settings))
    runtimes = Runtimes([kind.open(resources) for kind in kinds], settings.default_runtime, rules=rules, unavailable=unavailable)
    _log.info("runtimes.opened", default=runtimes.default.name, forbidden=sorted(rules.forbidden), unavailable=unavailable)
    return runtimes


def _network_config(settings: Settings, instance: Instance, upstream_dns: tuple[str, ...]) -> NetworkConfig:
    return NetworkConfig(
        instance=instance.number,
        run_dir=instance.run_dir,
        cidr=settings.network_cidr,
        upstream_dns=upstream_dns,
        allow_private=settings.allow_private,
        relay_uid=instance.api_uid,
        egress_uid=instance.egress_uid,
        mbit_per_s=settings.network_mbit_per_s,
        bounds=TrafficBounds(
            packets_per_s=settings.network_packets_per_s,
            connections_per_s=settings.network_connections_per_s,
            volume_mib=settings.network_volume_mib,
        ),
    )


def _egress_config(settings: Settings, instance: Instance, plan: AddressPlan, host_layer: HostLayer, groups: Groups) -> EgressConfig:
    """The egress process trusts the certificates that sandboxes trust without it."""
    authorities = SandboxAuthorities(settings.data_dir / "node")
    return EgressConfig(
        netns=plan.router_path,
        gateway=plan.gateway,
        private=tuple(map(IPv4Network, settings.allow_private)),
        uid=instance.egress_uid,
        values=instance.run_dir / VALUES_SOCKET,
        secret=lambda: Secret(authorities.secret.hex()),
        group=EgressGroup(groups, settings.egress_mem_mib),
        certificates=(host_layer.path / BUNDLE.removeprefix("/")).read_text,
        inspects=settings.inspect_tls,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def _shared_resources(settings: Settings, instance: Instance, network: NetworkNode, groups: Groups) -> NodeResources:
    network.start()
    cgroups = groups.tree
    cgroups.bound_all()
    # v1 kills no process that is frozen, and the supervisor that froze it for a copy may be dead. Paused sandboxes stay frozen.
    cgroups.thaw_all(but=journal_of(settings.data_dir, instance.run_dir).frozen())
    data_dir = settings.data_dir / "node"
    bytes_per_s = None if settings.disk_mib_per_s is None else settings.disk_mib_per_s << 20
    space = DiskSpace(data_dir, settings.disk_reserve_mib, settings.disk_overcommit)
    volumes = VolumeDisks(data_dir / "volumes", space)
    volumes.open()
    return NodeResources(
        run_dir=instance.run_dir,
        store_dir=settings.store_dir,
        data_dir=data_dir,
        blocks=Blocks(instance.uid_base),
        groups=groups,
        network=network,
        tree_locks=TreeLocks(),
        disks=Disks(data_dir / "disks", _tell),
        space=space,
        rates=DiskRates(Rates(bytes_per_s, settings.disk_iops), cgroups, _tell),
        volumes=volumes,
        tell=_tell,
    )


def _tell(event: str, fields: Mapping[str, object]) -> None:
    (_log.info if event in ("zygote.ready", "checkpoint.works") else _log.warning)(event, **fields)


@contextmanager
def build_host(settings: Settings, upstream_dns: tuple[str, ...]) -> Iterator[NodeHost]:
    """The parts of a node for the time of a build, its resolver included; everything of it is gone afterwards.

    A sandbox that an earlier build on this data directory left, because it was killed, has ended when this is there.
    """
    host = open_host(settings, upstream_dns)
    try:
        host.sweep(set)
        udp, tcp = host.network.dns_sockets()
        with udp, tcp, resolver_process(udp, tcp, upstream_dns, host.instance.api_uid):
            yield host
    finally:
        close_host(host)


def close_host(host: NodeHost) -> None:
    """Remove every kernel object of the node and forget its number."""
    host.stop()
    for path in sorted(host.instance.run_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    host.instance.run_dir.rmdir()
    host.instance.release()
