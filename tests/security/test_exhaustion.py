"""A sandbox that uses up all it can hurts itself only (I6): the server and a neighbour go on answering, and the error names the bound."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from e2b_code_interpreter import Sandbox

from framework.attack_table import held_by
from framework.inside import python, shell
from framework.server import Server
from framework.stage import Stage

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]


@contextmanager
def neighbour_answers(server: Server, neighbour: Sandbox) -> Iterator[None]:
    """While the block runs, the API and a neighbour are asked again and again, and every answer must be right and not too late."""
    stop, faults, slowest = threading.Event(), [], [0.0]

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                assert python(neighbour, "print(2 + 3)", timeout=30) == "5"
                assert Sandbox.list(**{k: v for k, v in server.sdk.items() if k != "sandbox_url"}).next_items()
            except Exception as error:  # noqa: BLE001 - a thread's border: the test reports it  # noqa: BLE001 - reported by the test
                faults.append(repr(error))
            slowest[0] = max(slowest[0], time.monotonic() - began)
            time.sleep(0.2)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
        time.sleep(0.5)
    finally:
        stop.set()
        thread.join()
    assert not faults, faults[:3]
    assert slowest[0] < 20, f"a neighbour waited {slowest[0]:.1f} s"


@held_by(namespace="pids limit of its control group", gvisor="RLIMIT_NPROC of gVisor; pids limit of its control group")
def test_fork_bomb(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """A fork bomb meets the sandbox's own limit of processes."""
    with neighbour_answers(server, neighbour):
        done = attacker.run_code("bomb() { bomb | bomb & }; bomb; sleep 3; echo over", language="bash", timeout=30)
        assert done.error is not None or "fork" in "".join(done.logs.stderr) or "over" in "".join(done.logs.stdout)
    attacker.kill()


_FORKS = """
import os
children = []
try:
    while len(children) < 700:
        children.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
except OSError as error:
    print(error.errno)
print(len(children))
for pid in children:
    os.kill(pid, 9)
"""


@held_by(namespace="pids limit of its control group", gvisor="RLIMIT_NPROC of gVisor")
@pytest.mark.usefixtures("server")
def test_user_cannot_have_more_processes_than_the_limit(stage: Stage) -> None:
    """Another fork is refused, and the sandbox goes on: also on gVisor, whose own threads have a bound that would end all of it."""
    stage.sandbox.files.write("/tmp/forks.py", _FORKS, user="root")
    refused, count = stage.sandbox.commands.run("python3 /tmp/forks.py", user="user").stdout.split()
    assert (int(refused), int(count) <= 512) == (errno.EAGAIN, True)


def test_memory_bomb(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """A program that takes memory without end is killed, and the error says why and how much there was."""
    with neighbour_answers(server, neighbour):
        done = attacker.run_code("x = []\nwhile True: x.append(bytearray(50_000_000))", timeout=60)
    assert done.error is not None
    assert "memory" in f"{done.error.name} {done.error.value}".lower(), done.error
    assert "2048" in done.error.value, done.error
    assert python(attacker, "print('again')") == "again"


def test_disk_fill(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """The disk is full at its limit, for this sandbox only."""
    with neighbour_answers(server, neighbour):
        done = shell(attacker, "dd if=/dev/zero of=/home/user/fill bs=1M count=8000", timeout=120)
    assert "No space left on device" in done.text
    assert shell(neighbour, "dd if=/dev/zero of=/tmp/x bs=1M count=50").status == 0
    assert python(attacker, "print('alive')") == "alive"


def test_inode_fill(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """The sandbox runs out of inodes, the host does not."""
    code = (
        "import os\nos.makedirs('/tmp/many', exist_ok=True)\nn = 0\ntry:\n while n < 2_000_000:\n  os.close(os.open(f'/tmp/many/{n}', os.O_CREAT | os.O_WRONLY)); n += 1\n"
        "except OSError as e: print(e.errno)\nprint(n)"
    )
    with neighbour_answers(server, neighbour):
        number, count = python(attacker, code, timeout=180).split()
    assert number == "28"
    assert int(count) < 600_000


def test_infinite_loop(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """A busy loop on every processor leaves the neighbour its share, and a client's time-out ends it."""
    code = "import os\nfor _ in range(3):\n if os.fork() == 0:\n  while True: pass\nwhile True: pass"
    with neighbour_answers(server, neighbour), pytest.raises(Exception, match=r"(?i)time"):
        attacker.run_code(code, timeout=3)
    assert python(attacker, "print('next')", timeout=30) == "next"


def test_a_gigabyte_of_output(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """Output without end is cut at the bound, with an error that names it."""
    with neighbour_answers(server, neighbour):
        done = attacker.run_code("for _ in range(1024): print('x' * (1 << 20))", timeout=120, on_stdout=lambda _: None)
    assert done.error is not None
    assert "256" in done.error.value, done.error
    assert python(attacker, "print('next')", timeout=30) == "next"


def test_open_files(attacker: Sandbox) -> None:
    """One process may not hold open files without end."""
    code = "import os\nn = 0\ntry:\n while True: os.dup(1); n += 1\nexcept OSError as e: print(e.errno, n)\nos.closerange(50, 70000)"
    number, count = python(attacker, code).split()
    assert number == "24"
    assert int(count) <= 65_536


def test_process_limit(attacker: Sandbox) -> None:
    """The sandbox may have so many processes and no more, and gets over it."""
    code = (
        "import os, time\npids = []\ntry:\n while len(pids) < 3000:\n  pid = os.fork()\n  if pid == 0:\n   time.sleep(60); os._exit(0)\n  pids.append(pid)\n"
        "except OSError as e: number = e.errno\nfor p in pids: os.kill(p, 9)\nfor p in pids: os.waitpid(p, 0)\nprint(number, len(pids))"
    )
    number, count = python(attacker, code).split()
    assert number == "11"
    assert int(count) < 600
