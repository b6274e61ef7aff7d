"""Commands and terminals through the official JavaScript SDK, in a real sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from framework.server import Server

JS = Path(__file__).parent / "js"
pytestmark = [
    pytest.mark.root,
    pytest.mark.templates,
    pytest.mark.skipif(
        shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(),
        reason="needs Node and `npm ci` in tests/conformance/js",
    ),
]


def test_commands_and_terminals(server: Server) -> None:
    """The JavaScript SDK runs, streams, feeds, follows, kills and lists, its errors are of the right kinds, and a terminal works."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **server.environ}
    done = subprocess.run(["node", "commands.mjs"], cwd=JS, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "result": {"exitCode": 0, "stdout": "sandbox it's é user /tmp\n", "stderr": "err\n"},
        "failed": ["CommandExitError", 3, "out\n", "exit status 3"],
        "root": "0\n",
        "unknownUser": "AuthenticationError",
        "wrongDirectory": "InvalidArgumentError",
        "long": "4000000\n",
        "tooLong": "InvalidArgumentError",
        "timeout": "TimeoutError",
        "chunks": ["1\n", "2\n", "3\n"],
        "listed": True,
        "followed": ["één\ntwo\nend\n", "één\ntwo\nend\n"],
        "killed": [True, False],
        "killedError": ["CommandExitError", -1, "signal: killed"],
        "large": 3388895,
        "terminalExit": 5,
        "terminal": [True, True],
    }
