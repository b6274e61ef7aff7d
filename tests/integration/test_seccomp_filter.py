"""The seccomp program on the real kernel: what it refuses gives its errno, and ordinary programs run under it."""

from __future__ import annotations

import errno
import json
import mmap
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister import runtime
from cloister.linux.seccomp import compile_bpf, load_profile
from framework import filtered
from framework.driver_root import DriverRoot

pyseccomp = pytest.importorskip("pyseccomp", reason="libseccomp2 is not installed")

PROFILE = Path(runtime.__file__).parent / "namespace" / "profiles" / "default.json"
LAUNCHER = Path(filtered.__file__)


@pytest.fixture(scope="module")
def program() -> bytes:
    """The default profile's program."""
    return compile_bpf(load_profile(PROFILE))


@pytest.fixture
def filter_file(program: bytes, tmp_path: Path) -> Path:
    """The program as a file."""
    path = tmp_path / "filter.bpf"
    path.write_bytes(program)
    return path


def under_filter(program: bytes, probe: Callable[[], Any]) -> Any:
    """Result of ``probe`` in a child that installed the filter."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            filtered.install(program)
            os.write(write, json.dumps(probe()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        answer = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(answer)


def number(name: str) -> int:
    """The call's number on this machine."""
    return int(pyseccomp.resolve_syscall(pyseccomp.system_arch(), name))


REFUSED = [
    *[(name, (0, 0, 0, 0, 0), errno.ENOSYS) for name in ("add_key", "request_key", "keyctl", "clone3")],
    *[(name, (0, 0, 0, 0, 0, 0), errno.ENOSYS) for name in ("io_uring_setup", "io_uring_enter", "io_uring_register")],
    *[(name, (0, 0, 0, 0, 0), errno.EPERM) for name in ("bpf", "perf_event_open", "userfaultfd", "fanotify_init")],
    *[(name, (0, 0, 0, 0, 0), errno.EPERM) for name in ("mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsconfig")],
    *[(name, (0, 0, 0, 0, 0), errno.EPERM) for name in ("fsmount", "fspick", "mount_setattr", "setns", "open_by_handle_at", "kcmp")],
    *[(name, (0, 0, 0, 0, 0), errno.EPERM) for name in ("kexec_load", "init_module", "finit_module", "delete_module", "syslog")],
    *[(name, (0, 0, 0, 0, 0), errno.EPERM) for name in ("swapon", "swapoff", "quotactl", "acct")],
    *[(name, (0, 0, 0, 0, 0), errno.EPERM) for name in ("pidfd_getfd", "move_pages", "migrate_pages")],
    *[(name, (0, 0, 0, 0, 0), errno.EPERM) for name in ("settimeofday", "clock_adjtime", "adjtimex", "vhangup")],
    ("clone", (0x10000011, 0, 0, 0, 0), errno.EPERM),
    ("unshare", (0x10000000,), errno.EPERM),
    ("unshare", (0x00020000,), errno.EPERM),
    ("unshare", (0x200,), 0),
    ("personality", (0x400000,), errno.EPERM),
    ("personality", (0xFFFFFFFF,), 0),
    ("ioctl", (0, 0x5412, b"x"), errno.EPERM),
    ("ioctl", (0, 0x1_0000_5412, b"x"), errno.EPERM),
    ("ioctl", (0, 0x541C, b"x"), errno.EPERM),
    *[("socket", (family, 3, 0), errno.EAFNOSUPPORT) for family in (15, 17, 21, 30, 31, 38, 40, 44)],
    ("socket", (2, 1, 132), errno.EPROTONOSUPPORT),
    ("socket", (16, 3, 12), errno.EPROTONOSUPPORT),
]


@pytest.mark.parametrize(("name", "args", "expected"), REFUSED)
def test_refused_call_gives_its_errno(program: bytes, name: str, args: tuple[int | bytes, ...], expected: int) -> None:
    """A call that reaches beyond the sandbox fails with the errno of the profile (and its harmless form works)."""
    call = number(name)
    assert under_filter(program, lambda: filtered.syscall(call, *args)) == expected


