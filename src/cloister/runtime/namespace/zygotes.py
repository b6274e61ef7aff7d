"""The zygotes of a zone: processes that have started an agent, or a Python kernel, already and fork it into new sandboxes.

Each start has a thread of its own. No sandbox depends on a zygote: where none is ready, it starts its processes cold. A zygote ends when
the supervisor that started it does. Contract: docs/decisions/0014-zygotes.md.
Runs in: supervisor and builds, in worker threads. Needs: root. Invariants: I1, I3, I7.
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
from cloister.linux.process import kill_pidfd, wait_pidfd
from cloister.model.resources import Limits
from cloister.runtime.groups import RuntimeGroups
from cloister.runtime.namespace import rootfs, wire
from cloister.runtime.namespace.plan import setup_strings, shm_bytes, zygote_payload
from cloister.runtime.namespace.zone import Zone
from cloister.runtime.spec import AgentTree, SandboxSpec

__all__ = [
    "KINDS",
    "Birth",
    "Zygote",
    "ZygoteFilters",
    "ZygoteHost",
    "ZygoteOptions",
    "Zygotes",
    "kinds_for",
    "log_in_memory",
    "sealed_file",
    "text_of_log",
]

KINDS = ("agent", "kernel")
_LIMITS = {
    "agent": Limits(mem_mib=2048, cpu_count=64.0, pids=64, open_files=1 << 20),
    "kernel": Limits(mem_mib=2048, cpu_count=1.0, pids=64, open_files=1 << 20),
}
"""Memory has room for the page tables of every live child, which count as the zygote's that copied them. A kernel's runs a
template's code: what that starts is bounded by these too."""
_SETUP_TIMEOUT_S = 30.0
_READY_TIMEOUT_S = 120.0
"""Sandboxes start cold meanwhile. Twice what a kernel's takes to learn and import at most (drivers/python/cloister_zygote/preload.py)."""
_FORK_TIMEOUT_S = 10.0
_RETRY_S = (1.0, 5.0, 30.0, 300.0)
_LOG_BYTES = 4000
_LOG_SIZE = 64 << 10
"""The size of a zygote's log, which is in memory: writes beyond that fail."""
_CPU_WORDS = 16
_REQUEST = struct.Struct(f"<Q{_CPU_WORDS}Q")
_ANSWER = struct.Struct("<ii40s")
"""``struct request`` and ``struct answer`` of native/join.c."""


@dataclass(frozen=True)
class ZygoteFilters:
    """Compiled seccomp filters: the one of a zygote itself, and the one that it gives to its children."""

    zygote: bytes
    sandbox: bytes


@dataclass(frozen=True, kw_only=True)
class ZygoteHost:
    """Settings and resources that zygotes of every zone share."""

    enabled: bool
    """False: no zygote is started, and every sandbox starts its processes cold."""
    proc_tree: Path
    """Fixed files of /proc (proctree.py)."""
    groups: RuntimeGroups
    filters: ZygoteFilters
    tell: Callable[[str, Mapping[str, object]], None]
    """Logs an event of a zygote with its fields. Called from any thread."""


@dataclass(frozen=True, kw_only=True)
class Birth:
    """Namespaces, control group and limits of a child. The descriptors stay the caller's."""

    namespaces: list[int]
    """net, pid, user, mnt, ipc, uts, cgroup, time."""
    group_files: list[int]
    cpus: list[int]
    nofile: int


class Zygote:
    """A zygote that is ready. Thread-safe; it forks one child after another."""

    def __init__(self, kind: str, pidfd: int, control: socket.socket, log: int) -> None:
        self.kind = kind
        self.forks = 0
        self._pidfd = pidfd
        self._control = control
        self._log = log
        self._lock = threading.Lock()
        self._closed = False

    def is_alive(self) -> bool:
        """Whether it can be asked for a child."""
        return not self._closed and not wait_pidfd(self._pidfd, 0)

    def is_open(self) -> bool:
        """Whether it has not been found dead yet."""
        return not self._closed

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it can be asked. Raises: RuntimeFailedError, which says whether it ended or took too long; OSError."""
        self._control.settimeout(timeout_s)
        try:
            cause = "" if self._control.recv(4096) else "ended before it was ready"
        except TimeoutError:
            cause = f"was not ready within {timeout_s:g} s"
        if cause:
            words = self.last_words()
            raise RuntimeFailedError(f"the {self.kind} zygote {cause}" + (f"; it wrote: {words}" if words else ""))
        self._control.settimeout(_FORK_TIMEOUT_S)

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
        """The end of its log."""
        return text_of_log(self._log)

    def kill(self) -> None:
        """End it, and wake a thread that waits for its answer: a process of its own may hold the socket open. Its children live on."""
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
    """The zygote of one kind, running or to be started."""

    kind: str
    zygote: Zygote | None = None
    starting: threading.Thread | None = None
    failures: int = 0
    retry_at: float = 0.0
    settled: threading.Event = field(default_factory=threading.Event)
    """Set when a start has succeeded or failed."""


def kinds_for(spec: SandboxSpec) -> tuple[str, ...]:
    """The kinds of zygotes that this sandbox can come from."""
    return KINDS if spec.sharing.runs_template_code and "python" in spec.languages else KINDS[:1]


@dataclass(frozen=True, kw_only=True)
class ZygoteOptions:
    """How the zygotes of one zone are made, derived from the specification of its first sandbox."""

    kinds: tuple[str, ...]
    agent: AgentTree | None
    layers: tuple[Path, ...]
    """The template's layers, for its kernel zygote; empty where no code of the template may run in the zone."""
    python: str

    @classmethod
    def of(cls, spec: SandboxSpec) -> ZygoteOptions:
        """The options of a zone whose sandboxes are like ``spec``."""
        layers = spec.layers if spec.sharing.runs_template_code else ()  # else the zygotes must not depend on one template's layers
        return cls(kinds=kinds_for(spec), agent=spec.agent, layers=layers, python=spec.python)

    @property
    def trees(self) -> tuple[Path, ...]:
        """The directories of the host that must stay as they are while the zygotes live."""
        return self.layers if self.agent is None else (*self.layers, *self.agent.interpreter, self.agent.agent)


