"""Template builds of clients on this node: which wait, which run, how each ended, and that each does end.

Owns the records below ``<data>/node/builds`` and a thread for each build that runs; how a template is built is
``template/building/recipe.py``'s. Thread-safe and blocking: the supervisor calls it from worker threads. Invariants: a build that was taken
on ends exactly once, with ``ready`` or ``error``, whatever happens to this process (I8); what was cancelled never becomes ready;
credentials are gone when it has ended.

::

    enqueue ──> waiting ──> building ──> ready | error      drop, at any time ──> nothing left
                   ^            |
                   └────────────┘  the server stopped, or died, and starts again
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from cloister.errors import BuildError, CloisterError, InternalError, NoCapacityError, NotFoundError, StorageFullError
from cloister.model.build import BASE_STEP, FINALIZE_STEP, BuildReport, BuildRequest, BuildStatus, EndedBuild
from cloister.model.template import Template
from cloister.node.build_cancel import BuildCancellation
from cloister.node.build_log import LogFile, StepTally
from cloister.node.build_records import BuildRecords, BuildState
from cloister.template.interfaces import BuildLog, Cancellation, Trial

__all__ = ["CANCELLED", "BuildBounds", "BuildWork", "Builds", "Recipe"]

_log = structlog.get_logger("cloister.node.builds")
CANCELLED = "the build was cancelled"
_STOPPING = "the server stops; the build goes on when it is started again"
_TAKEN_UP = "the server was started again; the build begins anew and takes finished steps from the cache"
_OUR_FAULT = "the server failed to run this build; the cause is in the server's log"
_JOIN_S = 30.0


class Recipe(Protocol):
    """Makes a request's layers (template/building/recipe.py)."""

    def __call__(self, request: BuildRequest, log: BuildLog, cancellation: Cancellation, /) -> Template:
        """The template, without what a trial finds out. Raises: BuildError with its step, NoCapacityError."""
        ...


@dataclass(frozen=True, kw_only=True)
class BuildWork:
    """What a build is made by, step after step. All of it blocks."""

    check_capacity: Callable[[], None]
    """Raises: NoCapacityError: the host has no room for a build."""
    recipe: Recipe
    hold: Callable[[tuple[str, ...]], AbstractContextManager[None]]
    """Keep layers from being collected. Raises: StoreError: one is gone."""
    trial: Trial
    keep: Callable[[Template], None]
    """Record what was made: from then on sandboxes can be created of it."""
    drop: Callable[[str], None]
    """Forget what the build of this id made; nothing happens when there is nothing."""
    prepare: Callable[[Template, Cancellation], None]
    """Make ready what speeds up the first creations; returns early when the cancellation comes."""


@dataclass(frozen=True, kw_only=True)
class BuildBounds:
    """How many builds, how long, and for how long they are remembered."""

    running: int = 2
    waiting: int = 200
    timeout_s: float = 7200.0
    attempts: int = 3
    """A build during which the server died this often is ended: it may be the cause."""
    kept_s: float = 7 * 86_400.0
    kept: int = 1000
    kept_log_bytes: int = 1 << 30


@dataclass
class _Build:
    build_id: str
    state: BuildState
    log: LogFile
    cancellation: BuildCancellation = field(default_factory=BuildCancellation)
    thread: threading.Thread | None = None
    is_committed: bool = False
    """What it made is recorded, or is about to be: too late for a cancellation."""
    is_unsaved: bool = False
    """Its state could not be written."""


