"""``cloister backup`` and ``cloister restore``: what comes back, and that nothing of a changed or hostile file does."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.backup import stream
from cloister.backup.contents import HEADER, Header
from cloister.backup.making import BackupReport, BackupSource, make_backup
from cloister.backup.restoring import RestoreReport, RestoreTarget, restore_backup
from cloister.backup.stream import Entry, EntryKind, StreamWriter
from cloister.errors import CloisterError, ConflictError, InvalidArchiveError, StoreError
from cloister.linux.treelocks import try_lock
from cloister.model.build import Build, BuildStatus
from cloister.model.team import Team
from cloister.model.template import OwnedTemplate, Template
from cloister.node.instance import Instance, claim_instance
from cloister.store.migrate import newest_schema
from cloister.store.sqlite import SqliteStore
from cloister.template.layers import LayerStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers have files of many owners, which only root can make")

BUILD_ID = "00000000-0000-4000-8000-000000000001"
KEY, BASE_KEY = "a" * 64, "b" * 64

_FILES = ("api/secrets.key", "api/client.env", "node/node_id", "ca/ca.crt", "ca/ca.key", "api/cluster/ca.key")


def _publish(store: LayerStore, key: str, parent: str | None) -> None:
    """A layer with each kind of entry that layers have."""
    with store.workspace(key) as workspace:
        root = workspace.upper
        (root / "bin").mkdir()
        (root / "bin" / "tool").write_text(f"#!{key}\n")
        (root / "bin" / "tool").chmod(0o4755)
        os.chown(root / "bin" / "tool", 1000, 1001)
        (root / "bin" / "same").hardlink_to(root / "bin" / "tool")
        (root / "out").symlink_to("../../../../etc//passwd")
        os.mknod(root / "gone", 0o600 | 0o020000, os.makedev(0, 0))
        os.mkfifo(root / "fifo", 0o640)
        deep = root / ("d" * 90) / ("é" * 60) / "below"  # longer than tar's own field for names
        deep.mkdir(parents=True)
        (deep / ("f" * 200)).symlink_to("t" * 250)
        os.setxattr(root / "bin", "user.note", b"\xff\x00a\nb")
        with (root / "holes").open("wb") as file:
            file.seek(1 << 20)
            file.write(b"middle")
            file.truncate(3 << 20)
        (root / os.fsdecode(b"\xff name\n")).write_text("bytes")
        os.utime(root / "bin" / "tool", ns=(5_000_000_001, 5_000_000_001))
        store.publish(workspace, key, f"layer {key[:2]}", parent, 1.0)


async def _fill(data: Path) -> None:
    store = await SqliteStore.open(data / "api" / "cloister.db")
    try:
        await store.teams.add_team(Team(team_id="team", name="t", created_at=0))
        template = OwnedTemplate(template_id="tmpl", team_id="team", name="mine", created_at=0, updated_at=0)
        await store.templates.add_template(template)
        await store.templates.add_build(_build(), (), 0)
    finally:
        await store.close()


def _build() -> Build:
    return Build(
        build_id=BUILD_ID, template_id="tmpl", status=BuildStatus.READY, created_at=0, updated_at=0, cpu_count=1, mem_mib=64, disk_mib=64
    )


@pytest.fixture
def source(tmp_path: Path) -> BackupSource:
    """A stopped server with a team's template of two layers."""
    data = tmp_path / "data"
    for name in ("api/cluster", "node", "ca"):
        (data / name).mkdir(parents=True)
    asyncio.run(_fill(data))
    for name in _FILES:
        (data / name).write_text(f"content of {name}")
    (tmp_path / "cloister.toml").write_text("pool_size = 3\n")
    store = LayerStore(tmp_path / "store")
    _publish(store, BASE_KEY, None)
    _publish(store, KEY, BASE_KEY)
    store.write_build(Template(template_id="tmpl", name="mine", build_id=BUILD_ID, layers=(BASE_KEY, KEY), authors=("team",)))
    return BackupSource(data_dir=data, store_dir=tmp_path / "store", config=tmp_path / "cloister.toml")


@pytest.fixture
def target(tmp_path: Path) -> RestoreTarget:
    """An empty machine."""
    return RestoreTarget(data_dir=tmp_path / "new" / "data", store_dir=tmp_path / "new" / "store", run_dir=tmp_path / "new" / "run")


def _make(source: BackupSource, file: Path) -> BackupReport:
    return make_backup(source, file, lambda _done, _total: None)


def _restore(file: Path | bytes, target: RestoreTarget) -> RestoreReport:
    with io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
        return restore_backup(opened, target, lambda _done: None)


