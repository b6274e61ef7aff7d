"""The audit log on disk: a chain that shows each change of it, bounded, and safe with several writers."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.model.audit import OPERATOR, AuditQuery, AuditRecord
from cloister.store import audit as module
from cloister.store.audit import AuditFiles
from cloister.store.audit_check import check_chain

TEAM = "team_0123456789abcdef"
OTHER = "team_fedcba9876543210"


def record(number: int, team_id: str | None = TEAM, action: str = "sandbox.create") -> AuditRecord:
    """A record of a time that says its number."""
    return AuditRecord(
        at=1_000_000 + number, team_id=team_id, key_id="key_1", address="192.0.2.1", action=action, object_id=f"box{number}", status=201
    )


def written(directory: Path, *numbers: int, total_bytes: int = 1 << 20) -> AuditFiles:
    """Files with these records of one team."""
    files = AuditFiles(directory, total_bytes=total_bytes)
    for number in numbers:
        files.append(TEAM, [record(number)])
    return files


def only_file(directory: Path) -> Path:
    """The one file of the team's records."""
    (path,) = (directory / TEAM).glob("*.jsonl")
    return path


def test_records_are_kept_by_number_and_read_backwards(tmp_path: Path) -> None:
    """Another process reads what one wrote, latest first, in pages; files and directories are closed to others."""
    os.umask(0o022)
    written(tmp_path / "audit", *range(5))
    files = AuditFiles(tmp_path / "audit", total_bytes=1 << 20)
    files.append(OPERATOR, [record(9, None, "key.create")])
    page = files.read(AuditQuery(limit=2))
    assert [one.record for one in page.records] == [record(9, None, "key.create"), record(4)]
    rest = files.read(AuditQuery(limit=10, before=page.following))
    assert ([one.number for one in rest.records], rest.following) == ([4, 3, 2, 1], None)
    assert [one.record.object_id for one in files.read(AuditQuery(owner=TEAM, since=1_000_003)).records] == ["box4", "box3"]
    assert [one.owner for one in files.read(AuditQuery(action="key")).records] == [OPERATOR]
    assert not files.read(AuditQuery(owner=OTHER)).records
    for path in (tmp_path / "audit").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert [check_chain(files, owner).faults for owner in files.owners()] == [[], []]


def test_pages_of_a_team_have_each_record_once_though_a_clock_was_set_back(tmp_path: Path) -> None:
    """The order is that of the numbers. Files above the position are not read again for each page."""
    files = AuditFiles(tmp_path / "audit", total_bytes=1 << 20)
    for first in range(0, 300, 50):
        files.append(TEAM, [record(1000 - number if 100 <= number < 200 else number) for number in range(first, first + 50)])
    assert len(list((tmp_path / "audit" / TEAM).glob("*.jsonl"))) > 2
    numbers, position = [], None
    while True:
        page = files.read(AuditQuery(owner=TEAM, limit=7, before=position))
        numbers += [one.number for one in page.records]
        position = page.following
        if position is None:
            break
    assert numbers == list(range(300, 0, -1))


class UnableToCount(AuditFiles):
    """Files whose bound cannot be kept now."""

    fails = False

    def _keep_bound(self) -> None:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        super()._keep_bound()


def test_records_that_are_written_are_not_reported_as_failed(tmp_path: Path) -> None:
    """The caller writes records again after an error, so there must be none of them then."""
    files = UnableToCount(tmp_path / "audit", total_bytes=1 << 20)
    files.append(TEAM, [record(0)])
    files.fails = True
    errors = 0
    for number in range(1, 200):
        try:
            files.append(TEAM, [record(number)])
        except OSError:
            errors += 1
            files.append(TEAM, [record(number)])
    assert errors
    assert [one.record.object_id for one in files.read(AuditQuery(limit=999)).records] == [f"box{number}" for number in range(199, -1, -1)]


