"""Sandboxes saved with their memory and restored in fresh slots: what goes on, what is refused, and what a failed dump leaves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cloister.errors import CloisterError, ConflictError, UnavailableError
from cloister.runtime.base import BrokenSandboxError
from cloister.runtime.namespace.checkpoint.criu import KilledError
from cloister.runtime.namespace.checkpoint.damage import living
from cloister.runtime.namespace.checkpoint.manifest import MANIFEST
from framework.beside import beside
from framework.checkpoint_lab import CheckpointLab, Held, checkpoint_lab
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def lab(criu: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointLab]:
    """One node for all tests of this file."""
    with checkpoint_lab(tmp_path_factory.mktemp("checkpoints")) as made:
        assert made.runtime.capabilities.checkpoint
        yield made


@pytest.fixture
def held(lab: CheckpointLab) -> Iterator[Held]:
    """A sandbox, which the test may end."""
    made = lab.create()
    made.run("1")  # the agent has taken its first kernel over then
    yield made
    for one in [*lab.held]:
        lab.end(one)


def test_memory_and_files_survive(lab: CheckpointLab, held: Held) -> None:
    """A kernel has its variables, its open file, its numpy, its threads and a deleted file; the boot id and the host name are the same."""
    held.run("import numpy as np, threading, time, queue\na = np.arange(10); f = open('/root/x', 'w'); f.write('half'); n = 41")
    held.run("import os\ng = open('/root/gone', 'w+'); g.write('abc'); g.flush(); os.unlink('/root/gone')")
    held.run("q, r = queue.Queue(), queue.Queue()\nt = threading.Thread(target=lambda: [r.put(q.get() * 2) for _ in range(3)]); t.start()")
    same = "print(open('/proc/sys/kernel/random/boot_id').read(), os.uname().nodename, os.getpid())"
    before = held.run(same)
    restored = lab.restore(held, lab.save(held))
    assert restored.run("f.write(' whole'); f.close(); print(a.sum(), n + 1, open('/root/x').read())") == "45 42 half whole"
    assert restored.run("g.seek(0); print(g.read()); q.put(4); print(r.get(timeout=10))") == "abc\n8"
    assert restored.run(same) == before


@pytest.mark.parametrize(
    ("language", "before", "after", "result"),
    [
        ("javascript", "let a = 41; const big = new Array(100000).fill(1)", "a + big[7]", "42"),
        ("bash", "X=5; cd /usr; f() { echo $((X + 1)); }", "f; echo $PWD", "6\n/usr"),
    ],
)
def test_other_kernels_go_on(lab: CheckpointLab, held: Held, language: str, before: str, after: str, result: str) -> None:
    """With their state."""
    held.run(before, language)
    restored = lab.restore(held, lab.save(held))
    assert restored.run(after, language) == result


_COUNTER = """
import asyncio, subprocess, time
async def count():
    global n
    n = 0
    while True:
        await asyncio.sleep(0.02); n += 1
task = asyncio.get_event_loop().create_task(count())
await asyncio.sleep(0.1)
then = time.monotonic()
child = subprocess.Popen(['sh', '-c', 'read x; exit 7'], stdin=subprocess.PIPE)
"""


def test_timers_and_children_go_on(lab: CheckpointLab, held: Held) -> None:
    """A task of asyncio goes on counting, a child can be waited for, and the clock never goes backwards."""
    held.run(_COUNTER)
    restored = lab.restore(held, lab.save(held))
    assert restored.run("seen = n\nawait asyncio.sleep(0.5)\nprint(n > seen, 0 < time.monotonic() - then < 3600)") == "True True"
    assert restored.run("child.communicate(b'x\\n'); print(child.returncode)") == "7"


def test_three_generations(lab: CheckpointLab, held: Held) -> None:
    """A restored sandbox can be saved again; each adds to what it was given."""
    held.run("import subprocess\nn = 0")
    for generation in range(3):
        image = lab.save(held, f"image{generation}")
        held = lab.restore(held, image)
        held.run("n += 1")
        assert held.run("print(subprocess.run(['echo', str(n)], capture_output=True, text=True).stdout)") == str(generation + 1)


def test_a_watch_goes_on(lab: CheckpointLab, held: Held) -> None:
    """A directory that a program watches is found again by the dumper, and its events come after the restore."""
    held.run("import ctypes, os; libc = ctypes.CDLL(None); os.makedirs('/home/w/deep', exist_ok=True)")
    held.run("fd = libc.inotify_init1(0o4000); libc.inotify_add_watch(fd, b'/home/w/deep', 0x100)")
    restored = lab.restore(held, lab.save(held))
    assert restored.run("open('/home/w/deep/new', 'w').close(); print(b'new' in os.read(fd, 4096))") == "True"


_SHARED = """
import os, mmap, stat, subprocess
from multiprocessing import Lock, shared_memory
block = shared_memory.SharedMemory(create=True, size=1 << 20, name='block')
block.buf[:4] = b'half'
lock = Lock(); lock.acquire()
os.chdir('/dev/shm')
os.makedirs('deep/er', 0o750)
with open('deep/er/sparse', 'wb') as file:
    file.truncate(1 << 30); file.seek(5 << 20); file.write(b'middle')
