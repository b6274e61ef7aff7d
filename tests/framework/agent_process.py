"""The agent of this checkout in a throw-away copy of the code-interpreter root, on two ports of the host's loopback.

The layout inside is that of a sandbox (docs/architecture.md, "What a sandbox sees"), without its isolation: for tests of the agent and
its kernels together. Libraries and the interpreter come from the store's newest agent tree and lowest layer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloister
from cloister.protocol.languages import NATIVE_LANGUAGES
from cloister.protocol.ready import SERVING
from framework.driver_root import DRIVERS, DriverRoot, store_dir

__all__ = ["AgentProcess", "start_agent"]

_RT = "/.cloister/rt"
_SITE = "/.cloister/agent/site"
_PYTHON = f"{_RT}/bin/python3.13"
_LOADER = [f"{_RT}/lib64/ld-linux-x86-64.so.2", "--argv0", _PYTHON, "--library-path", f"{_RT}/lib/x86_64-linux-gnu", _PYTHON, "-I", "-S"]
_LANGUAGES = [language.name for language in NATIVE_LANGUAGES]
_IGNORED = shutil.ignore_patterns("__pycache__", "node_modules")


class AgentProcess:
    """A running agent. ``port`` is the code interpreter's, ``control_port`` the envd-compatible one."""

    def __init__(self, root: DriverRoot, tree: Path, scratch: Path, init: dict[str, Any]) -> None:
        drivers = scratch / "drivers"
        source = Path(cloister.__file__).parent
        shutil.copytree(source / "agent" / "drivers", drivers, ignore=_IGNORED)
        (drivers / "node_modules").mkdir()
        binds = {
            tree / "site": _SITE,
            source: f"{_SITE}/cloister",
            drivers: DRIVERS,
            tree / "drivers" / "node_modules": f"{DRIVERS}/node_modules",
        }
        with contextlib.ExitStack() as stack:
            control, interpreter = (stack.enter_context(_listener()) for _ in range(2))
            self.port, self.control_port = interpreter.getsockname()[1], control.getsockname()[1]
            document = stack.enter_context(os.fdopen(os.memfd_create("init"), "r+b"))
            document.write(json.dumps(init).encode())
            document.flush()
            ready, tell = os.pipe()
            stack.callback(os.close, ready)
            fds = {3: document.fileno(), 4: control.fileno(), 5: interpreter.fileno(), 6: tell}
            argv = [*_LOADER, f"{_SITE}/cloister/agent/main.py"]
            self.process = root.spawn(argv, fds=fds, binds={root.lower[-1] / "usr": _RT, **binds})
            os.close(tell)
            if os.read(ready, 1) != SERVING:
                raise RuntimeError(f"the agent did not start: {self.process.raw_stderr.decode(errors='replace')}")

    def request(self, method: str, path: str, body: Any = None, *, control: bool = False, **headers: str) -> tuple[int, str]:
        """(status, text) of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port if control else self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def execute(self, code: str, language: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """All events of one run."""
        status, text = self.request("POST", "/execute", {"code": code, "language": language, **fields})
        assert status == 200, text
        return [json.loads(line) for line in text.splitlines()]


def _listener() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


@pytest.fixture
def start_agent(driver_root: DriverRoot, tmp_path: Path) -> Callable[..., AgentProcess]:
    """Start agents; keywords replace fields of the init document."""
    store = store_dir()
    trees = sorted((store / "agent").glob("*/site"), key=lambda site: site.stat().st_mtime)
    if not trees:
        pytest.skip("needs the built agent tree in the store")

    def start(**fields: Any) -> AgentProcess:
        document = {"sandbox_id": "testsandbox", "template_id": "t", "workdir": "/root", "kernel_user": "root", "languages": _LANGUAGES}
        limits = {"mem_mib": 1024, "cpu_count": 2, "output_mib": 256}
        scratch = tmp_path / f"agent{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        return AgentProcess(driver_root, trees[-1].parent, scratch, {**document, "limits": limits, **fields})

    return start
