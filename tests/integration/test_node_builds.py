"""Builds on a real node: what is made is used, what is equal is made once, and what is stopped leaves nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.config.load import load
from cloister.errors import TemplateNotFoundError
from cloister.ids import new_sandbox_id
from cloister.model.build import BuildStatus
from cloister.model.sandbox import SandboxRequest
from cloister.node.journal import Journal
from cloister.nodewire.requests import Kill
from cloister.template.layers import LayerStore
from framework.node_peer import NodePeer, build_request, run
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def peer(stock_templates: None) -> Iterator[NodePeer]:
    """A server of this file's own: others' builds would change what it finds running."""
    with running_server("--pool-size", "1") as server:
        peer = NodePeer(server)
        yield peer
        peer.drop_all()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the api process can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def layers(build_id: str) -> tuple[str, ...]:
    """What a build's template consists of."""
    return LayerStore(load(None, os.environ).store_dir).build(build_id).layers


def sandbox_of(build_id: str) -> SandboxRequest:
    """A request for a sandbox of a build."""
    return SandboxRequest(sandbox_id=new_sandbox_id(), template=build_id, end_at=time.time() + 60)


def boxes(server: Server) -> list[str]:
    """Directories of build sandboxes."""
    return [path.name for path in (server.data_dir / "node" / "boxes").iterdir() if path.name != "empty"]


def test_a_build_can_be_used_until_it_is_dropped(peer: NodePeer) -> None:
    """Sandboxes are made of a build by its id; after the drop no more, and a second drop changes nothing."""
    build_id = peer.start(build_request(*run("echo made > /tmp/made")))
    peer.wait_ready(build_id)
    made = peer.call(lambda node: node.create(sandbox_of(build_id)))
    assert peer.call(lambda node: node.kill(Kill(made.sandbox_id)))
    peer.drop(build_id)
    peer.drop(build_id)
    with pytest.raises(TemplateNotFoundError):
        peer.call(lambda node: node.create(sandbox_of(build_id)))
    peer.server.census()


def test_what_was_made_ahead_of_a_dropped_build_ends(peer: NodePeer) -> None:
    """Soon, and not only when the template has not been asked for in ten minutes."""
    build_id = peer.start(build_request(*run("echo ahead > /tmp/ahead")))
    peer.wait_ready(build_id)
    wait_made_ahead(peer.server, build_id, 1)
    peer.drop(build_id)
    wait_made_ahead(peer.server, build_id, 0)
    peer.server.census()


def wait_made_ahead(server: Server, build_id: str, count: int) -> None:
    """Until the journal knows so many sandboxes of a build."""
    journal = Journal(server.data_dir / "node" / "sandboxes", server.data_dir / "none")
    until = time.monotonic() + 20
    while (found := sum(entry.record.build_id == build_id for entry in journal.entries().entries)) != count:
        assert time.monotonic() < until, f"{found} sandboxes instead of {count}"
        time.sleep(0.05)


def test_a_failed_step_is_told_as_the_official_service_does(peer: NodePeer) -> None:
    """The message, the step, and the program's last words; the finished step before it is in the cache of the next try."""
    request = build_request(*run("echo one > /tmp/one", "echo be''fore; exit 3"))
    report = peer.wait_failed(peer.start(request))
    assert (report.message, report.step) == ("failed to run command 'echo be''fore; exit 3': command failed: exit status 3", "2")
    assert "before" in [entry.message for entry in report.entries]
    again = build_request(*run("echo one > /tmp/one", "true"), team_id=request.team_id)
    peer.wait_ready(peer.start(again))
    assert "CACHED [1/2] RUN echo one > /tmp/one" in peer.lines(again.build_id)


def test_equal_builds_at_a_time_run_each_step_once(peer: NodePeer) -> None:
    """The second build waits for the first's step and takes it: a step whose result is another each time has one result."""
    steps = run("cat /proc/sys/kernel/random/uuid > /tmp/id; sleep 1", "cp /tmp/id /tmp/again; sleep 1")
    one, two = (build_request(*steps, team_id="equal-team-" + str(time.time_ns())) for _ in range(2))
    two = replace(two, team_id=one.team_id)
    for request in (one, two):
        peer.start(request)
    for request in (one, two):
        peer.wait_ready(request.build_id)
    assert layers(one.build_id) == layers(two.build_id)
    lines = [peer.lines(request.build_id) for request in (one, two)]
    for number in ("1", "2"):
        done = [sum(line.startswith(f"[{number}/2] done in") for line in log) for log in lines]
        cached = [sum(line.startswith(f"CACHED [{number}/2]") for line in log) for log in lines]
        assert (sum(done), sum(cached)) == (1, 1), lines
    assert any("waiting for another build" in line for log in lines for line in log)


