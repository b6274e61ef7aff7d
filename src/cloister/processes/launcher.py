"""The launcher of ``cloister serve``: starts the supervisor (root) and the api process (unprivileged), and restarts them when they die.

::

    listener, bound here or by systemd ► api process (uid of the instance), restarted with the same listening socket
    ready line of JSON ◄─── supervisor   restarted at once; sandboxes live on

In a cluster, the role ``api`` has no supervisor, and the role ``node`` has a node agent (processes/node_agent.py) for the api process.

SIGTERM or SIGINT stops the api process, then the supervisor, which ends, keeps or pauses the sandboxes (setting on_stop). SIGHUP reloads
the TLS certificate. When both processes serve and are connected, the launcher prints one ready line on standard output. A child that
exits with code 2 is not restarted, because its settings or its state are wrong: the launcher exits with the same code and leaves live
sandboxes for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cloister.config.settings import SETTINGS, Settings
from cloister.egresswire.values import VALUES_SOCKET
from cloister.errors import SettingsError, UnavailableError
from cloister.linux.files import make_directory
from cloister.linux.systemd import inherited_sockets, notify, take_notify_address
from cloister.model.addresses import parse_listen
from cloister.node.drain import drain_file
from cloister.node.instance import API_UID
from cloister.telemetry.logging import configure_logging
from cloister.tls.reloader import CertificateReloader, make_source, write_bundle

__all__ = ["LONGEST_STOP_S", "give_directory", "serve"]

_log = structlog.get_logger("cloister.serve")
_SECRETS = {setting.variable: setting.name for setting in SETTINGS if setting.is_secret}
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = {"api": 15.0, "node": 120.0}
_PAUSES_TIMEOUT_S = 600.0
"""Of the supervisor, where a stop may pause sandboxes, which writes their disks or memory."""
LONGEST_STOP_S = 660
"""A service manager must give a stop at least this time."""
_CALM_S = 10.0
_MAX_PAUSE_S = 5.0
_UNUSABLE = 2
_VALUES_BACKLOG = 128


def serve(settings: Settings) -> int:
    """Serve until a signal comes; the exit code. Raises: SettingsError when an address cannot be bound."""
    configure_logging(settings.log_level, settings.log_format, process="serve")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the supervisor needs a few descriptors for each sandbox
    source = make_source(settings)
    with contextlib.ExitStack() as stack:
        manager = take_notify_address(os.environ)
        given = _given_listeners(settings, stack)
        listener = given.get("listen") or stack.enter_context(_bind("listen", settings.listen))
        tls = None
        if source is not None and settings.listen_tls is not None:
            tls = CertificateReloader(source, given.get("listen_tls") or stack.enter_context(_bind("listen_tls", settings.listen_tls)))
            stack.callback(tls.close)
            if settings.tls_cert_file is None:
                write_bundle(settings.data_dir)
        return asyncio.run(_Launcher(settings, listener, tls, manager).run())


def _given_listeners(settings: Settings, stack: contextlib.ExitStack) -> dict[str, socket.socket]:
    """The listeners that systemd opened, by the settings whose addresses they have; ``stack`` closes them.

    Another address is refused: the settings were checked, such as that a public address has a domain. Raises: SettingsError.
    """
    try:
        sockets = inherited_sockets(os.environ)
    except (OSError, ValueError) as error:
        raise SettingsError(f"sockets of the service manager: {error}; use the unit of `cloister service print-socket`") from error
    found: dict[str, socket.socket] = {}
    for one in sockets:
        stack.callback(one.close)
        setting = next((name for name in ("listen", "listen_tls") if _is_at(getattr(settings, name), one)), None)
        if setting is None:
            place = f"the service manager listens on {one.getsockname()}, and neither listen nor listen_tls is that address"
            raise SettingsError(f"{place}; write its unit anew: cloister service install")
        found[setting] = one
    return found


def _is_at(listen: str | None, one: socket.socket) -> bool:
    """Whether ``one`` is the listener that a setting describes."""
    if listen is None or one.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        return one.getsockname()[:2] in {address[4][:2] for address in socket.getaddrinfo(*parse_listen(listen), one.family)}
    except socket.gaierror:
        return False


def _bind(name: str, listen: str) -> socket.socket:
    host, port = parse_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        cause = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        remedy = "is another server running there?" if error.errno == errno.EADDRINUSE else "give an address of this host"
        raise SettingsError(f"setting {name}: cannot listen on {listen}: {cause}; {remedy}") from error


@dataclass
class _Child:
    """A child process and its recent failures."""

    name: str
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    failures: int = 0
    watcher: asyncio.Task[None] | None = field(default=None, repr=False)


class _Launcher:
    def __init__(self, settings: Settings, listener: socket.socket, tls: CertificateReloader | None, manager: str) -> None:
        """``manager``: the address of the service manager, for :func:`notify`; "": there is none."""
        self._settings = settings
        self._listener = listener
        self._tls = tls
        self._manager = manager
        self._node = _Child("node")
        self._api = _Child("api")
        self._info: dict[str, object] = {}
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Start the processes, print the ready line, wait for a signal, stop. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        watching = asyncio.create_task(self._tls.watch()) if self._tls else None
        try:
            if self._settings.role == "api":
                self._info = {"instance": "none", "api_uid": API_UID, "why_unusable": ""}
            else:
                await self._start_node()
                self._node.watcher = asyncio.create_task(self._keep_alive(self._node))
            await self._start_api()
            self._api.watcher = asyncio.create_task(self._keep_alive(self._api))
            if await self._wait_healthy():
                self._tell_ready()
            await self._stopping.wait()
        except UnavailableError as error:
            print(f"cloister: {error}", file=sys.stderr)
            self._code = _UNUSABLE if self._is_unusable() else 1
        finally:
            self._stopping.set()
            self._notify("STOPPING=1")
            if watching is not None:
                watching.cancel()
            await self._stop(self._api)
            await self._stop(self._node, signal.SIGUSR1 if self._code == _UNUSABLE else signal.SIGTERM)
        return self._code

    def _notify(self, state: str) -> None:
        try:
            notify(self._manager, state)
        except OSError as error:
            _log.warning("manager.not_notified", error=str(error))

    def _tell_ready(self) -> None:
        self._notify(f"READY=1\nSTATUS=serves on {self._url()}")
        print(f"cloister ready on {self._url()} (instance {self._info['instance']}, pid {os.getpid()})", flush=True)
        if self._info["why_unusable"]:
            print(f"cloister: no sandbox can be created yet: {self._info['why_unusable']}", file=sys.stderr, flush=True)

    def _is_unusable(self) -> bool:
        """Whether a child reported that a restart does not help."""
        return any(child.process is not None and child.process.returncode == _UNUSABLE for child in (self._node, self._api))

    def _url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if self._settings.role == "node":
            return url.replace("http://", "tls://")
        return f"{url} and {self._tls.url()}" if self._tls else url

    def _reload(self) -> None:
        if self._tls is None:
            _log.info("reload.ignored", reason="SIGHUP reloads the TLS certificate only, and there is no TLS listener")
        else:
            self._tls.reload()

    def _command(self, name: str, *options: str) -> list[str]:
        values = [
            word
            for key, value in self._settings.to_json().items()
            if value not in (None, [])
            for word in ("--" + key.replace("_", "-"), ",".join(value) if isinstance(value, list) else str(value))
        ]
        return [sys.executable, "-P", "-m", "cloister.cli.main", name, "--parent", str(os.getpid()), *options, *values]

    def _secrets(self) -> dict[str, str]:
        """The secret settings as variables: every user of the host can read a command line."""
        values = {variable: getattr(self._settings, name) for variable, name in _SECRETS.items()}
        return {variable: value for variable, value in values.items() if value is not None}

    async def _start_node(self) -> None:
        """Start the supervisor and wait until it serves. Raises: UnavailableError."""
        reader, writer = os.pipe()
        try:
            self._node.process = await asyncio.create_subprocess_exec(
                *self._command("node", "--ready-fd", str(writer)),
                pass_fds=(writer,),
                env={name: value for name, value in os.environ.items() if name not in _SECRETS},
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(writer)
        self._node.started_at = time.monotonic()
        with os.fdopen(reader, "rb") as ready:
            try:
                line = await asyncio.wait_for(asyncio.to_thread(ready.read), _READY_TIMEOUT_S)
            except TimeoutError:
                self._node.process.kill()
                line = b""
        if not line:
            await self._node.process.wait()
            raise UnavailableError("the supervisor did not start", hint="its log is above; `cloister doctor` checks this host")
        self._info = json.loads(line)

    async def _start_api(self) -> None:
        uid = int(str(self._info["api_uid"]))
        directory = self._settings.data_dir / "api"
        give_directory(directory, uid)
        listen_fd, role = self._listener.fileno(), self._settings.role
        options = ["--uid", str(uid), "--listen-fd", str(listen_fd)]
        options += [] if role == "api" else ["--node-socket", f"{self._info['run_dir']}/supervisor.sock"]
        with contextlib.ExitStack() as stack:
            tls_options, fds = stack.enter_context(self._tls.handed_over()) if self._tls else ((), ())
            options += tls_options
            if role != "api":
                egress_uid = int(str(self._info["egress_uid"]))
                values = stack.enter_context(listen_for_values(Path(str(self._info["run_dir"])) / VALUES_SOCKET, egress_uid))
                options += ("--values-fd", str(values.fileno()), "--egress-uid", str(egress_uid))
                fds = (*fds, values.fileno())
            self._api.process = await asyncio.create_subprocess_exec(
                *self._command("agent" if role == "node" else "api", *options),
                pass_fds=(listen_fd, *fds),
                env={**os.environ, **({} if role == "node" else self._secrets())},
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        self._api.started_at = time.monotonic()

    async def _keep_alive(self, child: _Child) -> None:
        """Restart ``child`` whenever it dies: at once the first time, then with growing pauses."""
        while True:
            assert child.process is not None
            code = await child.process.wait()
            if self._stopping.is_set():
                return
            if code == _UNUSABLE:
                print(f"cloister: the {child.name} process cannot continue; the cause is above", file=sys.stderr)
                self._code = code
                self._stopping.set()
                return
            child.failures = 0 if time.monotonic() - child.started_at > _CALM_S else child.failures + 1
            _log.error("process.died", name=child.name, code=code, failures=child.failures)
            await asyncio.sleep(min(_MAX_PAUSE_S, 0.1 * 2**child.failures if child.failures else 0))
            if self._stopping.is_set():
                return
            try:
                await (self._start_node() if child is self._node else self._start_api())
            except UnavailableError as error:
                _log.error("process.not_started", name=child.name, error=str(error))

    async def _wait_healthy(self) -> bool:
        """Whether the api process serves and reached the supervisor; False if a stop came first. Raises: UnavailableError."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        host, port = self._listener.getsockname()[:2]
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        while time.monotonic() < deadline and not self._stopping.is_set():
            if self._settings.role == "node":  # callers wait for the agent on the listener, which is there
                return self._api.process is not None and self._api.process.returncode is None
            try:
                async with asyncio.timeout(2):
                    reader, writer = await asyncio.open_connection(target, port)
                    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    status = await reader.readline()
                    writer.close()
            except (OSError, TimeoutError):
                status = b""
            if b" 200 " in status or b" 204 " in status:
                return not self._stopping.is_set()
            await asyncio.sleep(0.05)
        if not self._stopping.is_set():
            raise UnavailableError("the api process does not answer", hint="its log is above")
        return False

    async def _stop(self, child: _Child, number: signal.Signals = signal.SIGTERM) -> None:
        if child.watcher:
            child.watcher.cancel()
        if child.process is None or child.process.returncode is not None:
            return
        child.process.send_signal(number)
        try:
            is_drained = drain_file(self._settings.data_dir).exists()
            may_pause = child is self._node and (self._settings.on_stop != "kill" or is_drained)
            await asyncio.wait_for(child.process.wait(), _PAUSES_TIMEOUT_S if may_pause else _STOP_TIMEOUT_S[child.name])
        except TimeoutError:
            _log.error("process.killed", name=child.name)
            child.process.kill()
            await child.process.wait()


def listen_for_values(path: Path, uid: int) -> socket.socket:
    """A listening unix socket that only processes of the user ``uid`` may connect to (unix(7), "Pathname socket ownership")."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(os.fspath(path))  # until its owner changes, only root may connect to it: no umask here gives others a right to write
        path.chmod(0o600)
        os.chown(path, uid, uid)
        listener.listen(_VALUES_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def give_directory(directory: Path, uid: int) -> None:
    """Give the api process its directory: the instance number, and with it the uid, may have changed since the last start."""
    if not directory.exists():
        make_directory(directory)
    directory.chmod(0o700)
    if directory.stat().st_uid == uid:
        return
    # the api process may have created any of these files: follow no symlink
    for _, names, files, below in os.fwalk(directory, topdown=False, follow_symlinks=False):
        for name in (*names, *files):
            os.chown(name, uid, uid, dir_fd=below, follow_symlinks=False)
    os.chown(directory, uid, uid)  # last, because its owner marks the whole tree as done
