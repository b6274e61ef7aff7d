"""CRIU: finds it on this host, and runs it inside a sandbox with as little power as it can work with.

CRIU reads the state of hostile processes, so each dump and each restore is a fresh process. ``criu.so`` (native/criu.c) is loaded into it:
the loader works in the host's root, then ``criu.so`` enters the sandbox and gives up power, then CRIU begins. CRIU reaches the host's
file system only by the descriptors that it is given, each a mount of its own that leads nowhere else.
Runs in: supervisor, in worker threads. Needs: root. Invariants: I1, I2, I7.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cloister.errors import DeadlineError, RuntimeFailedError, UnavailableError
from cloister.linux.process import wait_pidfd
from cloister.runtime.namespace.checkpoint.facts import KernelFacts
from cloister.runtime.namespace.zygotes import log_in_memory, text_of_log

__all__ = ["AUTO", "CRIU_DIR", "INSTALL_HINT", "MIN_VERSION", "Criu", "Entry", "KilledError", "find_criu"]

AUTO = "auto"
"""The value of the setting ``checkpoint`` that looks for CRIU itself."""
CRIU_DIR = "criu"
"""Where ``cloister checkpoint install`` unpacks it, below the store."""
MIN_VERSION = (4, 2)
"""Older ones fail on the sockets of Linux 6.16 and newer."""
INSTALL_HINT = "run `cloister checkpoint install`, which unpacks one for this server only"
_PATH_HINT = f"the setting checkpoint takes a CRIU, a directory with an unpacked one, or `auto`: {INSTALL_HINT}"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_VERSION_TIMEOUT_S = 10.0
_WATCH_EVERY_S = 0.05
_SIGNALLED = 128
"""Statuses above it: CRIU was ended by a signal (native/criu.c)."""


class KilledError(RuntimeFailedError):
    """CRIU was ended by a signal, not by itself."""

    code = "dumper_killed"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How CRIU enters a sandbox. The descriptors stay the caller's."""

    pid_namespace: int
    namespaces: tuple[int, ...]
    """The others, in the order in which they are entered: mnt late, user last."""
    image: int
    """The directory of the image, whose file of /dev/shm is written or read before CRIU begins."""
    user: int
    """A dump: the host's id of the sandbox's root. A restore: 0, in the user namespace of the sandbox."""
    capabilities: int | None = None
    """A dump: the mask of those that it keeps, of the host's. None: a restore, which has the sandbox's user namespace only."""
    groups: tuple[int, ...] = ()
    """Files of the control group to join."""
    filter: int | None = None
    """A dump: a file with the seccomp filter of CRIU itself."""
    sandbox_filter: int | None = None
    """A dump: a file with the seccomp filter that all processes of the sandbox have."""
    cpus: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """For native/criu.c."""
        found = {
            "CLOISTER_PID_NAMESPACE": str(self.pid_namespace),
            "CLOISTER_NAMESPACES": _joined(self.namespaces),
            "CLOISTER_IMAGE": str(self.image),
            "CLOISTER_USER": str(self.user),
        }
        if self.capabilities is not None:  # a dumper that the kernel kills may break the sandbox
            found |= {"CLOISTER_CAPABILITIES": f"{self.capabilities:x}", "CLOISTER_OOM_SCORE_ADJ": "-1000"}
        else:
            found["CLOISTER_OOM_SCORE_ADJ"] = "500"
        if self.groups:
            found["CLOISTER_GROUPS"] = _joined(self.groups)
        if self.cpus:
            found["CLOISTER_PROCESSORS"] = _joined(self.cpus)
        for name, fd in (("CLOISTER_FILTER", self.filter), ("CLOISTER_SANDBOX_FILTER", self.sandbox_filter)):
            if fd is not None:
                found[name] = str(fd)
        return found

    def descriptors(self) -> tuple[int, ...]:
        """Those that the process must inherit."""
        given = (fd for fd in (self.filter, self.sandbox_filter) if fd is not None)
        return (self.pid_namespace, *self.namespaces, self.image, *self.groups, *given)


