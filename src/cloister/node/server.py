"""The supervisor's side of the node protocol: a unix socket, its peers, and the dispatch of requests.

Owns the listening socket and the connections; the methods are declared in :mod:`cloister.nodewire.methods` and implemented by the
supervisor. Invariants: only root and the allowed uids are served (``SO_PEERCRED``); a request that is not of the declared shape is
refused before an implementation sees it. The peer is the API process, which handles clients' data and may be compromised.
Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cloister.errors import CloisterError, InternalError, InvalidRequestError, PermissionDeniedError
from cloister.node.events import EventBroadcaster
from cloister.node.peers import MAX_CONNECTIONS, Peer, Seldom
from cloister.nodewire.codec import sockets_of
from cloister.nodewire.framing import ChannelClosedError, Message, ProtocolError
from cloister.nodewire.methods import BuildMethods, Method, SandboxMethods, VolumeMethods, find_method

__all__ = ["Implementations", "NodeServer"]

_log = structlog.get_logger("cloister.node.server")
_MAX_ID = 1 << 53
_MAX_MESSAGE = 4096
_MAX_SHOWN = 64
_ACCEPT_PAUSE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Implementations:
    """The parts of the node that implement the protocol's methods."""

    sandboxes: SandboxMethods
    builds: BuildMethods
    volumes: VolumeMethods

    def of(self, method: Method) -> object:
        """The part that implements a method."""
        if hasattr(BuildMethods, method.name):
            return self.builds
        return self.volumes if hasattr(VolumeMethods, method.name) else self.sandboxes


class NodeServer:
    """Serves the node protocol on one unix socket: begin with :meth:`start`, end with :meth:`close`."""

    def __init__(self, parts: Implementations, path: Path, *, allowed_uids: Collection[int], events: EventBroadcaster) -> None:
        """``events`` learns which peers there are, but for the commands of an operator: root is served also where it is not named."""
        self._parts = parts
        self._path = path
        self._told = frozenset(allowed_uids)
        self._allowed = self._told | {0}
        self._refused, self._broken = Seldom("peer.refused"), Seldom("peer.protocol_broken")
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._peers: dict[Peer, asyncio.Task[None]] = {}
        self._requests: set[asyncio.Task[None]] = set()
        self.events = events

    async def start(self) -> None:
        """Bind the socket (replacing a dead server's) and begin to accept.

        The socket belongs to the allowed user and has mode 0600, so that other users cannot even connect. The uid of each peer is
        checked as well.
        """
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        listener.bind(os.fspath(self._path))
        self._path.chmod(0o600)
        os.chown(self._path, max(self._allowed), -1)
        listener.listen(64)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Stop accepting, close the connections, and cancel the requests under way."""
        tasks = [self._accepting, *self._peers.values(), *self._requests]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for peer in tuple(self._peers):
            peer.channel.close()
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # out of descriptors, or the peer has gone already: go on serving the others
                _log.exception("peer.not_accepted")
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            peer = Peer(connection)
            if peer.uid not in self._allowed or sum(one.uid == peer.uid for one in self._peers) >= MAX_CONNECTIONS:
                self._refused(uid=peer.uid)
                peer.channel.close()
                continue
            if peer.uid in self._told:  # events that are kept for the api process are sent once
                self.events.add(peer)
            self._peers[peer] = asyncio.create_task(self._serve(peer))

    async def _serve(self, peer: Peer) -> None:
        """Send events and answer requests until the connection ends."""
        events = asyncio.create_task(peer.send_events())
        try:
            while True:
                message, release = await peer.take()
                task = asyncio.create_task(self._answer(peer, message))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
                task.add_done_callback(release)
        except ChannelClosedError:
            pass
        except ProtocolError as error:
            self._broken(uid=peer.uid, error=str(error))
        finally:
            events.cancel()
            peer.channel.close()
            self.events.remove(peer)
            self._peers.pop(peer, None)
            await asyncio.gather(events, return_exceptions=True)

    async def _answer(self, peer: Peer, message: Message) -> None:
        """Answer one request."""
        method = find_method(message.body)
        name, request_id = method.name if method else None, message.body.get("id")
        result: Any = None
        async with peer.descriptors if method is not None and method.sockets else contextlib.nullcontext():
            try:
                result = await self._dispatch(method, message, peer.uid)
                answer = {"id": request_id, "result": result}
            except CloisterError as error:
                answer = _fault(request_id, error)
            except Exception as error:  # noqa: BLE001 - process border: a fault of the node must reach the log and the client
                _log.exception("request.failed", method=name)
                answer = _fault(request_id, InternalError(f"{type(error).__name__}: {error}"))
            sockets = sockets_of(result)
            try:
                await peer.channel.send(answer, [sock.fileno() for sock in sockets])
            except (ProtocolError, TypeError, ValueError) as error:  # too long, or not JSON: nothing was sent yet
                with contextlib.suppress(ChannelClosedError):
                    await peer.channel.send(_fault(request_id, InternalError(str(error))))
            except ChannelClosedError:
                _log.info("answer.undelivered", method=name)
            finally:
                for sock in sockets:
                    sock.close()

    async def _dispatch(self, method: Method | None, message: Message, uid: int) -> Any:
        """Check the request and call the method's implementation. Raises: CloisterError: what the peer is told."""
        body = message.body
        request_id = body.get("id")
        if unknown := body.keys() - {"id", "method", "params"}:
            raise InvalidRequestError(f"request: unknown field {min(unknown)[:_MAX_SHOWN]!r}")
        if isinstance(request_id, bool) or not isinstance(request_id, int) or not 0 <= request_id <= _MAX_ID:
            raise InvalidRequestError("id is not a whole number within bounds")
        if method is None:
            raise InvalidRequestError(f"there is no method {str(body.get('method'))[:_MAX_SHOWN]!r}")
        if method.terms.is_operators and uid != 0:
            raise PermissionDeniedError(f"only root may call {method.name}")
        arguments = method.read_request(body.get("params", {}), message.size_bytes)
        return await getattr(self._parts.of(method), method.name)(*arguments)


def _fault(request_id: object, error: CloisterError) -> dict[str, Any]:
    """An answer. It repeats a bounded part of the request, and only an id that is valid."""
    told = {"code": error.code, "message": error.message[:_MAX_MESSAGE], "hint": error.hint}
    return {"id": request_id if isinstance(request_id, int) and abs(request_id) <= _MAX_ID else None, "error": told}