os.link('deep/er/sparse', 'twice'); os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe', 0o604)
os.chown('twice', 1000, 1000); os.chmod('twice', 0o4711); os.utime('twice', (1, 2.5)); os.chmod('deep', 0o111); os.utime('deep', (1, 3))
gone = open('gone', 'w+'); gone.write('kept'); gone.flush(); os.unlink('gone')
opened = open('opened', 'w'); opened.write('first '); opened.flush()
def look():
    found = []
    for top, directories, files in os.walk('.'):
        for name in ['.', *directories, *files]:
            one = os.lstat(f'{top}/{name}')
            data = (one.st_size, one.st_blocks, one.st_nlink) if stat.S_ISREG(one.st_mode) else ()
            found.append((top, name, one.st_mode, one.st_uid, one.st_gid, one.st_mtime if top != '.' or name != '.' else 0, data))
    return sorted(found)
before = look()
"""


def test_files_in_shared_memory_survive(lab: CheckpointLab, held: Held) -> None:
    """With their rights, owners, times, holes and second names; mapped and open ones too, in two generations."""
    held.run(_SHARED)
    for generation in range(2):
        held = lab.restore(held, lab.save(held, f"image{generation}"))
        assert held.run("print([pair for pair in zip(before, look()) if pair[0] != pair[1]], len(before) == len(look()))") == "[] True"
        assert held.run("print(os.readlink('link'), bytes(block.buf[:4]), lock.acquire(False))") == "/etc/passwd b'half' False"
    held.run("subprocess.run(['sh', '-c', 'printf seen | dd of=/dev/shm/block conv=notrunc'], check=True, capture_output=True)")
    assert held.run("gone.seek(0); print(bytes(block.buf[:4]), gone.read())") == "b'seen' kept"
    held.run("opened.write('second'); opened.close(); lock.release()")
    assert held.run("print(open('opened').read(), lock.acquire(False), os.path.samefile('twice', 'deep/er/sparse'))") == (
        "first second True True"
    )
    assert held.run("data = open('twice', 'rb'); data.seek(5 << 20); print(data.read(6))") == "b'middle'"


def test_an_orphan_of_a_restored_sandbox_is_reaped(lab: CheckpointLab, held: Held) -> None:
    """By the process that was pid 1, so that the agent learns of its end; and the end of that process ends the sandbox."""
    restored = lab.restore(held, lab.save(held))
    restored.run("import subprocess, time\nsubprocess.run('(sleep 0.1 &)', shell=True); time.sleep(0.5)")
    assert restored.run("print(subprocess.run('ps axo stat | grep -c Z', shell=True, capture_output=True, text=True).stdout)") == "0"
    pids = lab.host.resources.groups.tree.pids(restored.spec.sandbox_id)
    inside = {int(re.findall(r"NSpid:.*\t(\d+)\n", Path(f"/proc/{pid}/status").read_text())[0]): pid for pid in pids}
    os.kill(inside[restored.sandbox.state()["restored"]], signal.SIGKILL)
    eventually(restored.sandbox.has_ended)


def test_five_copies_of_one_image(lab: CheckpointLab, held: Held) -> None:
    """Each has its own id, host name, boot id and host ids; the image stays, and the original goes on too."""
    held.run("import os\nn = 41; os.environ['WHO'] = 'all'")
    image = lab.save(held)
    with ThreadPoolExecutor(2) as pool:
        copies = list(pool.map(lambda _: lab.copy(held, image), range(5)))
    tell = "print(os.uname().nodename, open('/proc/sys/kernel/random/boot_id').read())"
    assert {copy.run("print(n + 1)") for copy in copies} == {"42"}
    assert [copy.run(tell).split()[0] for copy in copies] == [copy.spec.hostname for copy in copies]
    assert len({copy.run(tell).split()[1] for copy in copies}) == 5
    assert len({Path(f"/proc/{copy.sandbox.state()['pid']}/uid_map").read_text() for copy in copies}) == 5
    copies[0].run("n = 0; open('/root/mine', 'w').close()")
    assert copies[1].run("print(n, os.path.exists('/root/mine'))") == "41 False"
    assert lab.restore(held, image).run("print(n)") == "41"


def test_a_restored_sandbox_has_its_limits(lab: CheckpointLab, held: Held) -> None:
    """Its processes are in its control group, with its seccomp filter, its capabilities and no others."""
    held.run("import os")
    before = {
        line for line in held.run("print(open('/proc/self/status').read())").splitlines() if re.match("Cap|NoNewPrivs|Seccomp:|Uid", line)
    }
    restored = lab.restore(held, lab.save(held))
    after = {
        line
        for line in restored.run("print(open('/proc/self/status').read())").splitlines()
        if re.match("Cap|NoNewPrivs|Seccomp:|Uid", line)
    }
    assert after == before
    group = lab.host.resources.groups.tree.pids(restored.spec.sandbox_id)
    namespace = Path(f"/proc/{restored.sandbox.state()['pid']}/ns/pid").readlink()
    inside = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and namespace_of(path) == namespace}
    assert inside == group
    for pid in group:
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert int(re.findall(r"CapBnd:\t(\w+)", status)[0], 16) == int(re.findall(r"CapBnd:\t(\w+)", "\n".join(before))[0], 16)


def powers_of(held: Held) -> set[str]:
    """Lines about the power of a kernel, from its status."""
    lines = held.run("print(open('/proc/self/status').read())").splitlines()
    return {line for line in lines if re.match("Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups", line)}


def namespace_of(process: Path) -> Path | None:
    """Its pid namespace, if it lives."""
    try:
        return (process / "ns/pid").readlink()
    except OSError:
        return None


_SYSV = "import ctypes; l = ctypes.CDLL(None); print(l.shmget(1234, 65536, 0o1600) >= 0)"
_FILTER = """
import subprocess
p = subprocess.Popen(['python3', '-c', '''
import ctypes, time
l = ctypes.CDLL(None); l.prctl(38, 1, 0, 0, 0)
f = (ctypes.c_uint64 * 1)(0x7fff000000000006); p = (ctypes.c_uint64 * 2)(1, ctypes.addressof(f))
print(l.prctl(22, 2, ctypes.byref(p)), flush=True); time.sleep(1000)'''], stdout=subprocess.PIPE)
print(p.stdout.readline().strip() == b'0')
"""
_TRACED = """
import subprocess
p = subprocess.Popen(['python3', '-c', '''
import ctypes, os, time
l = ctypes.CDLL(None); pid = os.fork()
if pid == 0: l.ptrace(0, 0, 0, 0); print('yes', flush=True); time.sleep(1000)
time.sleep(1000)'''], stdout=subprocess.PIPE)
print(p.stdout.readline().strip() == b'yes')
"""


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (_SYSV, "System V shared memory"),
        (_FILTER, "seccomp filter of its own"),
        (_TRACED, "being traced"),
        ("import ctypes; l = ctypes.CDLL('librt.so.1'); print(l.mq_open(b'/q', 66, 0o600, None) >= 0)", "POSIX message queues"),
    ],
)
def test_what_cannot_be_saved_is_refused(lab: CheckpointLab, held: Held, code: str, cause: str) -> None:
    """The error says why; the sandbox stays frozen, and goes on after a thaw; no file is left."""
    held.run("n = 41")
    assert held.run(code) == "True"
    held.sandbox.freeze()
    with pytest.raises(ConflictError, match=cause):
        held.sandbox.checkpoint(held.spec.directory / "image")
    assert lab.host.resources.groups.tree.is_frozen(held.spec.sandbox_id)
    assert not list(held.spec.directory.glob("image*"))
    held.sandbox.thaw()
    assert held.run("print(n + 1)") == "42"


def test_only_a_frozen_sandbox_is_saved(held: Held) -> None:
    """Else its files and its memory would not be of one moment."""
    with pytest.raises(ConflictError, match="frozen"):
        held.sandbox.checkpoint(held.spec.directory / "image")


def test_a_dumper_that_is_killed_leaves_a_whole_sandbox_or_says_so(lab: CheckpointLab, held: Held) -> None:
    """When it begins, or has code in a process: no image and no process of the dumper is left, and a sandbox not found broken goes on."""
    tree, outcomes = lab.host.resources.groups.tree, set[type[Exception] | None]()
    for step in range(12):
        if {BrokenSandboxError, KilledError} <= outcomes:
            return
        if held not in lab.held:
            held = lab.create()
        held.run("n = 41")
        held.sandbox.freeze()
        pids = tree.pids(held.spec.sandbox_id)
        has_ended = threading.Event()
        with beside(partial(kill_dumpers, has_ended, pids if step % 2 else set())):
            outcome = save_while_killed(held, held.spec.directory / f"image{step}")
            has_ended.set()
        outcomes.add(outcome)
        assert strangers_in(held, tree.pids(held.spec.sandbox_id)) == set()
        if outcome is BrokenSandboxError:
            lab.end(held)
            continue
        assert tree.is_frozen(held.spec.sandbox_id)
        held.sandbox.thaw()
        assert held.run("print(n + 1)") == "42"
    raise AssertionError(f"no moment of a dump in which a kill breaks a sandbox, or none in which it does not: {outcomes}")


def save_while_killed(held: Held, image: Path) -> type[Exception] | None:
    """Save a sandbox; gives what was raised, after which there is no image."""
    try:
        held.sandbox.checkpoint(image)
    except CloisterError as error:
        assert not list(held.spec.directory.glob(f"{image.name}*"))
        return type(error)
    return None


def strangers_in(held: Held, group: set[int]) -> set[str]:
    """Programs in a sandbox's pid namespace that are not of its control group."""
    namespace = namespace_of(Path(f"/proc/{held.sandbox.state()['pid']}"))
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and namespace is not None and namespace_of(path) == namespace and int(path.name) not in group:
            found.add((path / "cmdline").read_text())
    return found - {""}  # a zombie, which the frozen pid 1 cannot wait for


