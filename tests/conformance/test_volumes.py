"""Volumes by the official SDKs and by REST: every method, the published statuses and codes, and the limits of a team."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import shutil
import subprocess
import tarfile
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import AsyncVolume, AuthenticationException, Volume, VolumeException, VolumeNotFoundException, VolumePathNotFoundException

from framework.control_plane import ControlPlane, running_control_plane
from framework.requests import ask, create

pytestmark = pytest.mark.root
JS = Path(__file__).parent / "js"


@pytest.fixture(params=["sync", "async"])
def volume_class(request: pytest.FixtureRequest) -> Any:
    """The class of each of the two Python SDKs."""
    return Volume if request.param == "sync" else AsyncVolume


@pytest.fixture
def api(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments that point the SDKs at the server."""
    monkeypatch.setenv("E2B_VOLUME_API_URL", control_plane.url)
    return {"api_key": control_plane.api_key, "api_url": control_plane.url}


async def done(found: Any) -> Any:
    """The result of a call of either SDK."""
    return await found if inspect.isawaitable(found) else found


async def test_the_life_of_a_volume(api: dict[str, Any], volume_class: Any) -> None:
    """Created, found, listed, connected to, refused twice under one name, and destroyed once."""
    made = await done(volume_class.create("data-1_A", **api))
    assert (str(uuid.UUID(made.volume_id)), made.name) == (made.volume_id, "data-1_A")
    info = await done(volume_class.get_info(made.volume_id, **api))
    assert (info.volume_id, info.name, bool(info.token)) == (made.volume_id, made.name, True)
    assert [one.volume_id for one in await done(volume_class.list(**api))] == [made.volume_id]
    with pytest.raises(VolumeException, match=r"^400: Volume with name 'data-1_A' already exists"):
        await done(volume_class.create("data-1_A", **api))
    for name in ("", "a b", "a/b", "ä", "a" * 129, "v:ro"):
        with pytest.raises(VolumeException, match=r"^400: Invalid volume name"):
            await done(volume_class.create(name, **api))
    again = await done(volume_class.connect(made.volume_id, **api))
    await done(again.write_file("/a", "b"))
    assert await done(made.read_file("/a")) == "b"
    assert await done(volume_class.destroy(made.volume_id, **api))
    assert not await done(volume_class.destroy(made.volume_id, **api))
    assert await done(volume_class.list(**api)) == []
    with pytest.raises(VolumeNotFoundException):
        await done(volume_class.connect(made.volume_id, **api))
    with pytest.raises(VolumePathNotFoundException):
        await done(made.list("/"))


async def test_files(api: dict[str, Any], volume_class: Any) -> None:
    """Written from text, bytes and a stream, with owner and mode; read in each form. Nothing is overwritten unless forced."""
    volume = await done(volume_class.create("files", **api))
    entry = await done(volume.write_file("a.txt", "hällo"))
    assert (entry.name, entry.path, entry.type.value, entry.size, entry.mode, entry.uid, entry.gid) == (
        *("a.txt", "/a.txt", "file", 6, 0o666, 9090, 9090),
    )
    assert await done(volume.read_file("/a.txt")) == "hällo"
    assert bytes(await done(volume.read_file("/a.txt", format="bytes"))) == "hällo".encode()
    with pytest.raises(VolumeException, match=r"409: .*already exists"):
        await done(volume.write_file("/a.txt", "no"))
    await done(volume.update_metadata("/a.txt", uid=1000, mode=0o600))
    entry = await done(volume.write_file("/a.txt", b"", force=True))
    assert (entry.size, entry.uid, entry.gid, entry.mode) == (0, 1000, 9090, 0o600)
    assert await done(volume.read_file("/a.txt")) == ""
    with pytest.raises(VolumePathNotFoundException):
        await done(volume.write_file("/x/y", "no"))
    large = bytes(range(256)) * 20_000
    entry = await done(volume.write_file("/x/y/z", io.BytesIO(large), uid=1, gid=2, mode=0o640, force=True))
    assert (entry.size, entry.uid, entry.gid, entry.mode) == (len(large), 1, 2, 0o640)
    parent = await done(volume.get_info("/x/y"))
    assert (parent.type.value, parent.uid, parent.gid, parent.mode) == ("directory", 1, 2, 0o777)
    stream = await done(volume.read_file("/x/y/z", format="stream"))
    found = [chunk async for chunk in stream] if volume_class is AsyncVolume else list(stream)
    assert b"".join(found) == large
    for missing in ("/nothing", "/a.txt/b/../../nothing"):
        with pytest.raises(VolumePathNotFoundException):
            await done(volume.read_file(missing))
    with pytest.raises(VolumeException, match=r"400: .*not a directory"):
        await done(volume.write_file("/a.txt/b", "no", force=True))
    with pytest.raises(VolumeException, match=r"400: / is not a file"):
        await done(volume.read_file("/"))


