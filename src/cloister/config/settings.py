"""The one table of settings: each field of :class:`Settings` is a setting, with its type, default, unit and help.

To add one, add a field here and run ``python -m cloister.config.document docs/configuration.md``; the command line option, the environment
variable and the TOML key follow from the name. Defaults are the secure ones. No I/O.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.model.resources import Limits

__all__ = ["SETTINGS", "Setting", "Settings"]


def _setting(default: Any, help_text: str, *, unit: str = "", choices: tuple[str, ...] = (), may_be_zero: bool = False) -> Any:
    metadata = {"help": help_text, "unit": unit, "choices": choices, "may_be_zero": may_be_zero}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, validated and frozen. Only ``cli`` reads them; everything else is handed what it needs."""

    listen: str = _setting("127.0.0.1:3000", "Address and port of the listener that serves the API and sandbox traffic in clear text.")
    listen_tls: str | None = _setting(
        None, "Address and port of a second listener, which serves the same by TLS. See docs/howto/domains-and-tls.md."
    )
    tls_cert_file: Path | None = _setting(
        None, "PEM file of the TLS listener's certificate chain, for the domain and its wildcard; none takes one of the local authority."
    )
    tls_key_file: Path | None = _setting(None, "PEM file of the certificate's private key, without a password. Read as root.")
    data_dir: Path = _setting(Path("/var/lib/cloister"), "Directory of this server's state. Each server of a host has one of its own.")
    store_dir: Path = _setting(Path("/var/lib/cloister/store"), "Directory of template layers, shared by all servers of the host.")
    run_dir: Path = _setting(Path("/run/cloister"), "Directory of sockets and other things that do not outlive a boot.")
    domain: str | None = _setting(
        None, "Public domain: sandboxes are reached at `<port>-<id>.<domain>`. Needs wildcard DNS. It may carry a port."
    )
    dns_upstreams: tuple[str, ...] = _setting((), "Resolvers that sandboxes' names are asked of; none takes those of /etc/resolv.conf.")
    network_cidr: str | None = _setting(None, "Addresses of this server's sandboxes, a /8 to /18; none takes 10.(200 + instance).0.0/16.")
    allow_private: tuple[str, ...] = _setting(
        (), "Networks (CIDR) that sandboxes may reach although they are not public, such as a company's mirrors; never this host itself."
    )
    include_credentials: bool = _setting(
        False, "Whether sandboxes see user names and passwords of the host's pip, npm and apt configuration (else such lines are left out)."
    )
    extra_ca_file: Path | None = _setting(None, "PEM file of certificate authorities that sandboxes trust besides the host's.")
    image_map: tuple[str, ...] = _setting(
        (),
        "What is taken in place of an image that a template is built from: `REFERENCE=template:NAME` or `REFERENCE=OTHER-REFERENCE`, each "
        "perhaps with a last `*`, such as `docker.io/*=mirror.example.com/hub/*`. See docs/howto/images.md.",
    )
    host_registries: tuple[str, ...] = _setting(
        (),
        "Registries of images on this very host, `host:port` as clients name them, such as `localhost:5000`: a pull from exactly such a "
        "name reaches that address and port of the host, and no other sandbox does. Every team may pull from them.",
    )
    insecure_registries: tuple[str, ...] = _setting(
        (),
        "Registries, `host` or `host:port` as clients name them, that may be spoken to without TLS; those at loopback addresses always "
        "may. A certificate must be right all the same.",
    )
    default_runtime: str = _setting("namespace", "How sandboxes are isolated when a request does not say.", choices=("namespace",))
    default_cpu_count: float = _setting(Limits.cpu_count, "Processors a sandbox may use.", unit="cores")
    default_mem_mib: int = _setting(Limits.mem_mib, "Memory a sandbox may use.", unit="MiB")
    default_disk_mib: int = _setting(Limits.disk_mib, "Disk a sandbox may fill.", unit="MiB")
    default_inodes: int = _setting(Limits.inodes, "Files a sandbox may have.", unit="inodes")
    default_pids: int = _setting(Limits.pids, "Processes and threads a sandbox may have.")
    default_open_files: int = _setting(Limits.open_files, "Open files of one process in a sandbox.")
    default_output_mib: int = _setting(Limits.output_mib, "Output of one execution before it is ended with an error.", unit="MiB")
    max_cpu_count: float | None = _setting(None, "Most processors one sandbox or build may ask for; none takes the host's.", unit="cores")
    max_mem_mib: int | None = _setting(None, "Most memory one sandbox or build may ask for; none takes the host's.", unit="MiB")
    max_disk_mib: int = _setting(65_536, "Largest disk one sandbox or build may ask for.", unit="MiB")
    disk_reserve_mib: int = _setting(2048, "Free disk below which no sandbox is created and no template built.", unit="MiB")
    layer_retention_s: int = _setting(
        604_800, "How long layers that no template, build or sandbox uses are kept: they spare later builds their steps.", unit="s"
    )
    zygotes: bool = _setting(
        True,
        "Whether agents and Python kernels are copies of prepared processes; if not, each is started anew: slower, larger, and with a "
        "memory layout of its own.",
    )
    pool_size: int = _setting(
        4, "Sandboxes of a template that are made ahead, so that a creation takes one that is up already. 0: none.", may_be_zero=True
    )
    pool_templates: tuple[str, ...] = _setting(
        ("code-interpreter-v1",), "Templates of which some are always made ahead; others once they were asked for in the last ten minutes."
    )
    max_builds: int = _setting(
        2,
        "Template builds of clients that run at a time; others wait. No team waits for one that has several: up to twice as many run then.",
    )
    build_timeout_s: float = _setting(7200.0, "Longest time one template build may take, without its waiting.", unit="s")
    start_timeout_s: float = _setting(
        50.0,
        "How long a creation waits until what its template starts is up; then it fails and says why. SDKs wait 60 s for the whole.",
        unit="s",
    )
    ready_timeout_s: float = _setting(600.0, "How long a template's build waits, at its end, for its ready command to succeed.", unit="s")
    on_stop: str = _setting(
        "kill", "What a clean stop does with live sandboxes; those kept are found again at the next start.", choices=("kill", "keep")
    )
    max_timeout_s: int = _setting(86_400, "Longest time to live that a client may ask for.", unit="s")
    max_sandboxes_per_team: int = _setting(1_000, "Live sandboxes a team may have.")
    max_body_mib: int = _setting(8, "Largest body of an API request; sandbox traffic has no such bound.", unit="MiB")
    max_template_cpu_count: int = _setting(8, "Processors that a client may give to a template's sandboxes.", unit="cores")
    max_template_mem_mib: int = _setting(8_192, "Memory that a client may give to a template's sandboxes.", unit="MiB")
    max_template_disk_mib: int = _setting(20_480, "Free disk that a client may give to a template's sandboxes.", unit="MiB")
    max_templates_per_team: int = _setting(1_000, "Templates and snapshots a team may have.")
    max_builds_per_team: int = _setting(20, "Template builds of a team that wait or run at a time.")
    max_upload_mib: int = _setting(4_096, "Largest archive of files that a template build may copy from.", unit="MiB")
    upload_total_mib: int = _setting(
        16_384, "Such archives of all teams on disk; those of no use for the longest time go first, and any after a week.", unit="MiB"
    )
    ended_retention_s: int = _setting(86_400, "How long it is remembered why a sandbox ended, and its log kept.", unit="s")
    metrics_interval_s: float = _setting(5.0, "Time between two samples of what a sandbox uses.", unit="s")
    log_sandbox_kib: int = _setting(512, "Log of one sandbox on disk; the oldest half of it goes when it is full.", unit="KiB")
    log_total_mib: int = _setting(1_024, "Logs of all sandboxes on disk; those that were written to least lately go first.", unit="MiB")
    node_wait_s: float = _setting(5.0, "How long a request waits for a node supervisor that is restarting.", unit="s")
    log_level: str = _setting("info", "Least severe level that is logged.", choices=("debug", "info", "warning", "error"))
    log_format: str = _setting("json", "Form of log lines on standard error.", choices=("json", "console"))

    def default_limits(self) -> Limits:
        """The limits that stock and new templates get."""
        return Limits(
            cpu_count=self.default_cpu_count,
            mem_mib=self.default_mem_mib,
            disk_mib=self.default_disk_mib,
            inodes=self.default_inodes,
            pids=self.default_pids,
            open_files=self.default_open_files,
            output_mib=self.default_output_mib,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data, to hand to a child process; :meth:`from_json` reads it back."""
        return {setting.name: _plain(getattr(self, setting.name)) for setting in SETTINGS}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Settings:
        """The inverse of :meth:`to_json`."""
        return cls(**{setting.name: setting.convert(data[setting.name]) for setting in SETTINGS if setting.name in data})


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    name: str
    kind: str
    """One of ``text``, ``integer``, ``number``, ``switch``, ``path``, ``list`` (of texts)."""
    optional: bool
    default: Any
    help: str
    unit: str
    choices: tuple[str, ...]
    may_be_zero: bool
    """Where it is a quantity."""

    @property
    def option(self) -> str:
        """The command line option."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "CLOISTER_" + self.name.upper()

    def convert(self, value: Any) -> Any:
        """``value``, from text or TOML or JSON, in the setting's own type.

        Raises:
            ValueError: it is not of that type, not positive where it is a quantity, or none of the choices.
        """
        if self.optional and (value is None or value == ""):
            return None
        converted = _CONVERTERS[self.kind](value)
        if self.kind in {"integer", "number"} and (converted < 0 or (converted == 0 and not self.may_be_zero)):
            raise ValueError("must not be negative" if self.may_be_zero else "must be positive")
        if self.choices and converted not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return converted


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool | float):
        raise ValueError("must be a whole number")  # noqa: TRY004 - what settings raise
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - what settings raise
    return float(value)


def _switch(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - what settings raise
    return value


def _path(value: Any) -> Path:
    path = Path(_text(str(value)))
    if not path.is_absolute():
        path = Path.cwd() / path
    return path


def _list(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of texts")
    return tuple(part.strip() for part in parts if part.strip())


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "switch": _switch,
    "path": _path,
    "list": _list,
}
_KINDS = {str: "text", int: "integer", float: "number", bool: "switch", Path: "path", tuple[str, ...]: "list"}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _table() -> tuple[Setting, ...]:
    hints = typing.get_type_hints(Settings)
    rows = []
    for field in dataclasses.fields(Settings):
        hint = hints[field.name]
        options = [arg for arg in typing.get_args(hint) if arg is not type(None)] if type(None) in typing.get_args(hint) else [hint]
        meta = field.metadata
        optional = hint is not options[0]
        rows.append(Setting(name=field.name, kind=_KINDS[options[0]], optional=optional, default=field.default, **meta))
    return tuple(rows)


SETTINGS: tuple[Setting, ...] = _table()
"""Every setting, in the order of the documentation."""
