"""Messages from a driver (drivers/README.md): bytes in, events out. No I/O.

The input is not trusted: any program in the sandbox may have written it. Buffers are bounded, and a line without the protocol's form is a
:class:`ProtocolError`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cloister.agent.interpreter.kernel import Display, Failure, Output

__all__ = ["Awaited", "Done", "Late", "Message", "MessageReader", "MessageTooLongError", "ProtocolError", "Ready"]


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
class Awaited:
    """The driver waits until the message before this one was taken; answer with ``number``."""

    number: int


@dataclass(frozen=True, slots=True)
class Late:
    """An error of a run that is over."""

    failure: Failure


Message = Awaited | Ready | Done | Late | Output | Display | Failure


class MessageReader:
    """Cuts a byte stream into lines and reads them. It refuses a line longer than ``max_bytes`` and goes on after it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begun = bytearray()
        self._skipping = False

    def is_in_line_of(self, size: int) -> bool:
        """Whether a line has begun that has ``size`` bytes already."""
        return self._skipping or len(self._begun) >= size

    def feed(self, data: bytes, run_id: int) -> list[Message]:
        """The messages that ``data`` completes; ``run_id`` is the present run.

        Raises: ProtocolError, MessageTooLongError. The reader stays usable after the latter.
        """
        messages: list[Message] = []
        lines = data.split(b"\n")
        for line in lines[:-1]:
            whole = bytes(self._begun) + line if self._begun else line
            self._begun = bytearray()
            if self._skipping:
                self._skipping = False
            else:
                messages += _read(whole, run_id)
        if not self._skipping:
            self._keep(lines[-1])
        return messages

    def _keep(self, rest: bytes) -> None:
        self._begun += rest
        if len(self._begun) > self._max_bytes:
            self._begun, self._skipping = bytearray(), True
            raise MessageTooLongError(f"one result passed the bound of {self._max_bytes >> 20} MiB")


def _read(line: bytes, run_id: int) -> list[Message]:
    try:
        data = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ProtocolError("not an object")
    message = _message(data, run_id, len(line))
    return [message, Awaited(_number(data, "ack"))] if "ack" in data else [message]


def _message(data: dict[str, Any], run_id: int, size: int) -> Message:
    operation = data.get("op")
    if operation in ("stdout", "stderr"):
        return Output(operation, _text(data, "text"))
    if operation == "result":
        return Display(_object(data, "data"), _object(data, "extra"), data.get("main") is True, size)
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
