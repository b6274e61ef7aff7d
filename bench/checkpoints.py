"""Other tools that stop a process and go on with it, in the same run: bare CRIU, and gVisor's ``runsc``. Both hold a Python process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.stats import Samples, timed

from cloister.config.load import load
from cloister.errors import UnavailableError
from cloister.node.runtimes import has_built_runsc, installed_runsc
from cloister.runtime.namespace.checkpoint.criu import find_criu
from framework.waiting import eventually

_LIMIT_S = 60
_ROUNDS = 10
_SIZES = {"idle": 0, "+100 MB": 100_000_000}
_SLEEP = "time.sleep(1e6)"
_CODE = "import os, time; held = os.urandom({}); " + _SLEEP
_SAID_BYTES = 200


class _ToolError(Exception):
    """A tool failed; the message has its own words."""


def measure_criu(samples: Samples, rounds: int) -> dict[str, str]:
    """Dump, which ends the process, and restore. Returns why there are no rows."""
    try:
        words = find_criu("auto", load(None, os.environ).store_dir).argv
        for size, held in _SIZES.items():
            for _ in range(min(rounds, _ROUNDS)):
                _criu_round(samples, words, size, held)
    except (UnavailableError, _ToolError) as error:
        return {"criu": str(error)}
    return {}


def _criu_round(samples: Samples, words: tuple[str, ...], size: str, held: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ready, images = Path(directory) / "ready", Path(directory) / "images"
        images.mkdir()
        command = [sys.executable, "-I", "-c", f"{_CODE.format(held)[: -len(_SLEEP)]}open({str(ready)!r}, 'w').close(); {_SLEEP}"]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, cwd="/") as process:
            try:
                eventually(ready.exists)
                timed(samples, f"criu dump, {size}", partial(_run, *words, "dump", "-t", str(process.pid), "-D", str(images)))
            finally:
                process.kill()
        timed(samples, f"criu restore, {size}", partial(_run, *words, "restore", "-d", "-D", str(images)))
        os.kill(process.pid, signal.SIGKILL)


def measure_runsc(samples: Samples, rounds: int) -> dict[str, str]:
    """Pause, resume, checkpoint, which ends the sandbox, and restore, without a network. Returns why there are no rows."""
    settings = load(None, os.environ)
    program = str(installed_runsc(settings.store_dir)) if has_built_runsc(settings) else shutil.which("runsc")
    if program is None:
        return {"runsc": "it is not installed: cloister runtime install gvisor"}
    try:
        for size, held in _SIZES.items():
            with _bundle(program, held) as (words, bundle):
                for number in range(min(rounds, _ROUNDS)):
                    _runsc_round(samples, words, bundle, f"bench-{number}", size)
    except _ToolError as error:
        return {"runsc": str(error)}
    return {}


@contextlib.contextmanager
def _bundle(program: str, held: int) -> Iterator[tuple[list[str], Path]]:
    """The words that begin each command, and a bundle with the host's files, read-only."""
    with tempfile.TemporaryDirectory() as directory:
        bundle, root = Path(directory) / "bundle", Path(directory) / "root"
        bundle.mkdir()
        words = [program, "--root", str(root), "--network=none", "--ignore-cgroups", "--overlay=true"]
        _run(program, "spec", "-bundle", str(bundle))
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"args": ["/usr/bin/python3", "-I", "-c", _CODE.format(held)], "terminal": False}
        config["root"] = {"path": "/", "readonly": True}
        (bundle / "config.json").write_text(json.dumps(config))
        yield words, bundle


def _runsc_round(samples: Samples, words: list[str], bundle: Path, name: str, size: str) -> None:
    image = bundle.parent / f"{name}.image"
    with contextlib.ExitStack() as ends:
        for one in (name, f"{name}-again"):
            ends.callback(subprocess.run, [*words, "delete", "-force", one], capture_output=True, check=False, timeout=_LIMIT_S)
        _run(*words, "run", "-detach", "-bundle", str(bundle), name)
        time.sleep(1.0)  # its Python has started; nothing tells when
        timed(samples, f"runsc pause, {size}", partial(_run, *words, "pause", name))
        timed(samples, f"runsc resume, {size}", partial(_run, *words, "resume", name))
        timed(samples, f"runsc checkpoint, {size}", partial(_run, *words, "checkpoint", "-image-path", str(image), name))
        again = ["restore", "-detach", "-bundle", str(bundle), "-image-path", str(image), f"{name}-again"]
        timed(samples, f"runsc restore, {size}", partial(_run, *words, *again))


def _run(*command: str) -> None:
    """Run a command to its end. Raises: _ToolError with the end of its message."""
    try:
        with tempfile.TemporaryFile() as said:  # a file: a detached sandbox holds the ends of pipes
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, timeout=_LIMIT_S)
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _ToolError(str(error)) from error
    if done.returncode:
        raise _ToolError(f"{Path(command[0]).name} {' '.join(command[1:3])} ended with {done.returncode}: {words[-_SAID_BYTES:]}")
