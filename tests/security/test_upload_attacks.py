"""Attacks by uploads: forged links, and room and turns that one team takes from another (I5, I6)."""

from __future__ import annotations

import base64
import gzip
import io
import json
import socket
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from cloister.control import uploads
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import call
from framework.requests import ask
from framework.template_requests import HASH, archive, link, new_name, other_team, put, request_build, start, status, wait_for

pytestmark = pytest.mark.root

_BOMB_BYTES = 400 << 20
_TOTAL_MIB = 16


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose builds run."""
    directory = tmp_path_factory.mktemp("uploads") / "data"
    with running_control_plane(directory, disk_reserve_mib=1, max_upload_mib=4, upload_total_mib=_TOTAL_MIB) as plane:
        plane.node.builds_run = True
        yield plane


def _token(url: str) -> str:
    return parse_qs(urlsplit(url).query)["token"][0]


def _with_claims(token: str, **changes: object) -> str:
    """The token with other claims and the signature that it had."""
    encoded, _, signature = token.partition(".")
    names = ("team", "hash", "expires")
    claims = dict(zip(names, json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))), strict=True)) | changes
    forged = base64.urlsafe_b64encode(json.dumps([claims[name] for name in names]).encode()).decode().rstrip("=")
    return f"{forged}.{signature}"


def test_link_cannot_be_forged(plane: ControlPlane) -> None:
    """A link is valid only for its team, hash and time, and only with its signature."""
    template_id, _ = request_build(plane, new_name())
    url = link(plane, template_id)["url"]
    token = _token(url)
    claims, _, signature = token.partition(".")
    forged = [_with_claims(token, team="other"), _with_claims(token, hash="1" * 64), _with_claims(token, expires=int(time.time()) + 10**9)]
    forged += [
        _with_claims(token, hash="../../../x"),
        claims,
        f"{claims}.",
        f".{signature}",
        f"{claims}.{'0' * 64}",
        f"{claims}.é",
        "",
        "%%%.x",
    ]
    for one in forged:
        answer = put(url.replace(token, quote(one)), archive())
        assert (answer.status, "link is not valid" in answer.json()["message"]) == (401, True), one
    assert put(url.partition("?")[0], archive()).status == 401
    assert link(plane, template_id)["present"] is False


def test_link_cannot_be_had_for_anothers_template(plane: ControlPlane) -> None:
    """Nor for one that is not there: the two are not told apart."""
    template_id, build_id = request_build(plane, new_name())
    headers = other_team(plane)
    for path in (f"templates/{template_id}/files/{HASH}", f"templates/{template_id}/builds/{build_id}/status"):
        theirs = call(plane.url, "GET", f"/{path}", headers=headers)
        nobodys = call(plane.url, "GET", f"/{path.replace(template_id, 'a' * len(template_id))}", headers=headers)
        assert (theirs.status, nobodys.status) == (404, 404)
        assert theirs.json()["message"].replace(template_id, "") == nobodys.json()["message"].replace("a" * len(template_id), "")


def test_team_cannot_fill_the_disk_by_archives_of_no_size(plane: ControlPlane) -> None:
    """An archive counts for at least the cost of its file, directories and row, so their number is bounded."""
    template_id, _ = request_build(plane, new_name())
    directory = plane.settings.data_dir / "api" / "uploads"
    for number in range(3 * _TOTAL_MIB):
        assert put(link(plane, template_id, f"{number:064x}")["url"], b"").status == 200
    assert len(list(directory.glob("*/*/archive"))) <= _TOTAL_MIB


def test_team_cannot_keep_all_the_room_by_uploads_that_do_not_come(plane: ControlPlane) -> None:
    """The room is taken when an upload begins; half of it is for others."""
    template_id, _ = request_build(plane, new_name())
    headers = other_team(plane)
    theirs = call(plane.url, "POST", "/v3/templates", body={"name": "theirs"}, headers=headers).json()["templateID"]
    their_link = call(plane.url, "GET", f"/templates/{theirs}/files/{HASH}", headers=headers).json()["url"]
    with ExitStack() as stack:
        answers = []
        for number in range(4):
            parts = urlsplit(link(plane, template_id, f"{number:064x}")["url"])
            sock = stack.enter_context(socket.create_connection((parts.hostname or "", parts.port or 0)))
            sock.sendall(f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\nContent-Length: {4 << 20}\r\n\r\nsome".encode())
            sock.settimeout(1.0)
            try:
                answers.append(sock.recv(12))
            except TimeoutError:
                answers.append(b"")
        assert answers == [b"", b"", b"HTTP/1.1 507", b"HTTP/1.1 507"]
        assert put(their_link, archive()).status == 200


def _bomb(number: int) -> bytes:
    """A small archive that is long to read. With a directory, so that it is read once."""
    into = io.BytesIO()
    with gzip.GzipFile(fileobj=into, mode="wb", compresslevel=9) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        directory = tarfile.TarInfo(f"d{number}")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        info = tarfile.TarInfo("f")
        info.size = _BOMB_BYTES
        with Path("/dev/zero").open("rb") as zeros:
            tar.addfile(info, zeros)
    return into.getvalue()


def test_team_cannot_keep_others_waiting_by_archives_that_are_long_to_read(plane: ControlPlane) -> None:
    """Of a team one archive is read at a time, whatever others want read meanwhile."""
    bomb = _bomb(0)
    greedy = []
    for number in range(6):
        ids = request_build(plane, new_name())
        assert put(link(plane, ids[0], f"{number:x}" * 64)["url"], bomb).status == 200
        greedy.append(ids)
    headers = other_team(plane)
    asked = call(plane.url, "POST", "/v3/templates", body={"name": new_name()}, headers=headers).json()
    path = f"/templates/{asked['templateID']}"
    assert put(call(plane.url, "GET", f"{path}/files/{HASH}", headers=headers).json()["url"], archive()).status == 200
    for number, ids in enumerate(greedy):
        steps = [{"type": "COPY", "args": ["f", "b"], "filesHash": f"{number:x}" * 64}]
        assert start(plane, *ids, fromImage="debian", steps=steps).status == 202
    body = {"fromImage": "debian", "steps": [{"type": "COPY", "args": ["f", "b"], "filesHash": HASH}]}
    assert call(plane.url, "POST", f"/v2{path}/builds/{asked['buildID']}", body=body, headers=headers).status == 202
    deadline = time.monotonic() + 60
    while call(plane.url, "GET", f"{path}/builds/{asked['buildID']}/status", headers=headers).json()["status"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    unread = [ids for ids in greedy if status(plane, *ids)["status"] != "ready"]
    for ids in greedy:
        wait_for(plane, *ids, "ready", "error")
        ask(plane, "DELETE", f"/templates/{ids[0]}")
    assert len(unread) >= 4
    assert uploads.LINK_S <= 3600
