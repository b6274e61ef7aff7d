"""The journal and the instance numbers: what survives a crash."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from cloister.errors import AlreadyExistsError, InvalidTransitionError, NoCapacityError, UnusableStateError
from cloister.model.client_data import ClientData
from cloister.model.network import NO_EGRESS, NetworkOptions
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.model.secret import Secret
from cloister.node.instance import INSTANCES, claim_instance
from cloister.node.journal import Entry, Found, Journal

_FORMAT_1 = Path(__file__).with_name("journal_format_1.json")
"""As the release before format 2 wrote it."""


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
        egress=NO_EGRESS,
        access_token=Secret("token"),
        client=ClientData(template_id="i", template="t", metadata={"k": "v"}, egress=NO_EGRESS, network=NetworkOptions(host_mask="h")),
    )


def journal(directory: Path) -> Journal:
    """A journal to write to."""
    opened = Journal(directory / "j", directory / "copies")
    opened.open()
    return opened


def test_entry_is_read_back_as_it_was(tmp_path: Path) -> None:
    """A new journal object over the same directory gives the same record and state."""
    journal(tmp_path).write(record(), {"pid": 5})
    assert journal(tmp_path).entries() == Found([Entry(record(), {"pid": 5})])


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """Where there is no journal, none is made."""
    assert Journal(tmp_path / "j", tmp_path / "copies").entries() == Found()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_cut", [True, False])
def test_damaged_record_has_a_copy(tmp_path: Path, is_cut: bool) -> None:
    """Cut short at any byte, or with any byte changed, a record is not believed, and its copy is taken; nothing else is lost."""
    journal(tmp_path).write(record("b" * 20), None)
    journal(tmp_path).write(record(), {"pid": 5})
    path = tmp_path / "j" / ("a" * 20) / "record.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] if is_cut else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        first, second = journal(tmp_path).entries().entries
        assert (first.record, first.runtime_state) == (record(), {"pid": 5}), at
        assert second == Entry(record("b" * 20), None)
        assert first.is_copy or not is_cut, at


def test_record_without_a_good_copy_is_told(tmp_path: Path) -> None:
    """It is told apart from a creation that had only begun, and set aside for a person instead of being lost."""
    journal(tmp_path).write(record(), {"pid": 5})
    journal(tmp_path).directory_of("c" * 20).mkdir()
    for path in (tmp_path / "j" / ("a" * 20) / "record.json", tmp_path / "copies" / f"{'a' * 20}.json"):
        path.write_text('{"record": {')
    assert journal(tmp_path).entries() == Found(begun=["c" * 20], damaged=["a" * 20])
    journal(tmp_path).set_aside("a" * 20)
    assert journal(tmp_path).entries() == Found(begun=["c" * 20])
    assert (tmp_path / "damaged" / f"{'a' * 20}.json").read_text() == '{"record": {'


def test_only_some_damaged_records_are_kept(tmp_path: Path) -> None:
    """They cannot fill the disk."""
    for number in range(30):
        journal(tmp_path).write(record(f"{number:020}"), None)
        journal(tmp_path).set_aside(f"{number:020}")
    assert len(list((tmp_path / "damaged").iterdir())) == 20


def test_record_of_an_older_release_is_read(tmp_path: Path) -> None:
    """It has no digest and no copy."""
    journal(tmp_path).write(record(), {"pid": 5})
    (tmp_path / "copies" / f"{'a' * 20}.json").unlink()
    path = tmp_path / "j" / ("a" * 20) / "record.json"
    written = {name: value for name, value in json.loads(path.read_text()).items() if name != "digest"}
    path.write_text(json.dumps({**written, "version": 1}))
    assert journal(tmp_path).entries() == Found([Entry(record(), {"pid": 5})])
    path.write_text(json.dumps(written))
    assert journal(tmp_path).entries() == Found(damaged=["a" * 20])


def test_record_of_format_1_is_read(tmp_path: Path) -> None:
    """A journal entry that the release with format 1 wrote keeps its sandbox: everything in it is understood."""
    path = tmp_path / "j" / ("a" * 20) / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(_FORMAT_1.read_bytes())
    (entry,) = journal(tmp_path).entries().entries
    assert entry.runtime_state == {"pid": 5}
    assert entry.record.egress == NO_EGRESS
    assert (entry.record.team_id, entry.record.limits.mem_mib, entry.record.state) == ("team_1", 77, SandboxState.RUNNING)
    assert entry.record.access_token == Secret("11" * 32)
    assert entry.record.client == ClientData(
        template_id="t" * 20,
        template="mine",
        metadata={"k": "v"},
        traffic_token=Secret("22" * 32),
        egress=NO_EGRESS,
        network=NetworkOptions(host_mask="localhost:${PORT}"),
        idempotency_key="once",
    )
    journal(tmp_path).write(entry.record, entry.runtime_state)
    assert journal(tmp_path).entries() == Found([Entry(entry.record, {"pid": 5})])


def test_record_of_a_newer_release_is_an_error(tmp_path: Path) -> None:
    """Its sandbox is not ended for that: the start is refused, naming file and remedy."""
    journal(tmp_path).write(record(), {"pid": 5})
    path = tmp_path / "j" / ("a" * 20) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 4, "digest": "0" * 64}))
    with pytest.raises(UnusableStateError, match=r"record\.json has format 4.*newer release"):
        journal(tmp_path).entries()


def test_illegal_change_of_state_is_not_written(tmp_path: Path) -> None:
    """An entry that was written or read cannot go back to an earlier state; one that was removed begins anew."""
    written = journal(tmp_path)
    written.write(record(), {"pid": 5})
    read = journal(tmp_path)
    read.entries()
    back = dataclasses.replace(record(), state=SandboxState.CREATING)
    for one in (written, read):
        with pytest.raises(InvalidTransitionError, match="from running to creating"):
            one.write(back, None)
    assert journal(tmp_path).entries() == Found([Entry(record(), {"pid": 5})])
    written.remove("a" * 20)
    written.write(back, None)
    assert journal(tmp_path).entries() == Found([Entry(back, None)])


def test_half_written_records_are_removed(tmp_path: Path) -> None:
    """The next start removes the partial files of a write that a crash cut off, and keeps whole records."""
    journal(tmp_path).write(record(), None)
    left = [tmp_path / "j" / ("a" * 20) / ".record.json.0a1b2c3d", tmp_path / "copies" / f".{'a' * 20}.json.0a1b2c3d"]
    for path in left:
        path.write_text("{")
    assert journal(tmp_path).entries() == Found([Entry(record(), None)])
    assert not any(path.exists() for path in left)


def test_removed_entry_is_gone(tmp_path: Path) -> None:
    """Removal takes the whole directory and the copy, and a second one is no error."""
    journal(tmp_path).write(record(), None)
    journal(tmp_path).remove("a" * 20)
    journal(tmp_path).remove("a" * 20)
    assert journal(tmp_path).entries() == Found()


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
