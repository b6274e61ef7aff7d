"""The zygotes of a zone: processes that have an agent, or a Python kernel, started already and fork it into new sandboxes.

Runs in: supervisor, in worker threads; each start has a thread of its own. Nothing depends on a zygote: where none is ready a sandbox
starts its processes cold. A zygote ends when the supervisor that started it does. Contract: docs/decisions/0014-zygotes.md.
Invariants: I1, I3, I7.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from cloister.errors import CloisterError, IsolationError, RuntimeFailedError
from cloister.linux.cgroup import CgroupTree
from cloister.linux.process import kill_pidfd, wait_pidfd
from cloister.model.resources import Limits
from cloister.runtime.namespace import rootfs, wire
from cloister.runtime.namespace.plan import setup_strings, zygote_payload
from cloister.runtime.namespace.zone import Zone
from cloister.runtime.spec import SandboxSpec

__all__ = ["KINDS", "Birth", "Zygote", "ZygoteFilters", "ZygoteHost", "Zygotes", "kinds_for", "sealed_file"]

KINDS = ("agent", "kernel")
_LIMITS = {
    "agent": Limits(mem_mib=2048, cpu_count=64.0, pids=64, open_files=1 << 20),
    "kernel": Limits(mem_mib=2048, cpu_count=1.0, pids=64, open_files=1 << 20),
}
"""Memory has room for the page tables of every live child, which count as the zygote's that copied them. A kernel's runs a
template's code: what that starts is bounded by these too."""
_SETUP_TIMEOUT_S = 30.0
_READY_TIMEOUT_S = 60.0
_FORK_TIMEOUT_S = 10.0
_RETRY_S = (1.0, 5.0, 30.0, 300.0)
_LOG_BYTES = 4000
_LOG_SIZE = 64 << 10
"""Of a zygote's log, which is memory: what it writes beyond that fails."""
_CPU_WORDS = 16
_REQUEST = struct.Struct(f"<Q{_CPU_WORDS}Q")
_ANSWER = struct.Struct("<ii40s")
"""``struct request`` and ``struct answer`` of native/join.c."""


@dataclass(frozen=True)
class ZygoteFilters:
    """What a zygote runs under, and what it puts its children under: compiled seccomp filters."""

    zygote: bytes
    sandbox: bytes


@dataclass(frozen=True, kw_only=True)
class ZygoteHost:
    """What zygotes of every zone have in common."""

    enabled: bool
    """False: there are none, and every sandbox starts its processes cold."""
    dev_tree: Path
    cgroups: CgroupTree
    filters: ZygoteFilters
    tell: Callable[[str, Mapping[str, object]], None]
    """Gets what became of zygotes: an event's name and its fields. Called in any thread."""


@dataclass(frozen=True, kw_only=True)
class Birth:
    """Where a child is to be: descriptors stay the caller's."""

    namespaces: list[int]
    """net, pid, user, mnt, ipc, uts, cgroup, time."""
    group_files: list[int]
    cpus: list[int]
    nofile: int


