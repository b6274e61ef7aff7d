"""Messages from a native driver (drivers/README.md): bytes in, events out. No I/O.

What arrives is untrusted: any program in the sandbox may have written it. Nothing here grows beyond a bound, and whatever does not
have the protocol's shape is a :class:`ProtocolError`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cloister.agent.interpreter.kernel import Display, Failure, Output

__all__ = ["Done", "Late", "Message", "MessageReader", "MessageTooLongError", "ProtocolError", "Ready"]


class ProtocolError(Exception):
    """The driver sent something that is not a message of the protocol."""


class MessageTooLongError(ProtocolError):
    """A message passed the bound."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The driver can execute."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of run ``run_id``."""

    run_id: int
    count: int


@dataclass(frozen=True, slots=True)
class Late:
    """An error of a run that is over."""

    failure: Failure


Message = Ready | Done | Late | Output | Display | Failure


class MessageReader:
    """Cuts a byte stream into lines and reads them. A line longer than ``max_bytes`` is refused; what follows it is read again."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes, run_id: int) -> list[Message]:
        """The messages that ``data`` completes; ``run_id`` is the run that is on.

        Raises: ProtocolError, MessageTooLongError. The reader stays usable after the latter.
        """
        messages: list[Message] = []
        lines = data.split(b"\n")
        for line in lines[:-1]:
            whole = b"".join((*self._parts, line)) if self._parts else line
            self._parts, self._size = [], 0
            if self._skipping:
                self._skipping = False
            elif whole.strip():
                messages.append(_read(whole, run_id))
        if not self._skipping:
            self._keep(lines[-1])
        return messages

    def _keep(self, rest: bytes) -> None:
        if not rest:
            return
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > self._max_bytes:
            self._parts, self._size, self._skipping = [], 0, True
            raise MessageTooLongError(f"one result passed the bound of {self._max_bytes >> 20} MiB")


def _read(line: bytes, run_id: int) -> Message:
    try:
        data = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ProtocolError("not an object")
    operation = data.get("op")
    if operation in ("stdout", "stderr"):
        return Output(operation, _text(data, "text"))
    if operation == "result":
        return Display(_object(data, "data"), _object(data, "extra"), data.get("main") is True)
    if operation == "error":
        failure = Failure(_text(data, "name"), _text(data, "value"), _text(data, "traceback"))
        return failure if data.get("id") == run_id else Late(failure)
    if operation == "done":
        return Done(_number(data, "id"), _number(data, "count"))
    if operation == "ready":
        return Ready()
    raise ProtocolError(f"unknown op {operation!r:.80}")


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        raise ProtocolError(f"{name!r} is not a string")
    return value


def _object(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name, {})
    if not isinstance(value, dict):
        raise ProtocolError(f"{name!r} is not an object")
    return value


def _number(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 2**53:
        raise ProtocolError(f"{name!r} is not a number")
    return value
