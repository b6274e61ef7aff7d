"""Contents of /proc, /sys, /dev and the mount table of a sandbox. Of the host and neighbours they show only listed values (I3)."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from cloister.runtime.namespace.proctree import fixed_files
from framework.attack_table import held_by
from framework.inside import pids_of, python, shell
from framework.inventory import Entry, Seen, find_entry, masked_names, read_inventory, walk
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

_INVENTORY = "tests/security/proc_inventory.txt"


@pytest.fixture
def markers(server: Server, attacker: Sandbox, neighbour: Sandbox) -> Iterator[dict[str, str]]:
    """Values that no entry may contain: names, paths and ids of processes, files, sockets and IPC objects of a neighbour or the host."""
    word = secrets.token_hex(8)
    python(
        neighbour,
        f"""
import socket, subprocess
kept = socket.socket(socket.AF_UNIX); kept.bind('\\0socket-{word}'); kept.listen()
open('/dev/shm/file-{word}', 'w').write('x')
subprocess.Popen(['sleep', '98765.{int(word, 16)}'])
subprocess.run(['ipcmk', '-M', '7654321'], check=True, stdout=subprocess.DEVNULL)""",
    )
    assert word in shell(neighbour, "cat /proc/net/unix").text, "a neighbour sees its own socket"
    assert "7654321" in shell(neighbour, "cat /proc/sysvipc/shm").text, "a neighbour sees its own shared memory"
    host = subprocess.Popen(["sleep", "98765.4321"])
    roots = [int(Path(f"/proc/{pids_of(sandbox)[0]}/uid_map").read_text().split()[1]) for sandbox in (attacker, neighbour)]
    disk = subprocess.run(["findmnt", "-n", "-o", "SOURCE", "--target", str(server.data_dir)], capture_output=True, text=True, check=True)
    yield {
        "a neighbour's process": f"98765.{int(word, 16)}",
        "a neighbour's socket or file": word,
        "a neighbour's shared memory": "7654321",
        "a neighbour's name": neighbour.sandbox_id,
        "a host's process": "98765.4321",
        "the host's disk": disk.stdout.strip(),
        "the server's data directory": str(server.data_dir),
        "the store": "/var/lib/cloister",
        "the host's name": socket.gethostname() if "." in socket.gethostname() or len(socket.gethostname()) > 9 else "/run/cloister",
        **{f"host id {root + more}": str(root + more) for root in roots for more in (0, 5, 1000)},
    }
    host.kill()
    host.wait()


def _wrong(seen: Seen, entry: Entry, fixed: dict[str, str], markers: dict[str, str]) -> list[str]:
    """Why the class of the entry does not hold of what was seen."""
    text = seen.text
    if entry.kind == "masked" and seen.kind != "mask":
        return [f"it is to be masked, and is not ({seen.kind}): {text[:60]!r}"]
    if entry.kind == "fixed" and seen.kind == "file" and text != fixed[seen.normal.removeprefix("/proc/")]:
        return [f"it is fixed, and holds something else: {text[:60]!r}"]
    if seen.kind == "file" and seen.normal.rpartition("/")[2] in ("mountinfo", "mounts"):  # listed: the kernel shows the group of terminals as a host id
        lines = [line for line in text.splitlines() if "devpts" not in line]
        assert len(text.splitlines()) - len(lines) == 1
        text = "\n".join(lines)
    return [f"it tells of {what} ({marker!r})" for what, marker in markers.items() if marker in text]


@pytest.mark.usefixtures("server")
def test_sandbox_cannot_see_what_is_not_in_the_inventory(attacker: Sandbox, user: str, markers: dict[str, str]) -> None:
    """Each entry of /proc, /sys and /dev that is not masked is listed with its class, and the class is right. None shows a neighbour, a host path or a host id."""
    entries, fixed, problems = read_inventory(), fixed_files(), []
    for seen in walk(attacker, user):
        entry = find_entry(entries, seen.normal)
        if entry is None and seen.kind not in ("directory", "mask"):  # a mask: one that some kernel adds, and that is masked as unknown
            problems.append(f"{seen.normal}: not in {_INVENTORY}: find out what it tells, and list or mask it")
        if entry is not None:
            problems += [f"{seen.normal}: {problem}" for problem in _wrong(seen, entry, fixed, markers)]
    assert not problems, "\n".join(sorted(set(problems)))


def test_what_is_masked_can_be_read_on_the_host(attacker: Sandbox) -> None:
    """The host shows values that the sandbox does not, so most masks hide something. Names that this kernel lacks are missing inside too."""
    inside = set(shell(attacker, "ls /proc").text.split())
    names = masked_names()
    here = {name for name in names if Path("/proc", name).exists()}
    assert len(here) > 30
    assert {name for name in names if name not in here} & inside == set()
    assert sum(Path("/proc", name).is_dir() or _has_bytes(Path("/proc", name)) for name in here) > 20


def _has_bytes(path: Path) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            return path.name != "kmsg" and bool(file.read(1))
    except OSError:
        return False


_WATCH = """
import ctypes, os
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(os.O_NONBLOCK)
for name in {names}:
    assert libc.inotify_add_watch(watch, name.encode(), 0xFFF) >= 0, name
