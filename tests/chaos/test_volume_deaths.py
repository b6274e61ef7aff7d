"""kill -9 of supervisor, api process and the process that serves content, while two sandboxes and a client write to one volume."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox, SandboxException, Volume, VolumeException
from e2b.exceptions import ServiceBusyException

from cloister.linux.cgroup import CgroupTree, find_tree
from cloister.linux.loop import devices_of
from cloister.node.instance import INSTANCES
from framework.server import running_server
from framework.volumes import fresh_volume
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

_DEATHS = [*("node", "api", "content") * 3]
_LOST = (SandboxException, VolumeException, ServiceBusyException, httpx.HTTPError, OSError)
_WRITER = """
import fcntl, hashlib, json, os, random, sys
who, place = sys.argv[1], "/d/" + sys.argv[1]
os.mkdir(place)
with open("/home/user/acks", "w") as acks, open("/d/both", "ab", buffering=0) as both:
    number = 0
    while not os.path.exists("/tmp/stop"):
        data, name, number = os.urandom(random.randrange(1, 20_000)), f"{place}/{number}", number + 1
        with open(f"{name}.new", "wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        os.rename(f"{name}.new", name)
        directory = os.open(place, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        line = f"{who} {number} {os.urandom(16).hex()}\\n"
        fcntl.flock(both, fcntl.LOCK_EX)
        both.write(line.encode()[:20])
        both.write(line.encode()[20:])
        os.fsync(both.fileno())
        fcntl.flock(both, fcntl.LOCK_UN)
        acks.write(json.dumps([name, hashlib.sha256(data).hexdigest(), line]) + "\\n")
        acks.flush()
"""
_CHECKER = """
import hashlib, json, os
for line in open("/home/user/acks"):
    name, digest, _ = json.loads(line)
    assert hashlib.sha256(open(name, "rb").read()).hexdigest() == digest, name
print("whole")
"""


class Client(threading.Thread):
    """Writes files by the content API, and notes those that were answered."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(daemon=True)
        self._volume = volume
        self.acked: dict[str, str] = {}
        self.failed = 0
        self.stop = threading.Event()

    def run(self) -> None:
        """Until it is to stop."""
        number = 0
        while not self.stop.is_set():
            data, number = os.urandom(random.randrange(1, 200_000)), number + 1
            try:
                self._volume.write_file(f"/client/{number}", data)
            except _LOST:
                self.failed += 1
                self.stop.wait(0.1)
            else:
                self.acked[f"/client/{number}"] = hashlib.sha256(data).hexdigest()


def content_process(groups: CgroupTree) -> int | None:
    """The one of the server with these groups."""
    for name in groups.names():
        if not name.startswith("volume-"):
            continue
        with contextlib.suppress(OSError):  # it ends
            for pid in (next(iter(groups.directories(name).values())) / "cgroup.procs").read_text().split():
                if b"/volume/main.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
    return None


def kill_content(groups: CgroupTree) -> None:
    """End the process that serves content, if there is one."""
    if (pid := content_process(groups)) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def in_shell(sandbox: Sandbox, script: str) -> str:
    """The output of a command, once the server answers."""

    def ask() -> str | None:
        try:
            return str(sandbox.commands.run(script, timeout=60).stdout).strip() or " "
        except _LOST:
            return None

    return eventually(ask, timeout_s=30).strip()


@contextlib.contextmanager
def writing(sandboxes: list[Sandbox]) -> Iterator[None]:
    """Each of the sandboxes writes during the block. What one notes as done is stored."""
    for number, sandbox in enumerate(sandboxes):
        sandbox.files.write("/home/user/write.py", _WRITER)
        sandbox.commands.run(f"setsid nohup python3 /home/user/write.py w{number} > /home/user/log 2>&1 < /dev/null &")
    yield
    for sandbox in sandboxes:
        in_shell(sandbox, "touch /tmp/stop; while pgrep -f '[w]rite.py' > /dev/null; do sleep 0.05; done")


def test_no_death_loses_what_was_acknowledged(stock_templates: None) -> None:
    """Every file and line that a sandbox or a client was told to be stored is there, and the file system is whole. Nothing is left over."""
    with running_server() as server, fresh_volume(server) as volume:
        mounts: dict[str, Volume | str] = {"/d": volume.name}
        sandboxes = [Sandbox.create("base", timeout=600, volume_mounts=mounts, **server.sdk) for _ in range(2)]
        groups = next(tree for tree in map(find_tree, range(INSTANCES)) if sandboxes[0].sandbox_id in tree.names())
        volume.make_dir("/client")
        client = Client(volume)
        client.start()
        with writing(sandboxes):
            for name in random.sample(_DEATHS, len(_DEATHS)):
                time.sleep(random.uniform(0.1, 0.6))  # at a random moment
                before = len(client.acked)
                if name == "content":
                    kill_content(groups)
                else:
                    server.kill_child(name)
                eventually(lambda: len(client.acked) > before, timeout_s=60)  # noqa: B023 - it is called in this turn alone
        client.stop.set()
        client.join(60)
        lines = set()
        for number, sandbox in enumerate(sandboxes):
            assert in_shell(sandbox, "cat /home/user/log") == ""
            said = [json.loads(line) for line in in_shell(sandbox, "cat /home/user/acks").splitlines()]
            assert len(said) > len(_DEATHS)
            lines |= {line for _, _, line in said}
            sandbox.files.write("/home/user/check.py", _CHECKER)
            assert in_shell(sandboxes[1 - number], f"ls /d/w{number} | wc -l") == str(len(said))
            assert in_shell(sandbox, "python3 /home/user/check.py") == "whole"
        both = str(volume.read_file("/both")).splitlines(keepends=True)
        assert (len(both), set(both)) == (len(lines), lines)
        for name, digest in client.acked.items():
            assert hashlib.sha256(volume.read_file(name, format="bytes")).hexdigest() == digest, name
        assert client.failed
        for sandbox in sandboxes:
            sandbox.kill()
        image = server.data_dir / "node" / "volumes" / volume.volume_id / "volume.img"
        kill_content(groups)
        eventually(lambda: not devices_of(image), timeout_s=60)
        checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