def _remove_line(path: Path, index: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[index]
    path.write_bytes(b"".join(lines))


def _change_line(path: Path, _: int) -> None:
    path.write_bytes(path.read_bytes().replace(b"192.0.2.1", b"192.0.2.9", 1))


def _change_last(path: Path, _: int) -> None:
    *before, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*before, last.replace(b"192.0.2.1", b"192.0.2.9")]))


def _swap_lines(path: Path, _: int) -> None:
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([second, first, *rest]))


@pytest.mark.parametrize(
    ("spoil", "index", "says"),
    [
        (_remove_line, 0, "record 1 is missing at the beginning"),
        (_remove_line, 2, "record 3 is missing"),
        (_remove_line, -1, "record 5 is missing at the end"),
        (_change_line, 0, "record 1 was changed"),
        (_change_last, 0, "record 5 was changed"),
        (_swap_lines, 0, "out of order"),
    ],
)
def test_a_check_finds_each_change_of_a_line(tmp_path: Path, spoil: Callable[[Path, int], None], index: int, says: str) -> None:
    """A removed, changed or moved line is found and named, wherever it is, and further records do not hide it."""
    files = written(tmp_path / "audit", *range(5))
    spoil(only_file(tmp_path / "audit"), index)
    assert any(says in fault for fault in check_chain(files, TEAM).faults), check_chain(files, TEAM)
    files.append(TEAM, [record(7)])
    assert check_chain(files, TEAM).faults


def test_a_check_against_noted_digests_finds_a_chain_that_was_written_anew(tmp_path: Path) -> None:
    """Whoever may write the files can make a chain that fits together. It does not have the digest that was kept elsewhere."""
    files = written(tmp_path / "audit", *range(3))
    noted = check_chain(files, TEAM)
    forged = written(tmp_path / "forged", 0, 5, 2)
    assert not check_chain(forged, TEAM).faults
    assert check_chain(forged, TEAM, {noted.last: noted.digest}).faults
    assert check_chain(written(tmp_path / "short", 0), TEAM, {noted.last: noted.digest}).faults == ["record 3 was noted, and is missing"]
    files.append(TEAM, [record(9)])
    assert not check_chain(files, TEAM, {noted.last: noted.digest}).faults


def test_a_crash_between_the_two_writes_is_no_damage(tmp_path: Path) -> None:
    """The next writer goes on after the last line, though the head did not know it."""
    files = written(tmp_path / "audit", 0, 1)
    head = (tmp_path / "audit" / TEAM / "head").read_bytes()
    files.append(TEAM, [record(2)])
    (tmp_path / "audit" / TEAM / "head").write_bytes(head)
    assert not check_chain(files, TEAM).faults
    files.append(TEAM, [record(3)])
    report = check_chain(files, TEAM)
    assert (report.faults, report.last) == ([], 4)
    assert report.digest == hashlib.sha256(only_file(tmp_path / "audit").read_bytes().splitlines(keepends=True)[-1]).hexdigest()


def test_all_files_are_bounded_and_a_busy_team_loses_only_its_own(tmp_path: Path) -> None:
    """The oldest records of the team with the most go first. That is no damage."""
    files = AuditFiles(tmp_path / "audit", total_bytes=200_000)
    files.append(OTHER, [record(0, OTHER)])
    for number in range(0, 3000, 20):
        files.append(TEAM, [record(one) for one in range(number, number + 20)])
    used = sum(path.stat().st_size for path in (tmp_path / "audit").rglob("*.jsonl"))
    assert 100_000 < used < 250_000
    assert [one.record.object_id for one in files.read(AuditQuery(owner=OTHER)).records] == ["box0"]
    report = check_chain(files, TEAM)
    assert (report.faults, report.last) == ([], 3000)
    assert report.count < 1000
    oldest = min((tmp_path / "audit" / TEAM).glob("*.jsonl"))
    oldest.unlink()
    assert "missing at the beginning" in check_chain(files, TEAM).faults[0]


