"""``cloister doctor`` on this host: it tries what serve needs, tells warnings with their remedies, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.server import free_port

pytestmark = pytest.mark.root

SILENT = "127.0.0.1:9"
"""The discard port, where no resolver is."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def doctor(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it for a server that has never been started."""
    places = [word for name in ("data", "store", "run") for word in (f"--{name}-dir", str(place / name)) if f"--{name}-dir" not in options]
    command = [sys.executable, "-m", "cloister.cli.main", "doctor", *places, "--listen", f"127.0.0.1:{free_port()}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The findings by name, of a run with ``--json``."""
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_it_leaves_nothing_behind(place: Path) -> None:
    """A server's directories that do not exist are not made, and what is tried in their parent is removed; so it is where they exist."""
    assert doctor(place).returncode == 0
    assert list(place.iterdir()) == []
    for name in ("data", "store", "run"):
        (place / name).mkdir()
    assert doctor(place).returncode == 0
    assert sorted(place.rglob("*")) == [place / "data", place / "run", place / "store"]


def test_warnings_have_remedies_and_no_exit_code(place: Path) -> None:
    """A fault that makes sandboxes worse, but not impossible, is a warning with its remedy; the exit code is 0."""
    done = doctor(place, "--dns-upstreams", SILENT)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warn resolvers"))
    assert f"none of {SILENT} answers" in lines[at]
    assert lines[at + 1].strip().startswith("-> set dns_upstreams")
    assert "resolvers" in lines[-1]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert (line[:4] in ("warn", "FAIL")) == following.strip().startswith("->"), line


def test_it_tries_what_serve_needs(place: Path) -> None:
    """A closed parent, an address of another host and one that is taken are each told as serve would meet them."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    done = doctor(place, "--json", "--data-dir", str(closed / "data"), "--listen", "192.0.2.77:9", "--domain", "headers-only")
    assert done.returncode == 1
    found = findings(done)
    assert found["settings"]["level"] == "fail"
    assert found["settings"]["remedy"].startswith(f"chmod o+x {closed}")
    assert found["listen"]["level"] == "fail"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = doctor(place, "--json", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 0
    assert findings(done)["listen"]["level"] == "warn"


def test_it_tells_whose_the_code_is(place: Path) -> None:
    """Code of the user who called sudo is a warning: that account can change what runs as root."""
    own = findings(doctor(place, "--json"))["installation"]
    assert own["level"] == "ok"
    module = place / "module"
    module.mkdir()
    os.chown(module, 65534, 65534)
    command = [sys.executable, "-m", "cloister.cli.main", "doctor", "--json", "--data-dir", str(place / "data")]
    environ = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{module}"}
    for sudo_uid, level in (("65534", "warn"), ("1", "fail")):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**environ, "SUDO_UID": sudo_uid})
        assert findings(done)["installation"]["level"] == level
        assert str(module) in findings(done)["installation"]["detail"]
