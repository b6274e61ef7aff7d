"""The queue in front of the audit log's files: a disk that takes no records blocks nothing, and nothing is lost unsaid."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.control import audit as module
from cloister.control.audit import AuditLog
from cloister.errors import StorageFullError
from cloister.model.audit import AuditQuery, AuditRecord
from cloister.store.audit import AuditFiles
from framework.waiting import eventually_async


class FullDisk(AuditFiles):
    """Files on a disk that can be full."""

    is_full = False

    def append(self, owner: str, records: Sequence[AuditRecord]) -> None:
        """As ever, or ENOSPC."""
        if self.is_full:
            time.sleep(0.02)  # the disk tries for a while
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(owner, records)


def record(number: int, team_id: str = "team_1") -> AuditRecord:
    """A record."""
    return AuditRecord(at=float(number), team_id=team_id, key_id="key_1", address="::1", action="sandbox.kill", object_id=str(number))


@pytest.fixture
def disk(tmp_path: Path) -> FullDisk:
    """A disk with room."""
    return FullDisk(tmp_path / "audit", total_bytes=1 << 20)


async def test_records_wait_for_a_full_disk(disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full changes go on; then all records are written, in order and once."""
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    log = AuditLog(disk, is_required=False)
    log.start()
    disk.is_full = True
    for number in range(5):
        log.add(record(number, f"team_{number % 2}"))
        log.check_writable()
    await log.read(AuditQuery())
    log.add(record(5))
    disk.is_full = False
    await eventually_async(lambda: len(disk.read(AuditQuery()).records) == 6)
    assert [one.record.object_id for one in disk.read(AuditQuery()).records] == ["5", "4", "3", "2", "1", "0"]
    assert log.lost == 0
    await log.close()


async def test_what_does_not_fit_into_the_queue_is_counted(disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records above the bound are lost, and one record says how many."""
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    monkeypatch.setattr(module, "_MOST_WAITING", 4)
    log = AuditLog(disk, is_required=False)
    disk.is_full = True
    for number in range(7):
        log.add(record(number))
    assert log.lost == 3
    disk.is_full = False
    await log.read(AuditQuery())
    (told,) = disk.read(AuditQuery(action="audit.lost")).records
    assert (told.owner, told.record.object_id) == ("operator", "3")
    log.start()
    await log.close()


async def test_required_records_refuse_changes_on_a_full_disk(disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API may make no change once a record could not be written, until it is."""
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    log = AuditLog(disk, is_required=True)
    log.check_writable()
    disk.is_full = True
    log.add(record(1))
    await log.read(AuditQuery())
    with pytest.raises(StorageFullError, match="audit log cannot be written"):
        log.check_writable()
    disk.is_full = False
    await log.read(AuditQuery())
    log.check_writable()
    log.start()
    await log.close()


async def test_refused_requests_take_no_place_of_a_change(disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests are refused for want of the log, a change that had begun before has its record."""
    monkeypatch.setattr(module, "_MOST_WAITING", 4)
    log = AuditLog(disk, is_required=True)
    disk.is_full = True
    for number in range(7):
        log.add(replace(record(number), status=507, error=StorageFullError.code))
    log.add(record(7))
    disk.is_full = False
    await log.read(AuditQuery())
    assert [one.record.object_id for one in disk.read(AuditQuery(owner="team_1")).records] == ["7", "1", "0"]
    log.start()
    await log.close()


async def test_a_client_that_goes_away_while_it_reads_loses_no_record(disk: FullDisk) -> None:
    """A read writes what waits first. Cancelled while the disk refuses that, it leaves all records in the queue, in order."""
    log = AuditLog(disk, is_required=True)
    disk.is_full = True
    for number in range(3):
        log.add(record(number))
    reading = asyncio.create_task(log.read(AuditQuery()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    disk.is_full = False
    await log.read(AuditQuery())
    assert [one.record.object_id for one in disk.read(AuditQuery()).records] == ["2", "1", "0"]
    log.start()
    await log.close()


async def test_a_stop_writes_what_waits(disk: FullDisk) -> None:
    """Records of the last moment are on disk after a stop."""
    log = AuditLog(disk, is_required=False)
    log.start()
    for number in range(1200):
        log.add(record(number))
    await log.close()
    assert disk.read(AuditQuery(limit=1)).records[0].number == 1200
