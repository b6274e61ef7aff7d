"""One build through its stages: order, outcome and commit, without a queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.errors import BuildError, InternalError
from cloister.model.build import BuildStatus
from cloister.node.builds.cancellation import BuildCancellation
from cloister.node.builds.log import BuildLogFile
from cloister.node.builds.records import BuildRecord, BuildRecords
from cloister.node.builds.runner import INTERNAL_FAILURE, BuildOutcome, BuildRunner
from framework.fake_builds import FakeBuildStages, build_id, request


class Run:
    """A recorded build and its runner."""

    def __init__(self, directory: Path) -> None:
        self.stages = FakeBuildStages()
        self.stages.gate.set()
        records = BuildRecords(directory)
        records.begin(request(), BuildRecord(status=BuildStatus.BUILDING, team_id="team", queued_at=1.0))
        self.log = BuildLogFile(records.log_path(build_id(1)))
        self.runner = BuildRunner(self.stages, records, timeout_s=60.0)
        self.cancellation = BuildCancellation()
        self.committed: list[bool] = []

    def outcome(self) -> BuildOutcome:
        """Run it. The commit notes whether the template was recorded before."""

        def commit() -> None:
            self.cancellation.check()
            self.committed.append(bool(self.stages.made))

        return self.runner.run(build_id(1), self.log, self.cancellation, commit)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """See :class:`Run`."""
    return Run(tmp_path / "builds")


def test_a_build_is_committed_before_it_is_recorded(run: Run) -> None:
    """A ready build was tried, committed, recorded and prepared, in this order."""
    assert run.outcome() == BuildOutcome(BuildStatus.READY)
    assert run.committed == [False]
    assert run.stages.made[build_id(1)].languages == ("python",)
    assert run.stages.prepared == [build_id(1)]
    assert run.stages.held == []


def test_a_cancellation_before_the_commit_leaves_no_record(run: Run) -> None:
    """A build that is cancelled while its trial ends fails, and its template is not recorded."""
    run.stages.on_trial = lambda: run.cancellation.end("the build was cancelled")
    assert run.outcome().message == "the build was cancelled"
    assert (run.committed, run.stages.made) == ([], {})


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (BuildError("no such file", step="3"), BuildOutcome(BuildStatus.ERROR, "no such file", "3")),
        (InternalError("a path of the host"), INTERNAL_FAILURE),
        (RuntimeError("a bug"), INTERNAL_FAILURE),
    ],
)
def test_a_fault_is_an_outcome(run: Run, fault: BaseException, outcome: BuildOutcome) -> None:
    """The runner raises no error. A client reads the message of a fault of its build, and no words of an internal one."""
    run.stages.fault = fault
    assert run.outcome() == outcome