open({names}[0]).close()
assert os.read(watch, 4096), 'a watch sees the sandbox itself'
"""
_SHARED = ("/dev/null", "/dev/zero", "/.cloister/agent/site/cloister/agent/main.py", "/.cloister/rt/bin/python3.13", "/usr/bin/python3.13")
_SHARED_PROC = ("/proc/sys/vm/max_map_count", "/proc/cgroups", "/proc/devices", "/proc/vmstat", "/proc/meminfo", "/etc/hosts")


def test_sandbox_cannot_watch_what_a_neighbour_opens(attacker: Sandbox, neighbour: Sandbox) -> None:
    """A watch on a device, on files of the agent, the template or /proc sees no use by a neighbour."""
    names = [*_SHARED, *_SHARED_PROC]
    python(attacker, _WATCH.format(names=names))
    python(neighbour, f"for name in {names}: open(name, 'rb').read(10)")
    watched = "try: print(os.read(watch, 65536))\nexcept BlockingIOError: print('nothing')"
    assert python(attacker, watched) == "nothing"


@held_by(namespace="mounts of its own disk or of empty memory", gvisor="the same, below the gofer")
def test_sandbox_cannot_see_the_hosts_disk_by_statfs(server: Server, attacker: Sandbox) -> None:
    """No mount tells the size or the use of a file system of the host: all are the sandbox's own disk or memory, or have no size."""
    script = "findmnt -n -o TARGET | sed 's/^[^/]*//' | sort -u | xargs -d '\\n' stat -f -c '%b %S' 2>/dev/null; true"
    sizes = {int(blocks) * int(size) for blocks, size in (line.split() for line in shell(attacker, script).text.splitlines())}
    host = os.statvfs(server.data_dir)
    assert len(sizes) > 2
    assert host.f_blocks * host.f_frsize not in sizes
    assert max(sizes) <= 5120 << 20


def test_sandbox_cannot_signal_a_neighbour_by_a_lock(attacker: Sandbox, neighbour: Sandbox) -> None:
    """A lock on a file that both see, which is a bit between them, is in each sandbox its own."""
    code = f"""
import fcntl
def hold():
    files = [open(name, 'rb') for name in {[*_SHARED, *_SHARED_PROC]}]
    for file in files:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError: print(file.name)
    return files
kept = hold()
"""
    assert python(attacker, code) == ""
    assert python(attacker, "again = hold()").split() == [*_SHARED, *_SHARED_PROC], "within a sandbox the lock is seen"
    assert python(neighbour, code) == ""


@pytest.mark.parametrize("key", ["fs/mqueue/queues_max", "kernel/hostname", "net/core/somaxconn", "user/max_user_namespaces", "vm/max_map_count"])
def test_sandbox_root_cannot_write_a_setting_of_the_kernel(attacker: Sandbox, key: str) -> None:
    """Every setting below /proc/sys is read-only, those of the sandbox's own namespaces too."""
    value = shell(attacker, f"cat /proc/sys/{key}").text
    done = shell(attacker, f"echo 77 > /proc/sys/{key}")
    assert done.status != 0
    assert "Read-only file system" in done.text
    assert shell(attacker, f"cat /proc/sys/{key}").text == value