def test_a_call_of_the_future_is_not_there(program: bytes) -> None:
    """A number that no kernel has yet gives ENOSYS, so that libraries fall back."""
    assert under_filter(program, lambda: [filtered.syscall(n) for n in (500, 999, 0x3FFFFFFF)]) == [errno.ENOSYS] * 3


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 and int 0x80 are x86_64's")
def test_other_abis_are_refused(program: bytes) -> None:
    """Neither an x32 number nor the 32-bit gate (int 0x80) reaches the kernel's calls."""

    def probe() -> list[int]:
        import ctypes

        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 20 (getpid); int 0x80; pop rbx; ret
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        return [filtered.syscall(39 | 0x40000000), function()]

    assert under_filter(program, probe) == [errno.ENOSYS, -errno.ENOSYS]


def test_ordinary_calls_work(program: bytes) -> None:
    """Sockets, netlink routes, memfd, threads, inotify, epoll and a further filter work under the filter."""

    def probe() -> str:
        import selectors
        import threading

        for family in (socket.AF_UNIX, socket.AF_INET):
            socket.socket(family, socket.SOCK_STREAM).close()
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
        socket.socketpair()[0].close()
        assert socket.if_nameindex()
        os.close(os.memfd_create("x"))
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        assert filtered.syscall(number("inotify_init1"), 0) == 0
        selectors.EpollSelector().close()
        filtered.install(program)
        return "ok"

    assert under_filter(program, probe) == "ok"


HOST_PROGRAMS = [
    "bash -c 'cat <(echo a) | grep a; sleep 0 & wait'",
    "tar -C /etc -c hostname | tar -t",
    f"{sys.executable} -c 'import multiprocessing as m; p = m.Process(target=print); p.start(); p.join(); assert p.exitcode == 0'",
    "printf 'int main(void){return 0;}' | gcc -x c -o $T/a.out - && $T/a.out",
    "strace -f -o $T/trace true && grep execve $T/trace",
    "gdb -nx -batch -ex run -ex bt --args true 2>&1 | tee /dev/stderr | grep 'exited normally'",
    "git init -q $T/repo && git -C $T/repo -c user.name=a -c user.email=a@b commit -q --allow-empty -m x",
]


@pytest.mark.parametrize("command", HOST_PROGRAMS)
def test_host_programs_run_under_the_filter(filter_file: Path, tmp_path: Path, command: str) -> None:
    """Ordinary programs of this machine run under the filter."""
    tool = command.split(maxsplit=1)[0]
    if shutil.which("gcc" if "gcc" in command else tool) is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), str(filter_file), "bash", "-ec", command],
        env={**os.environ, "T": str(tmp_path)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


CONTROL = r"Package: zz\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
ROOT_PROGRAMS = [
    'R --vanilla -s -e \'cat(sum(1:10), system("echo child", intern = TRUE), "\\n")\' | grep 55',
    'node -e \'new (require("worker_threads").Worker)("1", {eval: true}).on("exit", () => console.log(1))\' | grep 1',
    "npm --version",
    "echo 'System.out.println(1+1)' | jshell -s - | grep 2",
    "python3 -c 'import numpy, numba; print(numba.njit(parallel=True)(lambda a: (a * 2).sum())(numpy.ones(9)))' | grep 18",
    "python3 -m venv --without-pip /tmp/v && /tmp/v/bin/python -c 'import ssl'",
    "dpkg --audit && apt-get --version && apt-cache policy >/dev/null",
    f"mkdir -p /tmp/p/DEBIAN && printf '{CONTROL}' >/tmp/p/DEBIAN/control; dpkg-deb -b /tmp/p /z.deb && dpkg -i /z.deb && dpkg -r zz",
    "sudo -n true",
    "su nobody -s /bin/sh -c id | grep nobody",
]


@pytest.mark.parametrize("command", ROOT_PROGRAMS)
def test_template_programs_run_under_the_filter(driver_root: DriverRoot, filter_file: Path, command: str) -> None:
    """The languages and tools of the stock template run under the filter."""
    argv = ["/usr/bin/python3", "/test/filtered.py", "/test/filter.bpf", "/bin/bash", "-euo", "pipefail", "-c", command]
    process = driver_root.spawn(argv, binds={LAUNCHER: "/test/filtered.py", filter_file: "/test/filter.bpf"})
    code = process.wait(90)
    if code and "command not found" in process.raw_stderr.decode(errors="replace"):
        pytest.skip(f"the root lacks a program of: {command}")
    assert code == 0, (process.raw_stdout[-500:], process.raw_stderr[-1500:])
