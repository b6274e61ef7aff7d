"""``cloister volume``, as a user runs it, and what metrics and the doctor tell of volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx
import pytest

from cloister.config.settings import Settings
from cloister.node import checkup
from framework.control_plane import ControlPlane
from framework.requests import ask

pytestmark = pytest.mark.root


def cloister(plane: ControlPlane, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``cloister volume`` with the key of the default team."""
    command = [sys.executable, "-m", "cloister.cli.main", "volume", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=plane.environ)


def said(plane: ControlPlane, *words: str) -> str:
    """What it prints when it succeeds."""
    done = cloister(plane, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_life_of_a_volume_by_command(control_plane: ControlPlane) -> None:
    """Made, listed, shown by name and id, copied, and removed; a second removal is a fault, and the others are removed all the same."""
    made = json.loads(said(control_plane, "create", "data", "--size-mib", "128", "--json"))
    assert (made["name"], made["sizeMB"], "token" in made) == ("data", 128, False)
    control_plane.node.volume_at(made["volumeID"]).joinpath("a").write_text("b")
    copy_id = said(control_plane, "copy", "data", "copy")
    assert control_plane.node.volume_at(copy_id).joinpath("a").read_text() == "b"
    heads, *rows = said(control_plane, "list").splitlines()
    assert heads.split() == ["NAME", "VOLUME", "SIZE", "USED", "SANDBOXES", "CREATED"]
    assert [row.split()[:3] for row in rows] == [["data", made["volumeID"], "128MiB"], ["copy", copy_id, "128MiB"]]
    assert [one["name"] for one in json.loads(said(control_plane, "list", "--json"))] == ["data", "copy"]
    assert json.loads(said(control_plane, "show", copy_id, "--json"))["name"] == "copy"
    assert ["size", "128MiB"] in [line.split() for line in said(control_plane, "show", "data").splitlines()]
    done = cloister(control_plane, "rm", "data", "none", copy_id)
    assert (done.returncode, done.stdout.split()) == (1, ["data", copy_id])
    assert "there is no volume none" in done.stderr
    assert json.loads(said(control_plane, "list", "--json")) == []


def test_faults_have_the_servers_words(control_plane: ControlPlane) -> None:
    """A wrong name, a wrong size, a second one of the name and a volume in use end with code 1 and the reason."""
    volume_id = said(control_plane, "create", "data")
    control_plane.node.volumes_in_use.add(volume_id)
    for words, reason in (
        (("create", "a b"), "Invalid volume name"),
        (("create", "big", "--size-mib", "1"), "a volume has"),
        (("create", "data"), "already exists"),
        (("copy", "data", "data"), "already exists"),
        (("show", "other"), "there is no volume other"),
        (("rm", "data"), "in use"),
    ):
        done = cloister(control_plane, *words)
        assert done.returncode == 1
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_backup_and_restoration(control_plane: ControlPlane, tmp_path: Path) -> None:
    """A backup is an archive that only its owner reads. It is put into another volume. No copy and no half file is left."""
    place = control_plane.node.volume_at(said(control_plane, "create", "data"))
    (place / "sub").mkdir()
    (place / "sub" / "a").write_bytes(b"x" * 3_000_000)
    file = tmp_path / "data.tar"
    said(control_plane, "backup", "data", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        assert "sub/a" in [name.removeprefix("./") for name in archive.getnames()]
    before = file.read_bytes()
    refused = cloister(control_plane, "backup", "data", str(file))
    assert (refused.returncode, "File exists" in refused.stderr, file.read_bytes() == before) == (1, True, True)
    new = control_plane.node.volume_at(said(control_plane, "create", "new"))
    said(control_plane, "restore", "new", str(file))
    assert (new / "sub" / "a").read_bytes() == b"x" * 3_000_000
    assert [one["name"] for one in json.loads(said(control_plane, "list", "--json"))] == ["data", "new"]
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    broken = cloister(control_plane, "restore", "new", str(tmp_path / "broken.tar"))
    assert (broken.returncode, "Traceback" in broken.stderr) == (1, False)
    missing = cloister(control_plane, "backup", "none", str(tmp_path / "none.tar"))
    assert (missing.returncode, (tmp_path / "none.tar").exists()) == (1, False)


def test_token_opens_the_content(control_plane: ControlPlane) -> None:
    """The token of the command is that of the content API."""
    volume_id, token = said(control_plane, "create", "data"), said(control_plane, "token", "data")
    url = f"{control_plane.url}/volumecontent/{volume_id}/dir?path=/"
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).json() == []


def test_metrics_have_volumes_by_team(control_plane: ControlPlane) -> None:
    """Their number and sizes."""
    for name, size in (("a", 64), ("b", 128)):
        assert ask(control_plane, "POST", "/volumes", {"name": name, "sizeMB": size}).status == 201
    page = httpx.get(f"{control_plane.url}/metrics", headers={"X-API-KEY": control_plane.metrics_key()}).text.splitlines()
    assert 'cloister_volumes_by_team{team="default"} 2.0' in page
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page if not line.startswith("#")}
    assert values['cloister_volume_bytes_by_team{kind="size",team="default"}'] == 192 << 20
    assert values['cloister_volume_bytes_by_team{kind="used",team="default"}'] == 0


def test_doctor_warns_of_volumes_that_cannot_become_full(tmp_path: Path) -> None:
    """The row counts them. Volumes that together are larger than the disk are a warning."""
    settings = Settings(data_dir=tmp_path)
    empty = checkup._volumes(settings)  # the other checks of the doctor need seconds
    assert (empty.ok, empty.detail.startswith("0 take")) == (True, True)
    for name, size in (("one", 1 << 20), ("two", os.statvfs(tmp_path).f_frsize * os.statvfs(tmp_path).f_blocks)):
        place = tmp_path / "node" / "volumes" / name
        place.mkdir(parents=True)
        with (place / "volume.img").open("wb") as file:
            file.truncate(size)
    assert checkup._volumes(settings).level is checkup.Level.WARN
