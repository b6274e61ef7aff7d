"""A sandbox with real servers in it, all of them on its loopback only: http.server, Node, websockets and Flask."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import importlib.util
import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2b_code_interpreter import Sandbox

from framework.http import call
from framework.inside import python
from framework.server import Server

__all__ = ["FILES", "FLASK", "NODE", "NODE_6", "WEBSOCKETS", "Served", "served_sandbox"]

FILES, NODE, NODE_6, WEBSOCKETS, FLASK = 8001, 8002, 8003, 8004, 8005
_PROGRAMS = Path(__file__).parent / "programs"
_LIBRARIES = ("websockets", "flask", "werkzeug", "jinja2", "markupsafe", "click", "itsdangerous", "blinker")
_START = """
import base64, io, os, subprocess, zipfile
os.makedirs('/tmp/programs/site/a dir', exist_ok=True)
zipfile.ZipFile(io.BytesIO(base64.b64decode({archive!r}))).extractall('/tmp/programs')
open('/tmp/programs/site/hello.txt', 'w').write('hello\\n')
for words in (['python3', '-m', 'http.server', '{files}', '--bind', '127.0.0.1', '--directory', 'site'],
              ['node', 'server.mjs'], ['python3', 'sockets.py'], ['python3', 'site.py']):
    log = open('/tmp/programs/' + words[-1].replace('/', '_') + '.log', 'wb')
    env = {{**os.environ, 'PYTHONPATH': '/tmp/programs/libraries', 'PYTHONSAFEPATH': '1'}}
    subprocess.Popen(words, cwd='/tmp/programs', stdout=log, stderr=log, start_new_session=True, env=env)
"""
_LOGS = "import glob\nfor name in glob.glob('/tmp/programs/*.log'): print(open(name).read())"


@dataclass(frozen=True)
class Served:
    """The sandbox, and how to address its ports."""

    server: Server
    sandbox: Sandbox

    def to(self, port: int, **more: str) -> dict[str, str]:
        """Headers that address ``port``."""
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {"E2b-Sandbox-Id": self.sandbox.sandbox_id, "E2b-Sandbox-Port": str(port), **named}

    def head(self, port: int, request: str, *lines: str) -> bytes:
        """A request's head for a raw connection; ``request`` is method and target."""
        pairs = [f"{name}: {value}" for name, value in self.to(port).items()]
        return "\r\n".join([f"{request} HTTP/1.1", "Host: h", *pairs, *lines, "", ""]).encode("latin-1")


def _archive() -> str:
    """The programs and the libraries that they need, which are pure Python or work without their compiled parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in _PROGRAMS.iterdir():
            if path.suffix in {".mjs", ".py"}:
                archive.write(path, path.name)
        for name in _LIBRARIES:
            spec = importlib.util.find_spec(name)
            assert spec is not None, name
            assert spec.origin is not None, name
            root = Path(spec.origin).parent
            for path in root.rglob("*.py"):
                archive.write(path, f"libraries/{name}/{path.relative_to(root)}")
            about = importlib.metadata.distribution(name)
            archive.writestr(f"libraries/{name}-{about.version}.dist-info/METADATA", about.read_text("METADATA") or "")
    return base64.b64encode(buffer.getvalue()).decode()


@contextlib.contextmanager
def served_sandbox(server: Server) -> Iterator[Served]:
    """The sandbox while the block lasts, all its servers answering."""
    sandbox = Sandbox.create(timeout=600, **server.sdk)
    try:
        python(sandbox, _START.format(archive=_archive(), files=FILES))
        served = Served(server, sandbox)
        deadline = time.monotonic() + 30
        for port in (FILES, NODE, NODE_6, WEBSOCKETS, FLASK):
            while call(server.url, "GET", "/", headers=served.to(port)).status == 502:
                assert time.monotonic() < deadline, python(sandbox, _LOGS)
                time.sleep(0.1)
        yield served
    finally:
        sandbox.kill()
