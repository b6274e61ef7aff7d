"""Tries ``runsc`` on this host: a version proves little, because the same program works on one kernel and fails on the next.

Two trials, each with a time limit and in a directory of its own: a program in the platform ``systrap``, and a bundle with a network stack
of its own in a network namespace. Never tries the platform ``kvm``, which may hang, and never ``runsc do`` with a network, which switches
the host's forwarding on. Nothing is left, whatever happens.
Runs in: supervisor, ``cloister doctor`` and ``cloister runtime``; takes about a second. Needs: root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cloister.errors import UnavailableError
from cloister.linux.files import write_whole
from cloister.linux.netns import is_netns_pinned, pin_new_netns, unpin_netns
from cloister.linux.process import kill_pidfd, wait_pidfd

__all__ = ["probe_once", "probe_runsc"]

_TIMEOUT_S = 10.0
_END_TIMEOUT_S = 10.0
_ID = "cloister-probe"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_TAIL = 400
_HINT = "look at the kernel's log; the namespace runtime does not need runsc"


def probe_runsc(program: Path) -> None:
    """Try it. Raises: UnavailableError, which says what failed."""
    with ExitStack() as undo:
        work = Path(tempfile.mkdtemp(prefix="cloister-runsc-"))
        undo.callback(shutil.rmtree, work, ignore_errors=True)
        undo.callback(_clean, work)
        (work / "tmp").mkdir()
        _try_platform(program, work)
        _try_network(program, work)


def probe_once(program: Path, note: Path) -> None:
    """As :func:`probe_runsc`, unless the ``note`` says that this program has worked since the host booted. Raises: UnavailableError."""
    found = program.stat()
    now = {"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "path": str(program)}
    now |= {"inode": str(found.st_ino), "size": str(found.st_size), "mtime_ns": str(found.st_mtime_ns)}
    try:
        if json.loads(note.read_text()) == now:
            return
    except (OSError, ValueError):  # there is none, or a crash has cut it off
        pass
    probe_runsc(program)
    write_whole(note, json.dumps(now))


def _try_platform(program: Path, work: Path) -> None:
    """``runsc do`` has its notes, and a mount, in a directory of its own below that for temporary files, wherever its root is."""
    root = work / "platform"
    root.mkdir()
    options = ("--platform=systrap", "--network=none", "--ignore-cgroups")
    _run("a program", [str(program), f"--root={root}", *options, "do", "--quiet", "true"], work)


def _try_network(program: Path, work: Path) -> None:
    """A bundle whose only file is the program itself, which needs no library, and says its version."""
    root, bundle, netns = work / "network", work / "bundle", work / "netns"
    root.mkdir()
    (bundle / "rootfs").mkdir(parents=True)
    (bundle / "rootfs" / "runsc").touch()
    (bundle / "config.json").write_text(json.dumps(_bundle(program, netns)))
    with ExitStack() as undo:
        undo.callback(unpin_netns, netns)
        pin_new_netns(netns)
        options = (f"--root={root}", "--platform=systrap", "--network=sandbox", "--ignore-cgroups", "--overlay2=root:memory")
        _run("a bundle with a network of its own", [str(program), *options, "run", f"--bundle={bundle}", _ID], work)


def _bundle(program: Path, netns: Path) -> dict[str, Any]:
    """``config.json``. Source: the OCI runtime specification 1.2."""
    return {
        "ociVersion": "1.0.0",
        "process": {"user": {"uid": 65_534, "gid": 65_534}, "args": ["/runsc", "--version"], "cwd": "/", "noNewPrivileges": True},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": "/runsc", "type": "bind", "source": str(program), "options": ["ro"]}],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")] + [{"type": "network", "path": str(netns)}]},
    }


def _clean(work: Path) -> None:
    """End the processes of a sandbox that is still there, and remove the mounts that ``runsc`` leaves below its root directories."""
    below = f"--root={work}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            pidfd = os.pidfd_open(int(process.name))
            try:
                if any(word.startswith(below) for word in (process / "cmdline").read_bytes().split(b"\0")):
                    kill_pidfd(pidfd)
                    wait_pidfd(pidfd, _END_TIMEOUT_S)
            finally:
                os.close(pidfd)
    for path in work.rglob("*"):
        if is_netns_pinned(path):
            unpin_netns(path)


def _run(what: str, command: Sequence[str], work: Path) -> None:
    """Run a command in a session of its own, which ends with it. Raises: UnavailableError."""
    with tempfile.TemporaryFile() as said:
        silence = subprocess.DEVNULL
        environment = {**_ENVIRONMENT, "TMPDIR": str(work / "tmp")}
        process = subprocess.Popen(command, stdin=silence, stdout=silence, stderr=said, start_new_session=True, env=environment, cwd="/")
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"runsc did not run {what} within {_TIMEOUT_S:g} s", hint=_HINT) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            said.seek(0)
            text = " ".join(said.read().decode(errors="replace").split())[-_TAIL:]
            raise UnavailableError(f"runsc could not run {what} (status {process.returncode}): {text or 'it wrote nothing'}", hint=_HINT)
