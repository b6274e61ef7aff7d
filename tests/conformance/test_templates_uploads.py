"""Archives for builds over plain HTTP, and plans of builds: what is taken, and what is refused how."""

from __future__ import annotations

import http.client
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from framework.control_plane import ControlPlane
from framework.http import call
from framework.requests import ask
from framework.template_requests import (
    HASH,
    archive,
    build,
    building_plane,
    link,
    new_name,
    other_team,
    put,
    request_build,
    start,
    status,
    wait_for,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose builds run."""
    with building_plane(tmp_path_factory.mktemp("templates") / "data") as plane:
        yield plane


# ---- uploads ----


def test_an_upload_is_there_for_its_team_only(plane: ControlPlane) -> None:
    """A team's upload is present for it, also when sent again by the same link, and not for another team."""
    template_id, _ = request_build(plane, new_name())
    offered = link(plane, template_id)
    assert offered["present"] is False
    assert offered["url"].startswith(plane.url)
    assert put(offered["url"], archive()).status == 200
    assert link(plane, template_id)["present"] is True
    headers = other_team(plane)
    theirs = call(plane.url, "POST", "/v3/templates", body={"name": "theirs"}, headers=headers).json()["templateID"]
    answer = call(plane.url, "GET", f"/templates/{theirs}/files/{HASH}", headers=headers)
    assert answer.json()["present"] is False
    assert call(plane.url, "GET", f"/templates/{template_id}/files/{HASH}", headers=headers).status == 404


def test_uploads_that_are_refused(plane: ControlPlane) -> None:
    """No length, too much, a link that was changed, and hashes that are none; nothing of it stays."""
    template_id, _ = request_build(plane, new_name())
    wanted = "1" * 64
    url = link(plane, template_id, wanted)["url"]
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request(
        "PUT", f"{parts.path}?{parts.query}", body=iter([b"x" * 10]), headers={"Transfer-Encoding": "chunked"}, encode_chunked=True
    )
    answer = connection.getresponse()
    assert (answer.status, b"Content-Length" in answer.read()) == (400, True)
    connection.close()
    too_much = put(url, b"x" * ((1 << 20) + 1))
    assert (too_much.status, "max_upload_mib" in too_much.json()["message"]) == (413, True)
    assert put(url[:-1] + ("0" if url[-1] != "0" else "1"), archive()).status == 401
    assert put(url.replace("token=", "token=x"), archive()).status == 401
    assert put(f"{plane.url}/uploads?token=", archive()).status == 401
    for bad in ("a.b", "A" * 129, "..%2f" * 10):
        assert ask(plane, "GET", f"/templates/{template_id}/files/{bad}").status in (400, 404)
    assert link(plane, template_id, wanted)["present"] is False
    assert not list((plane.settings.data_dir / "api" / "uploads" / ".incoming").iterdir())


def test_a_link_expires(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link is good for an hour."""
    template_id, _ = request_build(plane, new_name())
    monkeypatch.setattr("cloister.control.uploads.LINK_S", -1.0)
    answer = put(link(plane, template_id, "2" * 64)["url"], archive())
    assert (answer.status, "expired" in answer.json()["message"]) == (401, True)


def test_an_upload_that_breaks_off_leaves_nothing(plane: ControlPlane) -> None:
    """When the client goes away in the middle, neither file nor row is left, and the disk space is given back."""
    template_id, _ = request_build(plane, new_name())
    wanted = "3" * 64
    parts = urlsplit(link(plane, template_id, wanted)["url"])
    incoming = plane.settings.data_dir / "api" / "uploads" / ".incoming"
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as sock:
        sock.sendall(f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf".encode())
        while not list(incoming.iterdir()):
            time.sleep(0.01)
    deadline = time.monotonic() + 10
    while list(incoming.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert link(plane, template_id, wanted)["present"] is False


def test_room_is_bounded(plane: ControlPlane) -> None:
    """When all archives together are too much, the one that was of no use for the longest goes; those of builds under way stay."""
    plane.node.builds_run = False
    try:
        ids, more = request_build(plane, new_name()), request_build(plane, new_name())
        hashes = [f"{number}" * 64 for number in "456"]
        blob = archive(content=b"x" * 900_000)
        for upload_hash in hashes[:2]:
            assert put(link(plane, ids[0], upload_hash)["url"], blob).status == 200
        steps = [{"type": "COPY", "args": ["a", "b"], "filesHash": hashes[0]}]
        assert start(plane, *ids, fromImage="debian", steps=steps).status == 202
        assert put(link(plane, ids[0], hashes[2])["url"], blob).status == 200
        assert [link(plane, ids[0], one)["present"] for one in hashes] == [True, False, True]
        steps = [{"type": "COPY", "args": ["a", "b"], "filesHash": hashes[2]}]
        assert start(plane, *more, fromImage="debian", steps=steps).status == 202
        full = put(link(plane, ids[0], hashes[1])["url"], blob)
        assert (full.status, "upload_total_mib" in full.json()["message"]) == (507, True)
    finally:
        plane.node.builds_run = True
        for one in (ids, more):
            ask(plane, "DELETE", f"/templates/{one[0]}")


def test_a_full_disk_is_told(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that would leave less than the reserve is refused before its first byte is kept."""
    template_id, _ = request_build(plane, new_name())
    monkeypatch.setattr("cloister.store.uploads.UploadFiles.free_bytes", lambda _: 1 << 20)
    answer = put(link(plane, template_id, "7" * 64)["url"], archive())
    assert (answer.status, "nearly full" in answer.json()["message"]) == (507, True)


def test_damaged_archive_fails_its_step(plane: ControlPlane) -> None:
    """A file that is no archive, or a path that leads out of it, ends the build at its step. The client uploads it again."""
    for upload_hash, data, cause in (("8" * 64, b"x" * 2000, "not a tar"), ("9" * 64, archive("../x"), "leads out")):
        ids = request_build(plane, new_name())
        put(link(plane, ids[0], upload_hash)["url"], data)
        steps = [{"type": "RUN", "args": ["x"]}, {"type": "COPY", "args": ["a", "b"], "filesHash": upload_hash}]
        assert start(plane, *ids, fromImage="debian", steps=steps).status == 202
        told = wait_for(plane, *ids, "error")
        assert (told["reason"]["step"], cause in told["reason"]["message"]) == ("2", True)
        assert link(plane, ids[0], upload_hash)["present"] is False


def test_odd_names_of_sources_are_refused(plane: ControlPlane) -> None:
    """A source that is no Unicode, as JSON can have it, is refused by name before the build begins."""
    ids = request_build(plane, new_name())
    plan = f'{{"fromImage": "debian", "steps": [{{"type": "COPY", "args": ["\\ud800", "b"], "filesHash": "{"c" * 64}"}}]}}'
    answer = ask(plane, "POST", f"/v2/templates/{ids[0]}/builds/{ids[1]}", plan.encode())
    assert (answer.status, "steps[1].args[1]" in answer.json()["message"]) == (400, True)


# ---- plans ----


COPY = {"type": "COPY", "args": ["a", "b", "", ""]}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "Exactly one of fromImage or fromTemplate"),
        ({"fromImage": "a", "fromTemplate": "b"}, "Exactly one of fromImage or fromTemplate"),
        ({"fromImage": "", "fromTemplate": ""}, "Exactly one of fromImage or fromTemplate"),
        ({"fromImage": 1}, "fromImage must be a string"),
        ({"fromImage": "a", "diskImage": 1}, "unknown field: diskImage"),
        ({"fromImage": "a", "fromImageRegistry": {"type": "registry", "username": "u", "password": "p", "new": 1}}, "fromImageRegistry.new"),
        ({"fromImage": "a", "steps": {}}, "steps must be a list"),
        ({"fromImage": "a", "steps": [1]}, "must be a JSON object"),
        ({"fromImage": "a", "steps": [{"type": "ADD", "args": ["x"]}]}, "steps[1].type must be one of"),
        ({"fromImage": "a", "steps": [{"type": "RUN"}]}, "RUN does not take 0 arguments"),
        ({"fromImage": "a", "steps": [{"type": "RUN", "args": [1]}]}, "must be a list of strings"),
        ({"fromImage": "a", "steps": [{"type": "ENV", "args": ["A", "1", "B"]}]}, "ENV does not take 3 arguments"),
        ({"fromImage": "a", "steps": [COPY]}, "steps[1].filesHash is missing"),
        ({"fromImage": "a", "steps": [{**COPY, "filesHash": "a/b"}]}, "the hash of files must have"),
        ({"fromImage": "a", "steps": [{**COPY, "filesHash": "e" * 64}]}, "step 1: the files of 'a' were not uploaded"),
        ({"fromImage": "a", "steps": [{"type": "RUN", "args": ["x"], "filesHash": "e" * 64}]}, "filesHash is for COPY only"),
        ({"fromTemplate": "base", "fromImageRegistry": {"type": "registry"}}, "fromImageRegistry is for fromImage only"),
        ({"fromImage": "a", "fromImageRegistry": {"type": "registry", "username": "u"}}, "fromImageRegistry.password is missing"),
        ({"fromImage": "a", "fromImageRegistry": {"type": "gcp", "serviceAccountJson": "no"}}, "must be the JSON of a service account"),
        ({"fromImage": "a", "fromImageRegistry": {"type": "azure"}}, "must be registry, gcp or aws"),
    ],
)
def test_plans_that_cannot_be(plane: ControlPlane, plan: dict[str, Any], message: str) -> None:
    """A plan that cannot be is 400 and names the field; the build can be started yet."""
    ids = request_build(plane, new_name())
    answer = ask(plane, "POST", f"/v2/templates/{ids[0]}/builds/{ids[1]}", plan)
    assert answer.status == 400
    assert message in answer.json()["message"]
    assert status(plane, *ids)["status"] == "waiting"


