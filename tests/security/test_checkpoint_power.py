"""The power of a dump and of a restore over the host, as a program sees it that runs in CRIU's place; what such a program leaves behind."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloister.errors import RuntimeFailedError
from cloister.linux.process import kill_pidfd, wait_pidfd
from cloister.runtime.base import BrokenSandboxError
from cloister.runtime.namespace.checkpoint.criu import Criu, KilledError
from cloister.runtime.namespace.checkpoint.dump import DUMP_CAPABILITIES
from framework.checkpoint_lab import CheckpointLab, Held, checkpoint_lab
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

_SOURCE = Path(__file__).parents[1] / "framework" / "programs" / "checkpoint_spy.c"
_LOCKED = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
_GROUP = 4711
_PROGRAMS = ("execve", "execl", "execlp", "execv", "execvp", "execvpe", "system", "popen", "posix_spawn", "posix_spawnp")
_NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time")
_PAUSE = "34 "
"""The system call in which the program waits to be killed."""


@pytest.fixture(scope="module")
def lab(criu: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointLab]:
    """One node for all tests of this file."""
    with checkpoint_lab(tmp_path_factory.mktemp("checkpoints")) as made:
        yield made


@pytest.fixture
def held(lab: CheckpointLab) -> Iterator[Held]:
    """A sandbox, which the test may end."""
    made = lab.create()
    made.run("1")
    yield made
    for one in [*lab.held]:
        lab.end(one)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that runs in CRIU's place."""
    made = tmp_path_factory.mktemp("spy") / "spy"
    subprocess.run(["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(made), str(_SOURCE)], check=True)
    return made


@contextmanager
def in_place_of_criu(lab: CheckpointLab, *argv: str | Path) -> Iterator[None]:
    """Dumps and restores run that program."""
    checkpoints = lab.runtime._checkpoints
    right, checkpoints._criu = checkpoints._criu, Criu(argv=tuple(map(str, argv)), version="0")
    try:
        yield
    finally:
        checkpoints._criu = right


@contextmanager
def a_group_more() -> Iterator[None]:
    """This process, as the server, is in a supplementary group."""
    before = os.getgroups()
    os.setgroups([*before, _GROUP])
    try:
        yield
    finally:
        os.setgroups(before)


def told(raised: pytest.ExceptionInfo[RuntimeFailedError]) -> dict[str, str]:
    """The line of the program, from the error of a dump or a restore."""
    found = dict(re.findall(r"(\w+)=(\S*)", raised.value.message))
    assert "host" in found, raised.value.message
    return found


def namespaces_of(pid: int | str) -> dict[str, str]:
    """Those of a process."""
    return {name: str(Path(f"/proc/{pid}/ns/{name}").readlink()) for name in _NAMESPACES}


def test_power_of_a_dumper(lab: CheckpointLab, held: Held, program: Path, tmp_path: Path) -> None:
    """It has the sandbox's user and namespaces, four capabilities, a filter, its image and the sandbox's group, and starts no program."""
    secret = tmp_path / "secret"
    secret.touch()
    pid = held.sandbox.state()["pid"]
    user = Path(f"/proc/{pid}/uid_map").read_text().split()[1]
    held.sandbox.freeze()
    with in_place_of_criu(lab, program, "tell", secret), a_group_more(), pytest.raises(RuntimeFailedError) as raised:
        held.sandbox.checkpoint(held.spec.directory / "image")
    seen = told(raised)
    mask = f"{sum(1 << number for number in DUMP_CAPABILITIES.values()):016x},"
    assert (seen["CapPrm"], seen["CapEff"], seen["CapBnd"]) == (mask, mask, mask)
    assert (int(seen["CapInh"].strip(","), 16), int(seen["CapAmb"].strip(","), 16)) == (0, 0)
    assert (seen["Uid"], seen["Gid"], seen["Groups"]) == (f"{user}," * 4, f"{user}," * 4, "")
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1,", "2,")
    assert {name: seen[name] for name in _NAMESPACES} == namespaces_of(pid) | {"user": namespaces_of("self")["user"]}
    assert {name: seen[name] for name in (*_PROGRAMS, "raw_execve", "code")} == dict.fromkeys(
        (*_PROGRAMS, "raw_execve", "code"), str(errno.EPERM)
    )
    assert (seen["write"], seen["above"], seen["flags"], seen["files"]) == ("0", "1", str(_LOCKED), "2")
    assert seen["host"] == str(errno.ENOENT)
    assert 0 < int(seen["data"]) < resource.getrlimit(resource.RLIMIT_DATA)[0] % (1 << 64)
    ignored = int(seen["SigIgn"].strip(","), 16)
    assert all(ignored >> (number - 1) & 1 for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    assert int(seen["oom"]) <= int(Path("/proc/self/oom_score_adj").read_text())


def test_power_of_a_restore(lab: CheckpointLab, held: Held, program: Path, tmp_path: Path) -> None:
    """It has the new sandbox's namespaces, also that of users, reads its image only, and starts no program of the sandbox."""
    secret = tmp_path / "secret"
    secret.touch()
    image = lab.save(held)
    with in_place_of_criu(lab, program, "tell", secret), a_group_more(), pytest.raises(RuntimeFailedError) as raised:
        lab.restore(held, image)
    seen = told(raised)
    own = namespaces_of("self")
    assert [name for name in _NAMESPACES if seen[name] == own[name]] == []
    assert (seen["Uid"], seen["Gid"], seen["Groups"]) == ("0,0,0,0,", "0,0,0,0,", "")
    assert {name: seen[name] for name in _PROGRAMS} == dict.fromkeys(_PROGRAMS, str(errno.EPERM))
    assert (seen["write"], seen["above"], seen["flags"]) == (str(errno.EROFS), "1", str(_LOCKED))
    assert seen["host"] == str(errno.ENOENT)


@contextmanager
def dumping(held: Held, program: Path) -> Iterator[tuple[Future[int], int, int]]:
    """A dump in which the program waits to be killed, with the host's numbers of its relay and of itself, which has ended afterwards."""
    held.sandbox.freeze()
    with ThreadPoolExecutor(1) as pool:
        dump = pool.submit(held.sandbox.checkpoint, held.spec.directory / "image")
        found: list[tuple[int, int]] = []

        def has_begun() -> bool:
            assert not dump.done(), dump.exception()
            found[:] = [
                (relay, dumper)
                for relay in children_of(os.getpid())
                for dumper in children_of(relay)
                if read(f"/proc/{dumper}/cmdline").startswith(str(program)) and read(f"/proc/{dumper}/syscall").startswith(_PAUSE)
            ]
            return bool(found)

        eventually(has_begun)
        pidfd = os.pidfd_open(found[0][1])
        try:
            yield dump, *found[0]
        finally:
            kill_pidfd(pidfd)
            os.close(pidfd)


def children_of(pid: int) -> list[int]:
    """Its live children."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in read(path).split()]


def read(path: str | Path) -> str:
    """A file of proc; empty: the process has ended."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def strangers_in(lab: CheckpointLab, held: Held) -> list[str]:
    """Programs in a sandbox's pid namespace that are not of its control group. Zombies, which have no program, are left out."""
    inside, group = namespaces_of(held.sandbox.state()["pid"])["pid"], lab.host.resources.groups.tree.pids(held.spec.sandbox_id)
    found = []
    for path in Path("/proc").iterdir():
        try:
            is_inside = path.name.isdigit() and str((path / "ns/pid").readlink()) == inside
        except OSError:
            continue
        if is_inside and int(path.name) not in group:
            found.append(read(path / "cmdline"))
    return [program for program in found if program]


def test_a_dumper_ends_with_its_relay(lab: CheckpointLab, held: Held, program: Path) -> None:
    """The server ends the relay when a dump takes too long, and does not know the dumper."""
    with in_place_of_criu(lab, program, "wait", "-"), dumping(held, program) as (dump, relay, dumper):
        ended = os.pidfd_open(dumper)
        try:
            os.kill(relay, signal.SIGKILL)
            assert wait_pidfd(ended, 60)
        finally:
            os.close(ended)
        with pytest.raises(KilledError):
            dump.result(60)


def test_a_killed_dumper_leaves_no_process(lab: CheckpointLab, held: Held, program: Path) -> None:
    """Its children, which have its power, are ended, and the sandbox goes on."""
    with in_place_of_criu(lab, program, "fork", "-"), dumping(held, program) as (dump, _relay, dumper):
        eventually(lambda: len(strangers_in(lab, held)) == 2)
        os.kill(dumper, signal.SIGKILL)
        with pytest.raises(KilledError):
            dump.result(60)
    assert strangers_in(lab, held) == []
    held.sandbox.thaw()
    assert held.run("print(41 + 1)") == "42"


@pytest.mark.parametrize(("mode", "cause"), [("stop", "stands still"), ("end", "has ended")])
def test_a_killed_dumper_that_breaks_a_process_is_found_out(lab: CheckpointLab, held: Held, program: Path, mode: str, cause: str) -> None:
    """The sandbox must not go on as if nothing had happened."""
    child = held.run("import subprocess\np = subprocess.Popen(['sleep', '9999'])\nprint(p.pid)")
    held.sandbox.freeze()
    with in_place_of_criu(lab, program, mode, child), pytest.raises(BrokenSandboxError, match=cause):
        held.sandbox.checkpoint(held.spec.directory / "image")
