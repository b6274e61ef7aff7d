"""The queue of clients' template builds on this node: which builds wait, which run, and how each one ended.

Owns the records below ``<data>/node/builds`` and one thread for each running build. Thread-safe and blocking: the supervisor calls it from
worker threads. Invariants: every accepted build ends exactly once, with ``ready`` or ``error``, also when this process dies (I8). A
cancelled build never becomes ready. The credentials of an ended build are gone.

::

    enqueue ──> waiting ──> building ──> ready | error      drop, at any time ──> forgotten
                   ^            |
                   └────────────┘  the server stopped or died, and starts again
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from cloister.errors import NoCapacityError, NotFoundError, QuotaExceededError, StorageFullError
from cloister.model.build import BuildReport, BuildRequest, BuildStatus, EndedBuild
from cloister.node.builds.cancellation import BuildCancellation
from cloister.node.builds.log import BuildLogFile, StepCounter
from cloister.node.builds.records import BuildRecord, BuildRecords
from cloister.node.builds.runner import INTERNAL_FAILURE, BuildOutcome, BuildRunner
from cloister.node.builds.stages import BuildStages

__all__ = ["CANCELLED", "BuildQueue", "QueueLimits"]

_log = structlog.get_logger("cloister.node.builds")
CANCELLED = "the build was cancelled"
_STOPPING = "the server stops; the build goes on when it is started again"
_RESUMED = "the server was started again; the build restarts and takes finished steps from the cache"
_JOIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class QueueLimits:
    """How many builds the queue takes, how long a build may run, and how long an ended build is remembered."""

    running: int = 2
    waiting: int = 200
    of_team: int = 200
    """Of one team, running builds included."""
    timeout_s: float = 7200.0
    attempts: int = 3
    """A build during which the server died this often ends with an error: the build may be the cause."""
    kept_s: float = 7 * 86_400.0
    kept: int = 1000
    kept_log_bytes: int = 1 << 30


@dataclass
class _QueuedBuild:
    """One build: its record, and what this process needs to run it."""

    build_id: str
    record: BuildRecord
    log: BuildLogFile
    cancellation: BuildCancellation = field(default_factory=BuildCancellation)
    thread: threading.Thread | None = None
    is_committed: bool = False
    """The template is recorded, or is about to be: a cancellation comes too late."""
    is_unsaved: bool = False
    """The record on disk is older than ``record``."""


class BuildQueue:
    """All builds of this node."""

    def __init__(self, records: BuildRecords, stages: BuildStages, limits: QueueLimits) -> None:
        self._records = records
        self._stages = stages
        self._runner = BuildRunner(stages, records, limits.timeout_s)
        self._limits = limits
        self._lock = threading.RLock()
        self._builds: dict[str, _QueuedBuild] = {}
        self._waiting: list[_QueuedBuild] = []
        self._running: list[_QueuedBuild] = []
        self._ended = Counter[str]()
        self._is_building = False
        self.on_ended: Callable[[EndedBuild], None] = lambda _ended: None
        """Called when a build has ended and its report says so, by the thread of the build or of the caller that cancelled it."""

    # ---- start and stop ----

    def load(self) -> None:
        """Read the builds of an earlier run of the server and queue the unfinished ones. None runs before :meth:`begin`."""
        for build_id, record in self._records.load().items():
            build = _QueuedBuild(build_id, record, BuildLogFile(self._records.log_path(build_id)))
            self._builds[build_id] = build
            if record.is_dropped:
                self._forget(build)
            elif record.status.is_final:
                self._records.forget_request(build_id)
            elif record.is_cancelled:
                self._conclude(build, BuildStatus.ERROR, CANCELLED)
            elif record.attempts >= self._limits.attempts:
                self._conclude(build, BuildStatus.ERROR, f"the server died {record.attempts} times during this build")
            else:
                if build.log.read(0, 0)[1]:
                    build.log.note("warn", _RESUMED)
                self._save(build, replace(record, status=BuildStatus.WAITING))
                self._waiting.append(build)
        _log.info("builds.loaded", known=len(self._builds), waiting=len(self._waiting))
        self.tend()

    def begin(self) -> None:
        """Start to run builds."""
        with self._lock:
            self._is_building = True
        self._start_waiting()

    def stop(self) -> None:
        """Stop the running builds and wait for their threads. The next :meth:`load` queues them again."""
        with self._lock:
            self._is_building = False
            begun = [(build, build.thread) for build in self._builds.values() if build.thread is not None]
        for build, thread in begun:
            if thread.is_alive():
                build.cancellation.end(_STOPPING)
        until = time.monotonic() + _JOIN_S
        for build, thread in begun:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                _log.error("build.not_stopped", build_id=build.build_id)

    # ---- what the node protocol asks for ----

    def enqueue(self, request: BuildRequest) -> None:
        """Add a build; a known build stays as it is.

        Raises: NoCapacityError (too many builds wait), QuotaExceededError (the team has too many), StorageFullError.
        """
        with self._lock:
            if request.build_id in self._builds:
                return
            if len(self._waiting) >= self._limits.waiting:
                raise NoCapacityError(f"{len(self._waiting)} builds wait already", hint="try again when some have ended")
            if sum(build.record.team_id == request.team_id for build in (*self._waiting, *self._running)) >= self._limits.of_team:
                raise QuotaExceededError("the team has reached its limit of builds", hint="the server's setting max_builds_per_team")
            if len(self._builds) >= 2 * self._limits.kept:
                self.tend()
            record = BuildRecord(status=BuildStatus.WAITING, team_id=request.team_id, queued_at=time.time())
            try:
                self._records.begin(request, record)
            except OSError as error:
                raise StorageFullError(f"the build cannot be recorded: {error.strerror}") from error
            build = _QueuedBuild(request.build_id, record, BuildLogFile(self._records.log_path(request.build_id)))
            self._builds[request.build_id] = build
            self._waiting.append(build)
            self._start_waiting()

    def report(self, build_id: str, offset: int, limit: int) -> BuildReport:
        """See :class:`~cloister.nodewire.methods.BuildMethods`."""
        with self._lock:
            build = self._builds.get(build_id)
            if build is None or build.record.is_dropped:
                raise NotFoundError(f"there is no build {build_id}")
            record = build.record  # before the log is read, so that the report of an ended build has the whole log
        entries, total = build.log.read(offset, limit)
        return BuildReport(build_id=build_id, status=record.status, total=total, entries=entries, message=record.message, step=record.step)

    def cancel(self, build_id: str) -> bool:
        """See :class:`~cloister.nodewire.methods.BuildMethods`. Stops the running step before it returns; the report may follow later."""
        with self._lock:
            build = self._builds.get(build_id)
            if build is None or build.record.status.is_final or build.is_committed:
                return False
            self._save(build, replace(build.record, is_cancelled=True))
            waits = build in self._waiting
            if waits:
                self._waiting.remove(build)
        if waits:
            self._conclude(build, BuildStatus.ERROR, CANCELLED)
        else:
            build.cancellation.end(CANCELLED)
        return True

    def drop(self, build_id: str) -> None:
        """See :class:`~cloister.nodewire.methods.BuildMethods`. A running build is forgotten when its thread has ended."""
        with self._lock:
            build = self._builds.get(build_id)
            if build is None:
                self._stages.discard(build_id)
                return
            self._save(build, replace(build.record, is_dropped=True))
            if build in self._waiting:
                self._waiting.remove(build)
            if build not in self._running:
                self._forget(build)
                return
        build.cancellation.end(CANCELLED)

    def counts(self) -> dict[str, int]:
        """By status: builds that wait and run now, and builds that ended since the server started."""
        with self._lock:
            now = {BuildStatus.WAITING.value: len(self._waiting), BuildStatus.BUILDING.value: len(self._running)}
            return now | {status.value: self._ended[status] for status in (BuildStatus.READY, BuildStatus.ERROR)}

    def tend(self) -> None:
        """Forget the oldest ended builds, and write records that could not be written before. To be called once a minute or so."""
        with self._lock:
            for build in self._builds.values():
                if build.is_unsaved:
                    self._save(build, build.record)
            ended = sorted((one for one in self._builds.values() if one.record.status.is_final), key=lambda one: -one.record.ended_at)
            size = 0
            for number, build in enumerate(ended, 1):
                size += build.log.size_bytes
                is_old = time.time() - build.record.ended_at > self._limits.kept_s
                if is_old or number > self._limits.kept or size > self._limits.kept_log_bytes:
                    del self._builds[build.build_id]
                    self._records.remove(build.build_id)

    # ---- one build ----

    def _start_waiting(self) -> None:
        """Start builds while there is room. First comes the oldest build of the team that has the fewest running."""
        with self._lock:
            while self._waiting and self._is_building:
                teams = Counter(build.record.team_id for build in self._running)
                build = min(self._waiting, key=lambda one: teams[one.record.team_id])
                if not self._has_room(teams, build.record.team_id):
                    break
                self._waiting.remove(build)
                self._running.append(build)
                # A daemon thread: one that hangs in the kernel must not keep the process from ending. The next start runs the build again.
                build.thread = threading.Thread(target=self._run, args=(build,), name=f"build-{build.build_id[:8]}", daemon=True)
                self._save(build, replace(build.record, status=BuildStatus.BUILDING, attempts=build.record.attempts + 1))
                build.thread.start()

    def _has_room(self, teams: Counter[str], team_id: str) -> bool:
        """Whether the team may start a build. A team with no running build gets extra room while another team has several."""
        count = len(self._running)
        if count < self._limits.running:
            return True
        return not teams[team_id] and max(teams.values()) > 1 and count < 2 * self._limits.running

    def _run(self, build: _QueuedBuild) -> None:
        began = time.monotonic()
        waited_s = round(time.time() - build.record.queued_at, 3)
        _log.info("build.started", build_id=build.build_id, team_id=build.record.team_id, waited_s=waited_s, attempt=build.record.attempts)
        outcome = INTERNAL_FAILURE
        counter = StepCounter(build.log)
        try:
            outcome = self._runner.run(build.build_id, counter, build.cancellation, lambda: self._commit(build))
        finally:
            with self._lock:
                self._running.remove(build)
            try:
                self._leave(build, outcome)
            finally:
                event = "build.ended" if build.record.status.is_final else "build.put_back"
                told = {"status": build.record.status, "step": outcome.step, **counter.counts(outcome.step)}
                _log.info(event, build_id=build.build_id, seconds=round(time.monotonic() - began, 3), **told)
                self._start_waiting()

    def _commit(self, build: _QueuedBuild) -> None:
        """Make later cancellations come too late. Raises: BuildError: the build was cancelled before."""
        with self._lock:
            build.cancellation.check()
            build.is_committed = True

    def _leave(self, build: _QueuedBuild, outcome: BuildOutcome) -> None:
        """The build's thread ends: for good, or until the server starts again."""
        why = build.cancellation.why
        if build.record.is_dropped:
            self._forget(build)
        elif outcome.status is BuildStatus.READY or why is None:
            self._conclude(build, outcome.status, outcome.message, outcome.step)
        elif why != _STOPPING:  # a stopped build fails in one way or another; ``why`` is the cause
            self._conclude(build, BuildStatus.ERROR, why, outcome.step)
        else:
            build.log.note("warn", why)
            build.log.close()
            self._save(build, replace(build.record, status=BuildStatus.WAITING, attempts=build.record.attempts - 1))

    def _conclude(self, build: _QueuedBuild, status: BuildStatus, message: str, step: str | None = None) -> None:
        if status is BuildStatus.ERROR:
            build.log.note("error", message, step)
        build.log.close()
        with self._lock:
            self._records.forget_request(build.build_id)
            self._save(build, replace(build.record, status=status, message=message, step=step, ended_at=time.time()))
            self._ended[status] += 1
        self.on_ended(EndedBuild(build_id=build.build_id, status=status, message=message, step=step))
        self.tend()

    def _forget(self, build: _QueuedBuild) -> None:
        with self._lock:
            self._builds.pop(build.build_id, None)
            build.log.close()
            self._stages.discard(build.build_id)
            self._records.remove(build.build_id)

    def _save(self, build: _QueuedBuild, record: BuildRecord) -> None:
        """Set and write the record. If the disk is full, the record in memory counts and :meth:`tend` writes it later."""
        build.record = record
        try:
            self._records.write(build.build_id, record)
            build.is_unsaved = False
        except OSError as error:
            build.is_unsaved = True
            _log.warning("build.unsaved", build_id=build.build_id, error=str(error))
