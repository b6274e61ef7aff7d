"""The node on this machine: a client of the supervisor's unix socket that outlives the supervisor.

Owns the connecting and the waiting. When the supervisor goes away, a call in flight is made again after the reconnection (every method
but ``create`` is idempotent); a ``create`` is resolved by asking whether the sandbox is there. Holds no state about sandboxes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from cloister.cluster.base import NodeListener
from cloister.cluster.session import NodeCalls, NodeSession
from cloister.errors import AlreadyExistsError, CloisterError, NodeUnreachableError, SandboxNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.sandbox import SandboxRecord, SandboxRequest, SandboxState
from cloister.protocol.node import Message, NodeChannel

__all__ = ["LocalNodeClient"]

_log = structlog.get_logger("cloister.cluster")
_RETRY_S = 0.05


class LocalNodeClient(NodeCalls):
    """A :class:`~cloister.cluster.base.NodeClient` over the unix socket at ``path``.

    ``wait_s`` is how long a call waits for a supervisor that is away; ``call_timeout_s`` bounds one exchange.
    """

    def __init__(self, path: Path, *, wait_s: float = 5.0, call_timeout_s: float = 60.0) -> None:
        self._path = path
        self._wait_s = wait_s
        self._timeout_s = call_timeout_s
        self._session: NodeSession | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

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
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            await self._use(session, listener)
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> NodeChannel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(sock, os.fspath(self._path))
        except BaseException:
            sock.close()
            raise
        return NodeChannel(sock)

    async def _use(self, session: NodeSession, listener: NodeListener) -> None:
        greeting = asyncio.create_task(self._greet(session, listener))
        try:
            await session.run(listener)
        except ConnectionError as error:
            _log.warning("node.disconnected", error=str(error))
        finally:
            self._connected.clear()
            self._session = None
            session.close()
            greeting.cancel()

    async def _greet(self, session: NodeSession, listener: NodeListener) -> None:
        try:
            await listener.connected(session)
        except Exception:  # noqa: BLE001 - task border: without agreement on what lives no call may go on; the next connection tries again
            _log.exception("node.greeting_failed")
            session.close()
            return
        self._session = session
        self._connected.set()
        _log.info("node.connected")

    async def _exchange(self, method: str, params: dict[str, Any]) -> Message:
        await self.wait_connected()
        if self._session is None:
            raise ConnectionResetError("not connected")
        return await self._session.exchange(method, params)

    async def _call(self, method: str, params: dict[str, Any]) -> Message:
        try:
            return await self._exchange(method, params)
        except ConnectionError:
            _log.info("call.repeated", method=method)
        try:
            return await self._exchange(method, params)
        except ConnectionError as error:
            raise NodeUnreachableError("the node supervisor went away", hint="it is restarting; try again") from error

    async def reserve(self, template: str) -> str:
        """See :class:`~cloister.cluster.base.NodeClient`; a node that is away or in trouble is the creation's business, not this one's."""
        if self._session is None:
            return new_sandbox_id()
        try:
            return await self._session.reserve(template)
        except CloisterError:
            return new_sandbox_id()

    async def create(self, request: SandboxRequest) -> SandboxRecord:
        """See :class:`~cloister.cluster.base.NodeClient`; a broken exchange is resolved after the reconnection."""
        try:
            message = await self._exchange("create", asdict(request))
        except ConnectionError:
            message = await self._resolve_create(request)
        return SandboxRecord.from_json(message.body["result"])

    async def _resolve_create(self, request: SandboxRequest) -> Message:
        _log.info("create.resolving", sandbox_id=request.sandbox_id)
        try:
            return await self._wait_running(request.sandbox_id)
        except SandboxNotFoundError:
            pass
        try:
            return await self._exchange("create", asdict(request))
        except AlreadyExistsError:
            return await self._wait_running(request.sandbox_id)
        except ConnectionError as error:
            raise NodeUnreachableError("the node supervisor went away", hint="it is restarting; try again") from error

    async def _wait_running(self, sandbox_id: str) -> Message:
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await self._call("get", {"sandbox_id": sandbox_id})
                    if message.body["result"]["state"] == SandboxState.RUNNING:
                        return message
                    await asyncio.sleep(_RETRY_S)
        except TimeoutError as error:
            raise NodeUnreachableError("the sandbox did not come up after the node supervisor's restart") from error
