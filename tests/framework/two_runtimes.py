"""A node process with two runtimes, the real one and the fake one, and a client of it.

The process is ``python -m framework.two_runtimes DATA_DIR READY_FD DEFAULT_RUNTIME RULES``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.local import LocalNode
from cloister.config.load import load
from cloister.config.settings import Settings
from cloister.node.runtimes import runtime_kinds
from cloister.processes.node import run_node
from cloister.runtime.registry import RuntimeKind
from framework.fake_runtime import FakeKind

__all__ = ["TwoRuntimes"]

_STOP_TIMEOUT_S = 60.0


def _kinds(settings: Settings) -> tuple[RuntimeKind, ...]:
    return (*runtime_kinds(settings), FakeKind())


@dataclass
class TwoRuntimes:
    """The process, which a test starts, kills and starts again. ``said`` is the one line that it writes when it serves."""

    data_dir: Path
    default: str = "namespace"
    """The setting default_runtime."""
    rules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Further settings, which are lists."""
    process: subprocess.Popen[bytes] | None = None
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self.data_dir / "node.log").read_text()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        ready, theirs = os.pipe()
        command = [sys.executable, "-m", "framework.two_runtimes", str(self.data_dir), str(theirs), self.default, json.dumps(self.rules)]
        tests = Path(__file__).parents[1]  # where ``-m`` looks first
        with (self.data_dir / "node.log").open("ab") as log, os.fdopen(ready) as line:
            self.process = subprocess.Popen(command, pass_fds=(theirs,), stdout=log, stderr=log, cwd=tests)
            os.close(theirs)
            text = line.readline()
        if not text:
            self.process.wait(_STOP_TIMEOUT_S)
            raise AssertionError(self.log)
        self.said = json.loads(text)

    def end(self, number: signal.Signals) -> int:
        """Send it a signal, and wait for its end; gives its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(_STOP_TIMEOUT_S)

    def census(self) -> subprocess.CompletedProcess[str]:
        """What ``cloister census`` says."""
        command = [sys.executable, "-m", "cloister.cli.main", "census", "--data-dir", str(self.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[NodeClient]:
        """A client, as the api process has one."""

        async def connected(_client: object) -> None:
            """Nothing is to be done first."""

        node = LocalNode(Path(self.said["run_dir"]) / "supervisor.sock", wait_s=20.0)
        node.start(NodeListener(connected, lambda _event: None))
        try:
            await node.wait_connected(20.0)
            yield node.calls
        finally:
            await node.close()


if __name__ == "__main__":
    directory, ready_fd, default, rules = sys.argv[1:]
    more: dict[str, Any] = {name: tuple(value) for name, value in json.loads(rules).items()}
    settings = replace(load(None, os.environ), data_dir=Path(directory), default_runtime=default, pool_size=1, **more)
    run_node(settings, parent=None, ready_fd=int(ready_fd), kinds=_kinds)
