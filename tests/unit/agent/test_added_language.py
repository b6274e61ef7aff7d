"""A language is added as docs/howto/add-a-language.md says: one row in the table and one driver, in a copy of the sources."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloister
from framework.lone_agent import Descriptors, LoneAgent

ROW = """
    NativeLanguage(name="reverse", aliases=("rev",), extensions=(".rev",), driver="reverse/main.py"),
"""
DRIVER = '''
"""A driver of a language whose programs are their own output, backwards."""

import json
import os
import socket

channel = socket.socket(fileno=int(os.environ["CLOISTER_KERNEL_FD"]))
channel.set_inheritable(False)


def send(**message):
    channel.sendall(json.dumps(message).encode() + b"\\n")


send(op="ready")
for count, line in enumerate(channel.makefile("rb"), 1):
    message = json.loads(line)
    send(op="stdout", id=message["id"], text=message["language"])
    send(op="result", id=message["id"], main=True, data={"text/plain": message["code"][::-1]})
    send(op="done", id=message["id"], count=count)
'''
SERVER = """
from cloister.cli.run import _LANGUAGES
from cloister.node.builds.trial import _languages
assert _LANGUAGES[".rev"] == "reverse"
assert _languages({"languages": [["reverse", ""], ["unknown", ""]]}) == {"reverse": ""}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The directory that holds the changed copy of the package."""
    copy = tmp_path / "src" / "cloister"
    shutil.copytree(Path(cloister.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__", "node_modules", "bin", "stock"))
    table = copy / "protocol" / "languages.py"
    before, start, rows = table.read_text().partition("NATIVE_LANGUAGES = (\n")
    table.write_text(before + start + ROW + rows)
    (copy / "agent" / "drivers" / "reverse").mkdir()
    (copy / "agent" / "drivers" / "reverse" / "main.py").write_text(DRIVER)
    return tmp_path / "src"


@pytest.fixture
def agent(tree: Path, tmp_path: Path) -> Iterator[Descriptors]:
    """The agent of the copy, in a sandbox whose template has the new language."""
    user = pwd.getpwuid(os.getuid()).pw_name
    document = {"sandbox_id": "s", "workdir": str(tmp_path), "user": user, "kernel_user": user, "languages": ["reverse"]}
    descriptors = Descriptors(document)
    process = LoneAgent(descriptors, {}, main=tree / "cloister" / "agent" / "main.py")
    descriptors.wait_ready()
    yield descriptors
    assert process.close() == 0
    descriptors.close()


def test_a_cell_of_an_added_language_runs(agent: Descriptors) -> None:
    """The agent starts the driver, knows the language by each of its names, and keeps the kernel between two runs."""
    first, second = agent.execute("abc", language="reverse"), agent.execute("de", language="REV")
    assert [event["text"] for event in first if event["type"] in ("stdout", "result")] == ["reverse", "cba"]
    assert [event["execution_count"] for event in second if event["type"] == "number_of_executions"] == [2]


def test_the_server_knows_an_added_language(tree: Path) -> None:
    """``cloister run`` knows its files, and a build's trial takes it from a template."""
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, "-c", SERVER], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
