"""``cloister service``: makes the server a systemd service, and removes it again.

``print`` (the default) and ``print-socket`` change nothing and need no root. ``install`` writes the units and starts them.
``uninstall`` ends the service and its sandboxes and removes the units; templates, sandboxes' disks and settings stay unless ``--purge``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from cloister.cli.census import take_census
from cloister.cli.recording import recorded
from cloister.cli.units import MARK, config_of, refresh_timer, refresh_unit, service_unit, socket_unit
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import ConflictError, PermissionDeniedError, UnavailableError
from cloister.linux.trees import remove_tree
from cloister.node.drain import drain_file
from cloister.node.instance import is_served
from cloister.node.trees_in_use import other_servers
from cloister.processes.preflight import find_host_faults, refuse_weak_code

__all__ = ["add_options", "run"]

_UNITS = Path("/etc/systemd/system")
_RUNS_SYSTEMD = Path("/run/systemd/system")
"""Exists if systemd is the host's init. Source: sd_booted(3)."""
_APPARMOR = Path("/etc/apparmor.d/cloister-slotmaker")
_ENDING_S = 180.0
_ACTIONS = ("print", "print-socket", "install", "uninstall")
_ACTIONS_HELP = (
    "print: the unit cloister.service (default); print-socket: cloister.socket; install: write these and the timer of updates, enable "
    "them and start the server; "
    "uninstall: end the service and its sandboxes, and remove the units"
)
_NAMES = ("cloister.socket", "cloister.service", "cloister-refresh.timer")
_REFRESH = "cloister-refresh.service"
"""The timer starts it, so that it is not enabled."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("action", nargs="?", default="print", choices=_ACTIONS, metavar="ACTION", help=_ACTIONS_HELP)
    parser.add_argument("--purge", action="store_true", help="uninstall: also remove the data directory and the store of templates")
    parser.add_argument("--unit-dir", metavar="DIR", type=Path, default=_UNITS, help=f"where the units are [{_UNITS}]")
    add_arguments(parser, "data_dir", "store_dir", "run_dir")
    parser.usage = "%(prog)s [ACTION] [OPTION]..."


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    config = None if args.config is None else Path(args.config).absolute()
    if args.action == "print":
        print(service_unit(_program(), config), end="")
        return 0
    if args.action == "print-socket":
        print(_socket(load(_only_config(args), {})), end="")
        return 0
    if os.geteuid() != 0:
        raise PermissionDeniedError("services belong to root", hint="run it with sudo")
    if args.action == "install":
        refuse_weak_code(os.environ)
        settings = load(_only_config(args), {}, find_host_faults)
        units = {"cloister.service": service_unit(_program(), config), "cloister.socket": _socket(settings)}
        _install(args.unit_dir, {**units, _REFRESH: refresh_unit(_program(), config), "cloister-refresh.timer": refresh_timer()})
    else:
        args.config = args.config or _installed_config(args.unit_dir)
        settings = load(args, os.environ)
        with recorded(settings, "server.uninstall", str(settings.data_dir)):
            _uninstall(args.unit_dir, settings, purge=args.purge)
    return 0


def _only_config(args: argparse.Namespace) -> argparse.Namespace:
    """The options that the service will have; it has no variables of this shell either."""
    return argparse.Namespace(config=args.config)


def _installed_config(unit_dir: Path) -> str | None:
    """The configuration file of the installed service: it says which data is the service's."""
    unit = unit_dir / "cloister.service"
    text = unit.read_text() if unit.exists() else ""
    config = config_of(text) if text.startswith(MARK) else None
    return None if config is None else str(config)


def _program() -> Path:
    return Path(sys.executable).with_name("cloister")


def _socket(settings: Settings) -> str:
    return socket_unit(*(text for text in (settings.listen, settings.listen_tls) if text is not None))


def _is_managed(unit_dir: Path) -> bool:
    """Whether the host's systemd reads the units."""
    return unit_dir == _UNITS and _RUNS_SYSTEMD.is_dir()


def _systemctl(*words: str) -> None:
    done = subprocess.run(["systemctl", *words], check=False)
    if done.returncode != 0:
        raise UnavailableError(f"systemctl {' '.join(words)} failed", hint="see `journalctl -u cloister`")


