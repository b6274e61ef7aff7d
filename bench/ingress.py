"""Measures the cost of the ingress: requests to a program in a sandbox directly, through the ingress, and with TLS. See README.md.

Directly means by a socket that the supervisor created inside the sandbox's network, as the ingress itself uses.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.stats import summarise, write_results
from websockets.sync.client import connect

from cloister.cluster.base import NodeListener
from cloister.cluster.local import LocalNode
from cloister.nodewire.requests import SandboxRef
from framework.served import NODE, WEBSOCKETS, Served, served_sandbox
from framework.server import running_server

Dial = Callable[[int], socket.socket]
"""A connection to the program on that port; requests have the sandbox's headers."""
_BLOCK = b"u" * (1 << 20)


class DirectDialer:
    """Connections into the sandbox's network, created by the supervisor."""

    def __init__(self, run_dir: Path, sandbox_id: str) -> None:
        self._sandbox_id = sandbox_id
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client = asyncio.run_coroutine_threadsafe(self._open(run_dir / "supervisor.sock"), self._loop).result(10)

    async def _open(self, path: Path) -> LocalNode:
        client = LocalNode(path, wait_s=5)

        async def greet(_node: object) -> None:
            return

        client.start(NodeListener(greet, lambda _ended: None))
        await client.wait_connected()
        return client

    def __call__(self, port: int) -> socket.socket:
        """One connection."""
        dialled = asyncio.run_coroutine_threadsafe(self._client.calls.dial(SandboxRef(self._sandbox_id)), self._loop).result(10)
        sock = dialled.socket
        sock.setblocking(True)
        sock.connect((dialled.hosts[0], port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def close(self) -> None:
        """End the client."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)


def dial_host(port: int, context: ssl.SSLContext | None) -> Dial:
    """Connections to the server."""

    def dial(_port: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if context is None else context.wrap_socket(sock, server_hostname="localhost")

    return dial


def _client(sock: socket.socket) -> http.client.HTTPConnection:
    client = http.client.HTTPConnection("bench")
    client.sock = sock
    return client


def measure_requests(dial: Dial, headers: dict[str, str], rounds: int) -> list[float]:
    """Milliseconds of small requests on one connection, without the first ones."""
    client, times = _client(dial(NODE)), []
    for _ in range(rounds + 50):
        began = time.perf_counter()
        client.request("GET", "/x", headers=headers)
        client.getresponse().read()
        times.append((time.perf_counter() - began) * 1000)
    client.close()
    return times[50:]


def measure_connections(dial: Dial, headers: dict[str, str], rounds: int) -> list[float]:
    """Milliseconds of a new connection and one request on it."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        client = _client(dial(NODE))
        client.request("GET", "/x", headers=headers)
        client.getresponse().read()
        times.append((time.perf_counter() - began) * 1000)
        client.close()
    return times


def measure_messages(dial: Dial, headers: dict[str, str], rounds: int) -> list[float]:
    """Milliseconds of a WebSocket round trip."""
    times = []
    options = {"additional_headers": headers, "subprotocols": ["chat"], "compression": None}
    with connect("ws://bench/", sock=dial(WEBSOCKETS), **options) as client:  # type: ignore[arg-type]  # options by name
        for _ in range(rounds):
            began = time.perf_counter()
            client.send("hello")
            client.recv()
            times.append((time.perf_counter() - began) * 1000)
    return times


def measure_down(dial: Dial, headers: dict[str, str], size_mib: int) -> float:
    """MiB per second of one download."""
    client = _client(dial(NODE))
    began = time.perf_counter()
    client.request("GET", f"/flood?size={size_mib << 20}", headers=headers)
    response, seen, buffer = client.getresponse(), 0, bytearray(1 << 20)
    while count := response.readinto(buffer):
        seen += count
    assert seen == size_mib << 20
    client.close()
    return size_mib / (time.perf_counter() - began)


def measure_up(dial: Dial, headers: dict[str, str], size_mib: int) -> float:
    """MiB per second of one upload. The program hashes it, which also limits the direct upload."""
    client = _client(dial(NODE))
    began = time.perf_counter()
    client.request("POST", "/count", body=(_BLOCK for _ in range(size_mib)), headers={**headers, "Content-Length": str(size_mib << 20)})
    assert json.loads(client.getresponse().read())["size"] == size_mib << 20
    client.close()
    return size_mib / (time.perf_counter() - began)


def measure(ways: dict[str, Dial], served: Served, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All rows; the variants take turns within a row, so that other load affects all of them."""
    rows: dict[str, dict[str, float]] = {}
    timed = (
        ("request", measure_requests, NODE),
        ("connect + request", measure_connections, NODE),
        ("message", measure_messages, WEBSOCKETS),
    )
    for name, function, port in timed:
        samples: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(5):
            for way, dial in ways.items():
                samples[way] += function(dial, served.to(port), args.rounds // 5)
        for way, values in samples.items():
            rows[f"{name}, {way}"] = summarise(values)
    for name, transfer in (("down", measure_down), ("up", measure_up)):
        for way, dial in ways.items():
            best = max(transfer(dial, served.to(NODE), args.size) for _ in range(3))
            rows[f"{name}, {way}"] = {"mib_per_s": round(best, 1)}
    return rows


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=256, help="MiB of each transfer")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ingress.json")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with running_server("--listen-tls", f"127.0.0.1:{port}", "--domain", "sbx.test") as server, served_sandbox(server) as served:
        instance = re.search(r"instance (\d)", (server.data_dir / "server.out").read_text())
        assert instance is not None
        direct = DirectDialer(Path("/run/cloister") / instance[1], served.sandbox.sandbox_id)
        context = ssl.create_default_context(cafile=str(server.data_dir / "ca" / "ca.crt"))
        clear = int(server.url.rpartition(":")[2])
        ways: dict[str, Dial] = {"direct": direct, "ingress": dial_host(clear, None), "ingress by TLS": dial_host(port, context)}
        rows = measure(ways, served, args)
        direct.close()
    print(f"{'':36}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'MiB/s':>9}{'p50 - direct':>14}")
    for name, row in rows.items():
        floor = rows[f"{name.partition(',')[0]}, direct"]
        cells = [f"{row[key]:9.2f}" if key in row else " " * 9 for key in ("p50_ms", "p95_ms", "p99_ms", "mib_per_s")]
        added = f"{row['p50_ms'] - floor['p50_ms']:14.2f}" if "p50_ms" in row else ""
        print(f"{name:36}{''.join(cells)}{added}")
    write_results(args.output, rows)


if __name__ == "__main__":
    main()