async def test_directories(api: dict[str, Any], volume_class: Any) -> None:
    """Made with and without parents, listed by depth in order, and removed with all below; the root stays."""
    volume = await done(volume_class.create("directories", **api))
    assert (await done(volume.make_dir("/b"))).mode == 0o777
    with pytest.raises(VolumeException, match=r"^409"):
        await done(volume.make_dir("/b"))
    with pytest.raises(VolumePathNotFoundException):
        await done(volume.make_dir("/c/d/e"))
    assert (await done(volume.make_dir("/c/d/e", uid=5, gid=6, mode=0o750, force=True))).mode == 0o750
    assert (await done(volume.make_dir("/c/d/e", mode=0o700, force=True))).mode == 0o750
    await done(volume.write_file("/c/d/a", "1"))
    await done(volume.write_file("/a", "2"))
    with pytest.raises(VolumeException, match=r"^409"):
        await done(volume.make_dir("/a", force=True))

    async def paths(path: str, **options: int) -> list[str]:
        return [one.path for one in await done(volume.list(path, **options))]

    assert await paths("/") == await paths("/", depth=1) == await paths("/..", depth=0) == ["/a", "/b", "/c"]
    assert await paths("/", depth=10) == ["/a", "/b", "/c", "/c/d", "/c/d/a", "/c/d/e"]
    assert await paths("c/d") == ["/c/d/a", "/c/d/e"]
    with pytest.raises(VolumeException, match=r"^400: depth"):
        await paths("/", depth=11)
    with pytest.raises(VolumePathNotFoundException):
        await paths("/nothing")
    assert await done(volume.exists("/c/d"))
    await done(volume.remove("/c"))
    assert not await done(volume.exists("/c"))
    with pytest.raises(VolumePathNotFoundException):
        await done(volume.remove("/c"))
    with pytest.raises(VolumeException, match=r"^400: the root"):
        await done(volume.remove("/"))
    assert await paths("/") == ["/a", "/b"]


async def test_links_stay_in_the_volume(control_plane: ControlPlane, api: dict[str, Any]) -> None:
    """A link is described by what it leads to; ``..`` stops at the root. A removal takes the link."""
    volume = Volume.create("links", **api)
    at = control_plane.node.volume_at(volume.volume_id)
    volume.write_file("/etc/passwd", "mine", force=True)
    (at / "absolute").symlink_to("/etc/passwd")
    (at / "up").symlink_to("../../../../../../etc/passwd")
    (at / "outside").symlink_to("/proc/self/environ")
    (at / "directory").symlink_to("/etc")
    for name in ("absolute", "up", "directory/passwd", "directory/../../../etc/passwd"):
        assert volume.read_file(name) == "mine"
    entry = volume.get_info("/absolute")
    assert (entry.type.value, entry.size, entry.target) == ("file", 4, "/etc/passwd")
    assert (volume.get_info("/outside").type.value, volume.get_info("/outside").target) == ("unknown", "/proc/self/environ")
    assert [one.path for one in volume.list("/", depth=2)] == ["/absolute", "/directory", "/etc", "/etc/passwd", "/outside", "/up"]
    volume.write_file("/absolute", "changed", force=True)
    assert (at / "etc/passwd").read_text() == "changed"
    assert (at / "absolute").is_symlink()
    volume.remove("/absolute")
    assert (at / "etc/passwd").exists()


def test_archives(control_plane: ControlPlane, api: dict[str, Any]) -> None:
    """A directory goes down as a tar archive and up again, with modes and owners. Devices are refused."""
    volume, other = Volume.create("one", **api), Volume.create("two", **api)
    volume.write_file("/d/a", b"x" * 3_000_000, uid=7, gid=8, mode=0o700, force=True)
    volume.make_dir("/d/empty")
    (control_plane.node.volume_at(volume.volume_id) / "d/link").symlink_to("a")
    down = content(volume, control_plane, "GET", "archive", path="/d")
    with tarfile.open(fileobj=io.BytesIO(down.content)) as archive:
        assert sorted((one.name, one.size, one.uid, one.mode) for one in archive if one.isfile()) == [("a", 3_000_000, 7, 0o700)]
        assert archive.getnames() == ["a", "empty", "link"]
    up = content(other, control_plane, "PUT", "archive", body=down.content, path="/e")
    assert (up.status_code, up.json()) == (201, {"entries": 3})
    assert [(one.path, one.type.value, one.size, one.uid) for one in other.list("/", depth=3)] == [
        *(("/e", "directory", 4096, 9090), ("/e/a", "file", 3_000_000, 7)),
        *(("/e/empty", "directory", 4096, 9090), ("/e/link", "file", 3_000_000, 7)),
    ]
    assert content(other, control_plane, "PUT", "archive", body=down.content, path="/e").status_code == 409
    assert content(other, control_plane, "PUT", "archive", body=down.content, path="/e", force="true").status_code == 201
    for member, said in (
        (tarfile.TarInfo("dev"), "no file, directory or link"),
        (tarfile.TarInfo("big"), "an owner above 65535"),
        (tarfile.TarInfo("../../out"), None),
    ):
        member.type = tarfile.CHRTYPE if member.name == "dev" else tarfile.REGTYPE
        member.uid = 70_000 if member.name == "big" else 0
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.addfile(member)
        answer = content(other, control_plane, "PUT", "archive", body=packed.getvalue(), path="/f")
        assert (answer.status_code == 201) if said is None else (said in answer.json()["message"])
    assert other.exists("/f/out")
    assert content(other, control_plane, "PUT", "archive", body=down.content[:2_000_000], path="/g").json()["code"] == "INVALID_ARCHIVE"


