"""Checks the settings against this host before a process starts, for ``serve`` and ``doctor``.

Changes nothing. The checks that need no host are in ``cloister.config.checks``. Every check reports all faults that it finds, each with the
setting's name, a cause and a remedy.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cloister.config.checks import Fault
from cloister.config.settings import Settings
from cloister.errors import CloisterError, SettingsError
from cloister.linux.filesystems import existing_part, filesystem_name
from cloister.linux.netlink import Netlink
from cloister.node.api_access import first_closed_directory
from cloister.node.runtimes import AUTO_CRIU, criu_of
from cloister.node.strict_modes import code_paths, find_weak_paths, sudo_user
from cloister.store.cluster_keys import read_api_keys, read_node_keys
from cloister.store.opening import can_share, try_database
from cloister.telemetry.tracing import can_trace
from cloister.template.images.reference import ImageMap
from cloister.template.images.registries import RegistrySettings
from cloister.template.stock import STOCK_NAMES
from cloister.tls.authority import ca_file
from cloister.tls.reloader import make_source

__all__ = ["find_host_faults", "refuse_weak_code"]

_DIRECTORIES = ("data_dir", "store_dir", "run_dir")
_UNFIT = {"nfs", "cifs", "smb2", "9p", "fuse", "overlay", "vfat", "exfat", "ceph", "afs"}
"""File systems that lack a feature that sandboxes need: any owner id, id-mapped mounts, overlay layers, or file locks."""
_SHOWN = 5
_OURS = re.compile(r"cl[0-9]+(up|rt|s[0-9]+)\Z")


def refuse_weak_code(environ: Mapping[str, str]) -> None:
    """Check that only root, and the user who called sudo, can change the code that runs here. Raises: SettingsError."""
    weak = find_weak_paths(code_paths(), sudo_user(environ))
    if weak:
        shown = [f"insecure installation: {one.cause}; {one.remedy}" for one in weak[:_SHOWN]]
        raise SettingsError(*shown, *([f"insecure installation: and {len(weak) - _SHOWN} more"] if len(weak) > _SHOWN else []))


def find_host_faults(settings: Settings) -> list[Fault]:
    """All faults of ``settings`` on this host."""
    return [fault for check in _CHECKS for fault in check(settings)]


def _directories(settings: Settings) -> Iterator[Fault]:
    for name in _DIRECTORIES:
        path: Path = getattr(settings, name)
        present = existing_part(path)
        if not present.is_dir():
            yield Fault(name, f"{present} is not a directory", "remove it, or give another path")
        elif not os.access(present, os.W_OK | os.X_OK):
            yield Fault(name, f"{present} cannot be written", "give a directory on a file system that is mounted read-write")


def _writers(settings: Settings) -> Iterator[Fault]:
    for name in _DIRECTORIES:
        for weak in find_weak_paths((getattr(settings, name),), sudo_user(os.environ)):
            yield Fault(name, weak.cause, f"{weak.remedy}, or give a directory elsewhere")


def _file_systems(settings: Settings) -> Iterator[Fault]:
    for name, flags in (("store_dir", {"noexec": os.ST_NOEXEC, "nosuid": os.ST_NOSUID}), ("data_dir", {"nodev": os.ST_NODEV})):
        present = existing_part(getattr(settings, name))
        found = os.statvfs(present).f_flag
        bad = [flag for flag, bit in flags.items() if found & bit]
        if bad:
            yield Fault(name, f"the file system of {present} is mounted {', '.join(bad)}", f"remove these options, or give another {name}")
        kind = filesystem_name(present)
        if kind in _UNFIT:
            yield Fault(name, f"{present} is on {kind}, which lacks what sandboxes need", "give a directory on ext4, xfs or btrfs")


def _reach(settings: Settings) -> Iterator[Fault]:
    """The api process is not root, and must reach its directory and the supervisor's socket."""
    for name in ("data_dir", "run_dir"):
        closed = first_closed_directory(getattr(settings, name))
        if closed is not None:
            mode = closed.stat().st_mode & 0o7777
            cause = f"{closed} has mode {mode:04o}, so the api process, which is not root, cannot enter it"
            yield Fault(name, cause, f"chmod o+x {closed}, or give a directory elsewhere")


