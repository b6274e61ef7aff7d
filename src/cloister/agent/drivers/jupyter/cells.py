"""Turns a kernel's messages about runs, one after the other, into messages of the driver protocol. No I/O.

A run is over when the kernel has answered its request *and* has reported on the other channel that it is idle. The order does not matter,
and no earlier message is lost. Messages about earlier runs become output of the present run.
"""

from __future__ import annotations

from typing import Any

from jupyter.wire import Message

__all__ = ["Cells"]

_NO_INPUT = "The program asked for input. There is none here: it reads an end of file.\n"
_LOST = "The kernel answered but did not say that it is idle; the end of its output may be missing.\n"


class Cells:
    """The state of the present run."""

    def __init__(self) -> None:
        self.run_id = 0
        self.running = False
        self.answered = False
        """The reply has come; only the report that the kernel is idle is missing."""
        self._idle = False
        self._request = ""
        self._failed = False
        self._error_replied: dict[str, Any] | None = None
        """The reply's error. A kernel publishes its errors too, perhaps later: this one is told only if none has come by the end."""
        self._asked = False
        self._count = 0

    def begin(self, run_id: int, request: str) -> None:
        """The run's request, known by its ``msg_id``, was sent."""
        self.run_id, self._request = run_id, request
        self.running, self.answered, self._idle, self._failed, self._asked = True, False, False, False, False
        self._error_replied = None

    @property
    def is_over(self) -> bool:
        """Whether :meth:`end` is due."""
        return self.running and self.answered and self._idle

    def end(self) -> list[dict[str, Any]]:
        """The last messages of the run."""
        self.running = False
        said = [] if self._idle else [self._text("stderr", _LOST)]
        if self._error_replied is not None and not self._failed:
            said.append(self._error(self._error_replied, self.run_id))
        return [*said, {"op": "done", "id": self.run_id, "count": self._count}]

    def published(self, message: Message) -> list[dict[str, Any]]:
        """A message of the channel ``iopub``."""
        kind, content = message.kind, message.content
        ours = message.parent == self._request
        if kind == "stream":
            text = content.get("text")
            return [self._text("stderr" if content.get("name") == "stderr" else "stdout", text)] if isinstance(text, str) and text else []
        if kind in ("execute_result", "display_data", "update_display_data"):
            data = content.get("data")
            main = kind == "execute_result" and ours
            shown = isinstance(data, dict) and any(value not in ("", None) for value in data.values())
            return [{"op": "result", "id": self.run_id, "main": main, "data": data, "extra": {}}] if shown else []
        if kind == "error":
            self._failed = self._failed or ours
            return [self._error(content, self.run_id if ours and self.running else 0)]
        if ours and kind == "status" and content.get("execution_state") == "idle":
            self._idle = True
        return []

    def replied(self, message: Message) -> list[dict[str, Any]]:
        """A message of the channel ``shell``."""
        if message.kind != "execute_reply" or message.parent != self._request or not self.running:
            return []
        self.answered = True
        content = message.content
        count = content.get("execution_count")
        known = isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**53
        self._count = count if known and isinstance(count, int) else self._count + 1
        said = [self._text("stdout", text) for text in _pages(content.get("payload"))]
        self._error_replied = None if content.get("status") == "ok" else content
        return said

    def asked(self) -> list[dict[str, Any]]:
        """The program asks for input, though it was told that there is none."""
        told, self._asked = self._asked, True
        return [] if told else [self._text("stderr", _NO_INPUT)]

    def died(self, log: str) -> list[dict[str, Any]]:
        """The kernel has ended; ``log`` is the end of its text beside the protocol."""
        return [self._text("stderr", f"The last lines of the kernel's own log:\n{log}\n")] if log else []

    def _text(self, stream: str, text: str) -> dict[str, Any]:
        return {"op": stream, "id": self.run_id, "text": text}

    @staticmethod
    def _error(content: dict[str, Any], run_id: int) -> dict[str, Any]:
        name, value = content.get("ename"), content.get("evalue")
        lines = content.get("traceback")
        traceback = "\n".join(line for line in lines if isinstance(line, str)) if isinstance(lines, list) else ""
        name = name if isinstance(name, str) and name else "Error"
        value = value if isinstance(value, str) else "" if value is None else str(value)
        return {"op": "error", "id": run_id, "name": name, "value": value, "traceback": traceback or f"{name}: {value}"}


def _pages(payload: object) -> list[str]:
    """Texts that a kernel wants to show beside the output, as IPython's ``?`` does."""
    found = []
    for item in payload if isinstance(payload, list) else []:
        data = item.get("data") if isinstance(item, dict) and item.get("source") == "page" else None
        text = data.get("text/plain") if isinstance(data, dict) else None
        if isinstance(text, str):
            found.append(text if text.endswith("\n") else text + "\n")
    return found
