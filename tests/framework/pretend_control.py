"""How a test speaks to a server process of the pretend internet: by its pipes, one line of JSON for an order and one for its answer.

The process says ``ready`` when it serves, and ends when its standard input does, so that it never outlives its test.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Process", "obey"]


def obey(orders: Mapping[str, Callable[..., Any]]) -> None:
    """In the process: say ``ready``, then carry out orders until standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(orders[order.pop("order")](**order)), flush=True)


class Process:
    """A server process, from the test's side. Thread-safe."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Returns when it is ready. Raises: AssertionError with its log."""
        self._lock = threading.Lock()
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        if self._answers.readline() != "ready\n":
            self.end()
            raise AssertionError("the pretend internet's servers did not start: " + log.read_text())

    def order(self, order: str, **values: Any) -> Any:
        """Give an order; it is carried out when this returns its answer."""
        with self._lock:
            self._orders.write(json.dumps({"order": order, **values}) + "\n")
            self._orders.flush()
            return json.loads(self._answers.readline())

    def end(self) -> None:
        """End the process. Idempotent."""
        for pipe in (self._orders, self._answers):
            pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
