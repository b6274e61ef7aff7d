"""Volumes in sandboxes of a real server: shared, bounded, kept over restarts, and served by the content API."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox, SandboxException, Volume, VolumeException

from framework.server import Server
from framework.volumes import api_of, fresh_volume, volume_of_size
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]


def in_shell(sandbox: Sandbox, script: str, **options: Any) -> str:
    """What a command says."""
    return str(sandbox.commands.run(script, **{"timeout": 120, **options}).stdout).strip()


def test_two_sandboxes_share_a_volume(server: Server) -> None:
    """Writes, renames, locks and watches of one sandbox are seen by the other at once, with the same ids."""
    with fresh_volume(server) as volume:
        mounts: dict[str, Volume | str] = {"/data": volume.name, "/home/user/deep/er": volume.name}
        with (
            Sandbox.create("base", timeout=300, volume_mounts=mounts, **server.sdk) as one,
            Sandbox.create("base", timeout=300, volume_mounts={"/other": volume.name, "/ro": f"{volume.name}:ro"}, **server.sdk) as two,
        ):
            in_shell(one, "echo first > /data/a; chmod 600 /data/a; mv /data/a /data/b")
            assert in_shell(two, "cat /other/b; stat -c %u:%a /other/b") == "first\n1000:600"
            assert in_shell(one, "stat -c %U /home/user/deep/er/b") == "user"
            assert in_shell(two, "touch /ro/x; cat /ro/b; true") == "first"
            held = one.commands.run("flock /data/b sleep 300", background=True)
            assert in_shell(two, "until ! flock -n /other/b true; do sleep 0.02; done; flock -n /other/b true; echo $?") == "1"
            held.kill()
            watch = two.files.watch_dir("/other", allow_network_mounts=True)
            in_shell(one, "touch /data/seen")
            names: set[str] = set()
            while "seen" not in names:
                names |= {event.name for event in watch.get_new_events()}
            volume.write_file("/from-outside", "x", uid=1000)
            assert in_shell(one, "cat /data/from-outside; stat -c %U /data/from-outside") == "xuser"
            assert bytes(volume.read_file("/b", format="bytes")) == b"first\n"
            assert [
                one["path"]
                for one in httpx.get(f"{server.url}/sandboxes/{two.sandbox_id}", headers={"X-API-KEY": server.api_key}).json()[
                    "volumeMounts"
                ]
            ] == ["/other", "/ro"]
            with pytest.raises(VolumeException, match=r"^409: the volume is in use by"):
                Volume.destroy(volume.volume_id, **api_of(server))


def test_a_full_volume_says_so(server: Server) -> None:
    """Bytes and files beyond the size are ENOSPC in the sandbox, and an error of its own outside."""
    with (
        volume_of_size(server, 64) as volume,
        Sandbox.create("base", timeout=300, volume_mounts={"/d": volume.name}, **server.sdk) as sandbox,
    ):
        said = in_shell(sandbox, "head -c 100M /dev/zero > /d/big; echo $?; ls /d")
        assert said.startswith("1\n")
        with pytest.raises(VolumeException, match=r"^507: the volume is full"):
            volume.write_file("/more", b"x" * (8 << 20))
        assert [one.name for one in volume.list("/")] == ["big"]
        in_shell(sandbox, "rm /d/big")
        fill = "import os\ntry:\n for n in range(10**6): open(f'/d/{n}', 'x').close()\nexcept OSError as e: print(n, e.errno)"
        count, number = map(int, in_shell(sandbox, f'python3 -c "{fill}"').split())
        assert (number, 3900 < count < 4096) == (28, True)
        in_shell(sandbox, "find /d -type f -delete")


def test_files_outlive_sandboxes_and_the_supervisor(server: Server) -> None:
    """A sandbox finds the files of an earlier one. A kill of the supervisor leaves the mounts as they are."""
    with fresh_volume(server) as volume:
        with Sandbox.create("base", timeout=300, volume_mounts={"/d": volume.name}, **server.sdk) as first:
            in_shell(first, "echo kept > /d/a; sync")
        with Sandbox.create("base", timeout=300, volume_mounts={"/d": volume.name}, **server.sdk) as second:
            assert in_shell(second, "cat /d/a") == "kept"
            server.kill_child("node")
            eventually(lambda: httpx.get(f"{server.url}/health").status_code == 200, timeout_s=60)
            assert in_shell(second, "echo more >> /d/a; cat /d/a") == "kept\nmore"
            assert volume.read_file("/a") == "kept\nmore\n"
            with Sandbox.create("base", timeout=300, volume_mounts={"/d": volume.name}, **server.sdk) as third:
                in_shell(third, "echo third >> /d/a")
                assert in_shell(second, "tail -1 /d/a") == "third"
            with pytest.raises(VolumeException, match=r"^409"):
                Volume.destroy(volume.volume_id, **api_of(server))


def test_pauses_and_copies_of_sandboxes_with_volumes(server: Server) -> None:
    """A pause keeps the mounts. A snapshot leaves the volume out. Memory on disk is refused."""
    with fresh_volume(server) as volume:
        sandbox = Sandbox.create("base", timeout=300, volume_mounts={"/d": volume.name}, **server.sdk)
        in_shell(sandbox, "echo 1 > /d/a; exec 9>>/d/log; echo x >&9")
        for memory in (True, False):
            sandbox.pause(keep_memory=memory)
            with pytest.raises(VolumeException, match=r"^409: the volume is in use"):
                Volume.destroy(volume.volume_id, **api_of(server))
            volume.write_file("/while-paused", str(memory), force=True)
            sandbox = sandbox.connect(timeout=300)
            assert in_shell(sandbox, "cat /d/while-paused") == str(memory)
        answer = httpx.post(
            f"{server.url}/sandboxes/{sandbox.sandbox_id}/snapshots",
            headers={"X-API-KEY": server.api_key},
            json={"memory": True},
            timeout=120,
        )
        assert answer.status_code in (400, 409)
        copies = httpx.post(
            f"{server.url}/sandboxes/{sandbox.sandbox_id}/fork",
            headers={"X-API-KEY": server.api_key},
            json={"memory": False, "timeout": 300},
            timeout=120,
        ).json()
        assert "sandbox" in copies[0], copies
        copy = Sandbox.connect(copies[0]["sandbox"]["sandboxID"], **server.sdk)
        assert in_shell(copy, "cat /d/a; echo 2 > /d/a") == "1"
        assert in_shell(sandbox, "cat /d/a") == "2"
        snapshot = sandbox.create_snapshot()
        with Sandbox.create(snapshot.snapshot_id, timeout=300, **server.sdk) as made:
            assert in_shell(made, "ls -A /d | wc -l") == "0"
        copy.kill()
        sandbox.kill()


def test_a_copy_of_a_volume_is_of_one_instant(server: Server) -> None:
    """A copy is made while a sandbox writes. It has no later write."""
    with fresh_volume(server) as volume, Sandbox.create("base", timeout=300, volume_mounts={"/d": volume.name}, **server.sdk) as sandbox:
        loop = "n=0; while true; do n=$((n+1)); echo $n > /d/.new; mv /d/.new /d/counter; done"
        writer = sandbox.commands.run(loop, background=True)
        in_shell(sandbox, "until [ -s /d/counter ]; do :; done")
        headers = {"X-API-KEY": server.api_key}
        name = f"c{uuid.uuid4().hex}"
        made = httpx.post(f"{server.url}/volumes/{volume.volume_id}/copy", headers=headers, json={"name": name}, timeout=120)
        assert made.status_code == 201, made.text
        writer.kill()
        copy = Volume(made.json()["volumeID"], name, token=made.json()["token"])
        copied = int(copy.read_file("/counter", api_url=server.url))
        assert 0 < copied <= int(in_shell(sandbox, "cat /d/counter"))
        Volume.destroy(copy.volume_id, **api_of(server))


def test_backup_by_command_is_of_one_instant(server: Server, tmp_path: Path) -> None:
    """``cloister volume backup`` while a sandbox writes two files in turn has them at most one write apart. No copy stays."""
    with (
        fresh_volume(server) as volume,
        fresh_volume(server) as other,
        Sandbox.create("base", timeout=300, volume_mounts={"/d": volume.name}, **server.sdk) as sandbox,
    ):
        loop = "n=0; while true; do n=$((n+1)); for f in a b; do echo $n > /d/new; mv /d/new /d/$f; done; done"
        writer = sandbox.commands.run(loop, background=True)
        in_shell(sandbox, "until [ -s /d/b ]; do :; done; mkdir -p /d/sub; ln -s ../a /d/sub/link; chmod 700 /d/sub")
        file = tmp_path / "data.tar"
        server.cli("volume", "backup", volume.name, str(file))
        writer.kill()
        server.cli("volume", "restore", other.name, str(file))
        first, second = (int(other.read_file(name)) for name in ("/a", "/b"))
        assert first - second in (0, 1)
        assert other.get_info("/sub").mode & 0o777 == 0o700
        names = {one["name"] for one in json.loads(server.cli("volume", "list", "--json").stdout)}
        assert {name for name in names if name.startswith("backup-")} == set()


def test_what_cannot_be_mounted(server: Server) -> None:
    """A path over a link of the template is refused by the sandbox's own set-up."""
    with fresh_volume(server) as volume, pytest.raises(SandboxException, match="a link is not followed"):
        Sandbox.create("base", volume_mounts={"/bin/x": volume.name}, **server.sdk)