class Builds:
    """All builds of this node."""

    def __init__(self, records: BuildRecords, work: BuildWork, bounds: BuildBounds) -> None:
        self._records = records
        self._work = work
        self._bounds = bounds
        self._lock = threading.RLock()
        self._builds: dict[str, _Build] = {}
        self._waiting: list[_Build] = []
        self._running: list[_Build] = []
        self._ended = Counter[str]()
        self._is_building = False
        self.on_ended: Callable[[EndedBuild], None] = lambda _ended: None
        """Called by a build's thread, or the canceller's, when a build has ended and its report says so."""

    # ---- start and stop ----

    def load(self) -> None:
        """Take up what an earlier run of the server left. Nothing runs before :meth:`begin`."""
        for build_id, state in self._records.load().items():
            build = _Build(build_id, state, LogFile(self._records.log_path(build_id)))
            self._builds[build_id] = build
            if state.is_dropped:
                self._forget(build)
            elif state.status.is_final:
                self._records.forget_request(build_id)
            elif state.is_cancelled:
                self._conclude(build, BuildStatus.ERROR, CANCELLED)
            elif state.attempts >= self._bounds.attempts:
                self._conclude(build, BuildStatus.ERROR, f"the server died {state.attempts} times during this build")
            else:
                if build.log.read(0, 0)[1]:
                    build.log.note("warn", _TAKEN_UP)
                self._save(build, replace(state, status=BuildStatus.WAITING))
                self._waiting.append(build)
        _log.info("builds.loaded", known=len(self._builds), waiting=len(self._waiting))
        self.tend()

    def begin(self) -> None:
        """Begin to build."""
        with self._lock:
            self._is_building = True
        self._pump()

    def stop(self) -> None:
        """Stop what runs; it is taken up again by the next :meth:`load`. Waits for the builds' threads."""
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
        """Take a build on; one that is known already stays as it is. Raises: NoCapacityError: too many wait."""
        with self._lock:
            if request.build_id in self._builds:
                return
            if len(self._waiting) >= self._bounds.waiting:
                raise NoCapacityError(f"{len(self._waiting)} builds wait already", hint="try again when some have ended")
            state = BuildState(status=BuildStatus.WAITING, team_id=request.team_id, queued_at=time.time())
            try:
                self._records.begin(request, state)
            except OSError as error:
                raise StorageFullError(f"the build cannot be recorded: {error.strerror}") from error
            build = _Build(request.build_id, state, LogFile(self._records.log_path(request.build_id)))
            self._builds[request.build_id] = build
            self._waiting.append(build)
            self._pump()

    def report(self, build_id: str, offset: int, limit: int) -> BuildReport:
        """See :class:`~cloister.node.server.NodeService`."""
        with self._lock:
            build = self._builds.get(build_id)
            if build is None or build.state.is_dropped:
                raise NotFoundError(f"there is no build {build_id}")
            state = build.state  # before the log is read: the report of an end has the whole log
        entries, total = build.log.read(offset, limit)
        return BuildReport(build_id=build_id, status=state.status, total=total, entries=entries, message=state.message, step=state.step)

    def cancel(self, build_id: str) -> bool:
        """See :class:`~cloister.node.server.NodeService`; what ran is stopped when this returns, the report may follow a little later."""
        with self._lock:
            build = self._builds.get(build_id)
            if build is None or build.state.status.is_final or build.is_committed:
                return False
            self._save(build, replace(build.state, is_cancelled=True))
            waits = build in self._waiting
            if waits:
                self._waiting.remove(build)
        if waits:
            self._conclude(build, BuildStatus.ERROR, CANCELLED)
        else:
            build.cancellation.end(CANCELLED)
        return True

    def drop(self, build_id: str) -> None:
        """See :class:`~cloister.node.server.NodeService`; of one that runs nothing is left when its thread has ended."""
        with self._lock:
            build = self._builds.get(build_id)
            if build is None:
                self._work.drop(build_id)
                return
            self._save(build, replace(build.state, is_dropped=True))
            if build in self._waiting:
                self._waiting.remove(build)
            if build not in self._running:
                self._forget(build)
                return
        build.cancellation.end(CANCELLED)

    def counts(self) -> dict[str, int]:
        """Builds that wait and run now, and that ended since the server started, by status."""
        with self._lock:
            now = {BuildStatus.WAITING.value: len(self._waiting), BuildStatus.BUILDING.value: len(self._running)}
            return now | {status.value: self._ended[status] for status in (BuildStatus.READY, BuildStatus.ERROR)}

    def tend(self) -> None:
        """Forget the oldest ended builds, and write what could not be written before. To be called every now and then."""
        with self._lock:
            for build in self._builds.values():
                if build.is_unsaved:
                    self._save(build, build.state)
            ended = sorted((one for one in self._builds.values() if one.state.status.is_final), key=lambda one: -one.state.ended_at)
            size = 0
            for number, build in enumerate(ended, 1):
                size += build.log.size_bytes
                is_old = time.time() - build.state.ended_at > self._bounds.kept_s
                if is_old or number > self._bounds.kept or size > self._bounds.kept_log_bytes:
                    del self._builds[build.build_id]
                    self._records.remove(build.build_id)

    # ---- one build ----

    def _pump(self) -> None:
        """Begin builds while there is room: the longest waiting of the team that has the fewest running."""
        with self._lock:
            while self._waiting and self._is_building:
                teams = Counter(build.state.team_id for build in self._running)
                build = min(self._waiting, key=lambda one: teams[one.state.team_id])
                if not self._has_room(teams, build.state.team_id):
                    break
                self._waiting.remove(build)
                self._running.append(build)
                # A daemon: one that hangs in the kernel must not keep the process from ending; the next start takes it up.
                build.thread = threading.Thread(target=self._run, args=(build,), name=f"build-{build.build_id[:8]}", daemon=True)
                self._save(build, replace(build.state, status=BuildStatus.BUILDING, attempts=build.state.attempts + 1))
                build.thread.start()

    def _has_room(self, teams: Counter[str], team_id: str) -> bool:
        """A team that has none running does not wait for one that has several: for it there is as much room again."""
        count = len(self._running)
        if count < self._bounds.running:
            return True
        return not teams[team_id] and max(teams.values()) > 1 and count < 2 * self._bounds.running

    def _run(self, build: _Build) -> None:
        began = time.monotonic()
        waited_s = round(time.time() - build.state.queued_at, 3)
        _log.info("build.started", build_id=build.build_id, team_id=build.state.team_id, waited_s=waited_s, attempt=build.state.attempts)
        timer = threading.Timer(
            self._bounds.timeout_s, build.cancellation.end, (f"the build took longer than {self._bounds.timeout_s:g} seconds",)
        )
        timer.daemon = True
        timer.start()
        status, message, step = BuildStatus.ERROR, _OUR_FAULT, None
        tally = StepTally(build.log)
        try:
            self._make(build, tally)
            status, message = BuildStatus.READY, ""
        except CloisterError as error:
            message, step = _told(error), getattr(error, "step", "") or None
            if isinstance(error, InternalError):
                _log.exception("build.broken", build_id=build.build_id)
        except BaseException:  # noqa: BLE001 - thread border: whatever it was, the build must end
            _log.exception("build.broken", build_id=build.build_id)
        finally:
            timer.cancel()
            with self._lock:
                self._running.remove(build)
            try:
                self._leave(build, status, message, step)
            finally:
                event = "build.ended" if build.state.status.is_final else "build.put_back"
                told = {"status": build.state.status, "step": step, **tally.counts(step)}
                _log.info(event, build_id=build.build_id, seconds=round(time.monotonic() - began, 3), **told)
                self._pump()

    def _make(self, build: _Build, log: BuildLog) -> None:
        cancellation = build.cancellation
        try:
            self._work.check_capacity()
        except NoCapacityError as error:
            raise BuildError(error.message, step=BASE_STEP, hint=error.hint) from error
        request = self._records.request(build.build_id)
        cancellation.check()
        template = self._work.recipe(request, log, cancellation)
        cancellation.check()
        with self._work.hold(template.layers):
            try:
                template = self._work.trial(template, log, cancellation, force=request.force)
            except BuildError as error:
                error.step = error.step or FINALIZE_STEP
                raise
            with self._lock:
                cancellation.check()
                build.is_committed = True
            self._work.keep(template)
        try:
            self._work.prepare(template, cancellation)
        except (CloisterError, OSError, RuntimeError):  # creations do without; the template is whole
            _log.exception("build.not_prepared", build_id=build.build_id)

    def _leave(self, build: _Build, status: BuildStatus, message: str, step: str | None) -> None:
        """A build's thread ends: for good, or until the server is started again."""
        why = build.cancellation.why
        if build.state.is_dropped:
            self._forget(build)
        elif status is BuildStatus.READY or why is None:
            self._conclude(build, status, message, step)
        elif why != _STOPPING:  # what was stopped fails in one way or another; this is why
            self._conclude(build, BuildStatus.ERROR, why, step)
        else:
            build.log.note("warn", why)
            build.log.close()
            self._save(build, replace(build.state, status=BuildStatus.WAITING, attempts=build.state.attempts - 1))

    def _conclude(self, build: _Build, status: BuildStatus, message: str, step: str | None = None) -> None:
        if status is BuildStatus.ERROR:
            build.log.note("error", message, step)
        build.log.close()
        with self._lock:
            self._records.forget_request(build.build_id)
            self._save(build, replace(build.state, status=status, message=message, step=step, ended_at=time.time()))
            self._ended[status] += 1
        self.on_ended(EndedBuild(build_id=build.build_id, status=status, message=message, step=step))
        self.tend()

    def _forget(self, build: _Build) -> None:
        with self._lock:
            self._builds.pop(build.build_id, None)
            build.log.close()
            self._work.drop(build.build_id)
            self._records.remove(build.build_id)

    def _save(self, build: _Build, state: BuildState) -> None:
        """Set and write the state. What cannot be written (a full disk) holds in memory and is written later."""
        build.state = state
        try:
            self._records.write(build.build_id, state)
            build.is_unsaved = False
        except OSError as error:
            build.is_unsaved = True
            _log.warning("build.unsaved", build_id=build.build_id, error=str(error))


def _told(error: CloisterError) -> str:
    """What a client is told: an inner fault's own words may name things of this host."""
    return _OUR_FAULT if isinstance(error, InternalError) else str(error)
