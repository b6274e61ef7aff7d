"""Pid 1 of a test root: mounts an overlay in its own mount namespace, starts one program in it, reaps, and ends with it.

Runs in: a fresh mount and pid namespace made by ``unshare``; nothing it mounts is seen by the host. Its one argument is a JSON
object: ``{"lower": [dir, …], "scratch": dir, "argv": [], "env": {}, "cwd": "/", "fds": {"3": source fd}, "binds": {source: target}}``,
``lower`` topmost first. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def mount(*args: str) -> None:
    """Run the mount program; a failure ends the process with its message."""
    subprocess.run(["mount", *args], check=True, stdin=subprocess.DEVNULL)


def build_root(spec: dict[str, object]) -> Path:
    """Mount the overlay with /proc, a small /dev and the binds; give the new root."""
    scratch = Path(str(spec["scratch"]))
    lower = spec["lower"]
    binds = spec["binds"]
    assert isinstance(lower, list)
    assert isinstance(binds, dict)
    mount("-t", "tmpfs", "-o", "size=4g", "tmpfs", str(scratch))
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    root = scratch / "root"
    options = f"lowerdir={':'.join(lower)},upperdir={scratch}/upper,workdir={scratch}/work"
    mount("-t", "overlay", "-o", options, "overlay", str(root))
    mount("-t", "proc", "proc", str(root / "proc"))
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root / "dev"))
    for device in DEVICES:
        (root / "dev" / device).touch()
        mount("--bind", f"/dev/{device}", str(root / "dev" / device))
    (root / "dev" / "shm").mkdir()
    mount("-t", "tmpfs", "tmpfs", str(root / "dev" / "shm"))
    (root / "dev" / "fd").symlink_to("/proc/self/fd")
    for source, target in binds.items():
        place = root / str(target).lstrip("/")
        if Path(source).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        mount("--bind", source, str(place))
    return root


def start(spec: dict[str, object], root: Path) -> int:
    """Fork the program into the root, in a session of its own, with the descriptors that the spec names; give its pid."""
    argv, env, fds = spec["argv"], spec["env"], spec["fds"]
    assert isinstance(argv, list)
    assert isinstance(env, dict)
    assert isinstance(fds, dict)
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.chroot(root)
        os.chdir(str(spec["cwd"]))
        for target, source in fds.items():
            os.dup2(source, int(target))
        os.closerange(max([2, *map(int, fds)]) + 1, 1024)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        print(f"cannot start {argv[0]}: {error}", file=sys.stderr)
    os._exit(127)


def main() -> int:
    """Build, start, reap until the program ends; its exit code is ours."""
    spec = json.loads(sys.argv[1])
    program = start(spec, build_root(spec))
    for source in spec["fds"].values():
        os.close(source)
    while True:
        pid, status = os.wait()
        if pid == program:
            return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
