"""Planned stops of the whole server: each setting does to every kind of sandbox what it promises, and the log says it before."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from cloister.linux.cgroup import find_tree
from cloister.node.instance import instance_of
from framework.going_down import stop_on_a_host_that_goes_down
from framework.inside import python
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

MARKER = "/home/user/marker"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass
class Three:
    """Sandboxes that run, are frozen, and are paused by their files; each has a variable and a marker file."""

    running: Sandbox
    frozen: Sandbox
    files: Sandbox
    boot_ids: dict[str, str]

    @classmethod
    def create(cls, server: Server) -> Three:
        """They live for longer than the test."""
        running, frozen, files = made = [Sandbox.create(timeout=900, **server.sdk) for _ in range(3)]
        for sandbox in made:
            python(sandbox, "kept = 7")
            sandbox.files.write(MARKER, sandbox.sandbox_id)
        boot_ids = {sandbox.sandbox_id: sandbox.files.read(BOOT_ID) for sandbox in made}
        frozen.pause()
        files.pause(mode="filesystem")
        return cls(running, frozen, files, boot_ids)

    def keeps_memory(self, sandbox: Sandbox, server: Server) -> None:
        """It goes on where it was."""
        sandbox = connected(sandbox, server)
        assert python(sandbox, "print(kept)") == "7"
        assert sandbox.files.read(BOOT_ID) == self.boot_ids[sandbox.sandbox_id]
        self.keeps_files(sandbox, server)

    def keeps_files(self, sandbox: Sandbox, server: Server) -> None:
        """Its marker is there; and it can be killed."""
        sandbox = connected(sandbox, server)
        assert sandbox.files.read(MARKER) == sandbox.sandbox_id
        assert sandbox.kill()

    def lost_memory(self, sandbox: Sandbox, server: Server) -> None:
        """It was started anew on its files."""
        assert connected(sandbox, server).files.read(BOOT_ID) != self.boot_ids[sandbox.sandbox_id]
        self.keeps_files(sandbox, server)


def connected(sandbox: Sandbox, server: Server) -> Sandbox:
    """A fresh handle; a paused sandbox is resumed."""
    return Sandbox.connect(sandbox.sandbox_id, timeout=300, **server.sdk)


def status(server: Server) -> dict[str, Any]:
    """The server's status, whether it runs or not."""
    return dict(json.loads(server.cli("status", "--json", check=False).stdout))


def kinds(server: Server) -> dict[str, str]:
    """How each sandbox is kept, by id."""
    return {one["sandbox_id"]: one["kind"] for one in status(server)["sandboxes"]}


def losses(log: Path) -> dict[str, set[str]]:
    """The sandboxes that the log says will lose something, by the loss."""
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return {entry["loses"]: set(entry["sandboxes"]) for entry in entries if entry["event"] == "node.stop_loses"}


def again(server: Server, *options: str) -> Any:
    """Start a server on the same data directory and address."""
    return running_server("--listen", server.url.removeprefix("http://"), *options, data_dir=server.data_dir)


def test_kill_ends_all_but_what_is_on_disk() -> None:
    """Running and frozen sandboxes end, as the status and the log say before. Files stay, and no object of the server is left."""
    with running_server("--on-stop", "kill") as server:
        three = Three.create(server)
        alive = {three.running.sandbox_id, three.frozen.sandbox_id}
        assert set(status(server)["stop"]["lose_everything"]) == alive
        assert server.stop() == 0
        assert losses(server.log) == {"everything": alive}
        assert kinds(server) == {three.files.sandbox_id: "files"}
        assert "0 live sandboxes, 0 objects held, 0 left over\n1 paused sandboxes on disk" in server.census()
        with again(server) as second:
            three.lost_memory(three.files, second)
            assert not three.running.is_running()
            assert kinds(second) == {}