def kill_dumpers(has_ended: threading.Event, pids: set[int]) -> None:
    """Kill the dumpers that this process starts, but not their relays: at once, or when one of ``pids`` has a dumper's code in it."""
    while not has_ended.wait(0.001):
        if pids and not any(marks.has_code for marks in living(pids).values()):
            continue
        for pid in children_of(os.getpid()):
            for one in children_of(pid):
                with contextlib.suppress(OSError):
                    if b"--freeze-cgroup" in Path(f"/proc/{one}/cmdline").read_bytes():
                        os.kill(one, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    """Its live children."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def test_an_end_wins_over_a_dump(lab: CheckpointLab, held: Held) -> None:
    """A kill during a dump ends the sandbox; the dump fails or has finished."""
    held.run("data = bytearray(100_000_000)")
    held.sandbox.freeze()
    with ThreadPoolExecutor(1) as pool:
        dump = pool.submit(held.sandbox.checkpoint, held.spec.directory / "image")
        eventually(lambda: (held.spec.directory / "image.tmp").exists() or dump.done())
        held.sandbox.kill()
        dump.exception(timeout=60)
    assert held.sandbox.has_ended()


def test_an_image_that_cannot_be_restored_makes_nothing(lab: CheckpointLab, held: Held) -> None:
    """It is refused with the way out before a slot is taken; the disk stays, for a start without memory."""
    image = lab.save(held)
    with (image / "pstree.img").open("ab") as file:
        file.write(b"x")
    slots = lab.runtime.survey()
    with pytest.raises(UnavailableError, match="not those that were written") as refused:
        lab.restore(held, image)
    assert refused.value.hint == "resume it without its memory (memory=false)"
    assert lab.runtime.survey() == slots
    (image / MANIFEST).unlink()
    with pytest.raises(UnavailableError, match="manifest"):
        lab.restore(held, image)
    spec = replace(held.spec, has_disk=True)
    sandbox = lab.runtime.create(spec, lambda _state: None)
    lab.held.append(Held(spec, sandbox))