def _tree(root: Path) -> dict[str, Any]:
    """Everything that a layer says of its files."""
    found = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else os.readlink(path) if path.is_symlink() else ""  # noqa: PTH115 - the text
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        times = status.st_mtime_ns if path != root else 0
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, times, content, attributes)
    return found


def test_an_empty_machine_gets_everything_back(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """Database, keys, settings, records of templates and their layers are as they were, with owners, modes, links, holes and attributes."""
    report = _make(source, tmp_path / "backup.tar")
    assert (report.templates, report.layers, report.left_out) == (1, 2, {})
    assert (tmp_path / "backup.tar").stat().st_mode & 0o777 == 0o600
    assert report.bytes == (tmp_path / "backup.tar").stat().st_size < 1 << 20, "holes take space"
    restored = _restore(tmp_path / "backup.tar", target)
    assert (restored.templates, restored.layers, restored.layers_missing, restored.replaced) == (1, 2, [], None)
    for name in _FILES:
        assert (target.data_dir / name).read_text() == f"content of {name}"
        assert (target.data_dir / name).stat().st_mode & 0o777 == (0o644 if name == "ca/ca.crt" else 0o600)
    with closing(sqlite3.connect(target.data_dir / "api" / "cloister.db")) as connection:
        assert connection.execute("SELECT name FROM teams").fetchall() == [("t",)]
    assert Path(restored.config or "").read_text() == "pool_size = 3\n"
    before, after = LayerStore(source.store_dir), LayerStore(target.store_dir)
    assert after.build(BUILD_ID) == before.build(BUILD_ID)
    for key in (KEY, BASE_KEY):
        assert _tree(after.rootfs(key)) == _tree(before.rootfs(key))
        assert (after.rootfs(key) / "holes").stat().st_blocks < 1000
    assert not list(target.data_dir.glob(".restore*"))
    assert not list((target.store_dir / "tmp").iterdir())


def test_a_backup_sees_a_database_that_a_server_writes_to(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """Rows that are only in the write-ahead log are in it; a transaction that is open is not."""
    with closing(sqlite3.connect(source.data_dir / "api" / "cloister.db", isolation_level=None)) as server:
        server.execute("INSERT INTO teams (team_id, name, created_at) VALUES ('late', 'late', 1)")
        server.execute("BEGIN IMMEDIATE")
        server.execute("INSERT INTO teams (team_id, name, created_at) VALUES ('open', 'open', 1)")
        _make(source, tmp_path / "backup.tar")
        server.execute("COMMIT")
    _restore(tmp_path / "backup.tar", target)
    with closing(sqlite3.connect(target.data_dir / "api" / "cloister.db")) as connection:
        assert {name for (name,) in connection.execute("SELECT team_id FROM teams")} == {"team", "late"}


def test_options_leave_out_keys_and_layers(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """Without keys no key is in the file; without layers the restoration names those that are missing."""
    bare = BackupSource(**{**vars(source), "with_keys": False, "with_layers": False})
    _make(bare, tmp_path / "backup.tar")
    content = (tmp_path / "backup.tar").read_bytes()
    assert b"content of node/node_id" in content
    assert b"content of api/" not in content
    assert b"content of ca/ca.key" not in content
    restored = _restore(tmp_path / "backup.tar", target)
    assert restored.without_keys
    assert restored.layers_missing == [KEY, BASE_KEY]


def test_a_restoration_that_fails_half_way_changes_nothing(
    source: BackupSource, target: RestoreTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the moves into place: all former files are back, and no file of the backup is there."""
    _make(source, tmp_path / "backup.tar")
    _restore(tmp_path / "backup.tar", target)
    for name in ("api/cloister.db-wal", "api/client.env", "node/node_id"):
        (target.data_dir / name).write_text(f"former {name}")
    before = {path.relative_to(target.data_dir): path.read_bytes() for path in target.data_dir.rglob("*") if path.is_file()}
    again = dataclasses.replace(target, replace=True)
    moves, rename = list[Path](), Path.rename

    def fail_at(number: int) -> None:
        def renamed(path: Path, to: Path) -> Path:
            moves.append(path)
            if len(moves) == number:
                raise OSError(errno.EIO, "the disk failed")
            return rename(path, to)

        moves.clear()
        monkeypatch.setattr(Path, "rename", renamed)

    for number in range(1, 100):
        fail_at(number)
        try:
            _restore(tmp_path / "backup.tar", again)
        except OSError:
            now = {path.relative_to(target.data_dir): path.read_bytes() for path in target.data_dir.rglob("*") if path.is_file()}
            assert now == before, number
        else:
            break
    assert number > 10
    assert (target.data_dir / "node/node_id").read_text() == "content of node/node_id"


def test_a_broken_template_keeps_no_one_from_a_backup(source: BackupSource, tmp_path: Path) -> None:
    """A template without its layers is left out, and the report says why."""
    (source.store_dir / "layers" / KEY / "rootfs").rename(tmp_path / "away")
    report = _make(source, tmp_path / "backup.tar")
    assert report.templates == 0
    assert "lacks its layers" in report.left_out[BUILD_ID]


ATTRIBUTES = {"a line end": "user.a\nb", "an equals sign": "user.a=b", "bytes": os.fsdecode(b"user.\xff")}


@pytest.mark.parametrize("name", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_a_name_of_an_attribute_keeps_no_one_from_a_restoration(
    name: str, source: BackupSource, target: RestoreTarget, tmp_path: Path
) -> None:
    """A template with a file that the archive cannot hold is left out, and the rest can be restored."""
    os.setxattr(LayerStore(source.store_dir).rootfs(KEY) / "bin" / "tool", name, b"v")
    report = _make(source, tmp_path / "backup.tar")
    assert (report.templates, list(report.left_out)) == (0, [BUILD_ID])
    assert "attributes" in report.left_out[BUILD_ID]
    assert _restore(tmp_path / "backup.tar", target).files


def test_too_many_holes_keep_no_one_from_a_restoration(
    source: BackupSource, target: RestoreTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that the reader would refuse for its length is not written."""
    monkeypatch.setattr(stream, "_MAX_HEADER", 64)
    assert list(_make(source, tmp_path / "backup.tar").left_out) == [BUILD_ID]
    monkeypatch.undo()
    assert _restore(tmp_path / "backup.tar", target).files


def test_a_damaged_record_of_a_layer_keeps_no_one_from_a_backup(source: BackupSource, tmp_path: Path) -> None:
    """Its template is left out and named."""
    (source.store_dir / "layers" / KEY / "layer.json").write_text("{")
    assert list(_make(source, tmp_path / "backup.tar").left_out) == [BUILD_ID]


def test_a_pipe_of_the_api_process_does_not_stop_a_backup(source: BackupSource, tmp_path: Path) -> None:
    """The backup fails and says why; it does not wait for a writer."""
    (source.data_dir / "api" / "client.env").unlink()
    os.mkfifo(source.data_dir / "api" / "client.env")
    with pytest.raises(StoreError, match=r"client\.env is no file"):
        _make(source, tmp_path / "backup.tar")
    assert not list(tmp_path.glob("*backup*"))


def test_a_file_system_without_hard_links_takes_a_backup(source: BackupSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a memory stick: the file gets its name otherwise, and replaces none."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "out").mkdir()
    assert _make(source, tmp_path / "out" / "backup.tar").templates == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["backup.tar"]


def test_a_backup_that_is_ended_leaves_nothing(source: BackupSource, tmp_path: Path) -> None:
    """SIGTERM, such as of a timer's unit, removes the partial file and the copy of the database."""
    (tmp_path / "out").mkdir()
    program = (
        "import os, signal, sys; from cloister.backup import making; from cloister.cli.main import main\n"
        "making.ready_builds = lambda _: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    options = ["--data-dir", str(source.data_dir), "--store-dir", str(source.store_dir)]
    done = subprocess.run([sys.executable, "-c", program, "backup", str(tmp_path / "out"), *options], check=False)
    assert (done.returncode, list((tmp_path / "out").iterdir())) == (130, [])


def test_nothing_is_overwritten_unasked(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """A backup does not replace a file, and a restoration no database, unless it is told to: then the former files stay."""
    _make(source, tmp_path / "backup.tar")
    with pytest.raises(ConflictError, match="there is a file"):
        _make(source, tmp_path / "backup.tar")
    _restore(tmp_path / "backup.tar", target)
    (target.data_dir / "api" / "secrets.key").write_text("newer")
    with pytest.raises(ConflictError, match="--replace"):
        _restore(tmp_path / "backup.tar", target)
    restored = _restore(tmp_path / "backup.tar", RestoreTarget(**{**vars(target), "replace": True}))
    assert (restored.layers, restored.layers_present, restored.templates) == (0, 2, 0)
    assert (Path(restored.replaced or "") / "api" / "secrets.key").read_text() == "newer"
    assert (target.data_dir / "api" / "secrets.key").read_text() == "content of api/secrets.key"


def test_a_restoration_holds_the_layers_that_are_there(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """A collector that runs meanwhile takes none of them: the records that name them come last."""
    _make(source, tmp_path / "backup.tar")
    _restore(tmp_path / "backup.tar", target)
    store = LayerStore(target.store_dir)
    trees = [store.rootfs(path.name) for path in (store.root / "layers").iterdir()]
    held = []

    def look(_done: int) -> None:
        claims = [try_lock(tree) for tree in trees]
        held.append([claim is None for claim in claims])
        for claim in claims:
            if claim is not None:
                os.close(claim)

    with (tmp_path / "backup.tar").open("rb") as file:
        restore_backup(file, dataclasses.replace(target, replace=True), look)
    assert held[-1] == [True] * len(trees) != []


def test_no_journal_of_the_former_database_meets_the_restored_one(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """SQLite would write its pages into the restored database."""
    _make(source, tmp_path / "backup.tar")
    _restore(tmp_path / "backup.tar", target)
    names = [f"cloister.db{end}" for end in ("-journal", "-shm", "-wal")]
    for name in names:
        (target.data_dir / "api" / name).write_text("former")
    replaced = _restore(tmp_path / "backup.tar", dataclasses.replace(target, replace=True)).replaced
    assert not [name for name in names if (target.data_dir / "api" / name).exists()]
    assert replaced is not None
    assert {path.name for path in Path(replaced, "api").glob("cloister.db-*")} == set(names)


def test_a_running_server_is_not_restored(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """While a supervisor serves the data directory, a restoration is refused."""
    _make(source, tmp_path / "backup.tar")
    target.data_dir.mkdir(parents=True)
    instance = claim_instance(target.data_dir, target.run_dir)
    with pytest.raises(ConflictError, match="server runs"):
        _restore(tmp_path / "backup.tar", target)
    instance.release()


def test_a_server_that_starts_meanwhile_keeps_its_database(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """A connection to cloister.socket starts a stopped server, perhaps while a backup is unpacked."""
    _make(source, tmp_path / "backup.tar")
    target.data_dir.mkdir(parents=True)
    started: list[Instance] = []

    def start(_done: int) -> None:
        if not started:
            started.append(claim_instance(target.data_dir, target.run_dir))

    with (tmp_path / "backup.tar").open("rb") as file, pytest.raises(ConflictError, match="server runs"):
        restore_backup(file, target, start)
    assert not list(target.data_dir.iterdir())
    assert not list((target.store_dir / "layers").iterdir())
    started[0].release()


def _snapshot(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*") if path.name not in {"store", "locks"})


@contextmanager
def _leaves_nothing(target: RestoreTarget, tmp_path: Path, message: str | None = None) -> Iterator[None]:
    """An error in the block leaves no file below the parent of the target, and none elsewhere that the test can see."""
    LayerStore(target.store_dir)
    target.data_dir.mkdir(exist_ok=True)
    before = _snapshot(tmp_path)
    with pytest.raises((CloisterError, OSError), match=message):
        yield
    assert _snapshot(tmp_path) == before


def test_a_changed_or_cut_backup_leaves_nothing(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """A flipped bit anywhere, a missing end and other files are refused, with nothing restored."""
    _make(source, tmp_path / "backup.tar")
    good = (tmp_path / "backup.tar").read_bytes()
    places = range(100, len(good) - 2000, max(1, len(good) // 60))
    for place in places:
        with _leaves_nothing(target, tmp_path):
            _restore(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], target)
    for bad in (b"", b"x" * 4096, good[:1000], good[:-2000], bytes(10_240)):
        with _leaves_nothing(target, tmp_path):
            _restore(bad, target)
    _restore(good, target)


def _hostile(source: BackupSource, *entries: tuple[Entry, bytes], schema: int = 0) -> bytes:
    """A backup with a right digest: a good database, the record of a layer, and ``entries``."""
    made = io.BytesIO()
    writer = StreamWriter(made)

    def add(name: str, data: bytes) -> None:
        writer.add(Entry(path=name, size=len(data)), [data])

    header = Header(release="1", schema=schema or newest_schema(), made_at=time.time(), has_keys=False, has_layers=True, layer_bytes=0)
    add(HEADER, json.dumps(header.to_json()).encode())
    with closing(sqlite3.connect(source.data_dir / "api" / "cloister.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    add("data/api/cloister.db", (source.data_dir / "api" / "cloister.db").read_bytes())
    record = {"key": KEY, "name": "x", "parent": None, "size_bytes": 1, "created_at": 0, "build_s": 0}
    add(f"layers/{KEY}/layer.json", json.dumps(record).encode())
    writer.add(Entry(path=f"layers/{KEY}/rootfs", kind=EntryKind.DIRECTORY, mode=0o755))
    for entry, data in entries:
        writer.add(entry, [data])
    writer.finish()
    return made.getvalue()


ROOTFS = f"layers/{KEY}/rootfs"
_LINK = Entry(path=f"{ROOTFS}/a", kind=EntryKind.SYMLINK, target="/tmp")
_TEMPLATE = {"template_id": "t", "name": "n", "build_id": BUILD_ID, "layers": ["../../x"], "limits": {}}
HOSTILE = {
    "a path upwards": [(Entry(path=f"{ROOTFS}/../../../../evil", size=1), b"x")],
    "an absolute path": [(Entry(path="/tmp/evil", size=1), b"x")],
    "an absolute path in a layer": [(Entry(path=f"{ROOTFS}//tmp/evil", size=1), b"x")],
    "a path through a link": [(_LINK, b""), (Entry(path=f"{ROOTFS}/a/evil", size=1), b"x")],
    "a file over a link": [(_LINK, b""), (Entry(path=f"{ROOTFS}/a", size=1), b"x")],
    "a hard link to the host": [(Entry(path=f"{ROOTFS}/a", kind=EntryKind.HARD_LINK, target="/etc/shadow"), b"")],
    "a hard link upwards": [(Entry(path=f"{ROOTFS}/a", kind=EntryKind.HARD_LINK, target=f"{ROOTFS}/../x"), b"")],
    "a hard link to a directory": [(Entry(path=f"{ROOTFS}/a", kind=EntryKind.HARD_LINK, target=ROOTFS), b"")],
    "an owner of the host": [(Entry(path=f"{ROOTFS}/a", uid=70_000), b"")],
    "an attribute of the host": [(Entry(path=f"{ROOTFS}/a", xattrs={"security.selinux": b"x"}), b"")],
    "a target with a NUL": [(Entry(path=f"{ROOTFS}/a", kind=EntryKind.SYMLINK, target="a\0b" * 100), b"")],
    "an attribute with a NUL": [(Entry(path=f"{ROOTFS}/a", xattrs={"user.a\0b": b"x"}), b"")],
    "a time that is none": [(Entry(path=f"{ROOTFS}/a", mtime_ns=10**40), b"")],
    "another file of the data directory": [(Entry(path="data/node/sandboxes/x/record.json", size=1), b"x")],
    "a link as the database": [(Entry(path="data/api/secrets.key", kind=EntryKind.SYMLINK, target="/etc/shadow"), b"")],
    "a second layer of the name": [(Entry(path=f"layers/{KEY}/rootfs", kind=EntryKind.DIRECTORY), b"")],
    "a key that is a path": [(Entry(path="layers/../x/layer.json", size=2), b"{}")],
    "a record with a path as layer": [
        (Entry(path=f"builds/{BUILD_ID}.json", size=len(json.dumps(_TEMPLATE))), json.dumps(_TEMPLATE).encode())
    ],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_backup_cannot_reach_other_files(
    entries: list[tuple[Entry, bytes]], source: BackupSource, target: RestoreTarget, tmp_path: Path
) -> None:
    """A file with a right digest and entries that lead elsewhere is refused whole."""
    with _leaves_nothing(target, tmp_path):
        _restore(_hostile(source, *entries), target)
    assert not Path("/tmp/evil").exists()
    _restore(_hostile(source, (Entry(path=f"{ROOTFS}/fine", size=1), b"x")), target)


def test_a_backup_of_a_newer_release_is_refused(source: BackupSource, target: RestoreTarget, tmp_path: Path) -> None:
    """Its schema is unknown, so nothing of it is restored."""
    with _leaves_nothing(target, tmp_path, "use the release that wrote it"):
        _restore(_hostile(source, schema=newest_schema() + 1), target)


def test_a_header_cannot_steer_a_terminal() -> None:
    """The command prints text of it, and a time."""
    data = Header(release="\x1b[2J", schema=1, made_at=0, has_keys=False, has_layers=False, layer_bytes=0).to_json()
    assert "\x1b" not in Header.from_json(data).release
    for wrong in (float("inf"), float("nan"), -1, 1e20):
        with pytest.raises(InvalidArchiveError):
            Header.from_json({**data, "made_at": wrong})


def test_a_device_or_a_wrong_hole_cannot_be_in_a_backup(source: BackupSource, target: RestoreTarget) -> None:
    """The reader refuses devices of the host, and holes that do not fit the file."""
    holes = Entry(path=f"{ROOTFS}/a", size=1, pieces=((5, 1), (0, 0)), whole_size=6)
    with pytest.raises(InvalidArchiveError, match="holes"):
        _restore(_hostile(source, (holes, b"x")), target)
