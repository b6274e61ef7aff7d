"""``cloister serve``: the launcher. Starts the supervisor (root) and the api process (unprivileged), starts them again when they die.

::

    listener bound here ──────────────► api process (uid of the instance), restarted with the same listening socket
    ready line of JSON ◄─── supervisor   restarted at once; sandboxes live on

SIGTERM or SIGINT ends both in that order and, unless on_stop is ``keep``, every sandbox; SIGHUP reads the TLS certificate again. Prints
one ready line on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
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

from cloister.cli.certificates import Certificates, make_source, write_bundle
from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import InvalidRequestError, PermissionDeniedError, UnavailableError
from cloister.telemetry.logging import configure_logging

__all__ = ["add_parser", "give_directory", "run"]

_log = structlog.get_logger("cloister.serve")
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = {"api": 15.0, "node": 120.0}
_CALM_S = 10.0
_MAX_PAUSE_S = 5.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("serve", help="run the server in the foreground until SIGTERM")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Raises: PermissionDeniedError without root, InvalidRequestError for a bad address."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("cloister serve needs root: it makes namespaces, mounts and control groups", hint="run it with sudo")
    configure_logging(settings.log_level, settings.log_format, process="serve")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the supervisor holds a few descriptors for each sandbox
    source = make_source(settings)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bind("listen", settings.listen))
        tls = None
        if source is not None and settings.listen_tls is not None:
            tls = Certificates(source, stack.enter_context(_bind("listen_tls", settings.listen_tls)))
            stack.callback(tls.close)
            if settings.tls_cert_file is None:
                write_bundle(settings.data_dir)
        return asyncio.run(_Launcher(settings, listener, tls).run())


def _bind(name: str, listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        raise InvalidRequestError(f"setting {name}: {listen!r} is not HOST:PORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=1024)
    except OSError as error:
        raise InvalidRequestError(f"cannot listen on {listen}: {error.strerror}", hint="is another server running there?") from error


@dataclass
class _Child:
    """A child process and how often it died of late."""

    name: str
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    failures: int = 0
    watcher: asyncio.Task[None] | None = field(default=None, repr=False)


class _Launcher:
    def __init__(self, settings: Settings, listener: socket.socket, tls: Certificates | None) -> None:
        self._settings = settings
        self._listener = listener
        self._tls = tls
        self._node = _Child("node")
        self._api = _Child("api")
        self._info: dict[str, object] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Start, say that it is ready, wait for a signal, stop. The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        watching = asyncio.create_task(self._tls.watch()) if self._tls else None
        try:
            await self._start_node()
            self._node.watcher = asyncio.create_task(self._keep_alive(self._node))
            await self._start_api()
            self._api.watcher = asyncio.create_task(self._keep_alive(self._api))
            await self._wait_healthy()
            print(f"cloister ready on {self._url()} (instance {self._info['instance']}, pid {os.getpid()})", flush=True)
            if self._info["why_unusable"]:
                print(f"cloister: no sandbox can be created yet: {self._info['why_unusable']}", file=sys.stderr, flush=True)
            await self._stopping.wait()
        except UnavailableError as error:
            print(f"cloister: {error}", file=sys.stderr)
            return 1
        finally:
            self._stopping.set()
            if watching is not None:
                watching.cancel()
            await self._stop(self._api)
            await self._stop(self._node)
        return 0

    def _url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return f"{url} and {self._tls.url()}" if self._tls else url

    def _reload(self) -> None:
        if self._tls is None:
            _log.info("reload.ignored", reason="only the TLS certificate is read again, and there is no TLS listener")
        else:
            self._tls.reload()

    def _command(self, name: str, *options: str) -> list[str]:
        values = [
            word
            for key, value in self._settings.to_json().items()
            if value not in (None, [])
            for word in ("--" + key.replace("_", "-"), ",".join(value) if isinstance(value, list) else str(value))
        ]
        return [sys.executable, "-m", "cloister.cli.main", name, "--parent", str(os.getpid()), *options, *values]

    async def _start_node(self) -> None:
        """Start the supervisor and wait until it serves. Raises: UnavailableError."""
        reader, writer = os.pipe()
        try:
            self._node.process = await asyncio.create_subprocess_exec(
                *self._command("node", "--ready-fd", str(writer)),
                pass_fds=(writer,),
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
            raise UnavailableError("the supervisor did not start", hint="its log is above; `cloister doctor` checks this host")
        self._info = json.loads(line)

    async def _start_api(self) -> None:
        uid = int(str(self._info["api_uid"]))
        directory = self._settings.data_dir / "api"
        give_directory(directory, uid)
        listen_fd = self._listener.fileno()
        options = ("--uid", str(uid), "--listen-fd", str(listen_fd), "--node-socket", f"{self._info['run_dir']}/supervisor.sock")
        with contextlib.ExitStack() as stack:
            tls_options, tls_fds = stack.enter_context(self._tls.handed_over()) if self._tls else ((), ())
            self._api.process = await asyncio.create_subprocess_exec(
                *self._command("api", *options, *tls_options),
                pass_fds=(listen_fd, *tls_fds),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                umask=0o077,
            )
        self._api.started_at = time.monotonic()

    async def _keep_alive(self, child: _Child) -> None:
        """Start ``child`` again whenever it dies, at once the first time, then with growing pauses."""
        while True:
            assert child.process is not None
            code = await child.process.wait()
            if self._stopping.is_set():
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

    async def _wait_healthy(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        host, port = self._listener.getsockname()[:2]
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        while time.monotonic() < deadline and not self._stopping.is_set():
            try:
                async with asyncio.timeout(2):
                    reader, writer = await asyncio.open_connection(target, port)
                    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    status = await reader.readline()
                    writer.close()
            except (OSError, TimeoutError):
                status = b""
            if b" 200 " in status or b" 204 " in status:
                return
            await asyncio.sleep(0.05)
        if not self._stopping.is_set():
            raise UnavailableError("the api process does not answer", hint="its log is above")

    async def _stop(self, child: _Child) -> None:
        if child.watcher:
            child.watcher.cancel()
        if child.process is None or child.process.returncode is not None:
            return
        child.process.terminate()
        try:
            await asyncio.wait_for(child.process.wait(), _STOP_TIMEOUT_S[child.name])
        except TimeoutError:
            _log.error("process.killed", name=child.name)
            child.process.kill()
            await child.process.wait()


def give_directory(directory: Path, uid: int) -> None:
    """Make the api process's directory its own; the instance number, and with it the uid, may have changed since the last start."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid == uid:
        return
    for _, names, files, below in os.fwalk(directory, topdown=False, follow_symlinks=False):  # the api process may have made any of them
        for name in (*names, *files):
            os.chown(name, uid, uid, dir_fd=below, follow_symlinks=False)
    os.chown(directory, uid, uid)  # last: it says that all of it is done
