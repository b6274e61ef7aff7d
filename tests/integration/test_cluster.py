"""A cluster of three nodes on this machine, used by the official SDK through an api process that is on none of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial

import httpx
import pytest
from e2b import PtySize
from e2b_code_interpreter import Sandbox

from framework.cluster_lab import Cluster, running_cluster
from framework.http import call
from framework.server import Server
from framework.volumes import fresh_volume
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]
_PAGE = "python3 -m http.server --bind 127.0.0.1 8000"


@pytest.fixture(scope="module")
def cluster(stock_templates: None) -> Iterator[Cluster]:
    """Three nodes; the state is in SQLite, as one api process may have it."""
    with running_cluster(3) as made:
        yield made


def _on(cluster: Cluster, node_id: str, template: str = "base") -> Sandbox:
    """A new sandbox on a node: the others are drained for a moment."""
    others = [one for one in cluster.nodes if one != node_id]
    for other in others:
        cluster.set_status(other, "draining")
    try:
        return Sandbox.create(template, timeout=600, **cluster.sdk)
    finally:
        for other in others:
            cluster.set_status(other, "ready")


def _page(cluster: Cluster, box: Sandbox) -> str:
    headers = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "8000"}
    answer = httpx.get(f"{cluster.api.url}/page", headers=headers)
    return answer.text if answer.status_code == 200 else ""


def _agent_of(node: Server) -> int:
    return node.child("agent")


def _end_reason(cluster: Cluster, sandbox: Sandbox) -> str:
    answer = call(cluster.api.url, "GET", f"/sandboxes/{sandbox.sandbox_id}", headers={"X-API-Key": cluster.api.api_key})
    return "" if answer.status == 200 else str(answer.json()["message"])


def test_every_node_runs_sandboxes_for_the_official_sdk(cluster: Cluster) -> None:
    """Code, a stream of a command, a terminal, an upload, a port, a pause, and a kill, on each node."""
    for node_id in cluster.nodes:
        box = _on(cluster, node_id, "code-interpreter-v1")
        assert cluster.home_of(box.sandbox_id) == node_id
        assert box.run_code("6 * 7").text == "42"
        lines: list[str] = []
        box.commands.run("for i in 1 2 3; do echo $i; sleep 0.1; done", on_stdout=lines.append)
        assert "".join(lines).split() == ["1", "2", "3"]
        terminal = box.pty.create(PtySize(rows=24, cols=80))
        box.pty.send_stdin(terminal.pid, b"echo t-$((40 + 2)); exit\n")
        shown: list[bytes] = []
        terminal.wait(on_pty=shown.append)
        assert b"t-42" in b"".join(shown)
        data = os.urandom(9 << 20)
        box.files.write("/home/user/data", data)
        assert box.files.read("/home/user/data", format="bytes") == data
        box.files.write("/home/user/page", "served")
        box.commands.run(_PAGE, background=True, cwd="/home/user")
        assert eventually(partial(_page, cluster, box)) == "served"
        box.pause()
        again = Sandbox.connect(box.sandbox_id, **cluster.sdk)
        assert again.run_code("6 * 8").text == "48"
        assert again.kill()
        assert not [row for row in cluster.details(node_id)["sandboxes"] if row["sandboxID"] == box.sandbox_id]


def test_sandboxes_are_spread(cluster: Cluster) -> None:
    """No node has all of them."""
    boxes = [Sandbox.create("base", timeout=600, **cluster.sdk) for _ in range(6)]
    counts = [node["sandboxCount"] for node in cluster.seen().values()]
    for box in boxes:
        box.kill()
    assert sum(count > 0 for count in counts) > 1


def test_a_drained_node_gets_no_sandbox_and_keeps_its_own(cluster: Cluster) -> None:
    """The command line drains too; when all are drained, a creation says that no node has room."""
    kept = _on(cluster, next(iter(cluster.nodes)))
    first, *others = cluster.nodes
    cluster.api.cli("node", "drain", first)
    for node_id in others:
        cluster.set_status(node_id, "draining")
    eventually(lambda: {one["status"] for one in cluster.seen().values()} == {"draining"})
    answer = call(cluster.api.url, "POST", "/sandboxes", body={"templateID": "base"}, headers={"X-API-Key": cluster.api.api_key})
    assert (answer.status, "no node of the cluster has room" in answer.json()["message"]) == (503, True)
    assert kept.commands.run("echo here").stdout == "here\n"
    cluster.api.cli("node", "undrain", first)
    for node_id in others:
        cluster.set_status(node_id, "ready")
    cluster.wait_ready()
    kept.kill()


def test_a_sandbox_goes_to_the_node_of_its_volume(cluster: Cluster) -> None:
    """Each further sandbox, and the content API, have what the first one wrote."""
    with fresh_volume(cluster.api) as volume:
        for number in range(4):
            with Sandbox.create("base", timeout=600, volume_mounts={"/data": volume.name}, **cluster.sdk) as box:
                box.commands.run(f"echo {number} >> /data/log")
        assert str(volume.read_file("/log")).split() == ["0", "1", "2", "3"]


def test_what_a_fork_and_a_snapshot_made_starts_on_their_node(cluster: Cluster) -> None:
    """Layers are on that node alone."""
    for node_id in list(cluster.nodes)[:2]:
        with _on(cluster, node_id) as box:
            box.commands.run("echo kept > /home/user/a")
            snapshot = box.create_snapshot()
            with Sandbox.create(snapshot.snapshot_id, timeout=600, **cluster.sdk) as copy:
                assert copy.files.read("/home/user/a") == "kept\n"
                assert cluster.home_of(copy.sandbox_id) == node_id


def test_a_killed_agent_supervisor_or_api_process_ends_no_sandbox(cluster: Cluster) -> None:
    """Each is started again, and the sandbox goes on with its processes."""
    node_id = next(iter(cluster.nodes))
    box = _on(cluster, node_id)
    node = cluster.nodes[node_id]
    box.commands.run("sleep 1000", background=True)
    for server, child in ((node, "agent"), (node, "node"), (cluster.api, "api")):
        server.kill_child(child)
        eventually(lambda: _answers(cluster), timeout_s=60)
        cluster.wait_ready()
        assert "sleep" in box.commands.run("ps -eo comm").stdout, child
    box.kill()


def _answers(cluster: Cluster) -> bool:
    try:
        return call(cluster.api.url, "GET", "/health").status == 200
    except OSError:
        return False


def test_a_lost_node_loses_its_sandboxes_and_ends_them_when_it_is_back(cluster: Cluster) -> None:
    """Clients get the reason and their quota; a paused sandbox waits for the node; others go on."""
    lost_id, other_id, _ = cluster.nodes
    lost, paused, other = _on(cluster, lost_id), _on(cluster, lost_id), _on(cluster, other_id)
    paused.files.write("/home/user/a", "b")
    paused.pause()
    agent = _agent_of(cluster.nodes[lost_id])
    os.kill(agent, signal.SIGSTOP)
    try:
        reason = eventually(lambda: _end_reason(cluster, lost), timeout_s=30)
        assert f"was lost with its node (node {lost_id} does not answer)" in reason
        assert cluster.seen()[lost_id]["status"] == "unhealthy"
        assert lost_id in cluster.api.cli("nodes", check=False).stdout
        assert other.commands.run("echo here").stdout == "here\n"
        headers = {"X-API-Key": cluster.api.api_key}
        answer = call(cluster.api.url, "POST", f"/sandboxes/{paused.sandbox_id}/connect", body={"timeout": 60}, headers=headers)
        assert answer.status == 503, answer.body
        assert f"node {lost_id} is lost" in answer.json()["message"]
    finally:
        os.kill(agent, signal.SIGCONT)
    cluster.wait_ready()
    assert Sandbox.connect(paused.sandbox_id, **cluster.sdk).files.read("/home/user/a") == "b"
    kept = cluster.nodes[lost_id].data_dir / "node" / "sandboxes" / lost.sandbox_id
    eventually(lambda: not kept.exists(), timeout_s=60)
    for box in (paused, other):
        box.kill()


def test_a_token_opens_for_one_node(cluster: Cluster) -> None:
    """A node joins again by a token for it alone: one for a new machine takes no node's place."""
    node_id, node = next(iter(cluster.nodes.items()))
    new, own = (cluster.api.cli("cluster", "token", *options).stdout.strip() for options in ((), ("--node", node_id)))
    words = ("node", "join", "--api", cluster.api.url, "--address", node.url.removeprefix("http://"))
    refused = node.cli(*words, said=new, check=False)
    assert "has joined already" in refused.stderr, refused
    assert node.cli(*words, said=own).returncode == 0
    stranger = cluster.api.cli(*words, said=own, check=False)
    assert "not one of this cluster" in stranger.stderr, stranger
