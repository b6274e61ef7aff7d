"""A zone: one slot maker in a user namespace of its own, and the slots that it has made.

Runs in: supervisor. The slot maker outlives the supervisor, which finds it again by its socket and the note beside it (I8).
Host ids (docs/architecture.md): a zone has 513 blocks of 65,536 ids, the first for its own root, one for each slot.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cloister.errors import IsolationError, NoCapacityError
from cloister.linux.cgroup import CgroupTree
from cloister.linux.process import kill_pidfd, open_pidfd, pid_of_pidfd, start_ticks, wait_pidfd
from cloister.runtime.namespace import wire

__all__ = ["IDS_PER_SANDBOX", "SLOTS_PER_ZONE", "ZONES", "Slot", "Zone"]

IDS_PER_SANDBOX = 65_536
SLOTS_PER_ZONE = 512
ZONES = 15
_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Slot:
    """A place for one sandbox in a zone, held until :meth:`Zone.free`."""

    zone: int
    number: int

    @property
    def index(self) -> int:
        """The slot's number in the whole instance, 1..8190; it fixes its ids and its address."""
        return self.zone * (SLOTS_PER_ZONE + 1) + 1 + self.number


class Zone:
    """One slot maker. Made by :meth:`start` or :meth:`adopt`; thread-safe."""

    def __init__(self, number: int, template_key: str, pidfd: int, connection: socket.socket, directory: Path) -> None:
        self.number = number
        self.template_key = template_key
        self._pidfd = pidfd
        self._connection = connection
        self._directory = directory
        self._lock = threading.Lock()
        self._talking = threading.Lock()
        """Held for a conversation with the slot maker; whoever only counts slots does not wait for it."""
        self._used: set[int] = set()
        self._used_at = time.monotonic()
        self.on_stop: Callable[[], None] = lambda: None
        """Called before the slot maker is ended."""

    @classmethod
    def start(cls, number: int, template_key: str, uid_base: int, directory: Path, cgroups: CgroupTree) -> Zone:
        """Start slot maker ``number`` for one template. ``uid_base``: first host id of the instance.

        Raises: IsolationError.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "socket"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(4)
            pidfd = _launch(listener, number, uid_base, cgroups)
        pid = pid_of_pidfd(pidfd)
        note = {"template_key": template_key, "pid": pid, "start_ticks": start_ticks(pid)}
        (directory / "zone.json").write_text(json.dumps(note))
        return cls(number, template_key, pidfd, _connect(path), directory)

    @classmethod
    def adopt(cls, number: int, directory: Path) -> Zone | None:
        """The zone that lives in ``directory``, or None when its slot maker is gone, or is ending and hears nobody any more.

        Raises: OSError, when it is there and does not answer in time: its sandboxes are not ended for that.
        """
        try:
            note = json.loads((directory / "zone.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        pidfd = open_pidfd(note["pid"], note["start_ticks"])
        if pidfd is None:
            return None
        try:
            connection = _connect(directory / "socket")
        except (ConnectionRefusedError, FileNotFoundError):
            kill_pidfd(pidfd)
            wait_pidfd(pidfd, _END_TIMEOUT_S)
            os.close(pidfd)
            return None
        return cls(number, note["template_key"], pidfd, connection, directory)

    def is_alive(self) -> bool:
        """Whether the slot maker lives."""
        return not wait_pidfd(self._pidfd, 0)

    def is_idle(self) -> bool:
        """Whether no slot is taken."""
        with self._lock:
            return not self._used

    def idle_s(self) -> float:
        """Seconds since a slot was last taken or given back."""
        with self._lock:
            return time.monotonic() - self._used_at

    def free_slots(self) -> int:
        """How many slots are free."""
        with self._lock:
            return SLOTS_PER_ZONE - len(self._used)

    def take(self) -> Slot:
        """Reserve the lowest free slot. Raises: NoCapacityError."""
        with self._lock:
            for number in range(1, SLOTS_PER_ZONE + 1):
                if number not in self._used:
                    self._used.add(number)
                    self._used_at = time.monotonic()
                    return Slot(self.number, number)
        raise NoCapacityError("every slot of this template is taken")

    def hold(self, number: int) -> Slot:
        """Mark the slot of an adopted sandbox as taken."""
        with self._lock:
            self._used.add(number)
        return Slot(self.number, number)

    def free(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._lock:
            self._used.discard(slot.number)
            self._used_at = time.monotonic()

    def _is_free(self, number: int) -> bool:
        with self._lock:
            return number not in self._used

    def make(self, slot: Slot) -> wire.SlotHandles:
        """Make the namespaces and the first process of ``slot``. Raises: IsolationError, RuntimeFailedError, OSError."""
        with self._talking:
            return wire.make_slot(self._connection, slot.number)

    def make_zygote(self) -> tuple[int, socket.socket]:
        """A process of the zone that is to be set up as a zygote: pidfd and control socket. Raises: as :meth:`make`."""
        with self._talking:
            return wire.make_zygote(self._connection)

    def open_userns(self) -> int:
        """The zone's own user namespace; the caller closes it. Raises: OSError."""
        return os.open(f"/proc/{pid_of_pidfd(self._pidfd)}/ns/user", os.O_RDONLY | os.O_CLOEXEC)

    def kill_strangers(self) -> list[int]:
        """Kill the slots that nobody holds (their creation was cut off by a crash); gives their numbers."""
        with self._talking:
            live = wire.list_slots(self._connection)
            strangers = [number for number in live if self._is_free(number)]
            for number, pidfd in live.items():
                if number in strangers:
                    kill_pidfd(pidfd)
                    wait_pidfd(pidfd, 5)
                os.close(pidfd)
            return strangers

    def stop(self) -> None:
        """End the slot maker and, with it, every sandbox of the zone."""
        self.on_stop()
        kill_pidfd(self._pidfd)
        wait_pidfd(self._pidfd, _END_TIMEOUT_S)
        self._connection.close()
        os.close(self._pidfd)
        for name in ("socket", "zone.json"):
            (self._directory / name).unlink(missing_ok=True)
        self._directory.rmdir()

    def describe(self) -> str:
        """A line for the census."""
        return f"slot maker {self.number}: pid {pid_of_pidfd(self._pidfd)}, template {self.template_key}"


