"""Builds against the node: what an api process that was taken over, and what a hostile step, can do to it (I1, I2, I5, I6)."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import InvalidRequestError
from cloister.ids import new_sandbox_id
from cloister.model.build import BuildStatus, BuildStep, ImageSource, UploadedArchive
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRequest
from cloister.nodewire.requests import ReportBuild
from cloister.protocol.archive import archive_digest
from framework.node_peer import NodePeer, build_request, run
from framework.server import running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]

_LOG_BYTES = 18 << 20


@pytest.fixture(scope="module")
def peer(stock_templates: None) -> Iterator[NodePeer]:
    """A server that builds one template at a time, and what speaks in its api process's place."""
    with running_server("--pool-size", "0", "--max-builds", "1") as server:
        peer = NodePeer(server)
        yield peer
        peer.drop_all()


def copy_of(path: str) -> BuildStep:
    """A step that copies an uploaded archive."""
    return BuildStep(kind="COPY", args=("a", "/b", "", ""), files=UploadedArchive(path=path, digest="0" * 64))


def test_api_process_cannot_ask_for_more_than_the_host_has(peer: NodePeer) -> None:
    """Limits of creations and of builds are bounded by the node."""
    request = SandboxRequest(sandbox_id=new_sandbox_id(), template="base", end_at=time.time() + 60)
    for limits in (Limits(mem_mib=1 << 30), Limits(cpu_count=1e6), Limits(disk_mib=1 << 30), Limits(pids=1 << 22)):
        greedy = replace(request, limits=limits)
        with pytest.raises(InvalidRequestError):
            peer.call(lambda node, greedy=greedy: node.create(greedy))  # type: ignore[misc]  # mypy infers no type for a default of a lambda
    with pytest.raises(InvalidRequestError, match="max_disk_mib"):
        peer.start(build_request(disk_mib=1 << 30))


@pytest.mark.parametrize("path", ["../node", "team/..", "/etc/passwd", "team/../../node", "team", "team/a/b", "."])
def test_api_process_cannot_name_a_directory_of_the_host(peer: NodePeer, path: str) -> None:
    """An archive is named by two plain words below ``uploads``, or the build is refused."""
    with pytest.raises(InvalidRequestError, match="path is malformed"):
        peer.start(build_request(copy_of(path)))


@pytest.mark.parametrize("build_id", ["../elsewhere", "elsewhere", "0" * 36])
def test_api_process_cannot_write_elsewhere_by_a_build_id(peer: NodePeer, build_id: str) -> None:
    """A build's directory bears its id, so an id is a UUID and nothing else."""
    with pytest.raises(InvalidRequestError, match="build_id"):
        peer.start(replace(build_request(), build_id=build_id))
    with pytest.raises(InvalidRequestError, match="build_id"):
        peer.drop(build_id)


def test_api_process_cannot_show_a_build_other_files(peer: NodePeer) -> None:
    """An archive's place that is a link, made by the api process in its own directory, leads nowhere."""
    uploads = peer.server.data_dir / "api" / "uploads"
    (uploads / "team").mkdir(parents=True, exist_ok=True)
    (uploads / "team" / "linked").symlink_to(peer.server.data_dir / "node")
    report = peer.wait_failed(peer.start(build_request(copy_of("team/linked"))))
    assert report.step == "1"
    assert "uploaded files" in report.message


def test_api_process_cannot_put_another_directory_in_the_place_of_its_own(peer: NodePeer, tmp_path: Path) -> None:
    """``uploads`` itself is the api process's to replace; an archive elsewhere is not found by it."""
    elsewhere = tmp_path / "team" / "secret"
    elsewhere.mkdir(parents=True)
    with tarfile.open(elsewhere / "archive", "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    with (elsewhere / "archive").open("rb") as stream:
        step = replace(copy_of("team/secret"), files=UploadedArchive(path="team/secret", digest=archive_digest(stream)))
    uploads = peer.server.data_dir / "api" / "uploads"
    uploads.rename(uploads.with_name("aside"))
    try:
        for place in (tmp_path, Path("../../../../..") / tmp_path.relative_to("/")):
            uploads.symlink_to(place)
            report = peer.wait_failed(peer.start(build_request(step)))
            uploads.unlink()
            assert "uploaded files" in report.message
    finally:
        uploads.unlink(missing_ok=True)
        uploads.with_name("aside").rename(uploads)


def test_step_cannot_steer_the_terminal_of_who_reads_its_log(peer: NodePeer) -> None:
    """Escape sequences and control characters of a step's output are not in its log."""
    command = r"printf '\033]0;title\007\033[2Jclear\n\233 31m\rover\n\000end\n'"
    build_id = peer.start(build_request(*run(command)))
    peer.wait_ready(build_id)
    lines = peer.lines(build_id)
    assert {"clear", "over", "end"} <= set(lines)
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for line in lines for char in line)


def test_step_cannot_fill_the_disk_by_its_log(peer: NodePeer) -> None:
    """Of a flood of output a bounded part is kept, one entry says so, and the build's end is told all the same."""
    flood = build_request(*run("yes $(head -c 3000 /dev/zero | tr '\\0' x) | head -c 60000000; exit 7"))
    report = peer.wait_failed(peer.start(flood), timeout_s=180)
    assert report.message.endswith("exit status 7")
    directory = peer.server.data_dir / "node" / "builds" / flood.build_id
    assert sum(path.stat().st_size for path in directory.iterdir()) < _LOG_BYTES
    tail = peer.call(lambda node: node.report_build(ReportBuild(flood.build_id, report.total - 3, 10))).entries
    assert [entry.message for entry in tail[-2:]] == ["the log is full: what follows is left out", report.message]


def test_reader_of_the_node_cannot_find_credentials_of_a_build_that_ended(peer: NodePeer) -> None:
    """A registry's password is on disk while its build waits, for root only, and nowhere after the end, the server's log included."""
    running = peer.start(build_request(*run("echo be''gun; sleep 1234")))
    peer.wait_line(running, "begun")
    image = ImageSource(reference="127.0.0.1:1/private", username="me", password="not-to-be-found")
    private = build_request(*run("secret-command"), image=image, parent=None)
    peer.start(private)
    directory = peer.server.data_dir / "node" / "builds"
    (request,) = (path for path in directory.rglob("*") if holds(path, "not-to-be-found"))
    assert request.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert peer.cancel(private.build_id)
    assert peer.report(private.build_id).status is BuildStatus.ERROR
    peer.cancel(running)
    peer.wait_failed(running)
    found = [path for path in peer.server.data_dir.rglob("*") if holds(path, "not-to-be-found")]
    assert found == []
    said = peer.server.log.read_text()
    assert "secret-command" not in said
    assert "sleep 1234" not in said


def holds(path: Path, text: str) -> bool:
    """Whether a file has this in it."""
    return path.is_file() and path.stat().st_size < 1 << 20 and text in path.read_text(errors="replace")
