"""The systemd units of a server: ``cloister.service`` runs it, ``cloister.socket`` keeps its listening sockets open meanwhile, and
``cloister-refresh.timer`` starts ``cloister-refresh.service``, which brings the stock templates up to date.

Pure text. docs/howto/operation.md explains each line. Invariant: no line ends a sandbox, moves it or changes its mounts.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

from cloister.errors import InvalidRequestError
from cloister.model.addresses import parse_listen
from cloister.processes.launcher import LONGEST_STOP_S

__all__ = ["MARK", "UNUSED_CAPABILITIES", "config_of", "refresh_timer", "refresh_unit", "service_unit", "socket_unit"]

MARK = "# Written by Cloister."
"""The first line of each file that the installation writes, and by which the removal knows it."""
UNUSED_CAPABILITIES = (
    "CAP_SYS_MODULE", "CAP_SYS_BOOT", "CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE", "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_SYS_TTY_CONFIG", "CAP_SYS_PACCT", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
)  # fmt: skip
"""Privileges of root that no process of the server uses. Sandboxes have user namespaces of their own, which these do not concern."""

_SERVICE = """\
{mark}
[Unit]
Description=Cloister, a server for sandboxes
Documentation=man:cloister(1)
Wants=network-online.target
After=network-online.target local-fs.target nss-lookup.target

[Service]
# `systemctl start` returns when the server answers requests.
Type=notify
NotifyAccess=main
TimeoutStartSec=180
ExecStart={program} serve{config}
# Reads the TLS certificate again.
ExecReload=kill -HUP $MAINPID
# Sandboxes live on while the server is stopped. If the host goes down, they are paused first (setting on_stop).
# `systemctl edit cloister` changes it: this line counts before a configuration file.
Environment=CLOISTER_ON_STOP=keep

# A stop signals the server's first process alone. On hosts with control groups v1, systemd counts the processes of sandboxes as the
# unit's, and would kill them.
KillMode=process
# The control groups of the processes are the server's: without this, systemd v1 moves them back to the unit's own.
Delegate=yes
# A sandbox that runs out of memory stops no other.
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
TimeoutStopSec={stop_s}

Restart=on-failure
RestartSec=2
# Its settings or its state are wrong; the log has the cause.
RestartPreventExitStatus=2

# What the server does not need, an intruder in it does not get: loading kernel modules, raw access to devices and memory, the clock,
# the kernel's log, a reboot, the rules of AppArmor and SELinux, auditing.
CapabilityBoundingSet=~{unused}
# The keys of root's sessions are not the server's, nor the reverse.
KeyringMode=private

[Install]
WantedBy=multi-user.target
Also=cloister.socket
"""
_SOCKET = """\
{mark}
[Unit]
Description=Listening sockets of Cloister, which stay open while the server restarts

[Socket]
{listen}
# An IPv6 address means itself alone, as in the server's settings.
BindIPv6Only=ipv6-only
# The address may appear later than the socket.
FreeBind=yes
Backlog=1024

[Install]
WantedBy=sockets.target
"""


_REFRESH = """\
{mark}
[Unit]
Description=Updates of the distribution for the templates of Cloister
Documentation=man:cloister(1)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart={program} template refresh{config}
# Sandboxes of the server come first.
Nice=10
IOSchedulingClass=idle
TimeoutStartSec=3h
# The steps of builds run in sandboxes, whose control groups are not the unit's: as in cloister.service.
Delegate=yes
CapabilityBoundingSet=~{unused}
KeyringMode=private
"""
_TIMER = """\
{mark}
[Unit]
Description=Brings the templates of Cloister up to date each night

[Timer]
OnCalendar=03:30
RandomizedDelaySec=2h
# After a night in which the host was off.
Persistent=true

[Install]
WantedBy=timers.target
"""


def service_unit(program: Path, config: Path | None = None) -> str:
    """The unit that runs ``program``, a path of the ``cloister`` command. Raises: InvalidRequestError."""
    words = _words(program, config)
    return _SERVICE.format(mark=MARK, **words, stop_s=LONGEST_STOP_S, unused=" ".join(UNUSED_CAPABILITIES))


def refresh_unit(program: Path, config: Path | None = None) -> str:
    """The unit that runs ``template refresh`` once. Raises: InvalidRequestError."""
    return _REFRESH.format(mark=MARK, **_words(program, config), unused=" ".join(UNUSED_CAPABILITIES))


def refresh_timer() -> str:
    """The unit that starts :func:`refresh_unit` each night."""
    return _TIMER.format(mark=MARK)


def _words(program: Path, config: Path | None) -> dict[str, str]:
    """Raises: InvalidRequestError."""
    for path in (program, config):
        if path is not None and not all(letter.isalnum() or letter in "/._-+@" for letter in str(path)):
            raise InvalidRequestError(f"systemd would misread the path {path}", hint="move it to one of letters, digits and . _ - + @")
    return {"program": str(program), "config": "" if config is None else f" --config {config}"}


def config_of(unit: str) -> Path | None:
    """The configuration file of a text by :func:`service_unit`."""
    found = re.search(r"(?m)^ExecStart=\S+ serve --config (\S+)$", unit)
    return None if found is None else Path(found[1])


def socket_unit(*listen: str) -> str:
    """The unit that listens on the addresses of the settings ``listen`` and ``listen_tls``. Raises: InvalidRequestError."""
    return _SOCKET.format(mark=MARK, listen="\n".join(f"ListenStream={_address(one)}" for one in listen))


def _address(listen: str) -> str:
    host, port = parse_listen(listen)
    host = "127.0.0.1" if host == "localhost" else host
    try:
        address = ip_address(host)
    except ValueError:
        raise InvalidRequestError(f"systemd listens on addresses, and {host!r} is a name", hint="give an address in `listen`") from None
    if port == 0:
        raise InvalidRequestError("systemd cannot listen on a free port of the kernel's choice", hint="give a port in `listen`")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