def test_a_build_is_started_once(plane: ControlPlane) -> None:
    """A second start is refused, also after the end."""
    ids = build(plane, new_name())
    answer = start(plane, *ids)
    assert (answer.status, answer.json()["message"]) == (400, "build is not in waiting state")


def test_unknown_builds(plane: ControlPlane) -> None:
    """Builds that are not there, or another template's, are 404."""
    ids, others = build(plane, new_name()), build(plane, new_name())
    for template_id, build_id in ((ids[0], others[1]), (ids[0], str(uuid.uuid4())), (ids[0], "x"), ("nothing", ids[1])):
        for method, path in (("POST", "/v2{}"), ("GET", "{}/status"), ("GET", "{}/logs"), ("DELETE", "{}")):
            answer = ask(
                plane, method, path.format(f"/templates/{template_id}/builds/{build_id}"), {"fromImage": "x"} if method == "POST" else None
            )
            assert answer.status == 404


def test_team_of_a_request(plane: ControlPlane) -> None:
    """A build for another team than the key's is refused; the name may come as ``alias`` as in older clients."""
    assert ask(plane, "POST", "/v3/templates", {"name": "x", "teamID": "team_other"}).status == 400
    assert ask(plane, "POST", "/v3/templates", {}).json()["message"] == "Name is required"
    answer = ask(plane, "POST", "/v3/templates", {"alias": new_name()})
    assert answer.status == 202
