"""A zone: one slot maker in a user namespace of its own, and the slots that it has made.

The slot maker outlives the supervisor; the next one finds it by its socket and the note beside it (I8). A zone has one block of host ids
(:mod:`cloister.runtime.blocks`): the first range is for its own root, the others for its slots.
Runs in: supervisor and builds, in worker threads. Needs: root.
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
from typing import Any

from cloister.errors import IsolationError, NoCapacityError
from cloister.linux.files import make_directory, write_whole
from cloister.linux.process import kill_pidfd, open_pidfd, pid_of_pidfd, start_ticks, wait_pidfd
from cloister.runtime.blocks import IDS_PER_SLOT, SLOTS_PER_BLOCK, Blocks, slot_number
from cloister.runtime.groups import RuntimeGroups
from cloister.runtime.namespace import wire

__all__ = ["SLOTS_PER_ZONE", "Slot", "Zone", "slot_maker_binary"]

SLOTS_PER_ZONE = SLOTS_PER_BLOCK
"""A zone has one block of host ids and network slots, whose number is the zone's."""

_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 10.0
_NO_TEMPLATE = ""
"""The key of a zone that gets no new sandboxes."""


@dataclass(frozen=True)
class Slot:
    """Room for one sandbox in a zone, reserved until :meth:`Zone.free`."""

    zone: int
    number: int

    @property
    def index(self) -> int:
        """The slot's number in the whole instance, 1..8190; it fixes its ids and its address."""
        return slot_number(self.zone, self.number)


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
        """Held for an exchange with the slot maker, so that counting slots does not wait for one."""
        self._used: set[int] = set()
        self._used_at = time.monotonic()
        self.on_stop: Callable[[], None] = lambda: None
        """Called before the slot maker is ended."""

    @classmethod
    def start(cls, number: int, template_key: str, blocks: Blocks, directory: Path, groups: RuntimeGroups) -> Zone:
        """Start slot maker ``number``, whose ids are those of the block of that number, for one sharing key.

        Raises: IsolationError.
        """
        make_directory(directory.parent)
        make_directory(directory)
        path = directory / "socket"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(4)
            pidfd = _launch(listener, number, blocks, groups)
        pid = pid_of_pidfd(pidfd)
        note = {"template_key": template_key, "pid": pid, "start_ticks": start_ticks(pid)}
        write_whole(directory / "zone.json", json.dumps(note))
        return cls(number, template_key, pidfd, _connect(path), directory)

    @classmethod
    def adopt(cls, number: int, directory: Path, groups: RuntimeGroups) -> Zone | None:
        """The zone that lives in ``directory``; None when its slot maker is gone, or is ending and takes no connection any more.

        If the note is damaged, the zone is found by its control group. Its sandboxes live on, but it gets no new ones, because its key is
        not known. A zone whose slot maker is an older program gets no new ones either: that program would read a new set-up wrongly.

        Raises: OSError, when the slot maker lives and does not answer in time. Its sandboxes are not ended for that.
        """
        note = _read_note(directory / "zone.json") or _recovered_note(number, directory / "zone.json", groups)
        if note is None:
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
        is_current = _program_of(note["pid"]) == slot_maker_binary().read_bytes()
        return cls(number, note["template_key"] if is_current else _NO_TEMPLATE, pidfd, connection, directory)

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

    def make_mounter(self) -> tuple[int, socket.socket]:
        """The same for a process that mounts volumes into a sandbox of the zone. Raises: as :meth:`make`."""
        with self._talking:
            return wire.make_mounter(self._connection)

    def open_userns(self) -> int:
        """The zone's own user namespace; the caller closes it. Raises: OSError."""
        return os.open(f"/proc/{pid_of_pidfd(self._pidfd)}/ns/user", os.O_RDONLY | os.O_CLOEXEC)

    def kill_strangers(self) -> list[int]:
        """Kill the slots that no sandbox holds, because a crash cut off their creation; gives their numbers."""
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


def _read_note(path: Path) -> dict[str, Any] | None:
    """None: there is none, or it cannot be read."""
    try:
        note = json.loads(path.read_text())
        return {"template_key": str(note["template_key"]), "pid": int(note["pid"]), "start_ticks": int(note["start_ticks"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _recovered_note(number: int, path: Path, groups: RuntimeGroups) -> dict[str, Any] | None:
    """Write the note of a zone anew from its control group; None when there was no note, or no slot maker lives."""
    if not path.exists():
        return None
    pids = next(iter(groups.tree.directories(f"zone-{number}").values())) / "cgroup.procs"
    listed = pids.read_text().split() if pids.exists() else []
    if len(listed) != 1:
        return None
    note = {"template_key": _NO_TEMPLATE, "pid": int(listed[0]), "start_ticks": start_ticks(int(listed[0])) or 0}
    write_whole(path, json.dumps(note))
    return note


def _program_of(pid: int) -> bytes | None:
    """The program that a process runs, also when its file was replaced (proc(5)); None when it has ended."""
    try:
        return Path(f"/proc/{pid}/exe").read_bytes()
    except OSError:
        return None


def slot_maker_binary() -> Path:
    """The C program that the package's build made. Raises: IsolationError when it is not there."""
    path = Path(str(resources.files("cloister"))) / "bin" / "cloister-slotmaker"
    if not path.exists():
        raise IsolationError(
            "the slot maker is not built", step="slot maker", path=str(path), hint="install the package again: pip install -e ."
        )
    return path


def _launch(listener: socket.socket, number: int, blocks: Blocks, groups: RuntimeGroups) -> int:
    """Start the program, and give it its ids and its control group; gives a pidfd of the slot maker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_START_TIMEOUT_S)
    first = blocks.first_id(slot_number(number, 0))
    with ours, theirs:
        program = subprocess.Popen(
            ["cloister-init", str(theirs.fileno()), str(listener.fileno())],  # a sandbox sees this as its pid 1: no path of the host
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
            ours.send(first.to_bytes(4, "little"))
            _expect(ours, b"U")
            line = f"0 {first} {(SLOTS_PER_ZONE + 1) * IDS_PER_SLOT}"
            for kind in ("uid", "gid"):
                Path(f"/proc/{program.pid}/{kind}_map").write_text(line)
            groups.create(f"zone-{number}", None, is_helper=True)
            groups.tree.attach(f"zone-{number}", program.pid)
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
