"""Attacks on volumes from sandboxes on gVisor, where a process of ours outside opens the files of the volume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import Sandbox, SandboxException, Volume

from framework.server import Server
from framework.stage import host_secret
from framework.tiers import create_on
from framework.volumes import fresh_volume

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.parametrize("server_tier", ["gvisor"], indirect=True)]

_FLIP = """
import os, time
os.makedirs("/v/real/etc", exist_ok=True)
until = time.monotonic() + 4
while time.monotonic() < until:
    os.symlink("/", "/v/new")
    os.rename("/v/new", "/v/flip")
    os.rename("/v/flip", "/v/old")
    os.rename("/v/real", "/v/flip")
    os.rename("/v/flip", "/v/real")
    os.unlink("/v/old")
"""
_LOOK = """
import os, sys, time
until, seen = time.monotonic() + 4, set()
while time.monotonic() < until:
    for path in sys.argv[1:]:
        try:
            seen.add(open("/v/flip" + path).read())
        except OSError as error:
            seen.add(str(error.errno))
print(sorted(seen))
"""


@pytest.fixture(scope="module")
def volume(server: Server) -> Iterator[Volume]:
    """One volume for all attacks."""
    with fresh_volume(server) as made:
        yield made


@pytest.fixture(scope="module")
def attacker(server: Server, volume: Volume) -> Iterator[Sandbox]:
    """On gVisor, with the volume once to write and once to read."""
    mounts: dict[str, Volume | str] = {"/v": volume.name, "/ro": f"{volume.name}:ro"}
    with Sandbox.create("base", timeout=900, volume_mounts=mounts, **server.sdk) as sandbox:
        yield sandbox


def as_root(sandbox: Sandbox, script: str) -> str:
    """The output of a command of root, on both streams."""
    return str(sandbox.commands.run(f"({script}) 2>&1; true", user="root", timeout=60).stdout).strip()


def test_root_of_a_sandbox_on_gvisor_cannot_misuse_a_volume(attacker: Sandbox) -> None:
    """A set-user-id file has no effect, a device cannot be used, and a read-only mount stays so."""
    as_root(attacker, "cp /usr/bin/id /v/id; chown root /v/id; chmod 4755 /v/id")
    assert str(attacker.commands.run("/v/id -u", user="user").stdout).strip() == "1000"
    assert as_root(attacker, "mknod /v/null c 1 3 && head -c 1 /v/null && echo USED").endswith("USED") is False
    assert "read-only" in as_root(attacker, "touch /ro/x").lower()
    for change in ("mount -o remount,rw /ro", "mount -o remount,suid,dev /v", "umount /ro", "mount --bind /v /mnt"):
        assert not as_root(attacker, f"{change} && echo CHANGED").endswith("CHANGED"), change
    assert "read-only" in as_root(attacker, "touch /ro/x").lower()


def test_links_of_another_sandbox_lead_nowhere(server: Server, volume: Volume, attacker: Sandbox) -> None:
    """While a sandbox of the other runtime puts links in the place of directories, no file of the host is read by them."""
    mounts: dict[str, Volume | str] = {"/v": volume.name}
    with (
        host_secret() as secret,
        create_on(server, "namespace", "base", timeout=300, volume_mounts=mounts) as other,
    ):
        other.files.write("/tmp/flip.py", _FLIP)
        attacker.files.write("/tmp/look.py", _LOOK)
        flipping = other.commands.run("python3 /tmp/flip.py", background=True, user="root")
        seen = as_root(attacker, f"python3 /tmp/look.py {secret} /etc/hostname")
        flipping.wait()
        assert secret.read_text() not in seen
        assert "'2'" in seen, seen


def test_sandbox_on_gvisor_cannot_have_a_volume_over_a_link(server: Server, volume: Volume) -> None:
    """A link of the template does not move a mount, and no volume is mounted in another one, where others could put links."""
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"/bin/x": volume.name}, "a link is not followed"),
        ({"/v": volume.name, "/v/link": volume.name}, "no volume can be mounted in another one"),
    )
    for mounts, words in refused:
        with pytest.raises(SandboxException, match=words):
            Sandbox.create("base", timeout=60, volume_mounts=mounts, **server.sdk)


def test_what_sandboxes_of_two_runtimes_share(server: Server, volume: Volume, attacker: Sandbox) -> None:
    """Files, ids, modes and renames at once; locks hold on each side alone, as the documentation says."""
    mounts: dict[str, Volume | str] = {"/v": volume.name}
    with create_on(server, "namespace", "base", timeout=300, volume_mounts=mounts) as other:
        for one, two in ((attacker, other), (other, attacker)):
            as_root(one, "rm -f /v/a /v/b; echo 1 > /v/a; cat /v/a; chown 1000:1001 /v/a; chmod 640 /v/a")
            assert as_root(two, "cat /v/a; stat -c %u:%g:%a /v/a") == "1\n1000:1001:640"
            as_root(one, "echo 2 > /v/b; mv /v/b /v/a")
            assert as_root(two, "cat /v/a; ls /v/b").startswith("2\nls: cannot access")
        held = other.commands.run("flock /v/a sleep 60", background=True, user="root")
        as_root(other, "until ! flock -n /v/a true; do sleep 0.02; done")
        assert as_root(attacker, "flock -n /v/a echo taken") == "taken"
        held.kill()


def test_memory_of_a_sandbox_with_volumes_is_not_saved(server: Server, volume: Volume) -> None:
    """It would go on with a volume that others have changed. Its files can be kept, and a pause in memory keeps the mounts."""
    with Sandbox.create("base", timeout=600, volume_mounts={"/v": volume.name}, **server.sdk) as sandbox:
        as_root(sandbox, "echo 1 > /v/kept; echo 1 > /own")
        url, headers = f"{server.url}/sandboxes/{sandbox.sandbox_id}", {"X-API-KEY": server.api_key}
        for what in ("snapshots", "fork"):
            answer = httpx.post(f"{url}/{what}", headers=headers, json={"memory": True}, timeout=120)
            assert answer.status_code in (201, 400, 409), answer.text
            assert answer.status_code != 201 or "has volumes" in answer.text, answer.text
        for memory in (True, False):
            sandbox.pause(keep_memory=memory)
            volume.write_file("/while-paused", str(memory), force=True)
            sandbox.connect(timeout=300)
            assert as_root(sandbox, "cat /v/while-paused /v/kept /own") == f"{memory}1\n1"
        volume.write_file("/from-outside", "x", force=True)
        assert as_root(sandbox, "cat /v/from-outside") == "x"
