"""Reads a kernel's standard output and error, as text. Never blocks."""

from __future__ import annotations

import codecs
import contextlib
import os
import select

from cloister.agent.interpreter.kernel import Output

__all__ = ["PipeReader"]

_PIPE_BYTES = 64 << 10
"""A pipe holds so much (pipe(7))."""


class PipeReader:
    """The two pipes of one process, which owns and closes them. ``poll`` learns of a pipe that has ended."""

    def __init__(self, stdout_fd: int, stderr_fd: int, poll: select.epoll) -> None:
        self._pipes = {"stdout": stdout_fd, "stderr": stderr_fd}
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in self._pipes}
        self._poll = poll

    def watch(self) -> None:
        """Have the poll wait for the pipes from now on."""
        for fd in self._pipes.values():
            self._poll.register(fd, select.EPOLLIN)

    def read(self, ready: set[int]) -> list[Output]:
        """One read of each pipe whose descriptor is in ``ready``."""
        return [output for stream, fd in list(self._pipes.items()) if fd in ready for output in self._read(stream)]

    def drain(self) -> list[Output]:
        """Everything that a full pipe can hold, of each pipe: more was written after the messages that are being handled."""
        return [output for stream in list(self._pipes) for output in self._drain(stream)]

    def finish_text(self) -> list[Output]:
        """The rest of an incomplete character; the next text begins anew."""
        rests = []
        for stream, decoder in self._decoders.items():
            rests.append(Output(stream, decoder.decode(b"", final=True)))
            decoder.reset()
        return [rest for rest in rests if rest.text]

    def _read(self, stream: str) -> list[Output]:
        try:
            data = os.read(self._pipes[stream], _PIPE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            self._drop(stream)
        text = self._decoders[stream].decode(data, final=not data)
        return [Output(stream, text)] if text else []

    def _drain(self, stream: str) -> list[Output]:
        parts = []
        left = _PIPE_BYTES
        while left > 0 and stream in self._pipes:
            try:
                data = os.read(self._pipes[stream], left)
            except BlockingIOError:
                break
            if not data:
                self._drop(stream)
                break
            parts.append(data)
            left -= len(data)
        text = self._decoders[stream].decode(b"".join(parts))
        return [Output(stream, text)] if text else []

    def _drop(self, stream: str) -> None:
        """No process can write to it any more."""
        with contextlib.suppress(FileNotFoundError):  # before watch() the poll does not know it
            self._poll.unregister(self._pipes.pop(stream))