def _tls(settings: Settings) -> Iterator[Fault]:
    if settings.listen_tls is None or (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        return
    try:
        source = make_source(settings)
        if source is not None and (settings.tls_cert_file is not None or ca_file(settings.data_dir).exists()):
            source.load()
    except CloisterError as error:
        name = "tls_cert_file" if settings.tls_cert_file is not None else "listen_tls"
        yield Fault(name, error.message, error.hint or "give files that root can read")


def _extra_authorities(settings: Settings) -> Iterator[Fault]:
    path = settings.extra_ca_file
    if path is None:
        return
    try:
        is_pem = b"-----BEGIN CERTIFICATE-----" in path.read_bytes()
    except OSError as error:
        yield Fault("extra_ca_file", f"{path} cannot be read: {error.strerror}", "give a PEM file that root can read")
        return
    if not is_pem:
        yield Fault("extra_ca_file", f"{path} holds no certificate", "give a file of certificates in PEM form")


def _images(settings: Settings) -> Iterator[Fault]:
    remedy = "see docs/howto/images.md"
    for name, parse in (
        ("image_map", ImageMap),
        ("host_registries", RegistrySettings),
        ("insecure_registries", lambda texts: RegistrySettings((), texts)),
    ):
        for text in getattr(settings, name):
            try:
                parse((text,))
            except CloisterError as error:
                yield Fault(name, error.message.removeprefix(f"{name}: "), error.hint or remedy)


def _checkpoint(settings: Settings) -> Iterator[Fault]:
    """A CRIU that was named must be one. Whether it works here shows later, by an attempt (log: ``checkpoint.works``)."""
    if settings.checkpoint is not None and settings.checkpoint != AUTO_CRIU:
        try:
            criu_of(settings)
        except CloisterError as error:
            yield Fault("checkpoint", error.message, error.hint or "give another path")


def _pool(settings: Settings) -> Iterator[Fault]:
    known = {*STOCK_NAMES, *(path.stem for path in (settings.store_dir / "templates").glob("*.json"))}
    for name in settings.pool_templates:
        if name not in known:
            yield Fault("pool_templates", f"there is no template {name!r}", f"templates are: {', '.join(sorted(known))}")


def _network(settings: Settings) -> Iterator[Fault]:
    wanted = _parsed(settings.network_cidr or "")  # the node checks the default network, which follows from the instance number
    if wanted is not None:
        for route, interface in _host_networks():
            is_around = route.supernet_of(wanted) and route != wanted  # then the route of the sandboxes is the more specific one
            if route.overlaps(wanted) and not is_around:
                cause = f"{wanted} overlaps the network {route} of this host's interface {interface}"
                yield Fault("network_cidr", cause, "give a private network that this host does not use")
    for text in settings.allow_private:
        network = _parsed(text)
        if network is not None and network.prefixlen == 32 and not network.is_loopback and _is_own(network.network_address):
            yield Fault("allow_private", f"{network} is this host itself, which sandboxes never reach", "remove it")


def _parsed(text: str) -> IPv4Network | None:
    try:
        return IPv4Network(text)
    except ValueError:
        return None  # config/checks.py reports it


def _host_networks() -> Iterator[tuple[IPv4Network, str]]:
    """Networks of this host's routes, with their interfaces; without the default route and the servers' own routes."""
    with Netlink() as netlink:
        names = {link.index: link.name for link in netlink.links().values()}
        for route in netlink.routes():
            interface = next((names[index] for index in route.interfaces if index in names), "?")
            if route.destination.prefixlen and not _OURS.match(interface):
                yield route.destination, interface


def _is_own(address: IPv4Address) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((str(address), 0))
        except OSError:
            return False
    return True


def _traces(settings: Settings) -> Iterator[Fault]:
    if settings.otlp_endpoint is not None and not can_trace():
        remedy = "install requirements/otel.lock into the server's environment, or unset it (and OTEL_EXPORTER_OTLP_ENDPOINT)"
        yield Fault("otlp_endpoint", "traces need the packages of the extra otel, which are not installed", remedy)


def _database(settings: Settings) -> Iterator[Fault]:
    if settings.database_url is None:
        return
    if not can_share():
        yield Fault("database_url", "a shared database needs the packages of the extra cluster", "pip install 'cloister[cluster]'")
        return
    try:
        asyncio.run(try_database(settings.database_url))
    except CloisterError as error:
        yield Fault("database_url", error.message, error.hint or "check the address, and the database's log")


def _role(settings: Settings) -> Iterator[Fault]:
    """The files of a cluster's part are there."""
    try:
        if settings.role == "api":
            read_api_keys(settings.data_dir)
        elif settings.role == "node":
            read_node_keys(settings.data_dir)
    except CloisterError as error:
        yield Fault("role", error.message, error.hint or "see docs/howto/cluster.md")


_CHECKS: tuple[Callable[[Settings], Iterator[Fault]], ...] = (
    _directories,
    _role,
    _writers,
    _file_systems,
    _reach,
    _tls,
    _extra_authorities,
    _database,
    _images,
    _checkpoint,
    _pool,
    _network,
    _traces,
)
