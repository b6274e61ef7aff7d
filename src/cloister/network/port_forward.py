"""A port forward: a listening socket in a sandbox's network namespace, whose connections go to one address and port of the host.

It exists while a sandbox pulls from a registry on this host (docs/howto/images.md). It moves bytes in bounded memory and reads none of
them. Must not: make the listening socket (slots.py makes it, inside), or decide which sandbox gets a forward.
Invariant I4: the target is fixed before the sandbox can run code, so the sandbox reaches no other address by it.
Runs in: supervisor, one thread for each forward, in the host's network namespace. Needs: no capability.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
import time
from ipaddress import IPv4Address, ip_address
from typing import Any

from cloister.errors import UnavailableError

__all__ = ["PortForward", "find_target", "inside_address"]

_CONNECTIONS = 16
_BUFFER_BYTES = 1 << 18
_CONNECT_S = 3.0
_BREATH_S = 0.1
_ABORT = struct.pack("ii", 1, 0)
"""Linger for 0 s: closing the socket resets the connection."""

Target = tuple[socket.AddressFamily, Any]
"""An address family and an address, as sockets take them."""


def inside_address(host: str) -> IPv4Address:
    """The address in the sandbox at which ``host`` is forwarded: an address is itself, and a name resolves to loopback."""
    try:
        return IPv4Address(host)
    except ValueError:
        return IPv4Address("127.0.0.1")


def find_target(host: str, port: int) -> Target:
    """The address of this host behind ``host`` (a name or an address) that accepts connections at ``port``.

    Raises: UnavailableError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(f"this host does not know the name {host}: {error.strerror}") from error
    own = [(family, address) for family, _kind, _protocol, _name, address in found if _is_own(family, address)]
    if not own:
        raise UnavailableError(
            f"{host} is not this host", hint="host_registries is for registries of this very host; others are allowed by allow_private"
        )
    failure = OSError("")
    for family, address in own:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(_CONNECT_S)
            try:
                sock.connect(address)
            except OSError as error:
                failure = error
            else:
                return family, address
    raise UnavailableError(f"nothing answers at {host}:{port} on this host: {failure.strerror or failure}") from failure


def _is_own(family: socket.AddressFamily, address: Any) -> bool:
    plain = ip_address(str(address[0]).partition("%")[0])
    if plain.is_unspecified or plain.is_multicast:
        return False
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((address[0], 0, *address[2:]))
        return True
    return False


class PortForward:
    """Listens until :meth:`close`, which also ends its connections."""

    def __init__(self, listener: socket.socket, target: Target, connections: int = _CONNECTIONS) -> None:
        """Takes ``listener`` over. Connections beyond ``connections`` at a time wait."""
        self._listener = listener
        self._target = target
        self._most = connections
        self._live: set[_Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._stop_out, self._stop_in = os.pipe2(os.O_CLOEXEC)
        listener.setblocking(False)
        self._thread = threading.Thread(target=self._serve, name="port-forward", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, the listener and all connections. Idempotent."""
        if self._stop_in >= 0:
            os.close(self._stop_in)  # the thread reads an end of file
            self._stop_in = -1
        self._thread.join()

    def _serve(self) -> None:
        self._selector.register(self._stop_out, selectors.EVENT_READ)
        try:
            while True:
                self._watch(self._listener, selectors.EVENT_READ if len(self._live) < self._most else 0, None)
                for key, _events in self._selector.select():
                    if key.fd == self._stop_out:
                        return
                    self._step(key.data)
        finally:
            for connection in self._live:
                connection.abort()
            self._listener.close()
            self._selector.close()
            os.close(self._stop_out)

    def _step(self, connection: _Connection | None) -> None:
        """Handle an event of ``connection``; None: of the listener."""
        if connection is None:
            connection = self._accept()
        if connection is None or connection not in self._live:
            return
        alive = connection.move()
        for sock, events in connection.wanted().items():
            self._watch(sock, events if alive else 0, connection)
        if not alive:
            self._live.discard(connection)
            connection.abort()

    def _accept(self) -> _Connection | None:
        try:
            inner, _address = self._listener.accept()
        except BlockingIOError:  # the client closed it meanwhile
            return None
        except OSError:  # no free descriptor: the connection waits, and the pause keeps this thread from spinning
            time.sleep(_BREATH_S)
            return None
        try:
            connection = _Connection(inner, self._target)
        except OSError:
            inner.close()
            return None
        self._live.add(connection)
        return connection

    def _watch(self, sock: socket.socket, events: int, data: _Connection | None) -> None:
        known = self._selector.get_map().get(sock)
        if known is None and events:
            self._selector.register(sock, events, data)
        elif known is not None and not events:
            self._selector.unregister(sock)
        elif known is not None and known.events != events:
            self._selector.modify(sock, events, data)


class _Connection:
    """A connection from the sandbox, and the connection to the host made for it."""

    def __init__(self, inner: socket.socket, target: Target) -> None:
        family, address = target
        self._inner, self._outer = inner, socket.socket(family, socket.SOCK_STREAM)
        for sock in (inner, self._outer):
            sock.setblocking(False)
        code = self._outer.connect_ex(address)
        self._connecting = code == errno.EINPROGRESS
        self._failed = code not in (0, errno.EINPROGRESS)
        self._flows = (_Flow(inner, self._outer), _Flow(self._outer, inner))

    def move(self) -> bool:
        """Move the bytes that can be moved now; False: the connection is over."""
        if self._connecting:
            if self._outer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return False
            self._connecting = not _is_connected(self._outer)
        if self._failed:
            return False
        try:
            for flow in self._flows:
                flow.move(may_write=not self._connecting or flow.sink is not self._outer)
        except OSError:
            return False
        return not all(flow.is_over for flow in self._flows)

    def wanted(self) -> dict[socket.socket, int]:
        """The events to wait for, by socket."""
        wanted = {self._inner: 0, self._outer: selectors.EVENT_WRITE if self._connecting else 0}
        for flow in self._flows:
            if flow.may_read and not (self._connecting and flow.source is self._outer):
                wanted[flow.source] |= selectors.EVENT_READ
            if flow.buffer:
                wanted[flow.sink] |= selectors.EVENT_WRITE
        return wanted

    def abort(self) -> None:
        """Close both sockets; reset them unless both directions have ended."""
        for sock in (self._inner, self._outer):
            if not all(flow.is_over for flow in self._flows):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            sock.close()


class _Flow:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.buffer = bytearray()
        self.is_over = False
        self._ended = False

    @property
    def may_read(self) -> bool:
        """Whether the buffer has room and the source has not ended."""
        return not self._ended and len(self.buffer) < _BUFFER_BYTES

    def move(self, *, may_write: bool) -> None:
        """Raises: OSError: one of the two sockets is broken."""
        with contextlib.suppress(BlockingIOError):
            if self.may_read and self.source.fileno() >= 0:
                data = self.source.recv(_BUFFER_BYTES - len(self.buffer))
                self.buffer += data
                self._ended = not data
        with contextlib.suppress(BlockingIOError):
            if may_write and self.buffer:
                del self.buffer[: self.sink.send(self.buffer)]
        if self._ended and not self.buffer and not self.is_over and may_write:
            self.is_over = True
            self.sink.shutdown(socket.SHUT_WR)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
