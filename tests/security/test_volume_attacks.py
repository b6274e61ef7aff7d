"""Attacks on volumes: by another team, by tokens, by links, and by root of a sandbox."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import Sandbox, SandboxException, Volume

from framework.control_plane import ControlPlane
from framework.http import Answer, call
from framework.requests import ask
from framework.server import Server
from framework.template_requests import other_team
from framework.volumes import fresh_volume, mounted

pytestmark = pytest.mark.root


def content(plane: ControlPlane, volume: dict[str, Any], token: str, method: str, part: str, **query: str) -> httpx.Response:
    """One request to the content of a volume."""
    url = f"{plane.url}/volumecontent/{volume['volumeID']}/{part}"
    return httpx.request(method, url, params=query, headers={"Authorization": f"Bearer {token}"}, content=b"x" if method == "PUT" else None)


def test_team_cannot_reach_another_teams_volume(control_plane: ControlPlane) -> None:
    """Not by its id, not by its name in a mount, and not in a list: it looks like none."""
    volume = ask(control_plane, "POST", "/volumes", {"name": "mine"}).json()
    headers, path = other_team(control_plane), f"/volumes/{volume['volumeID']}"

    def other(method: str, where: str, body: Any = None) -> Answer:
        return call(control_plane.url, method, where, body=body, headers=headers)

    assert other("GET", path).status == 404
    assert other("POST", f"{path}/copy", {"name": "stolen"}).status == 404
    assert other("DELETE", path).status == 404
    assert other("GET", "/volumes").json() == []
    mounted = other("POST", "/v2/sandboxes", {"templateID": "base", "volumeMounts": [{"name": "mine", "path": "/v"}]})
    assert (mounted.status, "volume 'mine' not found" in mounted.json()["message"]) == (400, True)
    assert ask(control_plane, "GET", f"/volumes/{volume['volumeID']}").status == 200


def test_client_cannot_open_a_volume_by_another_ones_token(control_plane: ControlPlane) -> None:
    """A token is for one volume, and only as it was signed."""
    one, other = (ask(control_plane, "POST", "/volumes", {"name": name}).json() for name in ("a", "b"))
    for token in (other["token"], one["token"][:-1], one["token"].rpartition(".")[0] + ".", "null"):
        for method, part in (("GET", "dir"), ("PUT", "file"), ("DELETE", "path")):
            assert content(control_plane, one, token, method, part, path="/x").status_code == 401
    assert content(control_plane, one, one["token"], "GET", "dir", path="/").json() == []


def test_links_in_a_volume_cannot_lead_out_of_it(control_plane: ControlPlane) -> None:
    """No request follows a tenant's link, or ``..``, out of the volume."""
    volume = ask(control_plane, "POST", "/volumes", {"name": "links"}).json()
    at = control_plane.node.volume_at(volume["volumeID"])
    secret = at.parent / "outside"
    secret.mkdir()
    (secret / "s").write_text("secret")
    (at / "absolute").symlink_to(secret)
    (at / "up").symlink_to("../outside")
    (at / "magic").symlink_to("/proc/self/root")
    for link in ("absolute", "up", f"magic{secret}", "../outside", f"../../../../../..{secret}"):
        for method, part in (("GET", "file"), ("GET", "path"), ("DELETE", "path"), ("GET", "archive"), ("PUT", "file")):
            path = f"/{link}/s" if part != "archive" else f"/{link}"
            answer = content(control_plane, volume, volume["token"], method, part, path=path, force="false")
            assert answer.status_code >= 400, (link, part)
            assert "secret" not in answer.text
    assert [path.name for path in secret.iterdir()] == ["s"]
    assert (secret / "s").read_text() == "secret"


def test_special_files_in_a_volume_cannot_stop_the_content_api(control_plane: ControlPlane) -> None:
    """A pipe, a socket and a deep tree are listed, refused as files, and removed."""
    volume = ask(control_plane, "POST", "/volumes", {"name": "special"}).json()
    at = control_plane.node.volume_at(volume["volumeID"])

    os.mkfifo(at / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(at / "socket"))
    (at / "loop").symlink_to("loop")
    deep = os.open(at, os.O_RDONLY)
    for _ in range(1200):  # deeper than a program's stack
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    token = volume["token"]
    listed = content(control_plane, volume, token, "GET", "dir", path="/").json()
    assert {one["name"]: one["type"] for one in listed} == {"pipe": "unknown", "socket": "unknown", "loop": "unknown", "d": "directory"}
    for name in ("pipe", "socket", "loop"):
        assert content(control_plane, volume, token, "GET", "file", path=f"/{name}").status_code == 400
    assert content(control_plane, volume, token, "PUT", "file", path="/pipe", force="true").status_code == 201
    assert content(control_plane, volume, token, "DELETE", "path", path="/d").status_code == 204


@pytest.fixture(scope="module")
def volume(server: Server) -> Iterator[Volume]:
    """One volume for the attacks from sandboxes."""
    with fresh_volume(server) as made:
        yield made


@pytest.fixture(params=[True, False], ids=["made ahead", "made for its client"])
def made_ahead(request: pytest.FixtureRequest) -> bool:
    """Whether sandboxes get their volumes when they are handed over, or by their own set-up."""
    return bool(request.param)


@pytest.mark.templates
def test_root_of_a_sandbox_cannot_misuse_a_volume(server: Server, volume: Volume, *, made_ahead: bool) -> None:
    """A set-user-id file has no effect, no device can be made, and a read-only mount stays so."""
    mounts: dict[str, Volume | str] = {"/v": volume.name, "/ro": f"{volume.name}:ro"}
    with mounted(server, mounts, made_ahead=made_ahead) as sandbox:

        def root(script: str) -> str:
            return str(sandbox.commands.run(f"({script}) 2>&1; true", user="root", timeout=60).stdout).strip()

        root("cp /usr/bin/id /v/id; chown root /v/id; chmod 4755 /v/id")
        assert str(sandbox.commands.run("/v/id -u", user="user").stdout).strip() == "1000"
        assert "not permitted" in root("mknod /v/null c 1 3").lower()
        assert "read-only" in root("touch /ro/x").lower()
        for change in ("mount -o remount,rw /ro", "mount -o remount,suid,dev /v", "umount /ro", "mount --bind /v /mnt"):
            assert root(f"{change} && echo CHANGED").endswith("CHANGED") is False, change
        assert "read-only" in root("touch /ro/x").lower()


@pytest.mark.templates
def test_sandbox_cannot_have_a_volume_over_a_link(server: Server, volume: Volume, *, made_ahead: bool) -> None:
    """A link that a template or another sandbox made does not move the mount of a volume."""
    for path in ("/bin/x", "/proc", "/dev/shm", "/.cloister/agent"):
        with pytest.raises(SandboxException):
            Sandbox.create("base", timeout=60, volume_mounts={path: volume.name}, **server.sdk)
    with mounted(server, {"/v": volume.name}, made_ahead=made_ahead) as sandbox:
        sandbox.commands.run("ln -sfn /etc /v/link")
        nested: dict[str, Volume | str] = {"/v": volume.name, "/v/link": volume.name}
        with pytest.raises(SandboxException, match="a link is not followed"):
            mounted(server, nested, made_ahead=made_ahead)
