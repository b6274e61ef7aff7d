"""The processes that serve the content of volumes: one for each volume that clients use now, in a sandbox that holds nothing else.

The host looks up no path in a volume (I2). The process is a program of ours on the agent's interpreter (``agent/volume/main.py``), isolated
as a step of a build is: namespaces and ids of its own, no network, the filter of system calls, and a control group. It sees the volume
id-mapped, at one directory. The supervisor holds one end of a socket pair; by it a process gets its connections, and its end::

    dial:  socket pair ── one end ──> process (SCM_RIGHTS)      the other one ──> api process, which speaks HTTP on it

A process ends by itself when it is idle, and when the supervisor's end is closed, so a crash leaves none (I8). Any thread.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cloister.disks.volumes import VolumeDisks
from cloister.errors import CloisterError, NoCapacityError, UnavailableError
from cloister.linux.files import make_directory
from cloister.model.network import NO_EGRESS
from cloister.model.resources import Limits
from cloister.runtime.spec import AGENT_PROGRAMS, AGENT_PYTHON, AgentTree, Mount, StepSpec

__all__ = ["VolumeContents"]

_log = structlog.get_logger("cloister.node")
_PROGRAM = f"{AGENT_PROGRAMS}/volume/main.py"
_PLACE = "/.cloister/volume"
_LIMITS = Limits(cpu_count=1.0, mem_mib=256, pids=64, open_files=4096)
_LIFETIME_S = 7 * 86_400.0
_END_TIMEOUT_S = 10.0
_MOST = 32
"""Processes at a time."""
_MOST_OF_TEAM = 16
_SHOWN = 2_000
_CONNECTION, _END = b"c", b"e"
RunStep = Callable[[StepSpec, Callable[[bytes], None]], int]


@dataclass(frozen=True)
class _Content:
    """A volume as what a step mounts (:class:`cloister.runtime.spec.DiskSource`)."""

    disks: VolumeDisks
    volume_id: str
    user: str

    def open_disk(self, userns_fd: int) -> int:
        """See :class:`DiskSource`."""
        return self.disks.mount(self.volume_id, self.user, userns_fd)


@dataclass(eq=False)
class _Process:
    volume_id: str
    team_id: str
    control: socket.socket
    """Our end. A process that is about to go takes nothing more from it."""
    user: str
    thread: threading.Thread | None = None
    output: bytearray = field(default_factory=bytearray)

    def hear(self, data: bytes) -> None:
        """Keep the end of what it says: its last words tell why it ended."""
        self.output += data
        del self.output[:-_SHOWN]


class VolumeContents:
    """The processes of one node. Thread-safe."""

    def __init__(self, directory: Path, disks: VolumeDisks, run_step: RunStep, agent_tree: Callable[[], AgentTree]) -> None:
        """``directory`` is for their work, on the data file system."""
        self._directory = directory
        self._disks = disks
        self._run_step = run_step
        self._agent_tree = agent_tree
        self._processes: dict[str, _Process] = {}
        self._all: set[_Process] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Remove what a crash left. Raises: OSError."""
        shutil.rmtree(self._directory, ignore_errors=True)
        make_directory(self._directory)

    def dial(self, volume_id: str, team_id: str) -> socket.socket:
        """A connection to the process that serves a volume of a team, which starts if there is none; the caller closes it.

        The process may still be starting, and may fail to: then the connection breaks. Raises: NotFoundError, NoCapacityError.
        """
        self._disks.filling(volume_id)  # without the lock: a volume that is slow to mount holds up no other
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                with self._lock:
                    known = self._processes.get(volume_id)
                    if known is None or not _send(known, _CONNECTION, theirs):
                        _send(self._start(volume_id, team_id), _CONNECTION, theirs)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return ours

    def end(self, volume_id: str) -> None:
        """End the processes of a volume and wait until they are gone. Raises: UnavailableError: it takes too long."""
        with self._lock:
            self._processes.pop(volume_id, None)
            ending = [process for process in self._all if process.volume_id == volume_id]
        self._end(ending)

    def close(self) -> None:
        """End all processes. Raises: UnavailableError."""
        with self._lock:
            self._processes.clear()
            ending = list(self._all)
        self._end(ending)

    def _end(self, ending: list[_Process]) -> None:
        for process in ending:
            _send(process, _END)
        for process in ending:
            assert process.thread is not None
            process.thread.join(_END_TIMEOUT_S)
            if process.thread.is_alive():
                raise UnavailableError("the volume's content is still being served", hint="try again")

    def _start(self, volume_id: str, team_id: str) -> _Process:
        """Under the lock. Raises: NoCapacityError."""
        if sum(process.team_id == team_id for process in self._all) >= _MOST_OF_TEAM:
            raise NoCapacityError(f"the content of {_MOST_OF_TEAM} volumes of the team is being served", hint="try again in a minute")
        if len(self._all) >= _MOST:
            raise NoCapacityError(f"the content of {_MOST} volumes is being served", hint="try again in a minute")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        process = _Process(volume_id, team_id, ours, f"content {uuid.uuid4()}")
        process.thread = threading.Thread(target=self._run, args=(process, theirs), name="volume-content", daemon=True)
        self._all.add(process)
        self._processes[volume_id] = process
        process.thread.start()
        return process

    def _run(self, process: _Process, theirs: socket.socket) -> None:
        """The life of a process. Runs in: a thread of its own."""
        work = self._directory / process.user.rpartition(" ")[2]
        try:
            with theirs:
                status = self._run_step(self._step(process, work, theirs.fileno()), process.hear)
            if status:
                _log.warning(
                    "volume.content_failed", volume_id=process.volume_id, status=status, output=process.output.decode(errors="replace")
                )
        except (CloisterError, OSError) as error:  # a thread's border: the client sees that its connection broke
            _log.warning("volume.content_failed", volume_id=process.volume_id, error=str(error))
        finally:
            with self._lock:
                self._all.discard(process)
                if self._processes.get(process.volume_id) is process:
                    del self._processes[process.volume_id]
            process.control.close()
            self._disks.let_go(process.user)
            shutil.rmtree(work, ignore_errors=True)

    def _step(self, process: _Process, work: Path, descriptor: int) -> StepSpec:
        for name in ("", "empty", "work"):
            make_directory(work / name if name else work, 0o755 if name else 0o700)
        return StepSpec(
            name="volume",
            layers=(work / "empty",),
            upper=None,
            work=work / "work",
            argv=(*AGENT_PYTHON, _PROGRAM, _PLACE),
            envs={"LANG": "C.UTF-8"},
            egress=NO_EGRESS,
            limits=_LIMITS,
            timeout_s=_LIFETIME_S,
            agent=self._agent_tree(),
            mounts=(Mount(source=_Content(self._disks, process.volume_id, process.user), target=_PLACE),),
            descriptor=descriptor,
        )


def _send(process: _Process, what: bytes, connection: socket.socket | None = None) -> bool:
    """Send a word, perhaps with a connection; False: the process takes nothing more."""
    with contextlib.suppress(OSError):
        socket.send_fds(
            process.control, [what], [] if connection is None else [connection.fileno()], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
        )
        return True
    return False
