"""Checks of settings beyond their types: ranges, forms of texts, and whether they fit each other. Pure: reads no file, asks no host.

Every check reports all faults that it finds, so that an operator edits the file once. The checks of the host are in
``cloister.processes.preflight``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from cloister.config.settings import Settings
from cloister.errors import InvalidRequestError
from cloister.model.addresses import is_address, is_host_name, is_loopback, parse_listen, parse_upstream

__all__ = ["LANGUAGES", "RANGES", "Fault", "find_faults", "is_collector", "range_remedy", "teams_runtimes"]

_DAY_S = 86_400
LANGUAGES = ("python", "javascript", "typescript", "r", "java", "bash")
"""Those of ``protocol/languages.py``, which settings do not know; a test compares them."""
_MIB_TIB = 1 << 20
RANGES: dict[str, tuple[float, float]] = {
    "default_cpu_count": (0.01, 4096),
    "max_cpu_count": (0.01, 4096),
    "default_mem_mib": (64, 16 * _MIB_TIB),
    "max_mem_mib": (64, 16 * _MIB_TIB),
    "default_disk_mib": (64, 16 * _MIB_TIB),
    "max_disk_mib": (64, 16 * _MIB_TIB),
    "default_volume_mib": (64, 16 * _MIB_TIB),
    "max_volume_mib": (64, 16 * _MIB_TIB),
    "max_volumes_per_team": (0, 100_000),
    "memory_reserve_mib": (0, 16 * _MIB_TIB),
    "paused_to_disk_s": (1, 365 * _DAY_S),
    "disk_reserve_mib": (1, 16 * _MIB_TIB),
    "network_mbit_per_s": (1, 1_000_000),
    "network_packets_per_s": (100, 100_000_000),
    "network_connections_per_s": (1, 1_000_000),
    "network_volume_mib": (1, 1024 * _MIB_TIB),
    "egress_mem_mib": (128, 16 * _MIB_TIB),
    "disk_mib_per_s": (1, _MIB_TIB),
    "disk_iops": (10, 100_000_000),
    "disk_overcommit": (1, 10_000),
    "max_disk_mib_per_team": (64, 1024 * _MIB_TIB),
    "default_inodes": (1024, 1 << 30),
    "default_pids": (32, 1 << 22),
    "default_open_files": (256, 1 << 20),
    "default_output_mib": (1, 65_536),
    "layer_retention_s": (1, 3650 * _DAY_S),
    "pool_size": (0, 256),
    "max_builds": (1, 64),
    "build_timeout_s": (10, 7 * _DAY_S),
    "start_timeout_s": (1, 60),
    "ready_timeout_s": (1, _DAY_S),
    "max_timeout_s": (1, 3650 * _DAY_S),
    "max_sandboxes": (1, 7_680),
    "max_sandboxes_per_team": (1, 1_000_000),
    "max_paused_per_team": (1, 1_000_000),
    "default_sandboxes_per_team": (1, 1_000_000),
    "default_paused_per_team": (1, 1_000_000),
    "default_cpu_count_per_team": (0.01, 1_000_000),
    "default_mem_mib_per_team": (64, 1024 * _MIB_TIB),
    "default_disk_mib_per_team": (64, 1024 * _MIB_TIB),
    "default_creations_per_s": (0.001, 100_000),
    "paused_retention_s": (1, 3650 * _DAY_S),
    "max_body_mib": (1, 1024),
    "max_connections": (10, 1_000_000),
    "max_connections_per_peer": (2, 1_000_000),
    "head_timeout_s": (1, 600),
    "body_timeout_s": (1, 3600),
    "stall_timeout_s": (1, _DAY_S),
    "max_failed_keys": (1, 1_000_000),
    "max_template_cpu_count": (1, 4096),
    "max_template_mem_mib": (128, 16 * _MIB_TIB),
    "max_template_disk_mib": (64, 16 * _MIB_TIB),
    "default_network_mbit_per_s_per_team": (1, 1_000_000),
    "default_network_packets_per_s_per_team": (100, 100_000_000),
    "default_network_connections_per_s_per_team": (1, 1_000_000),
    "default_network_volume_mib_per_day_per_team": (1, 1024 * _MIB_TIB),
    "max_templates_per_team": (1, 1_000_000),
    "max_builds_per_team": (1, 10_000),
    "max_secrets_per_team": (1, 100_000),
    "max_webhooks_per_team": (0, 1_000),
    "max_events_per_team": (10, 10_000_000),
    "events_retention_s": (1, 3650 * _DAY_S),
    "max_upload_mib": (1, _MIB_TIB),
    "upload_total_mib": (1, 16 * _MIB_TIB),
    "ended_retention_s": (1, 3650 * _DAY_S),
    "metrics_interval_s": (0.1, 3600),
    "log_sandbox_kib": (4, _MIB_TIB),
    "log_total_mib": (1, 16 * _MIB_TIB),
    "audit_total_mib": (1, 16 * _MIB_TIB),
    "trace_ratio": (0, 1),
    "max_traced_per_s": (1, 100_000),
    "node_wait_s": (0.1, 60),
}
"""Smallest and largest value of each quantity. Only the type bounds a setting that is not listed."""
_NOT_ABOVE = (
    ("default_cpu_count", "max_cpu_count"),
    ("default_mem_mib", "max_mem_mib"),
    ("default_disk_mib", "max_disk_mib"),
    ("default_volume_mib", "max_volume_mib"),
    ("default_disk_mib", "max_disk_mib_per_team"),
    ("default_sandboxes_per_team", "max_sandboxes_per_team"),
    ("default_paused_per_team", "max_paused_per_team"),
    ("default_disk_mib_per_team", "max_disk_mib_per_team"),
    ("ready_timeout_s", "build_timeout_s"),
    ("max_upload_mib", "upload_total_mib"),
    ("max_connections_per_peer", "max_connections"),
)
"""Pairs of settings with the same unit. The first must not be greater than the second."""
_CIDR_PREFIXES = (8, 18)
_CIDR_REMEDY = "give a private network of a /8 to /18, such as 10.20.0.0/16"
_SHARED = IPv4Network("100.64.0.0/10")
_NEVER_ALLOWED = {
    IPv4Network("0.0.0.0/8"): "this network",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local addresses, where clouds serve a machine's credentials",
    IPv4Network("224.0.0.0/3"): "multicast and reserved addresses",
}
_SOCKET_PATH_BYTES = 107
_LONGEST_SOCKET = "/0/zones/00/socket"
_MAX_TEXT = 4096
_RUNTIMES = ("namespace", "gvisor")
_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[A-Za-z0-9._~\-]+)*\Z")


@dataclass(frozen=True)
class Fault:
    """One wrong setting, the cause, and a remedy."""

    setting: str
    cause: str
    remedy: str

    def told(self, origin: str) -> str:
        """As one line; ``origin`` is the source of the value."""
        return f"setting {self.setting} ({origin}): {self.cause}; {self.remedy}"


def find_faults(settings: Settings) -> list[Fault]:
    """All faults of ``settings`` that need no look at the host."""
    return [fault for check in _CHECKS for fault in check(settings)]


def range_remedy(name: str) -> str:
    """The permitted range of a quantity, as a remedy."""
    least, most = RANGES[name]
    return f"give {least:,g} to {most:,.10g}"


def _ranges(settings: Settings) -> Iterator[Fault]:
    for name, (least, most) in RANGES.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:
            yield Fault(name, f"{value:g} is too {'small' if value < least else 'large'}", range_remedy(name))


def _pairs(settings: Settings) -> Iterator[Fault]:
    for low, high in _NOT_ABOVE:
        small, large = getattr(settings, low), getattr(settings, high)
        if None not in (small, large) and small > large:
            yield Fault(low, f"{small:g} is above {high}, {large:g}", f"lower {low} or raise {high}")
    if settings.log_sandbox_kib > settings.log_total_mib << 10:
        remedy = "lower log_sandbox_kib or raise log_total_mib"
        yield Fault("log_sandbox_kib", f"{settings.log_sandbox_kib} KiB are above log_total_mib, {settings.log_total_mib} MiB", remedy)


def _listeners(settings: Settings) -> Iterator[Fault]:
    parsed = {}
    for name in ("listen", "listen_tls"):
        text = getattr(settings, name)
        if text is None:
            continue
        try:
            parsed[name] = parse_listen(text)
        except InvalidRequestError as error:
            yield _from_error(name, error)
    if "listen_tls" in parsed and not is_address(parsed["listen_tls"][0]):
        cause = f"{settings.listen_tls!r} does not begin with an IP address"
        yield Fault("listen_tls", cause, "give one such as 0.0.0.0:443; the certificate contains it")
    if len(parsed) == 2 and _do_clash(parsed["listen"], parsed["listen_tls"]):
        yield Fault("listen_tls", f"{settings.listen_tls} is also the address of listen", "give each listener a port of its own")


def _role(settings: Settings) -> Iterator[Fault]:
    if settings.role == "node" and settings.listen_tls is not None:
        yield Fault("listen_tls", "a node serves only api processes", "remove it: listen is the node's listener, with the cluster's TLS")


def _do_clash(one: tuple[str, int], other: tuple[str, int]) -> bool:
    hosts = {one[0], other[0]}
    return one[1] == other[1] != 0 and (len(hosts) == 1 or bool(hosts & {"0.0.0.0", "::"}))  # noqa: S104 - compared, not bound


def _tls(settings: Settings) -> Iterator[Fault]:
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    if (certificate is None) != (key is None):
        missing = "tls_cert_file" if certificate is None else "tls_key_file"
        yield Fault(missing, "tls_cert_file and tls_key_file must be given together", f"give {missing} too, or neither")
    elif certificate is not None and settings.listen_tls is None:
        yield Fault("tls_cert_file", "no listener uses it", "set listen_tls, such as 0.0.0.0:443")


def _domain(settings: Settings) -> Iterator[Fault]:
    if settings.domain is None:
        yield from _missing_domain(settings)
        return
    name, colon, port = settings.domain.partition(":")
    if not is_host_name(name) or (colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16)):
        yield Fault("domain", f"{settings.domain!r} is not a domain name with an optional port", "give one such as sandbox.example.com")


def _missing_domain(settings: Settings) -> Iterator[Fault]:
    """Clients on other machines need a domain. Without one, some SDKs send programs to their vendor."""
    if settings.role == "node":  # no client connects to it
        return
    for name in ("listen", "listen_tls"):
        host, text = "", getattr(settings, name)
        with contextlib.suppress(InvalidRequestError):  # _listeners reports it
            host = parse_listen(text)[0] if text else ""
        if host and not is_loopback(host):
            cause = f"{name} {text} is reached from other machines, where SDKs need a domain: else some send programs to their vendor"
            yield Fault("domain", cause, "give the domain whose subdomains resolve to this server, or headers-only for none")
            return


def _resolvers(settings: Settings) -> Iterator[Fault]:
    for text in settings.dns_upstreams:
        try:
            parse_upstream(text)
        except InvalidRequestError as error:
            yield _from_error("dns_upstreams", error)


def _sandbox_network(settings: Settings) -> Iterator[Fault]:
    if settings.network_cidr is None:
        return
    network = _network(settings.network_cidr)
    least, most = _CIDR_PREFIXES
    if isinstance(network, str):
        yield Fault("network_cidr", network, _CIDR_REMEDY)
    elif not least <= network.prefixlen <= most:
        yield Fault("network_cidr", f"{network} is too {'large' if network.prefixlen < least else 'small'}", _CIDR_REMEDY)
    elif not (network.is_private or network.subnet_of(_SHARED)) or any(network.overlaps(other) for other in _NEVER_ALLOWED):
        yield Fault("network_cidr", f"{network} is not a private network", _CIDR_REMEDY)


def _allowed_networks(settings: Settings) -> Iterator[Fault]:
    own = _network(settings.network_cidr) if settings.network_cidr else None
    for text in settings.allow_private:
        network = _network(text)
        if isinstance(network, str):
            yield Fault("allow_private", network, "write each like 10.20.0.0/16")
            continue
        bad = next((f"{what} ({other})" for other, what in _NEVER_ALLOWED.items() if network.overlaps(other)), "")
        if bad:
            yield Fault("allow_private", f"{network} holds {bad}", "list only the networks that sandboxes need")
        elif isinstance(own, IPv4Network) and network.overlaps(own):
            cause = f"{network} overlaps the sandboxes' own network {own}"
            yield Fault("allow_private", cause, "remove it; sandboxes never reach each other")


def _webhook_networks(settings: Settings) -> Iterator[Fault]:
    for text in settings.webhook_allow_private:
        network = _network(text)
        if isinstance(network, str):
            yield Fault("webhook_allow_private", network, "write each like 10.20.0.0/16")


def _proxies(settings: Settings) -> Iterator[Fault]:
    for text in settings.trusted_proxies:
        try:
            network = ip_network(text)
        except ValueError as error:
            yield Fault("trusted_proxies", str(error), "write each like 10.20.0.1 or 10.20.0.0/24")
            continue
        if not network.prefixlen:
            cause = f"{network} is every address, so any client could claim any address"
            yield Fault("trusted_proxies", cause, "list only the proxies")


def _issuer(settings: Settings) -> Iterator[Fault]:
    if settings.identity_issuer is not None and not _URL.match(settings.identity_issuer):
        cause = f"{settings.identity_issuer!r} is not the URL of a server"
        yield Fault("identity_issuer", cause, "give one such as https://api.sandbox.example.com, without a slash at its end")


def _collector(settings: Settings) -> Iterator[Fault]:
    if settings.otlp_endpoint is not None and not is_collector(settings.otlp_endpoint):
        yield Fault("otlp_endpoint", f"{settings.otlp_endpoint!r} is not the URL of a collector", "give one such as http://127.0.0.1:4318")


def is_collector(endpoint: str) -> bool:
    """Whether traces can be sent there: it is the URL of a server without a query."""
    return bool(_URL.match(endpoint.rstrip("/")))


def _paths(settings: Settings) -> Iterator[Fault]:
    directories = {name: getattr(settings, name) for name in ("data_dir", "store_dir", "run_dir")}
    for name, path in directories.items():
        if "\0" in str(path) or len(str(path)) > _MAX_TEXT:
            yield Fault(name, "it is not a path", "give an absolute path")
        elif path == Path("/"):
            yield Fault(name, "/ is the root directory", "give a directory of its own")
        elif ".." in path.parts:
            yield Fault(name, f"{path} holds '..'", "give the path without it")
    for name, other in (("data_dir", "store_dir"), ("data_dir", "run_dir"), ("store_dir", "run_dir")):
        if directories[name] == directories[other]:
            yield Fault(name, f"{directories[name]} is {other} too", "give each a directory of its own")
    length = len(str(settings.run_dir).encode(errors="surrogateescape")) + len(_LONGEST_SOCKET)
    if length > _SOCKET_PATH_BYTES:
        cause = f"the paths of its sockets would have {length} bytes; Linux allows {_SOCKET_PATH_BYTES}"
        yield Fault("run_dir", cause, f"give a path of at most {_SOCKET_PATH_BYTES - len(_LONGEST_SOCKET)} bytes")


def teams_runtimes(settings: Settings) -> dict[str, str]:
    """Team id to the runtime that its sandboxes have."""
    return {team: runtime for team, _, runtime in (entry.partition("=") for entry in settings.team_runtimes)}


def _runtimes(settings: Settings) -> Iterator[Fault]:
    for name in settings.gvisor_kernels:
        if name not in LANGUAGES:
            yield Fault("gvisor_kernels", f"{name!r} is no language", f"give some of {', '.join(LANGUAGES)}")
    forbidden = settings.forbidden_runtimes
    for name in forbidden:
        if name not in _RUNTIMES:
            yield Fault("forbidden_runtimes", f"{name!r} is no runtime", f"give some of {', '.join(_RUNTIMES)}")
    if set(_RUNTIMES) <= set(forbidden):
        yield Fault("forbidden_runtimes", "it leaves no runtime", "remove one")
    if settings.default_runtime in forbidden:
        yield Fault("default_runtime", f"{settings.default_runtime} is one of forbidden_runtimes", "give another one, or auto")
    for entry, (team, runtime) in zip(settings.team_runtimes, teams_runtimes(settings).items(), strict=False):
        if not team or runtime not in (*_RUNTIMES, "auto"):
            yield Fault("team_runtimes", f"{entry!r} is not TEAM-ID=RUNTIME", f"give one of {', '.join(_RUNTIMES)}, auto as the runtime")
        elif runtime in forbidden:
            yield Fault("team_runtimes", f"{runtime} is one of forbidden_runtimes", "give another one, or auto")


_CHECKS: tuple[Callable[[Settings], Iterator[Fault]], ...] = (
    _ranges,
    _pairs,
    _listeners,
    _role,
    _tls,
    _domain,
    _resolvers,
    _sandbox_network,
    _allowed_networks,
    _webhook_networks,
    _proxies,
    _issuer,
    _collector,
    _paths,
    _runtimes,
)


def _from_error(name: str, error: InvalidRequestError) -> Fault:
    return Fault(name, error.message, error.hint or "see docs/configuration.md")


def _network(text: str) -> IPv4Network | str:
    """The network, or what is wrong with the text."""
    try:
        return IPv4Network(text)
    except ValueError as error:
        return f"{text!r} is not an IPv4 network: {error}"
