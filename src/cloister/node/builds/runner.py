"""Runs one build through its stages, within its time, and says how it ended.

Runs in: the build's own thread. It changes no state of the queue: the queue hands in what it needs and takes the outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cloister.errors import BuildError, CloisterError, InternalError, NoCapacityError
from cloister.model.build import BASE_STEP, FINALIZE_STEP, BuildStatus
from cloister.node.builds.cancellation import BuildCancellation
from cloister.node.builds.records import BuildRecords
from cloister.node.builds.stages import BuildStages
from cloister.template.interfaces import BuildLog

__all__ = ["INTERNAL_FAILURE", "BuildOutcome", "BuildRunner"]

_log = structlog.get_logger("cloister.node.builds")
_INTERNAL_MESSAGE = "the server failed to run this build; the cause is in the server's log"


@dataclass(frozen=True)
class BuildOutcome:
    """How a run ended. ``step`` is the failed one, if the failure belongs to a step."""

    status: BuildStatus
    message: str = ""
    step: str | None = None


INTERNAL_FAILURE = BuildOutcome(BuildStatus.ERROR, _INTERNAL_MESSAGE)


class BuildRunner:
    """Runs builds, each in the caller's thread. Thread-safe."""

    def __init__(self, stages: BuildStages, records: BuildRecords, timeout_s: float) -> None:
        self._stages = stages
        self._records = records
        self._timeout_s = timeout_s

    def run(self, build_id: str, log: BuildLog, cancellation: BuildCancellation, commit: Callable[[], None]) -> BuildOutcome:
        """Run the build. ``commit`` is called right before the template is recorded; it raises BuildError if the build was cancelled."""
        timer = threading.Timer(self._timeout_s, cancellation.end, (f"the build took longer than {self._timeout_s:g} seconds",))
        timer.daemon = True
        timer.start()
        try:
            self._run_stages(build_id, log, cancellation, commit)
        except CloisterError as error:
            if isinstance(error, InternalError):
                _log.exception("build.broken", build_id=build_id)
            return BuildOutcome(BuildStatus.ERROR, _message_for_client(error), getattr(error, "step", "") or None)
        except BaseException:  # noqa: BLE001 - thread border: the build must end, whatever the fault is
            _log.exception("build.broken", build_id=build_id)
            return INTERNAL_FAILURE
        finally:
            timer.cancel()
        return BuildOutcome(BuildStatus.READY)

    def _run_stages(self, build_id: str, log: BuildLog, cancellation: BuildCancellation, commit: Callable[[], None]) -> None:
        stages = self._stages
        try:
            stages.check_capacity()
        except NoCapacityError as error:
            raise BuildError(error.message, step=BASE_STEP, hint=error.hint) from error
        request = self._records.request(build_id)
        cancellation.check()
        template = stages.make_layers(request, log, cancellation)
        cancellation.check()
        with stages.hold_layers(template.layers):
            try:
                template = stages.try_out(template, log, cancellation, force=request.force)
            except BuildError as error:
                error.step = error.step or FINALIZE_STEP
                raise
            commit()
            stages.record(template)
        try:
            stages.prepare(template, cancellation)
        except (CloisterError, OSError, RuntimeError):  # the template is complete; its first creations are only slower
            _log.exception("build.not_prepared", build_id=build_id)


def _message_for_client(error: CloisterError) -> str:
    """The message of an internal error may name things of this host, so a client does not get it."""
    return _INTERNAL_MESSAGE if isinstance(error, InternalError) else str(error)
