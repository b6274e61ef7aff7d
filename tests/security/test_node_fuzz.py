"""A fuzzer of the supervisor's socket, against a real supervisor: it lives, answers, and nothing of what it was asked is left anywhere.

``FUZZ_SEED`` repeats a run, ``FUZZ_SECONDS`` makes it longer; every failure names its seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.config.settings import Settings
from framework.node_fuzz import MARK, METHODS, NodeRequests
from framework.node_peer import NodePeer
from framework.server import Server, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))
BOUNDS = ("--max-sandboxes", "4", "--max-timeout-s", "600", "--max-builds-per-team", "1", "--max-builds", "1")
MOST_GROWTH_MIB = 64


@pytest.fixture(scope="module")
def fuzzed(stock_templates: None) -> Iterator[Server]:
    """A server of its own, with small bounds."""
    with running_server("--pool-size", "0", "--zygotes", "false", *BOUNDS) as server:
        yield server


class Fuzz:
    """Batches of messages, each on connections of its own, with descriptors attached now and then."""

    def __init__(self, server: Server) -> None:
        self.data_dir = server.data_dir
        self._path = NodePeer(server).socket_path()
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.live: list[str] = []

    def connect(self) -> socket.socket:
        """A connection that the supervisor serves; it may have to notice first that others have ended."""

        def attempt() -> socket.socket | None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.settimeout(20)
            with contextlib.suppress(OSError):
                sock.connect(os.fspath(self._path))
                if self.ask(sock, "ping", {}):
                    return sock
            sock.close()
            return None

        return eventually(attempt)

    def ask(self, sock: socket.socket, method: str, params: dict[str, Any]) -> Any:
        """A right request's result; None: the connection was ended."""
        sock.sendall(b"." + json.dumps({"id": 987654, "method": method, "params": params}).encode())
        while True:
            body = hear(sock)
            if body is None or body.get("id") == 987654:
                assert body is None or "result" in body, body
                return body and body["result"]

    def batch(self, requests: NodeRequests) -> None:
        """Send some on one connection until it ends, and hear what comes."""
        with self.connect() as sock:
            self.live = [one["sandbox_id"] for one in self.ask(sock, "list", {})["sandboxes"]]
            sock.settimeout(0.5)
            for _ in range(requests.chance.randrange(1, 8)):
                packets = requests.message(self.live)
                with contextlib.suppress(OSError):
                    for packet in packets:
                        if requests.chance.random() < 0.02:
                            socket.send_fds(sock, [packet], [0, 1, 2])
                        else:
                            sock.sendall(packet)
                    if requests.chance.random() < 0.8 and (body := hear(sock)) is not None:
                        self._judge(packets, body)

    def _judge(self, packets: list[bytes], body: dict[str, Any]) -> None:
        fault = body.get("error")
        self.codes["result" if fault is None else fault["code"]] += 1
        if fault is not None and (fault["code"] in {"internal", "store_failed", "error"} or "Traceback" in fault["message"]):
            self.wrong.append(f"{b''.join(packets)[:600]!r} -> {fault}")


def hear(sock: socket.socket) -> dict[str, Any] | None:
    """The next message; None when the connection has ended, or nothing came in time. What comes with it is closed."""
    gathered = b""
    try:
        while True:
            packet, fds, _, _ = socket.recv_fds(sock, 1 << 20, 16)
            for fd in fds:
                os.close(fd)
            if not packet:
                return None
            gathered += packet[1:]
            if packet[:1] == b".":
                return dict(json.loads(gathered))
    except OSError:
        return None


def memory_mib(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS"))


def descriptors(pid: int) -> int:
    """Open descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def marked(server: Server) -> list[str]:
    """Files with a name that only the fuzzer gives, in every place where a name could have led."""
    places = ["/tmp", "/etc", "/run", "/root", "/home", "/var/lib", str(server.data_dir)]
    found = subprocess.run(["find", *places, "-xdev", "-name", f"*{MARK}*"], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_api_process_cannot_break_the_supervisor_by_any_request(fuzzed: Server) -> None:
    """Its process is the same at the end, each batch is followed by a right answer, and memory, descriptors and the host are as before."""
    pid, fuzz = fuzzed.child("node"), Fuzz(fuzzed)
    warm_up(fuzz)
    before = descriptors(pid), memory_mib(pid)
    until, count = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        count += 1
        fuzz.batch(NodeRequests(f"{SEED}-{count}", time.time()))
        assert fuzzed.child("node") == pid, f"seed {SEED}-{count}"
        assert not fuzz.wrong, f"seed {SEED}-{count}: {fuzz.wrong[0]}"
    print(f"seed {SEED}: {count} batches, {dict(fuzz.codes)}")
    clear(fuzz)
    assert count > 5
    assert {"result", "invalid_request"} <= fuzz.codes.keys()
    eventually(lambda: descriptors(pid) <= before[0] + 2, 60)
    assert memory_mib(pid) < before[1] + MOST_GROWTH_MIB
    assert marked(fuzzed) == []
    fuzzed.census()
    assert fuzzed.child("node") == pid


def warm_up(fuzz: Fuzz) -> None:
    """A right request of each method that can have one, so that what is made once is there."""
    with fuzz.connect() as sock:
        for method in ("templates", "list", "dns_sockets"):
            assert fuzz.ask(sock, method, {}) is not None
        for _ in range(2):
            params = {**METHODS["create"], "sandbox_id": f"warm{random.randrange(10**16):016}", "end_at": time.time() + 60, "volumes": []}
            assert fuzz.ask(sock, "create", params)
            assert fuzz.ask(sock, "kill", {"sandbox_id": params["sandbox_id"]}) is True


def clear(fuzz: Fuzz) -> None:
    """Sandboxes and builds that the fuzzer made."""
    store = Settings().store_dir / "builds"
    with fuzz.connect() as sock:
        for one in fuzz.ask(sock, "list", {})["sandboxes"]:
            fuzz.ask(sock, "kill", {"sandbox_id": one["sandbox_id"]})
        for build in {path.stem for path in store.glob("*-4f51-4b6f-8a4e-27ab02a05c1e.json")} | fuzz_builds(fuzz):
            fuzz.ask(sock, "drop_build", {"build_id": build})
        eventually(lambda: not fuzz.ask(sock, "list", {})["sandboxes"], 60)


def fuzz_builds(fuzz: Fuzz) -> set[str]:
    """Builds that the supervisor knows of: the fuzzer's."""
    return {path.name for path in (fuzz.data_dir / "node" / "builds").iterdir()}
