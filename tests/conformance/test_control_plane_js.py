"""The official JavaScript SDK and CLI, unmodified, against the control plane over a fake node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from framework.control_plane import ControlPlane

JS = Path(__file__).parent / "js"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(),
        reason="needs Node and `npm ci` in tests/conformance/js",
    ),
]


def run(plane: ControlPlane, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in the directory of the JavaScript packages, pointed at the control plane."""
    return subprocess.run(
        command, cwd=JS, env=plane.environ, capture_output=True, text=True, check=check, timeout=60, stdin=subprocess.DEVNULL
    )


def test_sdk(control_plane: ControlPlane) -> None:
    """The JavaScript SDK creates, runs, streams, lists, connects and kills, and its errors are of the right kinds."""
    done = run(control_plane, "node", "sdk.mjs", check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    refused = seen.pop("refused")
    assert seen.pop("interrupted") != "nothing"
    assert seen == {
        "text": "hello",
        "lines": ["hello\n"],
        "error": "Boom",
        "running": True,
        "metadata": {"a b": "c&d"},
        "listed": 1,
        "filtered": 0,
        "connected": "again",
        "killedAgain": False,
        "runningAfter": False,
        "unknown": "SandboxNotFoundError",
        "wrongKey": "AuthenticationError",
        "unknownTemplate": "SandboxError",
    }
    assert "invalid denied CIDR example.com" in refused


def test_cli(control_plane: ControlPlane) -> None:
    """The CLI, which creates by the first version of the API, creates, describes, lists and kills."""
    cli = "node_modules/.bin/e2b"
    run(control_plane, cli, "sandbox", "create", "base", "--detach")
    (sandbox_id,) = control_plane.node.sandboxes
    assert sandbox_id in run(control_plane, cli, "sandbox", "list").stdout
    assert "base" in run(control_plane, cli, "sandbox", "info", sandbox_id).stdout
    assert "code-interpreter-v1" in run(control_plane, cli, "template", "list").stdout
    run(control_plane, cli, "sandbox", "kill", sandbox_id)
    assert control_plane.node.sandboxes == {}