def test_cancel_ends_what_runs(peer: NodePeer) -> None:
    """A running command is killed with its sandbox within seconds, the build says why, and nothing of it is left."""
    build_id = peer.start(build_request(*run("echo be''gun; sleep 1234")))
    peer.wait_line(build_id, "begun")
    began = time.monotonic()
    assert peer.cancel(build_id)
    report = peer.wait_failed(build_id)
    assert (report.message, report.step) == ("the build was cancelled", "1")
    assert time.monotonic() - began < 10
    assert boxes(peer.server) == []
    assert not peer.cancel(build_id)
    peer.server.census()


def test_drop_ends_what_runs(peer: NodePeer) -> None:
    """A running build that is dropped is killed and forgotten, credentials and all."""
    build_id = peer.start(build_request(*run("echo be''gun; sleep 1234")))
    peer.wait_line(build_id, "begun")
    peer.drop(build_id)
    until = time.monotonic() + 10
    while boxes(peer.server) or (peer.server.data_dir / "node" / "builds" / build_id).exists():
        assert time.monotonic() < until, "the dropped build is still there"
        time.sleep(0.05)
    peer.server.census()


def test_the_census_knows_sandboxes_of_builds(peer: NodePeer) -> None:
    """The census counts the objects of a running build as held, not as left over."""
    build_id = peer.start(build_request(*run("echo be''gun; sleep 1234")))
    peer.wait_line(build_id, "begun")
    (box,) = boxes(peer.server)
    census = peer.server.census()
    assert f"control group {box}" in census
    assert f"/node/boxes/{box}/disk.img" in census
    assert peer.cancel(build_id)
    peer.wait_failed(build_id)


def test_a_step_that_fills_its_disk_hurts_itself_only(peer: NodePeer) -> None:
    """The step fails and the log says that the disk is full; a build beside it is not disturbed."""
    full = build_request(*run("head -c 400M /dev/zero > /tmp/big"), disk_mib=256)
    other = build_request(*run("echo fine > /tmp/fine; sleep 1"))
    peer.start(full)
    peer.start(other)
    report = peer.wait_failed(full.build_id)
    assert report.step == "1"
    assert "No space left" in "\n".join(peer.lines(full.build_id))
    peer.wait_ready(other.build_id)


def test_a_stop_during_a_build(directory: Path) -> None:
    """The stop does not wait for the build; the next start goes on at the step that was cut off."""
    with running_server(data_dir=directory) as server:
        peer = NodePeer(server)
        request = build_request(*run("echo one > /tmp/one", "echo be''gun; sleep 5; echo two"))
        peer.start(request)
        peer.wait_line(request.build_id, "begun")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20
        census = server.census()
        assert "0 live sandboxes, 0 objects held, 0 left over" in census, census
    with running_server(data_dir=directory) as server:
        peer = NodePeer(server)
        peer.wait_ready(request.build_id)
        lines = peer.lines(request.build_id)
        assert any("the server stops" in line for line in lines)
        assert lines.index("CACHED [1/2] RUN echo one > /tmp/one") > lines.index("begun")
        assert len(layers(request.build_id)) == len(layers_of_base()) + 2 - 1  # the second step wrote no file


def layers_of_base() -> tuple[str, ...]:
    """Of the stock template."""
    return LayerStore(load(None, os.environ).store_dir).template("base").layers


@contextlib.contextmanager
def small_disk(directory: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own."""
    image, mounted = directory / "small.img", directory / "small"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_store_that_fills_up_in_the_middle(directory: Path) -> None:
    """A layer that the store has no room for fails its step, leaves nothing there, and the server builds on when there is room."""
    stock = LayerStore(load(None, os.environ).store_dir)
    with small_disk(directory, 200) as disk:
        store = LayerStore(disk / "store")
        for key in stock.template("base").layers:
            (store.root / "layers" / key).symlink_to(stock.root / "layers" / key)
        (store.root / "agent").rmdir()
        (store.root / "agent").symlink_to(stock.root / "agent")
        store.write_template(stock.template("base"))
        (directory / "data").mkdir()
        options = ("--store-dir", str(store.root), "--disk-reserve-mib", "1", "--pool-size", "0")
        with running_server(*options, data_dir=directory / "data") as server:
            peer = NodePeer(server)
            request = build_request(*run("echo small > /tmp/small", "head -c 250M /dev/urandom > /tmp/big", "true"))
            report = peer.wait_failed(peer.start(request))
            assert report.step == "2"
            assert "no room" in report.message or "full" in report.message, report.message
            assert not any((store.root / "tmp").iterdir())
            ballast = store.root / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(1 << 20))
            refused = peer.wait_failed(peer.start(build_request(*run("true"))))
            assert "too little disk space" in refused.message
            ballast.unlink()
            again = build_request(*run("echo small > /tmp/small", "true"), team_id=request.team_id)
            assert peer.wait_ready(peer.start(again)).status is BuildStatus.READY
            assert "CACHED [1/2] RUN echo small > /tmp/small" in peer.lines(again.build_id)
