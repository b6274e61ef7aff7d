"""A real cluster for tests: an api process that is on no node, and nodes, all on this machine with data directories of their own."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.http import call
from framework.server import PREFIX, Server, end_clean, free_port, launched, read_env
from framework.waiting import eventually

__all__ = ["Cluster", "running_cluster"]


@dataclass
class Cluster:
    """``api`` serves clients; ``nodes`` have the sandboxes, by their ids."""

    api: Server
    nodes: dict[str, Server]
    admin_key: str
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def sdk(self) -> dict[str, Any]:
        """Keyword arguments that point the Python SDKs at the cluster."""
        return self.api.sdk

    def seen(self) -> dict[str, dict[str, Any]]:
        """The nodes, by id, as the API tells them."""
        answer = call(self.api.url, "GET", "/nodes", headers={"X-API-Key": self.admin_key})
        assert answer.status == 200, answer.body
        return {node["nodeID"]: node for node in answer.json()}

    def details(self, node_id: str) -> dict[str, Any]:
        """A node with its sandboxes."""
        answer = call(self.api.url, "GET", f"/nodes/{node_id}", headers={"X-API-Key": self.admin_key})
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    def set_status(self, node_id: str, status: str) -> None:
        """Drain a node, or end that; returns when it is seen."""
        headers = {"X-API-Key": self.admin_key}
        assert call(self.api.url, "POST", f"/nodes/{node_id}", body={"status": status}, headers=headers).status == 204
        eventually(lambda: self.seen()[node_id]["status"] == status)

    def home_of(self, sandbox_id: str) -> str:
        """The node of a sandbox."""
        return next(one for one in self.nodes if sandbox_id in [row["sandboxID"] for row in self.details(one)["sandboxes"]])

    def wait_ready(self) -> None:
        """Wait until every node is ready."""
        eventually(lambda: [one["status"] for one in self.seen().values()] == ["ready"] * len(self.nodes), timeout_s=60)


def run(server: Server, *words: str, environ: dict[str, str] | None = None, said: str = "") -> str:
    """The output of a ``cloister`` command on the data directory of a server."""
    done = server.cli(*words, check=False, env=environ, said=said)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def join(cluster_api: Server, directory: Path, address: str, environ: dict[str, str]) -> str:
    """Let the data directory of a node join; its id."""
    token = run(cluster_api, "cluster", "token", environ=environ).strip()
    node = Server(f"http://{address}", "", directory, cluster_api.process, directory / "server.log")
    return run(node, "node", "join", "--api", cluster_api.url, "--address", address, environ=environ, said=f"{token}\n").split()[0]


@contextlib.contextmanager
def running_cluster(count: int, *options: str, environ: dict[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster of so many nodes while the block lasts. ``options`` are for the nodes, ``environ`` for the api process."""
    environ = environ or {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
        bare = Server("", "", directory, subprocess.Popen(["true"]), directory / "server.log")
        bare.process.wait()
        run(bare, "cluster", "init", environ=environ)
        api = stack.enter_context(launched(directory, "--role", "api", environ=environ))
        api.environ = read_env(api.cli("env", "--local", env=environ).stdout)
        api.url, api.api_key = api.environ["E2B_API_URL"], api.environ["E2B_API_KEY"]
        nodes = {}
        for _ in range(count):
            own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX)))
            node_id, node = _start_node(stack, api, own, options, environ)
            nodes[node_id] = node
        cluster = Cluster(api, nodes, run(api, "key", "create", "--admin", environ=environ).split()[-1], environ)
        cluster.wait_ready()
        yield cluster
        for node in nodes.values():
            end_clean(node)


def _start_node(
    stack: contextlib.ExitStack, api: Server, directory: Path, options: tuple[str, ...], environ: dict[str, str]
) -> tuple[str, Server]:
    port = free_port()
    node_id = join(api, directory, f"127.0.0.1:{port}", environ)
    node = stack.enter_context(launched(directory, "--role", "node", *options, port=port))
    return node_id, node