class Zygote:
    """One that is ready. Thread-safe; forks one after another."""

    def __init__(self, kind: str, pidfd: int, control: socket.socket, log: int) -> None:
        self.kind = kind
        self.forks = 0
        self._pidfd = pidfd
        self._control = control
        self._log = log
        self._lock = threading.Lock()
        self._closed = False

    def is_alive(self) -> bool:
        """Whether it may be asked."""
        return not self._closed and not wait_pidfd(self._pidfd, 0)

    def is_open(self) -> bool:
        """Whether it has not been found dead yet."""
        return not self._closed

    def ask(self, birth: Birth, birth_fd: int) -> None:
        """Ask for a child; :meth:`answer` is to follow. Others can be asked meanwhile.

        Raises: RuntimeFailedError, when it cannot be asked.
        """
        words = [sum(1 << (cpu % 64) for cpu in birth.cpus if cpu // 64 == word) for word in range(_CPU_WORDS)]
        request = _REQUEST.pack(birth.nofile, *words)
        self._lock.acquire()
        try:
            if self._closed:
                raise RuntimeFailedError(f"the {self.kind} zygote has ended")
            socket.send_fds(self._control, [request], [*birth.namespaces, birth_fd, *birth.group_files])
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise RuntimeFailedError(f"the {self.kind} zygote cannot be asked: {error}") from error
            raise

    def answer(self) -> None:
        """Wait for what became of :meth:`ask`. Raises: RuntimeFailedError, when there is no child; one that does not answer is killed."""
        try:
            answer = self._control.recv(_ANSWER.size)
            if not answer:
                raise RuntimeFailedError(f"the {self.kind} zygote has ended: {self.last_words()}")
            pid, code, step = _ANSWER.unpack(answer)
            if pid < 0:
                what = step.rstrip(b"\0").decode(errors="replace")
                raise RuntimeFailedError(f"the {self.kind} zygote could not {what}: {os.strerror(code)}")
            self.forks += 1
        except (OSError, struct.error) as error:
            self.kill()
            raise RuntimeFailedError(f"the {self.kind} zygote does not answer: {error}; {self.last_words()}") from error
        finally:
            self._lock.release()

    def last_words(self) -> str:
        """The end of what it wrote."""
        return os.pread(self._log, _LOG_SIZE, 0).strip(b"\0\n ")[-_LOG_BYTES:].decode(errors="replace").strip()

    def kill(self) -> None:
        """End it, and whoever waits for its answer: what it started may hold its socket open. Its children live on."""
        kill_pidfd(self._pidfd)
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it and let go of its descriptors."""
        if not self._closed:
            self.kill()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._control.close()
                os.close(self._pidfd)
                os.close(self._log)


@dataclass
class _Place:
    """Where the zygote of one kind is, or will be."""

    kind: str
    zygote: Zygote | None = None
    starting: threading.Thread | None = None
    failures: int = 0
    retry_at: float = 0.0
    settled: threading.Event = field(default_factory=threading.Event)
    """Set when a start has ended, well or not."""


def kinds_for(spec: SandboxSpec) -> tuple[str, ...]:
    """The kinds of zygotes that sandboxes of this template can come from."""
    return KINDS if "python" in spec.languages else KINDS[:1]


class Zygotes:
    """The zygotes of one zone, for the template of ``spec``. Thread-safe."""

    def __init__(self, zone: Zone, spec: SandboxSpec, host: ZygoteHost) -> None:
        self._zone = zone
        self._spec = spec
        self._host = host
        self._lock = threading.Lock()
        self._stopped = False
        self._unready: dict[str, socket.socket] = {}
        """Sockets to zygotes that are being started."""
        self._places = {kind: _Place(kind) for kind in kinds_for(spec) if host.enabled}

    def ready(self, kind: str) -> Zygote | None:
        """The zygote of ``kind`` if it can be asked now; otherwise one is started behind."""
        place = self._places.get(kind)
        if place is None:
            return None
        with self._lock:
            if place.zygote is not None and place.zygote.is_alive():
                return place.zygote
            self._bury(place)
            self._start(place)
            return None

    def is_ready(self, kind: str) -> bool:
        """Whether one of ``kind`` is there; starts none, and waits for nothing: it is asked on the event loop."""
        place = self._places.get(kind)
        zygote = None if place is None else place.zygote
        return zygote is not None and zygote.is_open()

    def wait(self, timeout_s: float) -> None:
        """Until each is ready or has failed to start."""
        deadline = time.monotonic() + timeout_s
        for place in self._places.values():
            if self.ready(place.kind) is None and place.starting is not None:
                place.settled.wait(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """End them, also one that is being started."""
        with self._lock:
            self._stopped = True
            for place in self._places.values():
                self._bury(place)
            for control in tuple(self._unready.values()):  # nobody waits for one that starts: it may take all its time
                with contextlib.suppress(OSError):
                    control.shutdown(socket.SHUT_RDWR)
        for starting in [place.starting for place in self._places.values()]:  # read once: it becomes None by itself
            if starting is not None:
                starting.join()

    def _tell(self, event: str, kind: str, **fields: object) -> None:
        self._host.tell(event, {"zone": self._zone.number, "kind": kind, **fields})

    def _bury(self, place: _Place) -> None:
        zygote, place.zygote = place.zygote, None
        if zygote is None:
            return
        if not self._stopped:
            self._tell("zygote.ended", place.kind, forks=zygote.forks, said=zygote.last_words())
            place.retry_at = time.monotonic() + _RETRY_S[0]
        zygote.close()
        self._clear(place.kind)

    def _clear(self, kind: str) -> None:
        """End what a zygote has started for itself: a template's code may outlive it. Its children are in their sandboxes' groups."""
        with contextlib.suppress(OSError):  # the group is gone with its zone
            self._host.cgroups.kill_all(self._group(kind))

    def _group(self, kind: str) -> str:
        return f"zone-{self._zone.number}-{kind}"

    def _start(self, place: _Place) -> None:
        if self._stopped or place.starting is not None or time.monotonic() < place.retry_at:
            return
        place.settled.clear()
        place.starting = threading.Thread(target=self._run_start, args=(place,), name=f"zygote-{place.kind}", daemon=True)
        place.starting.start()

    def _run_start(self, place: _Place) -> None:
        began = time.monotonic()
        zygote = None
        try:
            zygote = self._make(place.kind)
        except (CloisterError, OSError) as error:  # thread border: sandboxes start cold until the next try
            place.retry_at = time.monotonic() + _RETRY_S[min(place.failures, len(_RETRY_S) - 1)]
            place.failures += 1
            self._clear(place.kind)
            if not self._stopped:
                again_in_s = round(place.retry_at - time.monotonic())
                self._tell("zygote.not_started", place.kind, error=str(error), again_in_s=again_in_s)
        with self._lock:
            place.starting = None
            if zygote is not None:
                place.failures = 0
                place.zygote = zygote
                if self._stopped:
                    self._bury(place)
                else:
                    self._tell("zygote.ready", place.kind, seconds=round(time.monotonic() - began, 3))
        place.settled.set()

    def _make(self, kind: str) -> Zygote:
        """Raises: IsolationError, RuntimeFailedError, OSError."""
        group = self._group(kind)
        self._host.cgroups.create(group, _LIMITS[kind])
        with ExitStack() as undo:
            pidfd, setup = self._zone.make_zygote()
            undo.callback(os.close, pidfd)
            undo.callback(kill_pidfd, pidfd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            undo.callback(self._unready.pop, kind, None)
            with self._lock:
                if self._stopped:
                    raise RuntimeFailedError("its zone is being stopped")
                self._unready[kind] = ours
            log = _make_log(kind)
            undo.callback(os.close, log)
            with setup, theirs, ExitStack() as given:
                wire.send_setup(setup, *self._setup(kind, group, theirs.fileno(), log, given), self._host.filters.zygote, _SETUP_TIMEOUT_S)
            ours.settimeout(_READY_TIMEOUT_S)
            try:
                word = ours.recv(4096)
            except TimeoutError:
                word = b""
            if not word:
                zygote = Zygote(kind, pidfd, ours, log)
                raise RuntimeFailedError(f"the {kind} zygote did not become ready: {zygote.last_words()}")
            ours.settimeout(_FORK_TIMEOUT_S)
            del self._unready[kind]
            undo.pop_all()
        return Zygote(kind, pidfd, ours, log)

    def _setup(self, kind: str, group: str, control: int, log: int, given: ExitStack) -> tuple[list[str], list[tuple[str, int]]]:
        userns = rootfs.close_with(given, self._zone.open_userns())
        fds = rootfs.layer_mounts(self._spec.layers, userns, given)
        fds += rootfs.common_mounts(self._spec.agent, self._host.dev_tree, {}, userns, given)
        fds += [("group", rootfs.close_with(given, fd)) for fd in self._host.cgroups.open_joining(group)]
        fds += [("control", control), ("log", log), ("status", log)]
        fds.append(("filter", rootfs.close_with(given, sealed_file("seccomp filter", self._host.filters.sandbox))))
        fds.append(("library", rootfs.close_with(given, sealed_file("cloister join", _library()))))
        cpus = sorted(os.sched_getaffinity(0))
        return setup_strings(zygote_payload(kind, self._spec.python), _LIMITS[kind], "zygote", cpus), fds


def _make_log(kind: str) -> int:
    """A file in memory of a fixed size; the caller closes it."""
    fd = os.memfd_create(f"{kind} zygote log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _LOG_SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def sealed_file(name: str, content: bytes) -> int:
    """A file in memory that nobody can change any more; the caller closes it. Source: memfd_create(2), fcntl(2) F_ADD_SEALS."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def _library() -> bytes:
    path = Path(str(resources.files("cloister"))) / "bin" / "join.so"
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "install the package again: pip install -e ."
        raise IsolationError("join.so is not built", step="zygote", path=str(path), hint=hint) from error
