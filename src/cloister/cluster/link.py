"""A node behind a connection that outlives its supervisor. Subclasses say how to connect.

Owns the connection and the waiting. When the supervisor restarts, the client makes each call in flight again on the next connection.
The exception is ``create``, which is not repeatable: the client asks whether the sandbox exists. Holds no state about sandboxes.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import structlog

from cloister.cluster.base import NodeClient, NodeListener
from cloister.cluster.session import Channel, NodeSession
from cloister.errors import AlreadyExistsError, NodeUnreachableError, SandboxNotFoundError
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.nodewire.methods import METHODS, Method, calls_through
from cloister.nodewire.requests import SandboxRef

__all__ = ["NodeLink"]

_log = structlog.get_logger("cloister.cluster")
_LOOK_S = 0.05
_MADE = frozenset({SandboxState.RUNNING, SandboxState.PAUSING, SandboxState.PAUSED})
"""States of a sandbox whose creation is complete. A short lifetime may already have ended with a pause."""


class NodeLink:
    """:attr:`calls` is the client of the node.

    ``wait_s`` is how long a call waits for a supervisor that is away; ``call_timeout_s`` bounds one exchange.
    """

    retry_s = 0.05
    """Between two attempts to connect."""

    def __init__(self, *, wait_s: float = 5.0, call_timeout_s: float = 60.0) -> None:
        self._wait_s = wait_s
        self._timeout_s = call_timeout_s
        self._session: NodeSession | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.calls: NodeClient = calls_through(self._call)

    @property
    def is_connected(self) -> bool:
        """Whether the supervisor is reached and its state known."""
        return self._connected.is_set()

    def start(self, listener: NodeListener) -> None:
        """Begin to connect, and keep connecting until :meth:`close`."""
        self._task = asyncio.create_task(self._keep_connected(listener))

    async def close(self) -> None:
        """Drop the connection; calls in flight fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Return when the supervisor is reached and its state is known.

        Raises:
            NodeUnreachableError: not within ``timeout_s`` (default: the client's ``wait_s``).
        """
        if self._connected.is_set():
            return
        try:
            async with asyncio.timeout(self._wait_s if timeout_s is None else timeout_s):
                await self._connected.wait()
        except TimeoutError as error:
            raise NodeUnreachableError("the node supervisor does not answer", hint="it is restarting or down; try again") from error

    async def _keep_connected(self, listener: NodeListener) -> None:
        while True:
            try:
                session = NodeSession(await self._connect(), self._timeout_s)
            except OSError as error:
                self.note_failure(error)
                await asyncio.sleep(self.retry_s)
                continue
            await self._use(session, listener)
            await asyncio.sleep(self.retry_s)

    def note_failure(self, error: OSError) -> None:
        """An attempt to connect failed, and the next one follows."""

    async def _connect(self) -> Channel:
        """A new connection. Raises: OSError."""
        raise NotImplementedError

    async def _use(self, session: NodeSession, listener: NodeListener) -> None:
        greeting = asyncio.create_task(self._greet(session, listener))
        try:
            await session.run(listener)
        except ConnectionError as error:
            _log.warning("node.disconnected", error=str(error))
        except Exception:  # noqa: BLE001 - task border: a message without sense ends its connection, not the attempts to connect
            _log.exception("node.not_understood")
        finally:
            self._connected.clear()
            self._session = None
            session.close()
            greeting.cancel()
            await asyncio.gather(greeting, return_exceptions=True)  # what it made is there, or is not, for those who clean up

    async def _greet(self, session: NodeSession, listener: NodeListener) -> None:
        try:
            await listener.connected(session.calls)
        except Exception:  # noqa: BLE001 - task border: no call may go on before both sides agree about the sandboxes; the next connection tries again
            _log.exception("node.greeting_failed")
            session.close()
            return
        self._session = session
        self._connected.set()
        _log.info("node.connected")

    async def _call(self, method: Method, request: Any) -> Any:
        if not method.terms.waits and self._session is None:
            raise NodeUnreachableError("the node supervisor is not connected")
        try:
            return await self._exchange(method, request)
        except ConnectionError as error:
            if not method.terms.waits:
                raise NodeUnreachableError("the node supervisor went away") from error
        if not method.terms.is_repeatable:
            return await self._resolve_create(request)
        _log.info("call.repeated", method=method.name)
        return await self._repeat(method, request)

    async def _exchange(self, method: Method, request: Any) -> Any:
        await self.wait_connected()
        if self._session is None:
            raise ConnectionResetError("not connected")
        return await self._session.exchange(method, request)

    async def _repeat(self, method: Method, request: Any) -> Any:
        try:
            return await self._exchange(method, request)
        except ConnectionError as error:
            raise NodeUnreachableError("the node supervisor went away", hint="it is restarting; try again") from error

    async def _resolve_create(self, request: SandboxRequest) -> SandboxRecord:
        """The answer to a creation that a restart of the supervisor cut off. The new supervisor has adopted the sandbox, or has none."""
        _log.info("create.resolving", sandbox_id=request.sandbox_id)
        try:
            return await self._wait_running(request.sandbox_id)
        except SandboxNotFoundError:
            pass
        try:
            return cast("SandboxRecord", await self._repeat(METHODS["create"], request))
        except AlreadyExistsError:
            return await self._wait_running(request.sandbox_id)

    async def _wait_running(self, sandbox_id: str) -> SandboxRecord:
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    record = await self.calls.get(SandboxRef(sandbox_id))
                    if record.state in _MADE:
                        return record
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            raise NodeUnreachableError("the sandbox did not come up after the node supervisor's restart") from error
