"""A port forward passes bytes to one address, in bounded memory, and none once it is closed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from cloister.errors import UnavailableError
from cloister.network.port_forward import PortForward, find_target, inside_address

_PATIENCE_S = 10.0


@contextmanager
def listening(serve: Callable[[socket.socket], None] | None = None) -> Iterator[socket.socket]:
    """A listening socket; ``serve`` gets each connection, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        if serve is not None:

            def accept(take: Callable[[socket.socket], None]) -> None:
                while True:
                    try:
                        sock, _address = server.accept()
                    except OSError:
                        return
                    threading.Thread(target=take, args=(sock,), daemon=True).start()

            threading.Thread(target=accept, args=(serve,), daemon=True).start()
        yield server
        with contextlib.suppress(OSError):  # closed by the test
            server.shutdown(socket.SHUT_RDWR)


@contextmanager
def forward_to(port: int, **options: int) -> Iterator[int]:
    """An open forward to a port; the port at which it listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    number: int = listener.getsockname()[1]
    forward = PortForward(listener, (socket.AF_INET, ("127.0.0.1", port)), **options)
    try:
        yield number
    finally:
        forward.close()


def connect(port: int) -> socket.socket:
    """A connection with a deadline."""
    return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)


def digest_of(sock: socket.socket) -> bytes:
    """Of all that comes until the end."""
    found = hashlib.sha256()
    while data := sock.recv(1 << 16):
        found.update(data)
    return found.digest()


def answer_digest(sock: socket.socket) -> None:
    """Reads to the end, slowly at first, then answers with 8 MiB and the digest."""
    with sock:
        time.sleep(0.2)
        digest = digest_of(sock)
        sock.sendall(digest + bytes(8 << 20))


def greet(sock: socket.socket) -> None:
    """Says one byte, and stays until the other side goes."""
    with sock, contextlib.suppress(OSError):
        sock.sendall(b"x")
        sock.recv(1)


def test_megabytes_pass_both_ways_and_an_end_is_passed_on() -> None:
    """The end of what a client says is not the end of what it hears."""
    data = os.urandom(8 << 20)
    with listening(answer_digest) as server, forward_to(server.getsockname()[1]) as port, connect(port) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        first = client.recv(32, socket.MSG_WAITALL)
        assert first == hashlib.sha256(data).digest()
        assert digest_of(client) == hashlib.sha256(bytes(8 << 20)).digest()


def test_what_nobody_reads_is_not_kept() -> None:
    """A sender that outruns the reader stands still; it is no memory of the server's."""
    with listening() as server, forward_to(server.getsockname()[1]) as port, connect(port) as client:
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(64 << 20))


def test_more_connections_than_allowed_wait() -> None:
    """Until one of the others has ended."""
    with listening(greet) as server, forward_to(server.getsockname()[1], connections=2) as port:
        first, second, third = (connect(port) for _ in range(3))
        assert (first.recv(1), second.recv(1)) == (b"x", b"x")
        third.settimeout(0.3)
        with pytest.raises(TimeoutError):
            third.recv(1)
        first.close()
        second.close()
        third.settimeout(_PATIENCE_S)
        assert third.recv(1) == b"x"
        third.close()


def test_target_that_is_gone_is_a_reset() -> None:
    """And the forward serves the next one all the same."""
    with listening(greet) as server:
        place = server.getsockname()[1]
        with forward_to(place) as port:
            with connect(port) as client:
                assert client.recv(1) == b"x"
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            for _ in range(3):
                with pytest.raises(ConnectionResetError), connect(port) as client:
                    client.recv(1)
            with socket.create_server(("127.0.0.1", place)) as again, connect(port):
                again.settimeout(_PATIENCE_S)
                again.accept()[0].close()


def test_closed_forward_ends_its_connections_and_thread() -> None:
    """Twice is once."""
    before = threading.active_count()
    with listening() as server:
        listener = socket.create_server(("127.0.0.1", 0))
        forward = PortForward(listener, (socket.AF_INET, server.getsockname()))
        with connect(listener.getsockname()[1]) as client:
            inside, _address = server.accept()
            forward.close()
            forward.close()
            with inside, pytest.raises(ConnectionResetError):
                inside.recv(1)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    assert threading.active_count() == before


def test_target_is_on_this_host_and_answers() -> None:
    """Else the error says which of both it is not."""
    with listening() as server:
        port = server.getsockname()[1]
        assert find_target("localhost", port) == (socket.AF_INET, ("127.0.0.1", port))
        assert find_target("127.0.0.1", port) == (socket.AF_INET, ("127.0.0.1", port))
    with pytest.raises(UnavailableError, match=r"nothing answers at localhost:.*refused"):
        find_target("localhost", port)
    # 192.0.2.1 is this host while tests beside this one run the pretend internet
    for elsewhere in ("192.0.2.254", "0.0.0.0", "224.0.0.1"):
        with pytest.raises(UnavailableError, match="is not this host"):
            find_target(elsewhere, port)
    with pytest.raises(UnavailableError, match="does not know the name"):
        find_target("registry.invalid", port)


@pytest.mark.parametrize(
    ("host", "address"), [("localhost", "127.0.0.1"), ("a.lan", "127.0.0.1"), ("127.0.0.9", "127.0.0.9"), ("10.1.2.3", "10.1.2.3")]
)
def test_place_in_the_sandbox(host: str, address: str) -> None:
    """A name's is loopback."""
    assert inside_address(host) == IPv4Address(address)
