"""The table of settings: each field of :class:`Settings` is one, with its type, default, unit and help.

To add a setting, add a field here and run ``python -m cloister.config.document docs/configuration.md``. Its command line option,
environment variable and TOML key follow from the field's name. The help text is one short sentence, for ``--help``; the details follow it
in the documentation. Choose the secure value as default. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.config.setting import Setting, declare, make_table, plain
from cloister.model.addresses import NO_DOMAIN
from cloister.model.resources import Limits

__all__ = ["SETTINGS", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, validated and frozen. ``cli`` reads them and passes them on as arguments."""

    listen: str = declare(
        "127.0.0.1:3000",
        "Address and port of the listener without TLS.",
        "It serves the API and sandbox traffic.",
        group="Listeners",
    )
    role: str = declare(
        "server",
        "What `cloister serve` runs.",
        "`server`: a whole server. In a cluster, `api`: the API alone; `node`: sandboxes alone. See docs/howto/cluster.md.",
        choices=("server", "api", "node"),
    )
    listen_tls: str | None = declare(
        None, "Address and port of a second listener, with TLS.", "It serves the same as the first one. See docs/howto/domains-and-tls.md."
    )
    tls_cert_file: Path | None = declare(
        None,
        "PEM file of the TLS listener's certificate chain.",
        "The certificate must be valid for the domain and its wildcard. If empty, the local authority issues one.",
    )
    tls_key_file: Path | None = declare(None, "PEM file of the certificate's private key.", "It must have no password. Root reads it.")
    domain: str | None = declare(
        None,
        "Public domain; sandboxes are at `<port>-<id>.<domain>`.",
        "It needs wildcard DNS, and may include a port. If empty, the server tells clients `localhost:<port>`, which is allowed only if "
        "every listener is on loopback. `headers-only`: the server has no domain, and clients address sandboxes by headers.",
    )
    trusted_proxies: tuple[str, ...] = declare(
        ("127.0.0.0/8", "::1/128"),
        "Addresses and networks (CIDR) of proxies in front of the server.",
        "`max_connections_per_peer` does not apply to them. The server takes the last address in their X-Forwarded-For header as the "
        "client's address, so each proxy must append to that header.",
    )

    data_dir: Path = declare(
        Path("/var/lib/cloister"), "Directory of this server's state.", "Each server on a host needs its own.", group="Directories"
    )
    database_url: str | None = declare(
        None,
        "Address of a PostgreSQL database for the server's state.",
        "Such as `postgresql://user:password@host:5432/cloister`. It is a secret: set it in the environment or in a file that only root "
        "reads. Several servers may share the database. If empty, the state is in a SQLite file. See docs/howto/postgresql.md.",
        is_secret=True,
    )
    store_dir: Path = declare(Path("/var/lib/cloister/store"), "Directory of template layers.", "All servers on the host share it.")
    run_dir: Path = declare(Path("/run/cloister"), "Directory of sockets and other state that a reboot may remove.")

    default_volume_mib: int = declare(5_120, "Size of a volume whose creator names none.", unit="MiB", group="Volumes")
    max_volume_mib: int = declare(65_536, "Size that a client may give to a volume.", "The least size is 64 MiB.", unit="MiB")
    max_volumes_per_team: int = declare(100, "Volumes that one team may have.", may_be_zero=True)

    dns_upstreams: tuple[str, ...] = declare(
        (),
        "Resolvers for the names that sandboxes ask for.",
        "If empty, the server uses those in /etc/resolv.conf.",
        group="Network of sandboxes",
    )
    identity_issuer: str | None = declare(
        None,
        "URL that names this server in identity tokens of sandboxes.",
        "Services that verify the tokens must reach `<URL>/.well-known/openid-configuration`. If empty, it is `https://api.<domain>`, or "
        "the address of the listener if there is no public domain. See docs/howto/secrets.md.",
    )
    inspect_tls: bool = declare(
        False,
        "Check each request in the TLS of sandboxes that may reach only names.",
        "Closes what an allowed server itself may allow: requests for another of its hosts on one connection (domain fronting). Programs "
        "that bring certificates of their own fail then. See docs/decisions/1073-inspection-of-all-tls.md.",
    )
    network_cidr: str | None = declare(
        None, "Private network of this server's sandboxes, a /8 to /18.", "If empty, it is 10.(200 + instance).0.0/16."
    )
    allow_private: tuple[str, ...] = declare(
        (),
        "Private networks (CIDR) that sandboxes may reach.",
        "Use it for a company's mirrors, for example. A network may contain this host's address; sandboxes never reach the host itself.",
    )
    network_mbit_per_s: int | None = declare(
        1_000,
        "Internet traffic of one sandbox in each direction.",
        "The kernel drops packets above this rate. If empty, there is no limit.",
        unit="Mbit/s",
    )
    network_packets_per_s: int | None = declare(
        100_000,
        "Packets that one sandbox sends.",
        "The kernel drops packets above this rate. If empty, there is no limit.",
        unit="packets/s",
    )
    network_connections_per_s: int | None = declare(
        500,
        "New connections of one sandbox.",
        "Look-ups of names count too. Four times as many may open at once. If empty, there is no limit but that of open connections.",
        unit="connections/s",
    )
    network_volume_mib: int | None = declare(
        None,
        "Internet traffic of one sandbox in all, both directions added.",
        "Above it, the kernel refuses all its packets. A resumed sandbox begins anew. If empty, there is no limit.",
        unit="MiB",
    )
    egress_mem_mib: int = declare(
        1024,
        "Memory of the process that enforces names, header rules and proxies.",
        "If it needs more, the kernel ends it: its connections are cut, and the server starts it again.",
        unit="MiB",
    )

    extra_ca_file: Path | None = declare(
        None,
        "PEM file of certificate authorities that sandboxes trust.",
        "Sandboxes also trust those of the host.",
        group="Images and host configuration",
    )
    include_credentials: bool = declare(
        False,
        "Whether sandboxes see credentials in the host's package settings.",
        "These are user names and passwords in the configuration of pip, npm and apt. If false, lines with credentials are left out.",
    )
    image_map: tuple[str, ...] = declare(
        (),
        "Replacements for images that templates are built from.",
        "Each is `REFERENCE=template:NAME` or `REFERENCE=OTHER-REFERENCE`. Both sides may end with `*`, such as "
        "`docker.io/*=mirror.example.com/hub/*`. See docs/howto/images.md.",
    )
    host_registries: tuple[str, ...] = declare(
        (),
        "Image registries on this host, each as `host:port`.",
        "Name each as clients do, such as `localhost:5000`. A pull from exactly that name reaches that address and port of the host; no "
        "other sandbox reaches it. Every team may pull from these registries.",
    )
    insecure_registries: tuple[str, ...] = declare(
        (),
        "Image registries that may be used without TLS.",
        "Name each as clients do: `host` or `host:port`. Registries on loopback addresses never need TLS. With TLS, the certificate must "
        "be valid in any case.",
    )

    default_runtime: str = declare(
        "namespace",
        "Runtime of sandboxes whose request and template name none.",
        "`namespace`: the host's kernel, the fastest. `gvisor`: a kernel of its own for each sandbox; the server does not start where that "
        "does not work. `auto`: the strongest that works here and is not forbidden. See docs/howto/gvisor.md.",
        choices=("namespace", "gvisor", "auto"),
        group="Runtimes",
    )
    forbidden_runtimes: tuple[str, ...] = declare(
        (),
        "Runtimes in which no new sandbox may run.",
        "Clients cannot build templates while `namespace` is forbidden, because it runs the steps of builds. Sandboxes that exist go on, "
        "and can be resumed.",
    )
    team_runtimes: tuple[str, ...] = declare(
        (),
        "Runtimes that new sandboxes of a team have in any case.",
        "Each is `TEAM-ID=RUNTIME`, such as `0f8c…=gvisor`. A request of the team that names another one is refused.",
    )
    runsc: Path | None = declare(
        None,
        "Program of the runtime `gvisor`.",
        "If empty, the one that `cloister runtime install gvisor` has installed. See docs/howto/gvisor.md.",
    )
    gvisor_kernels: tuple[str, ...] = declare(
        ("javascript", "r", "java"),
        "Languages whose kernels run in new sandboxes on gVisor, beside Python's.",
        "Their first runs are as fast as later ones. Each takes memory of every such sandbox: 25 to 60 MiB. Python alone: `python`.",
    )
    default_cpu_count: float = declare(
        Limits.cpu_count,
        "Processors of a sandbox.",
        "A template may set another value.",
        unit="cores",
        group="Default limits of a sandbox",
    )
    default_mem_mib: int = declare(
        Limits.mem_mib,
        "Memory of a sandbox.",
        "A template may set another value; `code-interpreter-v1` and `mcp-gateway` set 2048.",
        unit="MiB",
    )
    default_disk_mib: int = declare(Limits.disk_mib, "Disk space of a sandbox.", unit="MiB")
    default_inodes: int = declare(Limits.inodes, "Files of a sandbox.", unit="inodes")
    default_pids: int = declare(Limits.pids, "Processes and threads of a sandbox.")
    default_open_files: int = declare(Limits.open_files, "Open files of one process in a sandbox.")
    default_output_mib: int = declare(
        Limits.output_mib, "Output of one execution.", "Above it, the execution ends with an error.", unit="MiB"
    )

    max_cpu_count: float | None = declare(
        None,
        "Processors that one sandbox or build may request.",
        "If empty, as many as the host has.",
        unit="cores",
        group="Maximum limits of sandboxes",
    )
    max_mem_mib: int | None = declare(
        None, "Memory that one sandbox or build may request.", "If empty, as much as the host has.", unit="MiB"
    )
    max_disk_mib: int = declare(65_536, "Disk space that one sandbox or build may request.", unit="MiB")
    max_timeout_s: int = declare(86_400, "Time to live that a client may request.", unit="s")
    max_sandboxes: int = declare(7_680, "Live sandboxes of all teams.")
    max_sandboxes_per_team: int = declare(1_000, "Live sandboxes of one team.", "Paused sandboxes do not count.")
    max_paused_per_team: int = declare(
        1_000,
        "Paused sandboxes of one team.",
        "A running sandbox that is to be paused at the end of its lifetime counts too, so that there is room for it then.",
    )
    max_disk_mib_per_team: int | None = declare(
        None,
        "Disk space of all live sandboxes of one team.",
        "Each sandbox counts with its full disk size. If empty, there is no limit.",
        unit="MiB",
    )

    default_sandboxes_per_team: int | None = declare(
        None,
        "Live sandboxes of a team without a limit of its own.",
        "`cloister team limit` gives a team its own, up to `max_sandboxes_per_team`. If empty, it is that.",
        group="Default limits of a team",
    )
    default_paused_per_team: int | None = declare(
        None, "Paused sandboxes of a team without a limit of its own.", "If empty, it is `max_paused_per_team`."
    )
    default_cpu_count_per_team: float | None = declare(
        None,
        "Processors of all live sandboxes of such a team.",
        "Paused sandboxes do not count. If empty, there is no limit.",
        unit="cores",
    )
    default_mem_mib_per_team: int | None = declare(
        None,
        "Memory of all live sandboxes of such a team.",
        "Each counts with its full memory, paused ones do not count. If empty, there is no limit.",
        unit="MiB",
    )
    default_disk_mib_per_team: int | None = declare(
        None,
        "Disk space of all sandboxes of such a team.",
        "Each counts with its full disk size, paused ones too. If empty, it is `max_disk_mib_per_team`.",
        unit="MiB",
    )
    default_creations_per_s: float | None = declare(
        None,
        "Sandboxes that such a team may create in a second.",
        "As many may come at once. If empty, there is no limit.",
        unit="creations/s",
    )
    default_network_mbit_per_s_per_team: int | None = declare(
        None, "Network traffic of all sandboxes of such a team together, each way.", "If empty, there is no limit.", unit="Mbit/s"
    )
    default_network_packets_per_s_per_team: int | None = declare(
        None, "Packets that all sandboxes of such a team send in a second.", "If empty, there is no limit.", unit="packets/s"
    )
    default_network_connections_per_s_per_team: int | None = declare(
        None, "Connections that all sandboxes of such a team open in a second.", "If empty, there is no limit.", unit="connections/s"
    )
    default_network_volume_mib_per_day_per_team: int | None = declare(
        None, "Network traffic of all sandboxes of such a team in a day (UTC).", "If empty, there is no limit.", unit="MiB"
    )

    memory_reserve_mib: int = declare(
        512,
        "Memory of the host that the server leaves available.",
        "Where less is available, it creates and resumes no sandbox. Below twice as much, it moves out the memory of paused sandboxes. "
        "See docs/howto/operation.md. 0: none.",
        unit="MiB",
        may_be_zero=True,
        group="Memory of the host",
    )
    paused_to_disk_s: int = declare(
        60,
        "Time after which the memory of a paused sandbox moves to disk.",
        "To a checkpoint where those are on, else to swap where the host has some; else it stays. A small sandbox stays in memory.",
        unit="s",
    )

    disk_reserve_mib: int = declare(
        2048,
        "Free disk space below which the server creates nothing.",
        "Below it the server creates no sandbox and builds no template. Disk space promised to sandboxes does not count as free. Half of "
        "the reserve is for the server alone.",
        unit="MiB",
        group="Disk",
    )
    disk_overcommit: float = declare(
        80.0,
        "Factor by which the server may promise more disk than it has.",
        "The server keeps the disk size of each sandbox, divided by this factor, free for it. A sandbox may fill the rest while there is "
        "space. 1: the server keeps the whole disk of every sandbox free.",
    )
    disk_mib_per_s: int | None = declare(
        500, "Data rate of one sandbox's disk, for reads and for writes each.", "If empty, there is no limit.", unit="MiB/s"
    )
    disk_iops: int | None = declare(
        20_000,
        "Operations of one sandbox's disk, for reads and for writes each.",
        "If empty, there is no limit.",
        unit="operations/s",
    )
    layer_retention_s: int = declare(
        604_800,
        "How long the store keeps unused layers.",
        "A layer is unused if no template, build or sandbox has it. Later builds that find it skip its step.",
        unit="s",
    )

    zygotes: bool = declare(
        True,
        "Whether agents and Python kernels are forked from zygotes.",
        "If false, each is started by exec: slower and larger, but with a memory layout of its own.",
        group="Start and stop of sandboxes",
    )
    pool_size: int = declare(
        4, "Sandboxes of a template to create ahead of requests.", "A creation then takes a running one. 0: none.", may_be_zero=True
    )
    pool_templates: tuple[str, ...] = declare(
        ("code-interpreter-v1",),
        "Templates with a pool at all times.",
        "Other templates have a pool for ten minutes after a request for them.",
    )
    start_timeout_s: float = declare(
        50.0,
        "How long a creation waits for the template's start command.",
        "After it the creation fails and gives the reason. SDKs wait 60 s for the whole creation.",
        unit="s",
    )
    on_stop: str = declare(
        "kill",
        "Action of a clean stop on sandboxes that run.",
        "`kill` ends them, and frozen ones. `keep` lets them run on without a server. `pause` pauses them with their memory. The next "
        "start finds all sandboxes that did not end. If the host goes down, `keep` and `pause` save to disk what they can, the files at "
        "least. See docs/howto/operation.md.",
        choices=("kill", "keep", "pause"),
    )
    checkpoint: str | None = declare(
        None,
        "CRIU, which saves the memory of paused sandboxes on disk.",
        "`auto`, the path of the program, or of a directory with an unpacked one. `auto` takes the one that `cloister checkpoint install` "
        "has unpacked, else the host's. If empty, memory is never saved on disk. CRIU reads the processes of sandboxes with some power "
        "over the host, so it is off by default. See docs/howto/checkpoints.md.",
    )
    paused_retention_s: int = declare(
        2_592_000,
        "How long a sandbox may stay paused.",
        "The server then kills it. Each pause begins anew.",
        unit="s",
    )

    max_builds: int = declare(
        2,
        "Template builds of clients that run at the same time.",
        "Further builds wait. A team with no running build does not wait for a team with several: up to twice as many builds run then.",
        group="Templates and builds",
    )
    build_timeout_s: float = declare(7200.0, "Run time of one template build.", "Time in the queue does not count.", unit="s")
    ready_timeout_s: float = declare(600.0, "How long a build waits for its ready command to succeed.", unit="s")
    max_template_cpu_count: int = declare(8, "Processors that a client may give to a template's sandboxes.", unit="cores")
    max_template_mem_mib: int = declare(8_192, "Memory that a client may give to a template's sandboxes.", unit="MiB")
    max_template_disk_mib: int = declare(20_480, "Free disk that a client may give to a template's sandboxes.", unit="MiB")
    max_templates_per_team: int = declare(1_000, "Templates and snapshots of one team.")
    max_secrets_per_team: int = declare(1_000, "Secrets of one team.")
    max_webhooks_per_team: int = declare(10, "Webhooks of one team.")
    max_builds_per_team: int = declare(20, "Template builds of one team that wait or run.")
    max_upload_mib: int = declare(4_096, "Size of one archive of files for a template build.", unit="MiB")
    upload_total_mib: int = declare(
        16_384,
        "Disk space of such archives of all teams.",
        "The archives unused for longest are removed first, and any after a week without use.",
        unit="MiB",
    )

    max_body_mib: int = declare(
        8, "Body size of an API request.", "Requests to sandboxes have no such limit.", unit="MiB", group="Clients and requests"
    )
    max_connections: int = declare(
        4_000,
        "Connections of all clients.",
        "At the limit, a new connection closes the one that has waited longest without a request.",
    )
    max_connections_per_peer: int = declare(2_000, "Connections of one IPv4 address or IPv6 /64 network.")
    max_failed_keys: int = declare(
        20,
        "Wrong credentials of one address that are answered without delay.",
        "The server delays its answers to further ones. Each second it forgives one.",
    )
    head_timeout_s: float = declare(15.0, "Time for a client to send the head of a request.", "A TLS handshake counts.", unit="s")
    body_timeout_s: float = declare(60.0, "Time for a client to send the body of an API request.", unit="s")
    stall_timeout_s: float = declare(
        300.0,
        "Time that a transfer may make no progress.",
        "It applies to uploads, to request bodies for sandboxes and to responses that the client does not read. After it the server closes "
        "the connection. WebSockets and streams with no data to send are exempt.",
        unit="s",
    )
    node_wait_s: float = declare(5.0, "How long a request waits for a supervisor that restarts.", unit="s")

    ended_retention_s: int = declare(
        86_400, "How long the server keeps an ended sandbox's reason and log.", unit="s", group="Logs and metrics"
    )
    metrics_interval_s: float = declare(5.0, "Time between two samples of a sandbox's resource use.", unit="s")
    log_sandbox_kib: int = declare(512, "Disk space of one sandbox's log.", "A full log loses its older half.", unit="KiB")
    log_total_mib: int = declare(
        1_024, "Disk space of all sandboxes' logs.", "The logs that were idle for longest are removed first.", unit="MiB"
    )
    events_retention_s: int = declare(604_800, "How long the server keeps lifecycle events of sandboxes.", unit="s")
    max_events_per_team: int = declare(10_000, "Lifecycle events of one team that are kept, the newest ones.")
    webhook_allow_private: tuple[str, ...] = declare(
        (),
        "Private networks (CIDR) that webhooks may reach.",
        "Clients choose the URLs of webhooks, and the server sends requests there. Without this, it sends them to public addresses only.",
    )
    audit_total_mib: int = declare(
        64, "Disk space of the audit log.", "The oldest records of the team with the most are removed first.", unit="MiB"
    )
    audit_required: bool = declare(
        False,
        "Whether the API refuses changes while the audit log cannot be written.",
        "If false, changes go on, such as on a full disk. Records wait in memory, and those above 10,000 are counted as lost. "
        "See docs/howto/audit-and-events.md.",
    )
    otlp_endpoint: str | None = declare(
        None,
        "OpenTelemetry collector that gets traces.",
        "A URL for OTLP over HTTP, such as `http://127.0.0.1:4318`. "
        "If empty, the variable OTEL_EXPORTER_OTLP_ENDPOINT counts; without both there are no traces. "
        "Needs the packages of the extra `otel`. See docs/howto/monitoring.md.",
    )
    trace_ratio: float = declare(
        1.0, "Part of the traces to record, 0 to 1.", "The server chooses, whatever a client's `traceparent` says.", may_be_zero=True
    )
    max_traced_per_s: int = declare(100, "Most requests in traces each second.", unit="requests/s")
    log_level: str = declare("info", "Least severe level that is logged.", choices=("debug", "info", "warning", "error"))
    access_log: bool = declare(
        False,
        "Whether each request is logged.",
        "An entry `request.answered` has client, method, host, sandbox id, path without its query, status, bytes, seconds and user agent. "
        "It needs the `log_level` info or debug. See docs/howto/operation.md.",
    )
    log_format: str = declare("json", "Format of log lines on standard error.", choices=("json", "console"))

    @property
    def public_domain(self) -> str | None:
        """The domain; None if there is none."""
        return None if self.domain == NO_DOMAIN else self.domain

    def default_limits(self) -> Limits:
        """The limits of sandboxes whose template sets none."""
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
        """As JSON-ready data without secrets, to pass to a child process; :meth:`from_json` reads it back."""
        return {setting.name: plain(getattr(self, setting.name)) for setting in SETTINGS if not setting.is_secret}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Settings:
        """The inverse of :meth:`to_json`."""
        return cls(**{setting.name: setting.convert(data[setting.name]) for setting in SETTINGS if setting.name in data})


SETTINGS: tuple[Setting, ...] = make_table(Settings)
"""Every setting, in the order of the documentation."""
