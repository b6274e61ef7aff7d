"""A native driver for tests: runs each cell as Python, with helpers that speak the protocol by hand. Standard library only."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import Any

CHANNEL = socket.socket(fileno=3)
CHANNEL.set_inheritable(False)


def send(message: dict[str, Any]) -> None:
    """Send one message."""
    CHANNEL.sendall(json.dumps(message).encode() + b"\n")


def out(data: str | bytes) -> None:
    """Write to fd 1 at once."""
    os.write(1, data.encode() if isinstance(data, str) else data)


def err(text: str) -> None:
    """Write to fd 2 at once."""
    os.write(2, text.encode())


def end_with_the_agent() -> None:
    """End when the test run is gone: also in the middle of a cell that ends for nothing else, when the run was killed."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main() -> None:
    """Serve until the agent closes the socket."""
    if "--broken" in sys.argv:
        err("no such module: fake\n")
        sys.exit(7)
    threading.Thread(target=end_with_the_agent, daemon=True).start()
    send({"op": "ready"})
    lines = CHANNEL.makefile("rb")

    def awaited(message: dict[str, Any], number: int) -> None:
        send({**message, "ack": number})
        assert json.loads(lines.readline()) == {"op": "ack", "ack": number}

    names: dict[str, Any] = {"send": send, "awaited": awaited, "out": out, "err": err, "channel": CHANNEL}
    for count, line in enumerate(lines, 1):
        message = json.loads(line)
        if message["op"] == "renew":
            names["renewed"] = names.get("renewed", 0) + 1
            continue
        run_id = message["id"]
        names.update(
            run_id=run_id,
            envs=message["envs"],
            result=lambda text, run_id=run_id: send({"op": "result", "id": run_id, "main": True, "data": {"text/plain": text}}),
        )
        try:
            exec(message["code"], names)  # that is what a kernel does
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt too
            send({"op": "error", "id": run_id, "name": type(error).__name__, "value": str(error), "traceback": repr(error)})
        send({"op": "done", "id": run_id, "count": count})


if __name__ == "__main__":
    main()
