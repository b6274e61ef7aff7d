"""A Jupyter kernel for tests: runs each cell as Python, with helpers that publish messages by hand, well-formed or not. Needs pyzmq.

Arguments: the connection file, and words: ``dies`` (writes a reason and exits with 7), ``deaf`` (ignores SIGINT), ``interruptible`` (takes
``interrupt_request``), ``never-idle``, ``early`` (answers while it sets itself up, and ends when it is given code before that is done).
With ``late-errors`` it publishes an error after the reply that has it too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import zmq

CONNECTION = json.loads(Path(sys.argv[1]).read_text(encoding="ascii"))
WORDS = sys.argv[2:]
SESSION = uuid.uuid4().hex
_BUSY = "import time\nwhile time.process_time() < 0.5: pass"


def frames(kind: str, content: Any, parent: Any, key: str = CONNECTION["key"]) -> list[bytes]:
    """A signed message without identities."""
    header = {"msg_id": uuid.uuid4().hex, "session": SESSION, "username": "fake", "date": "", "msg_type": kind, "version": "5.3"}
    parts = [json.dumps(part).encode() for part in (header, parent, {}, content)]
    signer = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for part in parts:
        signer.update(part)
    return [b"<IDS|MSG>", signer.hexdigest().encode(), *parts]


class Kernel:
    """The kernel, bound to its ports."""

    def __init__(self) -> None:
        context = zmq.Context()
        self.shell, self.control, self.stdin = (self._bind(context, zmq.ROUTER, name) for name in ("shell", "control", "stdin"))
        self.iopub = self._bind(context, zmq.PUB, "iopub")
        self.parent: dict[str, Any] = {}
        self.count = 0
        self.asker: list[bytes] = []
        self.setting_up = subprocess.Popen([sys.executable, "-c", _BUSY]) if "early" in WORDS else None
        self.names: dict[str, Any] = {"kernel": self, "publish": self.publish, "out": self.out, "result": self.result}
        self.names |= {"os": os, "time": time}

    @staticmethod
    def _bind(context: Any, kind: int, name: str) -> Any:
        made = context.socket(kind)
        made.setsockopt(zmq.SNDHWM, 0)
        made.bind(f"{CONNECTION['transport']}://{CONNECTION['ip']}:{CONNECTION[name + '_port']}")
        return made

    def publish(self, kind: str, content: Any, parent: Any = None, **options: Any) -> None:
        """Publish a message."""
        self.iopub.send_multipart([b"topic", *frames(kind, content, self.parent if parent is None else parent, **options)])

    def out(self, text: str, stream: str = "stdout") -> None:
        """Publish output."""
        self.publish("stream", {"name": stream, "text": text})

    def result(self, data: Any, kind: str = "execute_result") -> None:
        """Publish a result."""
        data = data if isinstance(data, dict) else {"text/plain": str(data)}
        self.publish(kind, {"data": data, "metadata": {}, "execution_count": self.count})

    def ask(self) -> str:
        """Ask for input and wait for it."""
        self.stdin.send_multipart([self.asker[0], *frames("input_request", {"prompt": "?", "password": False}, self.parent)])
        answer: str = json.loads(self.stdin.recv_multipart()[-1])["value"]
        return answer

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            message = self.shell.recv_multipart()
            start = message.index(b"<IDS|MSG>")
            identities, header, content = message[:start], json.loads(message[start + 2]), json.loads(message[start + 5])
            self.parent, self.asker = header, identities
            self.publish("status", {"execution_state": "busy"})
            if header["msg_type"] == "kernel_info_request":
                self.shell.send_multipart([*identities, *frames("kernel_info_reply", {"status": "ok"}, header)])
            elif header["msg_type"] == "execute_request":
                if self.setting_up is not None and self.setting_up.poll() is None:
                    os._exit(0)
                answer = self.execute(content)
                self.shell.send_multipart([*identities, *frames("execute_reply", answer, header)])
            if (late := self.names.pop("late", None)) is not None:
                time.sleep(0.3)
                self.publish("error", late)
            for text in self.names.pop("after", []):
                time.sleep(0.3)
                self.out(text)
            if "never-idle" not in WORDS:
                self.publish("status", {"execution_state": "idle"})

    def execute(self, content: dict[str, Any]) -> dict[str, Any]:
        """Run a cell."""
        self.count += 1
        if content["allow_stdin"]:
            return {"status": "error", "ename": "Wrong", "evalue": "stdin was allowed", "traceback": []}
        try:
            exec(content["code"], self.names)  # that is what a kernel does
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt too
            failure = {"ename": type(error).__name__, "evalue": str(error), "traceback": ["\x1b[31mline one\x1b[0m", repr(error)]}
            if "late-errors" in WORDS:
                self.names["late"] = failure
            else:
                self.publish("error", failure)
            return {"status": "error", "execution_count": self.count, **failure}
        payload = self.names.pop("payload", [])
        return {"status": "ok", "execution_count": self.count, "payload": payload}

    def obey(self) -> None:
        """Take requests to interrupt."""
        while True:
            message = self.control.recv_multipart()
            if json.loads(message[message.index(b"<IDS|MSG>") + 2])["msg_type"] == "interrupt_request":
                signal.raise_signal(signal.SIGUSR1)


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Serve."""
    if "dies" in WORDS:
        os.write(2, b"no such module: fake\n")
        sys.exit(7)
    if "deaf" in WORDS:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel = Kernel()
    if "interruptible" in WORDS:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it would die of it
        signal.signal(signal.SIGUSR1, _interrupted)
        threading.Thread(target=kernel.obey, daemon=True).start()
    kernel.serve()


if __name__ == "__main__":
    main()
