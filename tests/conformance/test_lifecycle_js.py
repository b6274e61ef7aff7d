"""Pause, resume, auto-pause and waking through the official JavaScript SDKs, in real sandboxes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def seen(server: Server) -> dict[str, Any]:
    """What the program saw."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **server.environ}
    done = subprocess.run(["node", "lifecycle.mjs"], cwd=JS, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mode", ["full", "filesystem"])
def test_calls(mode: str, seen: dict[str, Any]) -> None:
    """Each kind of pause answers, describes, refuses, resumes and ends as the SDK's users expect, and keeps what it should."""
    assert seen[mode] == {
        "paused": [True, False],
        "away": [False, "paused", {"of": mode}, [True]],
        "refused": {
            "command": "SandboxNotFoundError",
            "file": "TimeoutError",
            "list": "TimeoutError",
            "timeout": "SandboxNotFoundError",
        },
        "same": True,
        "note": ["before", "sandbox user /home/user\nbefore"],
        "sameBoot": mode == "full",
        "sleeper": [True] if mode == "full" else [],
        "byId": True,
        "killed": [True, False],
        "gone": ["SandboxNotFoundError"] * 4,
    }


def test_streams_terminals_and_reboot(seen: dict[str, Any]) -> None:
    """A stream breaks at the pause; command and terminal are found again with all their output; a reboot has another boot id."""
    assert seen["brokenStream"] is True
    assert seen["reconnected"] == ["line 20", "end", ""]
    assert seen["terminal"] == [7, True]
    assert seen["reboot"] is True


def test_waking(seen: dict[str, Any]) -> None:
    """Auto-pause pauses; a command and ten requests at once wake it; one that was paused with its files only stays paused."""
    assert seen["lifecycle"] == {"onTimeout": "pause", "autoResume": True}
    assert seen["woken"] == "here\n"
    assert seen["awake"] == 5
    assert seen["requests"] == [200] * 10
    assert seen["files"] == [502, False, "paused"]
    assert seen["autoPauseOfFiles"] is True


def test_contexts(seen: dict[str, Any]) -> None:
    """Kernels keep their variables."""
    assert seen["contexts"] == ["42", "42\n"]


def test_wrong_choices(seen: dict[str, Any]) -> None:
    """The SDK refuses a wake without an auto-pause, and one of files only; an unknown sandbox has its own class."""
    assert seen["wrong"] == ["InvalidArgumentError", "InvalidArgumentError", True]