def test_uploads_in_parts(control_plane: ControlPlane, api: dict[str, Any]) -> None:
    """Each part continues the last one and has a checksum; the file appears when it is whole, and not before."""
    volume, data = Volume.create("parts", **api), bytes(range(256)) * 4096
    half, whole = len(data) // 2, hashlib.sha256(data).hexdigest()

    def part(offset: int, body: bytes, **query: str) -> httpx.Response:
        return content(volume, control_plane, "PATCH", "upload", body=body, path="/d/big", offset=str(offset), force="true", **query)

    assert content(volume, control_plane, "GET", "upload", path="/d/big").json() == {"offset": 0}
    assert part(0, data[:half], sha256=hashlib.sha256(data[:half]).hexdigest()).json() == {"offset": half}
    wrong = part(half, data[half:], sha256="0" * 64)
    assert (wrong.status_code, wrong.json()["code"]) == (400, "CHECKSUM_MISMATCH")
    assert content(volume, control_plane, "GET", "upload", path="/d/big").json() == {"offset": half}
    assert part(0, data).json()["code"] == "OFFSET_MISMATCH"
    assert content(volume, control_plane, "PUT", "upload", path="/d/big", size=str(len(data))).json()["code"] == "OFFSET_MISMATCH"
    assert volume.list("/d") == []
    assert part(half, data[half:]).json() == {"offset": len(data)}
    bad = content(volume, control_plane, "PUT", "upload", path="/d/big", size=str(len(data)), sha256="1" * 64)
    assert bad.json()["code"] == "CHECKSUM_MISMATCH"
    done = content(volume, control_plane, "PUT", "upload", path="/d/big", size=str(len(data)), sha256=whole, mode=str(0o600))
    assert (done.status_code, done.json()["size"], done.json()["mode"]) == (201, len(data), 0o600)
    assert bytes(volume.read_file("/d/big", format="bytes")) == data
    assert [one.name for one in volume.list("/d")] == ["big"]
    ranged = httpx.get(
        f"{control_plane.url}/volumecontent/{volume.volume_id}/file",
        params={"path": "/d/big"},
        headers={"Authorization": f"Bearer {volume.token}", "Range": "bytes=255-257"},
    )
    assert (ranged.status_code, ranged.content, ranged.headers["Content-Range"]) == (206, b"\xff\x00\x01", f"bytes 255-257/{len(data)}")


def test_tokens(control_plane: ControlPlane, api: dict[str, Any]) -> None:
    """The content is opened by the volume's own token alone. No other key or token opens it."""
    volume, other = Volume.create("one", **api), Volume.create("two", **api)
    url = f"{control_plane.url}/volumecontent/{volume.volume_id}/dir?path=/"
    for headers in (
        {},
        {"Authorization": f"Bearer {other.token}"},
        {"Authorization": f"Bearer {control_plane.api_key}"},
        {"X-API-KEY": control_plane.api_key},
        {"Authorization": f"Basic {volume.token}"},
        {"Authorization": f"Bearer {volume.token}x"},
    ):
        answer = httpx.get(url, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), headers
    with pytest.raises(AuthenticationException):
        Volume(volume.volume_id, "one", token="no").list("/")
    assert httpx.get(url, headers={"Authorization": f"Bearer {volume.token}"}).json() == []