class Zygotes:
    """The zygotes of one zone. Thread-safe."""

    def __init__(self, zone: Zone, options: ZygoteOptions, host: ZygoteHost) -> None:
        self._zone = zone
        self._options = options
        self._host = host
        self._lock = threading.Lock()
        self._stopped = False
        self._unready: dict[str, socket.socket] = {}
        """Sockets to zygotes that are being started."""
        self._places = {kind: _Place(kind) for kind in options.kinds if host.enabled}

    def ready(self, kind: str) -> Zygote | None:
        """The zygote of ``kind`` if it can be asked now; otherwise one is started in the background."""
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
        """Whether one of ``kind`` is there. Starts none and does not wait, since it is called on the event loop."""
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
            for control in tuple(self._unready.values()):  # one that starts is not waited for: it may take all its time
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
        """End the processes that a zygote started for itself: a template's code may outlive it. Its children have other groups."""
        with contextlib.suppress(OSError):  # the group is gone with its zone
            self._host.groups.tree.kill_all(self._group(kind))

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
        self._host.groups.create(group, _LIMITS[kind])
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
            log = log_in_memory(f"{kind} zygote log")
            undo.callback(os.close, log)
            with setup, theirs, ExitStack() as given:
                wire.send_setup(setup, *self._setup(kind, group, theirs.fileno(), log, given), self._host.filters.zygote, _SETUP_TIMEOUT_S)
            zygote = Zygote(kind, pidfd, ours, log)
            zygote.wait_ready(_READY_TIMEOUT_S)
            del self._unready[kind]
            undo.pop_all()
        return zygote

    def _setup(self, kind: str, group: str, control: int, log: int, given: ExitStack) -> tuple[list[str], list[tuple[str, int]]]:
        userns = rootfs.close_with(given, self._zone.open_userns())
        fds = rootfs.layer_mounts(self._layers(kind), userns, given)
        fds.append(rootfs.memory_mount(shm_bytes(_LIMITS[kind]), 0, given))
        fds += rootfs.common_mounts(self._options.agent, self._host.proc_tree, {}, userns, given)
        fds += [("group", rootfs.close_with(given, fd)) for fd in self._host.groups.tree.open_joining(group)]
        fds += [("control", control), ("log", log), ("status", log)]
        fds.append(("filter", rootfs.close_with(given, sealed_file("seccomp filter", self._host.filters.sandbox))))
        fds.append(("library", rootfs.close_with(given, sealed_file("cloister join", _library()))))
        cpus = sorted(os.sched_getaffinity(0))
        return setup_strings(zygote_payload(kind, self._options.python), _LIMITS[kind], "zygote", cpus), fds

    def _layers(self, kind: str) -> tuple[Path, ...]:
        """The layers of a zygote's root. An agent zygote never has a template's: the loader, libc and OpenSSL read files of the root that
        can name code to load (ld.so(8): /etc/ld.so.preload).
        """
        if kind == "kernel":
            return self._options.layers
        if self._options.agent is None:
            raise RuntimeFailedError("a sandbox without an agent has no agent zygote")
        return self._options.agent.interpreter


def text_of_log(log: int) -> str:
    """The end of what was written to a log of :func:`log_in_memory`."""
    return os.pread(log, _LOG_SIZE, 0).strip(b"\0\n ")[-_LOG_BYTES:].decode(errors="replace").strip()


def log_in_memory(name: str) -> int:
    """A file in memory of a fixed size, for the output of a helper; the caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _LOG_SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def sealed_file(name: str, content: bytes) -> int:
    """A file in memory that no process can change; the caller closes it. Source: memfd_create(2), fcntl(2) F_ADD_SEALS."""
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
