"""Creations and reads with the state in SQLite and in PostgreSQL, turn by turn in one run, by one client on a kept connection.

    python bench/stores.py --rounds 200

PostgreSQL runs on loopback with its usual durability: each commit is on the disk before it counts.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.stats import summarise, write_results

from framework.postgres import Postgres
from framework.server import Server, running_server

_TEMPLATE = "base"
_WARM_UP = 10


class _Client:
    """One client of a server, and the times that it saw."""

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._headers = {"X-API-KEY": server.api_key, "Content-Type": "application/json"}
        self.times_ms: dict[str, list[float]] = {"create": [], "get": [], "list": [], "kill": []}

    def round(self) -> None:
        """Create a sandbox, read it, list all, kill it."""
        made = json.loads(self._timed("create", "POST", "/sandboxes", json.dumps({"templateID": _TEMPLATE, "timeout": 60})))
        self._timed("get", "GET", f"/sandboxes/{made['sandboxID']}")
        self._timed("list", "GET", "/v2/sandboxes")
        self._timed("kill", "DELETE", f"/sandboxes/{made['sandboxID']}")

    def _timed(self, name: str, method: str, path: str, body: str | None = None) -> bytes:
        began = time.perf_counter()
        self._connection.request(method, path, body=body, headers=self._headers)
        response = self._connection.getresponse()
        data = response.read()
        self.times_ms[name].append((time.perf_counter() - began) * 1000)
        assert response.status in (200, 201, 204), data
        return data

    def results(self) -> dict[str, dict[str, float]]:
        """The summary of each operation, without the first rounds."""
        return {name: summarise(times[_WARM_UP:]) for name, times in self.times_ms.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    with ExitStack() as stack:
        postgres = Postgres(is_durable=True)
        stack.callback(postgres.remove)
        postgres.start()
        clients = {"sqlite": _Client(stack.enter_context(running_server()))}
        os.environ["CLOISTER_DATABASE_URL"] = postgres.new_database()
        clients["postgresql"] = _Client(stack.enter_context(running_server()))
        for _ in range(_WARM_UP + args.rounds):
            for client in clients.values():
                client.round()
        results = {name: client.results() for name, client in clients.items()}
    for name, found in results.items():
        print(name, "  ".join(f"{what} {one['p50_ms']:.1f} / {one['p95_ms']:.1f} ms" for what, one in found.items()))
    if args.json is not None:
        write_results(args.json, results)


if __name__ == "__main__":
    main()