def test_a_teams_limits(tmp_path: Path) -> None:
    """Sizes beyond the bounds, and more volumes than a team may have, are refused; the rest is as it was."""
    with running_control_plane(tmp_path, max_volumes_per_team=2, max_volume_mib=1000, default_volume_mib=500) as plane:
        assert ask(plane, "POST", "/volumes", {"name": "a"}).json()["sizeMB"] == 500
        for size in (63, 1001, -1):
            assert ask(plane, "POST", "/volumes", {"name": "b", "sizeMB": size}).status == 400
        assert ask(plane, "POST", "/volumes", {"name": "b", "sizeMB": 1000}).json()["sizeMB"] == 1000
        assert ask(plane, "POST", "/volumes", {"name": "c"}).status == 403
        assert [one["sizeMB"] for one in ask(plane, "GET", "/volumes").json()] == [500, 1000]


def test_volumes_that_were_cut_off_are_removed(control_plane: ControlPlane, api: dict[str, Any]) -> None:
    """A creation that failed leaves no volume. One that a restart cut off is removed with its image."""
    from cloister.errors import NoCapacityError

    control_plane.node.volume_fault = NoCapacityError("the disk is full")
    with pytest.raises(Exception, match="the disk is full"):
        Volume.create("a", **api)
    control_plane.node.volume_fault = None
    volume = Volume.create("a", **api)
    control_plane.run(lambda: _store(control_plane, volume.volume_id))
    control_plane.restart_api()
    assert Volume.list(**api) == []
    assert not control_plane.node.volume_at(volume.volume_id).exists()
    assert ask(control_plane, "GET", "/volumes/nothing").status == 400


async def _store(plane: ControlPlane, volume_id: str) -> None:
    from cloister.store.sqlite import SqliteStore

    store = await SqliteStore.open(plane.settings.data_dir / "api" / "cloister.db")
    await store.volumes.set_volume_ready(volume_id, is_ready=False)
    await store.close()


def test_mounts_are_checked(control_plane: ControlPlane, api: dict[str, Any]) -> None:
    """All wrong mounts are named at once. Right ones reach the node in order, and are listed."""
    Volume.create("v", **api)
    wrong = ["", "/", "x", "/a/", "//a", "/a//b", "/a/../b", "/a/.", "/proc/x", "/sys", "/dev", "/.cloister/x", "/a\nb", "/" + "a" * 400]
    body = {"templateID": "base", "volumeMounts": [{"name": "v", "path": path} for path in wrong] + [{"name": "w", "path": "/w"}]}
    answer = ask(control_plane, "POST", "/v2/sandboxes", body)
    assert (answer.status, answer.json()["message"].startswith("invalid mounts:\n")) == (400, True)
    assert len(answer.json()["message"].split(" of volume 'v' is not an absolute path")) == len(wrong) + 1
    assert "volume 'w' not found" in answer.json()["message"]
    twice = [{"name": "v", "path": "/a/b"}, {"name": "v:ro", "path": "/a"}, {"name": "v", "path": "/c", "readOnly": True}]
    made = create(control_plane, volumeMounts=twice)
    asked = control_plane.node.find(made["sandboxID"]).request.volumes
    assert [(one.name, one.path, one.is_read_only) for one in asked] == [("v", "/a", True), ("v", "/a/b", False), ("v", "/c", True)]
    listed = ask(control_plane, "GET", f"/sandboxes/{made['sandboxID']}").json()["volumeMounts"]
    assert listed == [{"name": "v", "path": path} for path in ("/a", "/a/b", "/c")]
    control_plane.restart_api()
    assert ask(control_plane, "GET", "/v2/sandboxes").json()[0]["volumeMounts"] == listed
    twice.append({"name": "v", "path": "/a"})
    assert "used twice" in ask(control_plane, "POST", "/v2/sandboxes", {"templateID": "base", "volumeMounts": twice}).json()["message"]


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_the_javascript_sdk(control_plane: ControlPlane) -> None:
    """Every method of the JavaScript SDK's volumes."""
    environ = {**control_plane.environ, "E2B_VOLUME_API_URL": control_plane.url}
    done = subprocess.run(["node", "volumes.mjs"], cwd=JS, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "listed": 1,
        "text": "hello",
        "bytes": 5,
        "blob": 5,
        "stream": 2_000_000,
        "empty": "",
        "entries": ["/a", "/d", "/d/e", "/d/e/f"],
        "mode": 0o600,
        "missing": "VolumePathNotFoundError",
        "exists": [True, False],
        "again": "VolumeError",
        "destroyed": [True, False],
        "gone": "VolumeNotFoundError",
    }


def content(volume: Volume, plane: ControlPlane, method: str, part: str, body: bytes | None = None, **query: str) -> httpx.Response:
    """One request to the content of a volume."""
    headers = {"Authorization": f"Bearer {volume.token}"}
    return httpx.request(
        method, f"{plane.url}/volumecontent/{volume.volume_id}/{part}", params=query, headers=headers, content=body, timeout=60
    )