def slot_maker_binary() -> Path:
    """The C program that the package's build made. Raises: IsolationError when it is not there."""
    path = Path(str(resources.files("cloister"))) / "bin" / "cloister-slotmaker"
    if not path.exists():
        raise IsolationError(
            "the slot maker is not built", step="slot maker", path=str(path), hint="install the package again: pip install -e ."
        )
    return path


def _launch(listener: socket.socket, number: int, uid_base: int, cgroups: CgroupTree) -> int:
    """Start the program, give it its ids and its control group; returns a pidfd of the slot maker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_START_TIMEOUT_S)
    with ours, theirs:
        program = subprocess.Popen(
            ["cloister-init", str(theirs.fileno()), str(listener.fileno())],  # what a sandbox sees as its pid 1: no path of the host
            executable=slot_maker_binary(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), listener.fileno()),
            close_fds=True,
            env={},
            cwd="/",
        )
        theirs.close()
        try:
            _expect(ours, b"U")
            first = uid_base + (number * (SLOTS_PER_ZONE + 1) + 1) * IDS_PER_SANDBOX
            line = f"0 {first} {(SLOTS_PER_ZONE + 1) * IDS_PER_SANDBOX}"
            for kind in ("uid", "gid"):
                Path(f"/proc/{program.pid}/{kind}_map").write_text(line)
            cgroups.create(f"zone-{number}", None)
            cgroups.attach(f"zone-{number}", program.pid)
            ours.send(b"G")
            fds = _expect(ours, b"P")
        except OSError as error:
            program.kill()
            raise IsolationError(f"the slot maker did not start: {error}", step="slot maker") from error
        finally:
            program.wait()
    return fds[0]


def _expect(sock: socket.socket, word: bytes) -> list[int]:
    data, fds = wire.receive_with_fds(sock, 16)
    if data != word:
        raise ConnectionError("it ended early; its message is in the server's log")
    return fds


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(_START_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection
