"""kill -9 of either host process in the middle of builds: each build ends as if nothing had happened, and nothing is left (I8)."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from cloister.model.build import BuildStatus
from framework.node_peer import NodePeer, build_request, run
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]


def workplaces(server: Server) -> list[Path]:
    """Directories of build sandboxes."""
    return [path for path in (server.data_dir / "node" / "boxes").iterdir() if path.name != "empty"]


def test_death_of_the_supervisor_in_the_middle_of_a_build() -> None:
    """The build goes on with the steps that were finished, its log goes on after what was there, and nothing is left over."""
    with running_server() as server:
        peer = NodePeer(server)
        request = build_request(*run("echo one > /tmp/one", "echo be''gun; sleep 3; cat /tmp/one > /tmp/two", "cat /tmp/two"))
        peer.start(request)
        before = peer.wait_line(request.build_id, "begun").entries
        server.kill_child("node")
        report = peer.wait_ready(request.build_id)
        assert report.entries[: len(before)] == before
        rest = [entry.message for entry in report.entries[len(before) :]]
        assert "started again" in rest[0]
        assert "CACHED [1/3] RUN echo one > /tmp/one" in rest
        assert rest.count("one") == 1
        assert workplaces(server) == []
        assert not (server.data_dir / "node" / "builds" / request.build_id / "request.json").exists()
        server.census()


def test_death_of_the_api_process_in_the_middle_of_a_build() -> None:
    """Who asked for a build may go away: it is built all the same, without a second beginning."""
    with running_server() as server:
        peer = NodePeer(server)
        request = build_request(*run("echo be''gun; sleep 3; echo one > /tmp/one"))
        peer.start(request)
        peer.wait_line(request.build_id, "begun")
        server.kill_child("api")
        peer.wait_ready(request.build_id)
        assert peer.lines(request.build_id).count("begun") == 1
        server.census()


def test_supervisor_dies_again_and_again_under_many_builds() -> None:
    """Whatever a build is doing when the supervisor dies, it ends ready, at the latest when the deaths are over."""
    with running_server() as server:
        peer = NodePeer(server)
        steps = run("echo 1 > /tmp/1", "echo 2 > /tmp/2; sleep 0.5", "echo 3 > /tmp/3", "cat /tmp/1 /tmp/2 /tmp/3")
        builds = [peer.start(build_request(*steps)) for _ in range(4)]
        for _ in range(2):
            time.sleep(random.uniform(0.5, 3.0))
            server.kill_child("node")
        for build_id in builds:
            peer.wait_ready(build_id, timeout_s=150)
            assert [line for line in peer.lines(build_id) if line in {"1", "2", "3"}][-3:] == ["1", "2", "3"]
        assert workplaces(server) == []
        server.census()


def test_a_cancelled_build_stays_cancelled() -> None:
    """The supervisor's death right after a cancellation does not bring the build back."""
    with running_server() as server:
        peer = NodePeer(server)
        request = build_request(*run("echo be''gun; sleep 60"))
        peer.start(request)
        peer.wait_line(request.build_id, "begun")
        assert peer.cancel(request.build_id)
        server.kill_child("node")
        report = peer.wait_failed(request.build_id)
        assert (report.status, report.message) == (BuildStatus.ERROR, "the build was cancelled")
        server.census()
