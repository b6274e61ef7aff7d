"""Steps of creations are timed, and those of the newest are kept."""

from __future__ import annotations

from cloister.node.creation.timing import NewestSteps, StepTimes


def test_steps_follow_each_other() -> None:
    """A step begins when the one before it ended."""
    times = StepTimes()
    for name in ("one", "two"):
        times.done(name)
    first, second = times.steps()
    assert (first.name, second.name) == ("one", "two")
    assert abs(first.began_at + first.seconds - second.began_at) < 0.001


def test_old_steps_are_forgotten() -> None:
    """Memory is bounded: the steps of the oldest creation go first."""
    newest = NewestSteps()
    for number in range(300):
        times = StepTimes()
        times.done("made")
        newest.keep(str(number), times)
    assert not newest.find("0")
    assert len(newest.find("299")) == 1
    assert sum(bool(newest.find(str(number))) for number in range(300)) == 256