def test_a_crash_while_old_records_are_removed_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two steps is the last one that was made."""
    files = AuditFiles(tmp_path / "audit", total_bytes=60_000)
    for number in range(0, 180, 20):
        files.append(TEAM, [record(one) for one in range(number, number + 20)])

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    files._total_bytes = 40_000
    steps: tuple[tuple[object, str], ...] = ((module, "_write_head"), (Path, "unlink"))
    for owner, name in steps:
        with monkeypatch.context() as broken:
            broken.setattr(owner, name, crash)
            with pytest.raises(KeyboardInterrupt):
                files._keep_bound()
        assert check_chain(files, TEAM).faults == []
    files._keep_bound()
    report = check_chain(files, TEAM)
    assert (report.faults, report.last) == ([], 180)
    assert report.count < 180


class Overtaken(AuditFiles):
    """Files of which another process deletes the oldest while they are read."""

    def lines(self, owner: str) -> Iterator[tuple[str, bytes]]:
        """All lines, as they were before or after."""
        found = list(super().lines(owner))
        self._total_bytes = 40_000
        self._keep_bound()
        yield from found if self.is_before else super().lines(owner)

    is_before = True


@pytest.mark.parametrize("is_before", [True, False])
def test_a_check_beside_a_writer_finds_no_damage(tmp_path: Path, is_before: bool) -> None:
    """Old records may be removed between the two reads of the check."""
    files = Overtaken(tmp_path / "audit", total_bytes=60_000)
    files.is_before = is_before
    for number in range(0, 180, 20):
        files.append(TEAM, [record(one) for one in range(number, number + 20)])
    assert check_chain(files, TEAM).faults == []


def _append_many(directory: Path, first: int) -> None:
    files = AuditFiles(directory, total_bytes=1 << 20)
    for number in range(first, first + 50):
        files.append(TEAM, [record(number)])


def test_processes_write_in_turns(tmp_path: Path) -> None:
    """Records of several processes at once make one chain."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(tmp_path / "audit", first)) for first in (0, 100, 200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    report = check_chain(AuditFiles(tmp_path / "audit", total_bytes=1 << 20), TEAM)
    assert (report.faults, report.count) == ([], 150)


def test_a_disk_that_takes_only_a_part_keeps_no_part(tmp_path: Path) -> None:
    """A write that is cut short is undone; the chain goes on when there is room again."""
    files = written(tmp_path / "audit", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (only_file(tmp_path / "audit").stat().st_size + 40, limits[1]))
        with pytest.raises(OSError, match=r"No space left|too large"):
            files.append(TEAM, [record(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    files.append(TEAM, [record(2)])
    report = check_chain(files, TEAM)
    assert (report.faults, report.count) == ([], 2)


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """Records are not written through a link that leads elsewhere."""
    files = written(tmp_path / "audit", 0)
    victim = tmp_path / "victim"
    victim.write_text("before")
    path = only_file(tmp_path / "audit")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        files.append(TEAM, [record(1)])
    assert victim.read_text() == "before"


def test_a_page_of_many_owners_reads_the_ends_of_their_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of all owners has the latest records in order, over blocks that end within a line, and reads a block of each owner or two."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", 700)
    files = AuditFiles(tmp_path, total_bytes=1 << 24)
    owners = [f"team_{number:016x}" for number in range(5)]
    for owner in owners:
        files.append(owner, [record(number, owner) for number in range(100)])
    read = [0]
    pread = os.pread

    def counted(descriptor: int, size: int, at: int) -> bytes:
        read[0] += size
        return pread(descriptor, size, at)

    monkeypatch.setattr(os, "pread", counted)
    page = files.read(AuditQuery(limit=10))
    assert [one.record.object_id for one in page.records] == ["box99"] * 5 + ["box98"] * 5
    assert read[0] <= 5 * 4 * 700
    monkeypatch.setattr(os, "pread", pread)
    everything = files.read(AuditQuery(owner=owners[0], limit=1000)).records
    assert [one.number for one in everything] == list(range(100, 0, -1))
