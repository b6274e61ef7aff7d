"""Sandboxes of a real server that are paused and resumed by its node, and ways to lose the server meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from e2b_code_interpreter import Sandbox

from cloister.errors import CloisterError
from cloister.linux.cgroup import CgroupTree, find_tree
from cloister.model.lifecycle import Lifecycle
from cloister.model.sandbox import SandboxRecord
from cloister.node.instance import INSTANCES, RUN_ROOT
from cloister.nodewire.requests import Kill, PauseSandbox, ResumeSandbox, SandboxRef, SetDeadline
from framework.inside import shell
from framework.node_peer import NodePeer
from framework.server import Server
from framework.waiting import eventually

__all__ = ["BOOT_ID", "Subject", "killed_during", "reboot"]

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
_LIFETIME_S = 3600
_FILES = "seq 200000 > /opt/numbers; sha256sum /opt/numbers > /opt/sum; echo 0 > /opt/round"


class Subject:
    """A sandbox of a server, driven by its node."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.server, self.peer = server, NodePeer(server)
        self.sandbox = Sandbox.create(timeout=_LIFETIME_S, **options, **server.sdk)
        self.id = self.sandbox.sandbox_id

    def pause(self, *, memory: bool = True) -> SandboxRecord:
        """Pause it."""
        return self.peer.call(lambda node: node.pause(PauseSandbox(self.id, memory=memory)))

    def resume(self, *, memory: bool = True, lifecycle: Lifecycle | None = None, lifetime_s: float = _LIFETIME_S) -> SandboxRecord:
        """Resume it."""
        asked = ResumeSandbox(self.id, time.time() + lifetime_s, memory=memory, lifecycle=lifecycle)
        return self.peer.call(lambda node: node.resume(asked))

    def kill(self) -> bool:
        """End it; whether it was there."""
        return self.peer.call(lambda node: node.kill(Kill(self.id)))

    def set_end(self, end_at: float) -> None:
        """Let it live until then."""
        self.peer.call(lambda node: node.set_deadline(SetDeadline(self.id, end_at)))

    def record(self) -> SandboxRecord:
        """What the node says of it."""
        return self.peer.call(lambda node: node.get(SandboxRef(self.id)))

    def awake(self) -> Sandbox:
        """The sandbox for the SDK, resumed if it is paused."""
        return Sandbox.connect(self.id, timeout=_LIFETIME_S, **self.server.sdk)

    def group(self) -> CgroupTree | None:
        """The control groups that have it; None: none has."""
        return next((tree for tree in map(find_tree, range(INSTANCES)) if self.id in tree.names()), None)

    def pids(self) -> set[int]:
        """Its processes."""
        tree = self.group()
        return set() if tree is None else tree.pids(self.id)

    def directory(self) -> Path:
        """Its files on the host."""
        return Path(self.server.data_dir, "node", "sandboxes", self.id)

    def move_to(self, server: Server) -> None:
        """The next server has it."""
        self.server, self.peer = server, NodePeer(server)

    def journaled(self) -> tuple[str, bool]:
        """The state in the journal, and whether the entry names a process."""
        entry = json.loads((self.directory() / "record.json").read_text())
        return entry["record"]["state"], "pid" in (entry["runtime"] or {})

    def fill(self) -> None:
        """Give it files whose content can be checked."""
        shell(self.sandbox, _FILES)

    def is_whole(self, number: int = 0) -> None:
        """Its files are those of :meth:`fill` and of that round, synced or not."""
        assert shell(self.awake(), "sha256sum -c /opt/sum; cat /opt/round").text.split("\n") == ["/opt/numbers: OK", str(number)]


def killed_during(subject: Subject, change: Callable[[], object], kill_when: Callable[[], bool]) -> bool:
    """Begin ``change``, kill the supervisor as soon as ``kill_when``, and wait for the next one. The change may fail.

    Whether ``kill_when`` came true before the change was over.
    """

    def work() -> None:
        with suppress(CloisterError):
            change()

    node = subject.server.child("node")
    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 5
    has_come = False
    while thread.is_alive() and not has_come and time.monotonic() < until:
        has_come = kill_when()  # without a sleep: a step takes a fraction of a millisecond
    os.kill(node, signal.SIGKILL)
    thread.join(120)
    assert not thread.is_alive()
    return has_come


def reboot(server: Server) -> None:
    """As a restart of the host does: every process of the server and of its sandboxes dies at once, and ``/run`` is empty."""
    number = next(path.name for path in (RUN_ROOT / "instances").iterdir() if path.read_text() == str(server.data_dir))
    tree = find_tree(int(number))
    zones = [json.loads(path.read_text())["pid"] for path in (RUN_ROOT / number / "zones").glob("*/zone.json")]
    processes = [server.process.pid, server.child("node"), server.child("api"), *zones]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    for name in tree.names():
        tree.kill_all(name)
    eventually(lambda: not any(tree.pids(name) for name in tree.names()))
    for record in (RUN_ROOT / number / "records").iterdir():
        record.unlink()
