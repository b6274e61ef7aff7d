"""The journal and the instance numbers: what survives a crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.errors import AlreadyExistsError, NoCapacityError
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.node.instance import INSTANCES, claim_instance
from cloister.node.journal import Journal


def record(sandbox_id: str = "a" * 20) -> SandboxRecord:
    """A record with something in every field."""
    return SandboxRecord(
        sandbox_id=sandbox_id,
        template="t",
        runtime="namespace",
        state=SandboxState.RUNNING,
        started_at=1.5,
        end_at=2.5,
        limits=Limits(mem_mib=77),
        allow_internet=False,
        attributes={"team_id": "x", "metadata": {"k": "v"}},
    )


def test_entry_is_read_back_as_it_was(tmp_path: Path) -> None:
    """A new journal object over the same directory gives the same record and state."""
    Journal(tmp_path / "j").write(record(), {"pid": 5})
    entries, unreadable = Journal(tmp_path / "j").entries()
    assert [(entry.record, entry.runtime_state) for entry in entries] == [(record(), {"pid": 5})]
    assert unreadable == []


def test_entry_cut_off_by_a_crash_is_reported(tmp_path: Path) -> None:
    """A directory without a whole record is named, so that it can be swept."""
    journal = Journal(tmp_path)
    journal.directory_of("half").mkdir()
    (journal.directory_of("half") / "record.json").write_text('{"record": {')
    assert journal.entries() == ([], ["half"])


def test_removed_entry_is_gone(tmp_path: Path) -> None:
    """Removal takes the whole directory, and a second one is no error."""
    journal = Journal(tmp_path)
    journal.write(record(), None)
    journal.remove("a" * 20)
    journal.remove("a" * 20)
    assert journal.entries() == ([], [])


def test_a_data_directory_gets_its_number_again(tmp_path: Path) -> None:
    """After a crash the same data directory holds the same number, while another one gets another."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    one = claim_instance(first, tmp_path / "run")
    two = claim_instance(second, tmp_path / "run")
    assert one.number != two.number
    os.close(one.lock_fd)  # the crash
    again = claim_instance(first, tmp_path / "run")
    assert again.number == one.number
    assert again.uid_base + (1 << 29) <= two.uid_base or two.uid_base + (1 << 29) <= again.uid_base


def test_two_supervisors_cannot_serve_one_directory(tmp_path: Path) -> None:
    """The second is told that there is one already."""
    data = tmp_path / "a"
    data.mkdir()
    claim_instance(data, tmp_path / "run")
    with pytest.raises(AlreadyExistsError):
        claim_instance(data, tmp_path / "run")


def test_numbers_run_out_with_a_clear_error(tmp_path: Path) -> None:
    """There are so many numbers, and a released one can be had again."""
    held = []
    for number in range(INSTANCES):
        data = tmp_path / str(number)
        data.mkdir()
        held.append(claim_instance(data, tmp_path / "run"))
    extra = tmp_path / "extra"
    extra.mkdir()
    with pytest.raises(NoCapacityError):
        claim_instance(extra, tmp_path / "run")
    held[3].run_dir.rmdir()
    held[3].release()
    assert claim_instance(extra, tmp_path / "run").number == held[3].number