@pytest.mark.parametrize("on_stop", ["keep", "pause"])
def test_nothing_is_lost_while_the_host_runs(on_stop: str) -> None:
    """All three are there after the next start, with their memory; with ``pause`` they stood still meanwhile."""
    with running_server("--on-stop", on_stop) as server:
        three = Three.create(server)
        python(three.running, "import threading, time; count = 0\ndef run():\n    global count\n    while True: count += 1; time.sleep(0.01)")
        python(three.running, "threading.Thread(target=run, daemon=True).start()")
        shown = status(server)
        assert not shown["stop"]["lose_memory"] + shown["stop"]["lose_everything"]
        assert set(shown["reboot"]["lose_memory"]) == {three.running.sandbox_id, three.frozen.sandbox_id}
        assert server.stop() == 0
        assert losses(server.log) == {}
        alone = status(server)["reboot"]
        assert set(alone["lose_everything"]) == ({three.running.sandbox_id} if on_stop == "keep" else set())
        expected = "frozen" if on_stop == "pause" else ""
        assert kinds(server) == {three.running.sandbox_id: expected, three.frozen.sandbox_id: "frozen", three.files.sandbox_id: "files"}
        instance = instance_of(server.data_dir)
        assert instance is not None
        groups = find_tree(instance)
        assert groups.is_frozen(three.frozen.sandbox_id)
        assert groups.is_frozen(three.running.sandbox_id) == (on_stop == "pause")
        server.census()
        with again(server) as second:
            counted = int(python(connected(three.running, second), "print(count)"))
            assert counted > 0
            three.keeps_memory(three.running, second)
            three.keeps_memory(three.frozen, second)
            three.lost_memory(three.files, second)
            second.census()


def test_files_are_kept_when_the_host_goes_down() -> None:
    """The default of the service ends all processes then, cleanly, and says before what is lost. Nothing of the server is left alive."""
    with running_server("--on-stop", "keep") as server:
        three = Three.create(server)
        assert server.stop() == 0
        log = server.data_dir / "going-down.log"
        stop_on_a_host_that_goes_down(server.data_dir, log)
        assert losses(log) == {"memory": {three.running.sandbox_id, three.frozen.sandbox_id}}
        assert set(kinds(server).values()) == {"files"}
        assert "0 live sandboxes, 0 objects held, 0 left over\n3 paused sandboxes on disk" in server.census()
        with again(server) as second:
            for sandbox in (three.running, three.frozen, three.files):
                three.lost_memory(sandbox, second)


@pytest.mark.usefixtures("criu")
@pytest.mark.parametrize("way", ["host goes down", "pause"])
def test_checkpoints_keep_memory_through_a_stop(way: str) -> None:
    """With checkpoints on, memory is on disk after the stop, no process is left, and each sandbox goes on where it was."""
    options = ("--checkpoint", "auto", "--on-stop", "keep" if way == "host goes down" else "pause")
    with running_server(*options) as server:
        wait_for_checkpoints(server)
        three = Three.create(server)
        assert server.stop() == 0
        log = server.log
        if way == "host goes down":
            log = server.data_dir / "going-down.log"
            stop_on_a_host_that_goes_down(server.data_dir, log, checkpoint="auto")
        assert losses(log) == {}
        assert sorted(kinds(server).values()) == ["checkpoint", "checkpoint", "files"]
        assert "0 live sandboxes, 0 objects held, 0 left over\n3 paused sandboxes on disk" in server.census()
        with again(server, *options) as second:
            wait_for_checkpoints(second)
            three.keeps_memory(three.running, second)
            three.keeps_memory(three.frozen, second)
            three.lost_memory(three.files, second)


def wait_for_checkpoints(server: Server) -> None:
    """The server has proved that they work here."""
    deadline = time.monotonic() + 60
    while "checkpoint.works" not in (told := server.log.read_text()):
        assert "checkpoint.unavailable" not in told, told
        assert time.monotonic() < deadline, told
        time.sleep(0.1)


@pytest.mark.parametrize("moment", ["node.stop_loses", "sandbox.paused"])
def test_a_stop_that_is_cut_off_loses_no_file(moment: str) -> None:
    """The supervisor dies while it saves sandboxes. The next start finds each of them, as it was or with its files."""
    with running_server("--on-stop", "keep") as server:
        made = [Sandbox.create(timeout=900, **server.sdk) for _ in range(6)]
        for sandbox in made:
            sandbox.files.write(MARKER, sandbox.sandbox_id)
        assert server.stop() == 0
        stop_on_a_host_that_goes_down(server.data_dir, server.data_dir / "going-down.log", cut_off_at=moment)
        with again(server) as second:
            for sandbox in made:
                handle = connected(sandbox, second)
                assert handle.files.read(MARKER) == sandbox.sandbox_id
                assert handle.commands.run("echo on").stdout == "on\n"
                assert handle.kill()


def test_stop_of_many_is_within_its_time() -> None:
    """Twelve sandboxes are frozen in a moment, and all of them go on after the next start."""
    with running_server("--on-stop", "pause") as server:
        made = [Sandbox.create(timeout=900, **server.sdk) for _ in range(12)]
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 60
        assert set(kinds(server).values()) == {"frozen"}
        with again(server) as second:
            for sandbox in made:
                assert connected(sandbox, second).commands.run("echo on").stdout == "on\n"
                assert sandbox.kill()
