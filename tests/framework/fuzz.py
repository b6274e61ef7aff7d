"""Malformed input: mutations, odd JSON, and whole HTTP exchanges that break every rule. Standard library only.

As a program it talks to an HTTP server, on the host or, uploaded, inside a sandbox, and prints one JSON object: how often each status
came, and what must not be::

    python3 fuzz.py HOST PORT HEADERS(JSON) SECONDS SEED
"""

from __future__ import annotations

import base64
import collections
import contextlib
import json
import random
import socket
import struct
import sys
import threading
import time
from typing import Any

__all__ = ["Fuzzer", "Mutator", "any_json"]

_INTERESTING = (b"\x00", b"\xff" * 4, b"\xff" * 9 + b"\x01", b"\x80" * 11, b"\r\n", b'"', b"{", b"[" * 3000, b"\\ud800", b"9" * 5000)
_TEXTS = ("", "a", "é\U0001f600", "\0", "a" * 300, "../..", "/tmp/fuzz", "/tmp/fuzz/x", "~", "nobody-here", "\ud800", "1", "-1", "user")
_NAMES = ["path", "process", "cmd", "args", "envs", "cwd", "pid", "selector", "tag", "input", "stdin", "pty", "size", "cols", "rows"]
_NAMES += ["signal", "code", "language", "context_id", "env_vars", "source", "destination", "depth", "recursive"]
_NAMES += ["watcherId", "start", "data", "source_paths"]
_PROCESS = ["Start", "Connect", "StreamInput", "List", "Update", "SendInput", "SendSignal", "CloseStdin", "Nope"]
_FILESYSTEM = ["Stat", "ListDir", "MakeDir", "Move", "Remove", "CreateWatcher", "GetWatcherEvents", "RemoveWatcher", "WatchDir"]
_PATHS = [f"/process.Process/{name}" for name in _PROCESS] + [f"/filesystem.Filesystem/{name}" for name in _FILESYSTEM]
_PATHS += ["/health", "/metrics", "/envs", "/files?path=/tmp/fuzz/f", "/files?path=%00", "/files", "/files/compose", "/execute"]
_PATHS += ["/contexts", "/contexts/x", "/", "//", "/%", "/" + "a" * 9000, "/../../etc/passwd", "*"]
_PATHS_OF = {49983: _PATHS, 49999: _PATHS + 9 * ["/execute", "/contexts", "/health"]}
_STREAMS = ("application/connect+json", "application/connect+proto")
_TYPES = (*_STREAMS, "application/json", "application/proto", "text/plain", "", "multipart/form-data; boundary=b")
_METHODS = ("POST", "POST", "POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "G E T", "\x00", "get")
_BOUND_S = 0.3


class Mutator:
    """Random choices of one round; ``chance`` decides all of them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def bytes(self, whole: bytes = b"") -> bytes:
        """``whole``, changed at a few places; random bytes when it is empty."""
        chance = self.chance
        data = bytearray(whole or chance.randbytes(chance.choice([0, 1, 4, 5, 6, 20, 300])))
        for _ in range(chance.randrange(5)):
            at = chance.randrange(len(data) + 1)
            match chance.randrange(5):
                case 0:
                    data[at : at + 1] = chance.randbytes(1)
                case 1:
                    del data[at : at + chance.randrange(1, 9)]
                case 2:
                    data[at:at] = chance.choice(_INTERESTING)
                case 3:
                    data[at:at] = data[: chance.randrange(50)]
                case _:
                    del data[at:]
        return bytes(data)

    def text(self, whole: str = "") -> str:
        """The same of text; any character may come, also half ones."""
        data = self.bytes(whole.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")
        return data + self.chance.choice(("", "", "\u0663", "\ud800", "\u212a", "\U0001f600"))


def any_json(chance: random.Random, depth: int = 4) -> Any:
    """A JSON value whose members have names that our messages know."""
    kind = chance.randrange(9 if depth else 6)
    if kind >= 7:
        return {chance.choice(_NAMES): any_json(chance, depth - 1) for _ in range(chance.randrange(5))}
    if kind == 6:
        return [any_json(chance, depth - 1) for _ in range(chance.randrange(4))]
    number = chance.choice([0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, float("inf"), float("nan")])
    encoded = base64.b64encode(chance.randbytes(9)).decode()
    return chance.choice([number, chance.choice(_TEXTS), chance.choice([True, False, None]), encoded, {}])


class Fuzzer:
    """Talks to one server until the time is over; ``port`` is the agent's, which says what is served."""

    def __init__(self, address: tuple[str, int], headers: dict[str, str], port: int, seed: int) -> None:
        self._address, self._headers, self._paths, self._seed = address, headers, _PATHS_OF[port], seed
        self.statuses: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def run(self, seconds: float, threads: int = 4) -> None:
        """All threads; returns when they have ended."""
        end = time.monotonic() + seconds
        workers = [threading.Thread(target=self._work, args=(number, end)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _work(self, number: int, end: float) -> None:
        count = 0
        while time.monotonic() < end:
            count += 1
            self._exchange(Mutator(random.Random(f"{self._seed}-{number}-{count}")))

    def _exchange(self, mutator: Mutator) -> None:
        request = self._request(mutator)
        answer = self._send(mutator.chance, request)
        status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/") else "not HTTP" if answer else "none"
        self.statuses[status] += 1
        told = answer.partition(b"\r\n\r\n")[2]
        if status in ("500", "not HTTP") or b'"code": "internal"' in told or b"Traceback" in told:
            self.wrong.append(f"{status}: {request[:1500]!r} -> {answer[:400]!r}")

    def _send(self, chance: random.Random, request: bytes) -> bytes:
        """Send in one or several pieces, end in one of four ways, and read what comes within the bound."""
        with contextlib.suppress(OSError), socket.create_connection(self._address, timeout=5) as sock:
            cut = chance.randrange(len(request) + 1) if chance.random() < 0.3 else len(request)
            sock.sendall(request[:cut])
            sock.settimeout(_BOUND_S)
            ending = chance.randrange(4)
            if ending == 0:
                sock.shutdown(socket.SHUT_WR)
            elif ending == 1 and chance.random() < 0.3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return b""
            sock.sendall(request[cut:]) if ending else None
            with contextlib.suppress(TimeoutError):
                return sock.recv(65536)
        return b""

    def _request(self, mutator: Mutator) -> bytes:
        chance = mutator.chance
        if chance.random() < 0.1:
            return mutator.bytes()
        body, kind = self._body(mutator)
        headers = [("Host", "fuzz"), ("Content-Type", kind), ("Connection", chance.choice(["close", "keep-alive"])), *self._headers.items()]
        headers += [header for header in self._odd_headers(mutator) if chance.random() < 0.15]
        match chance.randrange(8):
            case 0:
                headers.append(("Transfer-Encoding", "chunked"))
                whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                body = chance.choice([whole, whole, b"zz\r\n", b"ffffffffffffffffff\r\na", b"-1\r\n", b"5\r\nab"])
            case 1:
                lies = ["-1", "99999999999999999999", "1e3", str(len(body) + 7), "0", "+3", "\u00b2"]
                headers.append(("Content-Length", chance.choice(lies)))
            case _:
                headers.append(("Content-Length", str(len(body))))
        method, path = chance.choice(_METHODS), chance.choice(self._paths)
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        whole = head.encode("utf-8", "surrogateescape") + body
        return mutator.bytes(whole) if chance.random() < 0.1 else whole

    def _odd_headers(self, mutator: Mutator) -> list[tuple[str, str]]:
        text = mutator.text("value").replace("\r", "").replace("\n", "")
        return [
            ("Connect-Timeout-Ms", mutator.chance.choice(["0", "-1", "1", "99999999999", "x"])),
            ("Content-Encoding", mutator.chance.choice(["gzip", "br", "x", ""])),
            ("Connect-Content-Encoding", "gzip"),
            ("Keepalive-Ping-Interval", mutator.chance.choice(["0", "-5", "99999999", "x"])),
            ("Authorization", mutator.chance.choice(["Basic dXNlcjo=", "Basic !!", "Basic AAAA", "Bearer x", "Basic"])),
            ("X-Odd", text.encode("utf-8", "surrogatepass").decode("latin-1")),
            ("X-Large", "x" * mutator.chance.choice([4000, 9000, 70000, 300000])),
            ("Range", mutator.chance.choice(["bytes=0-", "bytes=5-1", "bytes=-", "x"])),
            ("Expect", "100-continue"),
            ("Upgrade", "websocket"),
        ]

    def _body(self, mutator: Mutator) -> tuple[bytes, str]:
        chance = mutator.chance
        data = json.dumps(any_json(chance)).encode()
        if chance.random() < 0.4:
            data = mutator.bytes(data)
        if chance.random() < 0.5:
            length = len(data) if chance.random() < 0.6 else chance.choice([0, 1, len(data) + 9, 1 << 26, (1 << 32) - 1])
            flags = 0 if chance.random() < 0.7 else chance.randrange(256)
            data = struct.pack(">BI", flags, length) + data
        return data, chance.choice(_TYPES)


def main() -> None:
    """Run and tell."""
    host, port, headers, seconds, seed = sys.argv[1:]
    fuzzer = Fuzzer((host, int(port)), json.loads(headers), int(port), int(seed))
    fuzzer.run(float(seconds))
    print(json.dumps({"statuses": fuzzer.statuses, "wrong": fuzzer.wrong[:5]}))


if __name__ == "__main__":
    main()
