"""Templates that were made for E2B's own images, brought here by the official command line, build and serve without a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server

JS = Path(__file__).parent / "js"
pytestmark = [
    pytest.mark.root,
    pytest.mark.templates,
    pytest.mark.skipif(
        shutil.which("node") is None or not (JS / "node_modules" / "@e2b" / "cli").is_dir(),
        reason="needs Node and `npm ci` in tests/conformance/js",
    ),
]
CLI = JS / "node_modules" / "@e2b" / "cli" / "dist" / "index.js"
DOCKERFILE = """\
FROM e2bdev/code-interpreter:latest
ENV GREETING=hello
COPY word.txt /opt/word.txt
RUN echo $GREETING $(cat /opt/word.txt) > /opt/built
"""
"""Without double quotes: the command line writes them into the programs that it makes as they are."""
CONFIG = """\
template_id = "abcdefghij0123456789"
template_name = "{name}"
dockerfile = "e2b.Dockerfile"
start_cmd = "/root/.jupyter/start-up.sh"
ready_cmd = "curl -sf http://localhost:49999/health"
cpu_count = 1
memory_mb = 1024
"""


def run(server: Server, directory: Path, *argv: str) -> str:
    """Output of a program that has the server's variables."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory), **server.environ}
    done = subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(server: Server, template: str) -> None:
    """It runs code, has what was built, and the start script runs."""
    with Sandbox.create(template, timeout=120, **server.sdk) as sandbox:
        assert sandbox.run_code("import numpy; int(numpy.arange(4).sum())").text == "6"
        assert sandbox.commands.run("cat /opt/built").stdout == "hello world\n"
        assert sandbox.commands.run("pgrep -cx sleep || true", user="root").stdout.strip() == "1"


@pytest.mark.parametrize("language", ["python-sync", "typescript"])
def test_migrated_by_the_command_line(server: Server, tmp_path: Path, language: str) -> None:
    """``e2b template migrate`` makes a template of an E2B Dockerfile that builds as it is, with the start script of E2B's image."""
    name = f"migrated-{language}"
    (tmp_path / "e2b.Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "e2b.toml").write_text(CONFIG.format(name=name))
    (tmp_path / "word.txt").write_text("world")
    run(server, tmp_path, "node", str(CLI), "template", "migrate", "--language", language)
    if language == "python-sync":
        run(server, tmp_path, sys.executable, "build_prod.py")
    else:  # without types in it, TypeScript is JavaScript
        (tmp_path / "node_modules").symlink_to(JS / "node_modules")
        (tmp_path / "template.mjs").write_text((tmp_path / "template.ts").read_text())
        (tmp_path / "build.mjs").write_text((tmp_path / "build.prod.ts").read_text().replace("./template", "./template.mjs"))
        run(server, tmp_path, "node", "build.mjs")
    check(server, name)


def test_made_by_the_command_line(server: Server, tmp_path: Path) -> None:
    """What ``e2b template init`` makes builds as it is."""
    run(server, tmp_path, "node", str(CLI), "template", "init", "--name", "from-init", "--language", "python-sync")
    run(server, tmp_path / "from-init", sys.executable, "build_prod.py")
    with Sandbox.create("from-init", timeout=60, **server.sdk) as sandbox:
        assert sandbox.commands.run("echo ok").stdout == "ok\n"
