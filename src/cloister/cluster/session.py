"""One connection to a supervisor, and the calls that are made on it.

Invariant: a descriptor that arrives is given to the caller or closed.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from typing import Any, Protocol

from cloister.cluster.base import NodeListener
from cloister.errors import InternalError, NodeUnreachableError, from_code
from cloister.nodewire.framing import Message
from cloister.nodewire.methods import Method, calls_through, event_of

__all__ = ["Channel", "NodeSession"]


class Channel(Protocol):
    """A connection that carries messages: see :class:`~cloister.nodewire.framing.NodeChannel`."""

    async def send(self, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message. Raises: ConnectionError."""

    async def receive(self) -> Message:
        """The next message. Raises: ConnectionError."""

    def close(self) -> None:
        """Close the connection."""


class NodeSession:
    """One connection. :meth:`run` reads it until it breaks; then every call in flight fails with NodeUnreachableError."""

    def __init__(self, channel: Channel, timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self.calls = calls_through(self._call)

    async def run(self, listener: NodeListener) -> None:
        """Deliver answers and events until the connection breaks, which raises ConnectionError."""
        try:
            while True:
                message = await self._channel.receive()
                if "event" in message.body:
                    event = event_of(message.body)
                    if event is not None:
                        listener.heard(event)
                    continue
                future = self._waiting.pop(message.body.get("id", -1), None)
                if future is None or future.done():
                    message.close_fds()
                else:
                    future.set_result(message)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection and fail the calls in flight."""
        self._channel.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the node supervisor went away"))

    async def exchange(self, method: Method, request: Any) -> Any:
        """Make a request and return the answer.

        Raises:
            ConnectionError: the connection broke before the answer.
            NodeUnreachableError: no answer in time.
            CloisterError: the supervisor's answer is an error.
        """
        message = await self._ask(method, {} if request is None else request)
        fault = message.body.get("error")
        if fault is not None:
            message.close_fds()
            told = fault if isinstance(fault, dict) else {}
            raise from_code(str(told.get("code")), str(told.get("message")), told.get("hint"))
        return method.read_answer(message.body.get("result"), method.name, iter(_sockets(message, method.sockets)))

    async def _ask(self, method: Method, params: Any) -> Message:
        request_id = next(self._ids)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        timeout_s = method.terms.timeout_s or self._timeout_s
        try:
            await self._channel.send({"id": request_id, "method": method.name, "params": params})
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise NodeUnreachableError(f"the node supervisor did not answer {method.name} within {timeout_s:g} s") from error
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().close_fds()
            raise
        finally:
            self._waiting.pop(request_id, None)
            if future.done() and not future.cancelled():
                future.exception()  # marks it as seen: asyncio logs an exception that was never looked at

    async def _call(self, method: Method, request: Any) -> Any:
        try:
            return await self.exchange(method, request)
        except ConnectionError as error:
            raise NodeUnreachableError("the node supervisor went away", hint="it is restarting; try again") from error


def _sockets(message: Message, count: int) -> list[socket.socket]:
    if len(message.fds) != count:
        message.close_fds()
        raise InternalError(f"the node supervisor sent {len(message.fds)} descriptors instead of {count}")
    sockets = [socket.socket(fileno=fd) for fd in message.fds]
    for sock in sockets:
        sock.setblocking(False)
    return sockets
