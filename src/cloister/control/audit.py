"""The audit log of one api process: takes records from the event loop, and writes them in a thread.

Owns the queue between the two, which is bounded. While the disk takes no records they wait there. When the queue is full, further ones
are counted as lost, and the count is a record of its own once records can be written again. With ``is_required`` no record is lost: the
API refuses changes while the disk takes no records.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from cloister.errors import StorageFullError
from cloister.model.audit import AuditQuery, AuditRecord
from cloister.store.audit import AuditFiles, AuditPage

__all__ = ["AuditLog"]

_log = structlog.get_logger("cloister.control")
_T = TypeVar("_T")
_MOST_WAITING = 10_000
_AT_ONCE = 500
_AGAIN_S = 1.0


class AuditLog:
    """Writes and reads ``files``. Call :meth:`start` first and :meth:`close` last."""

    def __init__(self, files: AuditFiles, *, is_required: bool, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._is_required = is_required
        self._clock = clock
        self._waiting: deque[AuditRecord] = deque()
        self._is_failing = False
        self._has_waiting = asyncio.Event()
        self._untold = 0
        self.lost = 0
        """Records that were lost, since the start of this process."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="audit-read")
        self._writing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._writes: set[asyncio.Task[bool]] = set()
        self._is_closing = False

    def start(self) -> None:
        """Begin to write."""
        self._writing = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """Write what waits, if the disk takes it, and end the threads."""
        self._is_closing = True
        self._has_waiting.set()
        if self._writing is not None:
            await self._writing
        await asyncio.gather(*self._writes, return_exceptions=True)
        self._writer.shutdown()
        self._reader.shutdown(cancel_futures=True)

    def check_writable(self) -> None:
        """Raises: StorageFullError: records are required, and cannot be written now."""
        if self._is_required and (self._is_failing or len(self._waiting) >= _MOST_WAITING // 2):
            hint = "the operator's setting audit_required allows no changes until the server's disk has space, or works again"
            raise StorageFullError("the audit log cannot be written", hint=hint)

    def add(self, record: AuditRecord) -> None:
        """Take a record. It is in its file soon after."""
        is_refusal = record.error == StorageFullError.code  # it changed nothing, and there may be many while the disk is full
        if len(self._waiting) >= (_MOST_WAITING // 2 if is_refusal else _MOST_WAITING):
            self.lost += 1
            self._untold += 1
            return
        self._waiting.append(record)
        self._has_waiting.set()

    async def read(self, query: AuditQuery) -> AuditPage:
        """A page of records, with those that wait, as far as the disk takes them. One page is read at a time."""
        await asyncio.shield(self._begin_write())  # a client that goes away must not take with it what the disk refuses
        return await self._in(self._reader, lambda: self._files.read(query))

    async def _write_on(self) -> None:
        while not (self._is_closing and not self._waiting):
            await self._has_waiting.wait()
            if not await self._write():
                if self._is_closing:
                    return
                await asyncio.sleep(_AGAIN_S)
            elif not self._waiting and not self._is_closing:
                self._has_waiting.clear()

    def _begin_write(self) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def _write(self) -> bool:
        """Write the oldest records of the queue. False: the disk did not take all."""
        async with self._turn:
            batch: dict[str, list[AuditRecord]] = {}
            for _ in range(min(_AT_ONCE, len(self._waiting))):
                record = self._waiting.popleft()
                batch.setdefault(record.owner, []).append(record)
            untold, self._untold = self._untold, 0
            if untold:
                told = AuditRecord(at=self._clock(), team_id=None, key_id=None, address="", action="audit.lost", object_id=str(untold))
                batch.setdefault(told.owner, []).append(told)
            error = await self._in(self._writer, lambda: _store(self._files, batch))
            self._waiting.extendleft(record for own in reversed(batch.values()) for record in reversed(own))
            if error is not None and not self._is_failing:
                _log.error("audit.not_written", waiting=len(self._waiting), is_required=self._is_required, error=str(error))
            elif error is None and self._is_failing:
                _log.info("audit.written_again", lost=self.lost)
            self._is_failing = error is not None
            return error is None

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def _store(files: AuditFiles, batch: dict[str, list[AuditRecord]]) -> OSError | None:
    """Write the records of each owner; those that are stored are taken out of ``batch``."""
    for owner in tuple(batch):
        try:
            files.append(owner, batch[owner])
        except OSError as error:
            return error
        del batch[owner]
    return None
