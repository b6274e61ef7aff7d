"""The Python driver on other Pythons than the stock templates': a template of a client has whichever it likes, from 3.9 on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloister

DRIVERS = Path(cloister.__file__).parent / "agent" / "drivers"
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
CELLS = (
    ("1 + 1", "result", "2"),
    ("1 / 0", "error", "division by zero"),
    ("import subprocess; print('a', end=''); _ = subprocess.run(['echo', 'b'])", "stdout", "ab\n"),
    ("!echo from a shell", "stdout", "from a shell\n"),
    ("import asyncio; await asyncio.sleep(0); 'awaited'", "result", "'awaited'"),
    ("%pwd", "result", "'/'"),
)
FIT = """
import os, sys
sys.path[:0] = [{drivers!r}, {drivers!r} + '/python']
os.closerange(6, 1024)
import zygote_main, zygote_memory
fork, live = zygote_main.prepare()
print('fit', sys.version_info[:2])
os._exit(0)
"""


def find_python(version: str) -> str | None:
    """One on the path, or beside it as pyenv keeps them."""
    kept = sorted(Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python3"))
    candidates = [*map(str, kept[-1:]), shutil.which(f"python{version}")]
    for one in [one for one in candidates if one is not None]:
        if subprocess.run([one, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return one
    return None


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A virtual environment of that version with IPython."""
    found = find_python(request.param)
    if found is None:
        pytest.skip(f"this machine cannot do it: it has no Python {request.param}")
    place = tmp_path_factory.mktemp("venv") / request.param
    made = subprocess.run([found, "-m", "venv", str(place)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"this machine cannot do it: its Python {request.param} makes no virtual environments")
    subprocess.run([str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "ipython"], check=True, timeout=200)
    return str(place / "bin/python3")


@pytest.fixture
def kernel(python: str, tmp_path: Path) -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
    """A cold kernel: the protocol's stream, and the process with its standard output."""
    ours, theirs = socket.socketpair()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", "CLOISTER_KERNEL_FD": str(theirs.fileno())}
    argv = [python, str(DRIVERS / "python" / "main.py")]
    process = subprocess.Popen(argv, env=env, cwd="/", pass_fds=(theirs.fileno(),), stdout=subprocess.PIPE)
    theirs.close()
    ours.settimeout(60)
    with ours, ours.makefile("rwb") as stream:
        yield stream, process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_kernel_runs_cells(kernel: tuple[Any, subprocess.Popen[bytes]]) -> None:
    """Values, errors, programs, awaits and magics, with output in the order in which it was written."""
    stream, process = kernel
    assert json.loads(stream.readline())["op"] == "ready"
    seen: list[dict[str, Any]] = []
    for number, (code, _, _) in enumerate(CELLS, 1):
        stream.write(json.dumps({"op": "execute", "id": number, "code": code, "envs": {}}).encode() + b"\n")
        stream.flush()
        while (message := json.loads(stream.readline()))["op"] != "done":
            seen.append(message)
    written = os.read(process.stdout.fileno(), 4096).decode() if process.stdout else ""
    written += "".join(message["text"] for message in seen if message["op"] == "stdout")
    for number, (code, op, expected) in enumerate(CELLS, 1):
        mine = [message for message in seen if message.get("id") == number]
        if op == "result":
            assert [message["data"]["text/plain"] for message in mine if message["op"] == op] == [expected], code
        elif op == "error":
            assert [message["value"] for message in mine if message["op"] == op] == [expected], code
            assert "ZeroDivisionError" in next(message["traceback"] for message in mine if message["op"] == op)
        else:
            assert expected in written, code


def test_a_zygote_can_be_made(python: str) -> None:
    """Everything before the first fork, on this version and the IPython that it gets: one thread, nothing shared."""
    code = FIT.format(drivers=str(DRIVERS))
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, cwd="/", check=False)
    assert done.stdout.splitlines()[-1:] == [f"fit {tuple(int(part) for part in _version(python))}"], done.stdout + done.stderr


def _version(python: str) -> list[str]:
    return subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1].split(".")[:2]
