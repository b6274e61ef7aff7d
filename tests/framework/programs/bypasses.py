"""Attempts of programs in a sandbox to get past its egress policy. Runs in the sandbox, with the standard library alone.

Each function returns a text: what came back, or ``closed`` with a reason. None raises for a refusal.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from pathlib import Path

WAIT_S = 1.5


def closed(error: Exception) -> str:
    """A refusal as a text."""
    return f"closed: {type(error).__name__} {error}"


def talk(sock: socket.socket, data: bytes, pieces: int = 1) -> str:
    """Send bytes, in pieces if there is more than one, and read until the other side has said enough, ends or is silent."""
    size = -(-len(data) // pieces)
    for start in range(0, len(data), max(1, size)):
        sock.sendall(data[start : start + size])
    found = b""
    try:
        while len(found) < 65536 and (part := sock.recv(65536)):
            found += part
            if b"\r\n\r\n" in found and b"\r\n\r\n" in data and found.partition(b"\r\n\r\n")[2]:
                break
    except OSError as error:
        if not found:
            return closed(error)
    return found.decode("latin-1") if found else "closed: no answer"


def tcp(address: str, port: int, data: bytes = b"", pieces: int = 1, family: int = socket.AF_INET) -> str:
    """An open TCP connection is ``open`` without data, else what it answers."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect((address, port))
            return talk(sock, data, pieces) if data else "open"
        except OSError as error:
            return closed(error)


def tls(address: str, name: str | None, data: bytes, port: int = 443) -> str:
    """As :func:`tcp`, by TLS with that SNI (None: without), and no look at the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    with socket.socket() as sock:
        sock.settimeout(WAIT_S)
        try:
            sock.connect((address, port))
            with context.wrap_socket(sock, server_hostname=name) as wrapped:
                return talk(wrapped, data)
        except (OSError, ValueError) as error:
            return closed(error)


def get(host: str, path: str, more: str = "", method: str = "GET") -> bytes:
    """An HTTP/1.1 request."""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode("utf-8", "surrogateescape")


def udp(address: str, port: int, *datagrams: bytes) -> str:
    """The first answer to datagrams, as hexadecimal digits."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        try:
            sock.connect((address, port))
            for data in datagrams:
                sock.send(data)
            return sock.recv(2048).hex()
        except OSError as error:
            return closed(error)


def question(name: str, kind: int = 1) -> bytes:
    """A DNS question, with an id of no importance."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, kind, 1)


def dns(server: str, name: str, kind: int = 1, by_tcp: bool = False) -> str:
    """``answered`` or ``code N``, and the answer as hexadecimal digits."""
    asked = question(name, kind)
    if not by_tcp:
        found = udp(server, 53, asked)
    else:
        found = tcp(server, 53, len(asked).to_bytes(2, "big") + asked)
        found = found if found.startswith("closed") else found.encode("latin-1")[2:].hex()
    if found.startswith("closed"):
        return found
    answer = bytes.fromhex(found)
    code, answers = answer[3] & 15, int.from_bytes(answer[6:8], "big")
    return f"{'answered' if answers else f'code {code}'} {found}"


def resolver() -> str:
    """The sandbox's own resolver."""
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("nameserver"))


def raw(protocol: int, address: str, payload: bytes, source: str | None = None) -> str:
    """Send an IP packet of a protocol number, with a chosen source if there is one."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW if source else protocol) as sock:
            if source:
                head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, protocol, 0, socket.inet_aton(source), socket.inet_aton(address))
                payload = head + payload
            sock.sendto(payload, (address, 0))
            return "sent"
    except OSError as error:
        return closed(error)


def run(command: str) -> str:
    """What a shell says, to root's commands too."""
    return os.popen(f"({command}) 2>&1").read().strip() or "closed: no output"


def later(address: str, first: bytes, second: bytes) -> str:
    """The answers to two requests on one connection to port 80, the second sent after the first answer."""
    with socket.socket() as sock:
        sock.settimeout(WAIT_S)
        try:
            sock.connect((address, 80))
            return talk(sock, first) + " then " + talk(sock, second)
        except OSError as error:
            return closed(error)