@dataclass(frozen=True, kw_only=True)
class Criu:
    """A CRIU of this host."""

    argv: tuple[str, ...]
    """The program, below its own loader where it has one."""
    version: str
    facts: KernelFacts | None = None

    def run(
        self, words: Sequence[str], entry: Entry, files: Sequence[int], timeout_s: float, watch: Callable[[], None] = lambda: None
    ) -> str:
        """Run it in a sandbox, and wait for its end; ``files`` are further descriptors for ``words``. Gives the errors that it wrote.

        An empty answer is success. ``watch`` is called all the time; when it raises, CRIU is killed. Raises: DeadlineError, when it took
        too long and was killed; KilledError; OSError; as ``watch``.
        """
        with ExitStack() as stack:
            log = log_in_memory("criu log")
            stack.callback(os.close, log)
            environment = {"LD_PRELOAD": str(_library()), "LC_ALL": "C", **entry.environment()}
            if self.facts is not None:
                facts = self.facts.of_restore if entry.capabilities is None else self.facts.of_dump
                environment["XDG_RUNTIME_DIR"] = f"/proc/self/fd/{facts}"
                files = (*files, facts)
            process = subprocess.Popen(
                [*self.argv, *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                pass_fds=(*entry.descriptors(), *files),
            )
            try:
                has_ended = _wait(process, timeout_s, watch)
            finally:  # also when the supervisor stops: its children are not to outlive it
                process.kill()
                code = process.wait()
            if not has_ended:
                raise DeadlineError(f"CRIU took longer than {timeout_s:g} s")
            if code < 0 or code > _SIGNALLED:
                raise KilledError(f"CRIU was ended by signal {-code if code < 0 else code - _SIGNALLED}")
            said = text_of_log(log)
            return "" if code == 0 else said or f"CRIU ended with status {code} and wrote nothing"


def find_criu(setting: str, store_dir: Path) -> Criu:
    """The CRIU of the setting ``checkpoint``: a program, a directory with an unpacked one, or ``auto``: the unpacked one, then the host's.

    Raises: UnavailableError, with the remedy.
    """
    if setting != AUTO:
        return _at(Path(setting), _PATH_HINT)
    unpacked, installed = store_dir / CRIU_DIR, shutil.which("criu", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if unpacked.is_dir():
        return _at(unpacked)
    if installed is None:
        raise UnavailableError("there is no CRIU on this host", hint=INSTALL_HINT)
    return _at(Path(installed))


def _at(path: Path, hint: str = INSTALL_HINT) -> Criu:
    argv: tuple[str, ...] = (str(path),)
    if path.is_dir():
        libraries = path / _LIBRARIES
        loader = libraries / "ld-linux-x86-64.so.2"
        argv = (str(loader), "--inhibit-cache", "--library-path", str(libraries), str(path / "usr/sbin/criu"))
    try:
        said = subprocess.run(
            [*argv, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False, env={"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{path} cannot be run: {error}", hint=hint) from error
    match = re.search(r"Version: (\d+)\.(\d+)(\.\d+)?", said.stdout)
    if match is None:
        raise UnavailableError(f"{path} is no CRIU: it says {(said.stdout + said.stderr)[:200]!r}", hint=hint)
    version = match[0].removeprefix("Version: ")
    if (int(match[1]), int(match[2])) < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise UnavailableError(f"CRIU {version} is too old: checkpoints need {least} or newer", hint=hint)
    return Criu(argv=argv, version=version)


def _wait(process: subprocess.Popen[bytes], timeout_s: float, watch: Callable[[], None]) -> bool:
    """Whether it ends in time. :meth:`subprocess.Popen.wait` would look only every 50 ms."""
    pidfd, deadline = os.pidfd_open(process.pid), time.monotonic() + timeout_s
    try:
        while not wait_pidfd(pidfd, _WATCH_EVERY_S):
            watch()
            if time.monotonic() > deadline:
                return False
        return True
    finally:
        os.close(pidfd)


def _joined(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _library() -> Path:
    path = Path(str(resources.files("cloister"))) / "bin" / "criu.so"
    if not path.is_file():
        raise UnavailableError("criu.so is not built", hint="install the package again: pip install -e .")
    return path
