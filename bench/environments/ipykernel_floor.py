"""Times a bare ``jupyter_client`` with ipykernel: ``ipykernel_floor.py STARTS RUNS`` prints two lists of milliseconds as JSON.

Runs in the environment of the Jupyter peer. A start lasts until the first ``1+1`` is answered.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from jupyter_client.manager import KernelManager


def answer(client: Any) -> float:
    """Milliseconds of one ``1+1``, until its result arrived."""
    seen: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["msg_type"] == "execute_result":
            seen.append(message["content"]["data"]["text/plain"])

    began = time.perf_counter()
    client.execute_interactive("1+1", output_hook=note, timeout=30)
    taken = (time.perf_counter() - began) * 1000
    assert seen == ["2"], seen
    return taken


def main() -> None:
    """Measure and print."""
    starts, runs = int(sys.argv[1]), int(sys.argv[2])
    started, warm = [], []
    for number in range(starts):
        began = time.perf_counter()
        manager = KernelManager()
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        answer(client)
        started.append((time.perf_counter() - began) * 1000)
        if number == starts - 1:
            warm = [answer(client) for _ in range(runs)]
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    print(json.dumps({"start": started, "warm": warm}))


if __name__ == "__main__":
    main()