def _install(unit_dir: Path, units: dict[str, str]) -> None:
    unit_dir.mkdir(parents=True, exist_ok=True)
    for path in (unit_dir / name for name in units):  # all, before the first is written
        if path.exists() and not path.read_text().startswith(MARK):
            raise ConflictError(f"{path} is not a unit of this command", hint="remove it first")
    for name, text in units.items():
        path = unit_dir / name
        path.write_text(text)
        path.chmod(0o644)
        print(f"wrote {path}")
    if not _is_managed(unit_dir):
        print("systemd does not run here; the units are used where it does")
        return
    _systemctl("daemon-reload")
    _systemctl("enable", *_NAMES)
    _systemctl("stop", "cloister.service")  # a service that runs has a listener of its own, which the socket unit would collide with
    _systemctl("start", *_NAMES)
    print('the server runs; eval "$(sudo cloister env)" directs the SDKs of this shell to it')


def _uninstall(unit_dir: Path, settings: Settings, *, purge: bool) -> None:
    paths = [unit_dir / name for name in (*_NAMES, _REFRESH)]
    found = [path for path in paths if path.exists() and path.read_text().startswith(MARK)]
    if _is_managed(unit_dir) and found:
        _systemctl("disable", "--now", *(path.name for path in found if path.name != _REFRESH))
        _systemctl("stop", _REFRESH)
    _end_sandboxes(settings)
    for path in found:
        path.unlink()
        print(f"removed {path}")
    if _is_managed(unit_dir):
        _systemctl("daemon-reload")
    if _APPARMOR.exists():
        subprocess.run(["apparmor_parser", "--remove", _APPARMOR], check=False, stderr=subprocess.DEVNULL)
        _APPARMOR.unlink()
        print(f"removed {_APPARMOR}")
    _remove_data(settings, purge=purge)


def _end_sandboxes(settings: Settings) -> None:
    """End the sandboxes that live on without a server, by a server that adopts them and stops. Raises: UnavailableError, ConflictError.

    Paused sandboxes stay on disk.
    """
    if is_served(settings.data_dir, settings.run_dir):
        raise ConflictError(f"a server uses {settings.data_dir}", hint="stop it first")
    census = take_census(settings)
    if not census.live and not census.leftovers:
        return
    print(f"sandboxes to end: {len(census.live)}", flush=True)
    drain_file(settings.data_dir).unlink(missing_ok=True)  # a stop after a drain would pause them
    wanted = {**settings.to_json(), "listen": "127.0.0.1:0", "listen_tls": None, "domain": None, "on_stop": "kill", "pool_size": 0}
    wanted |= {"tls_cert_file": None, "tls_key_file": None}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items() if value is not None and not isinstance(value, list)]
    command = [sys.executable, "-P", "-m", "cloister.cli.main", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        is_ready = b"ready on" in server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        server.wait(_ENDING_S)
    if not is_ready:
        raise UnavailableError("the sandboxes could not be ended", hint="stop the server that uses this data directory; the cause is above")


def _without(directory: Path, kept: frozenset[Path]) -> list[Path]:
    """The paths to remove so that ``directory`` goes, except ``kept``, which may lie below it, as by default. Follows no symlink."""
    if not any(one.is_relative_to(directory) for one in kept):
        return [directory]
    if directory in kept or directory.is_symlink():
        return []
    return [one for path in sorted(directory.iterdir()) for one in _without(path, kept)]


def _remove_data(settings: Settings, *, purge: bool) -> None:
    others = other_servers(settings.store_dir, settings.data_dir)
    kept = []
    for path, is_shared in ((settings.store_dir, bool(others)), (settings.data_dir, False)):
        if not path.exists():
            continue
        if not purge or is_shared:
            kept.append(f"{path}" + (f" (also the store of {', '.join(map(str, others))})" if is_shared else ""))
            continue
        for one in _without(path.resolve(), frozenset((settings.store_dir.absolute(), settings.store_dir.resolve()))) if others else [path]:
            remove_tree(one)
            if one.exists():
                raise UnavailableError(f"{one} could not be removed whole", hint="see what is mounted below it: findmnt")
            print(f"removed {one}")
    for line in kept:
        print(f"kept {line}")
    if kept and not purge:
        print("they have the templates, the database and the disks of paused sandboxes; --purge removes them")
