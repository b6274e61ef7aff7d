"""The table of a sandbox's states: every pair of states is decided, and only the legal ones can happen."""

from __future__ import annotations

from itertools import product

import pytest

from cloister.errors import ConflictError, InvalidTransitionError
from cloister.model.lifecycle import Lifecycle, TimeoutAction
from cloister.model.resources import Limits
from cloister.model.sandbox import TRANSITIONS, Sandbox, SandboxRecord, SandboxState, check_transition, transition

CREATING, RUNNING, ENDING, ENDED = SandboxState.CREATING, SandboxState.RUNNING, SandboxState.ENDING, SandboxState.ENDED
PAUSING, PAUSED, RESUMING = SandboxState.PAUSING, SandboxState.PAUSED, SandboxState.RESUMING
LEGAL = {
    *((CREATING, after) for after in (RUNNING, ENDED)),
    *((RUNNING, after) for after in (PAUSING, ENDING, ENDED)),
    *((PAUSING, after) for after in (PAUSED, RUNNING, ENDING, ENDED)),
    *((PAUSED, after) for after in (RESUMING, ENDING, ENDED)),
    *((RESUMING, after) for after in (RUNNING, PAUSED, ENDING, ENDED)),
    (ENDING, ENDED),
}


def record(state: SandboxState) -> SandboxRecord:
    """A record in that state."""
    return SandboxRecord(sandbox_id="s", template="t", runtime="r", state=state, started_at=1, end_at=2, limits=Limits())


def test_table_has_a_row_for_every_state() -> None:
    """A state without a row would raise KeyError on the first change."""
    assert set(TRANSITIONS) == set(SandboxState)


@pytest.mark.parametrize(("before", "after"), [*product(SandboxState, repeat=2)])
def test_every_pair_of_states_is_decided(before: SandboxState, after: SandboxState) -> None:
    """A legal change gives the new record; an illegal one raises an error that names both states and leaves the record as it was."""
    old = record(before)
    if (before, after) in LEGAL:
        check_transition(before, after)
        assert transition(old, after, end_at=5) == SandboxRecord(**{**vars(old), "state": after, "end_at": 5})
        return
    with pytest.raises(InvalidTransitionError, match=f"from {before} to {after}") as raised:
        transition(old, after)
    assert isinstance(raised.value, ConflictError)
    assert (raised.value.from_state, raised.value.to_state) == (before, after)


def test_every_state_is_reached_and_can_end() -> None:
    """No state is unreachable, none but ``ended`` is final, and ``ended`` can be reached from each."""
    for state in SandboxState:
        assert state is CREATING or any(state in after for after in TRANSITIONS.values())
        assert (state is ENDED) == (not TRANSITIONS[state])
        assert state is ENDED or ENDED in TRANSITIONS[state]


@pytest.mark.parametrize(
    ("state", "on_timeout", "after_deadline"),
    [
        (SandboxState.RUNNING, TimeoutAction.KILL, SandboxState.ENDED),
        (SandboxState.RUNNING, TimeoutAction.PAUSE, SandboxState.PAUSING),
        (SandboxState.RUNNING, TimeoutAction.PAUSE_FILES, SandboxState.PAUSING),
        (SandboxState.CREATING, TimeoutAction.KILL, SandboxState.ENDED),
        (SandboxState.CREATING, TimeoutAction.PAUSE, SandboxState.CREATING),
        (SandboxState.PAUSING, TimeoutAction.KILL, SandboxState.PAUSING),
        (SandboxState.PAUSED, TimeoutAction.KILL, SandboxState.PAUSED),
        (SandboxState.RESUMING, TimeoutAction.KILL, SandboxState.RESUMING),
    ],
)
def test_deadline_counts_before_the_node_reports_it(state: SandboxState, on_timeout: TimeoutAction, after_deadline: SandboxState) -> None:
    """A running sandbox counts as ended or pausing from its deadline on; a paused one has no deadline."""
    row = Sandbox(
        sandbox_id="s",
        team_id="t",
        template_id="t",
        template="t",
        state=state,
        started_at=1,
        end_at=2,
        cpu_count=1,
        mem_mib=1,
        disk_mib=1,
        lifecycle=Lifecycle(on_timeout=on_timeout),
    )
    assert (row.state_at(1.9), row.state_at(2.0)) == (state, after_deadline)
