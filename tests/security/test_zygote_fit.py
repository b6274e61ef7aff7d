"""A zygote whose children would share memory, or miss a thread, cannot become one, and what a child must not keep of it: its limits."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import cloister
from framework.inside import python, shell
from framework.server import running_server
from framework.starts import make_started

PACKAGE = Path(cloister.__file__).parent
HARMLESS = "import mmap; kept = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"
SHARED = "import mmap; kept = mmap.mmap(-1, 4096)"
SHARED_FILE = "import mmap, os; file = os.memfd_create('file'); os.ftruncate(file, 4096); kept = mmap.mmap(file, 4096); os.close(file)"
EXECUTABLE = "import mmap; kept = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
WRITE_ONLY = "import mmap; kept = mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE)"
DESCRIPTOR = "import os; os.dup2(os.open('/etc/passwd', os.O_RDONLY), 9)"
THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"


def try_to_serve(first: str) -> tuple[bytes, str]:
    """Report and output of a process that ran ``first`` and then becomes a zygote."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE / 'agent/drivers')!r})\n{first}\nimport zygote; zygote.serve()"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rules, library = os.memfd_create("filter"), os.open(PACKAGE / "bin/join.so", os.O_RDONLY)
    with ours, theirs:
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (theirs.fileno(), rules, library)]
        place = "; ".join(f"os.dup2({fd}, {target})" for target, fd in enumerate(high, 3))
        code = f"import os; {place}; os.closerange(100, 4096)\n{code}"
        process = subprocess.Popen([sys.executable, "-I", "-c", code], pass_fds=high, stderr=subprocess.PIPE, text=True)
        theirs.close()
        for fd in (*high, rules, library):
            os.close(fd)
        ours.settimeout(30)
        told = ours.recv(16)
    try:
        return told, process.communicate(timeout=30)[1]
    finally:
        process.kill()


def test_fit_zygote_becomes_ready() -> None:
    """One thread and memory of its own are all that it takes; so the refusals below have their cause in what they add."""
    assert try_to_serve(HARMLESS) == (b"ready", "")


@pytest.mark.parametrize("shared", [SHARED, SHARED_FILE, EXECUTABLE, WRITE_ONLY])
def test_zygote_with_shared_memory_cannot_become_ready(shared: str) -> None:
    """Sandboxes forked from it could write to each other."""
    told, said = try_to_serve(shared)
    assert told == b""
    assert re.search("ZygoteUnfitError: .*a shared writable mapping", said), said


def test_zygote_with_threads_cannot_become_ready() -> None:
    """A fork keeps one thread, and locks that others held stay locked."""
    told, said = try_to_serve(THREAD)
    assert told == b""
    assert re.search("ZygoteUnfitError: .*2 threads", said), said


def test_zygote_with_a_foreign_descriptor_cannot_become_ready() -> None:
    """It might have come from a sandbox, or lead out of one."""
    told, said = try_to_serve(DESCRIPTOR)
    assert told == b""
    assert re.search("ZygoteUnfitError: .*descriptor 9 .*passwd", said), said


@pytest.mark.root
@pytest.mark.templates
def test_forked_processes_have_the_limits_of_their_sandbox(stock_templates: None) -> None:
    """Open files and processors are the sandbox's, not the zygote's, which has all of the host's."""
    code = "import os, resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE), len(os.sched_getaffinity(0)))"
    with running_server("--default-open-files", "1234", "--default-cpu-count", "1") as other:
        sandbox = make_started(other, [])
        assert python(sandbox, code) == "(1234, 1234) 1"
        agent = shell(sandbox, "pid=$(pgrep -o -f agent/main.py); prlimit -p $pid -n -o HARD --noheadings; taskset -p $pid").text
        sandbox.kill()
    limit, mask = agent.splitlines()
    assert (limit.strip(), int(mask.split()[-1], 16).bit_count()) == ("1234", 1)
