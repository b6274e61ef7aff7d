"""Who may remove which control group, on a directory that plays them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cloister.errors import ConflictError
from cloister.linux.cgroup import _TreeV2
from cloister.runtime.groups import Groups


class Tree(_TreeV2):
    """Groups that are directories without the kernel's files."""

    def end(self, name: str) -> None:
        """Its processes are gone."""
        self.remove(name)

    def enable_controllers(self) -> None:
        """There are none."""


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    """No groups yet."""
    return Groups(Tree(1, tmp_path))


def tell(event: str, fields: Mapping[str, object]) -> None:
    """Every group can be removed here."""
    raise AssertionError(event, fields)


def test_a_sweep_spares_what_is_claimed_or_known(groups: Groups) -> None:
    """And ends the rest, whoever made it."""
    groups.of("one").create("claimed", None)
    for name in ("known", "stray"):
        groups.tree.create(name, None)
    assert groups.sweep(lambda: {"known"}, tell) == ["control group stray"]
    assert groups.tree.names() == {"claimed", "known"}


def test_a_group_has_one_runtime(groups: Groups) -> None:
    """Another one can neither make nor claim it until it is removed."""
    one, other = groups.of("one"), groups.of("other")
    one.create("s", None)
    one.create("s", None)  # its own again: kept
    with pytest.raises(ConflictError, match="'one'"):
        other.create("s", None)
    with pytest.raises(ConflictError, match="'one'"):
        other.claim("s")
    one.remove("s")
    other.create("s", None)


def test_a_group_that_cannot_be_removed_is_left_to_the_sweep(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runtime has nothing more to do with it."""
    one = groups.of("one")
    one.create("busy", None)

    def refuse(_name: str) -> None:
        raise OSError(16, "busy")

    with monkeypatch.context() as patch:
        patch.setattr(groups.tree, "remove", refuse)
        with pytest.raises(OSError, match="busy"):
            one.remove("busy")
    assert groups.sweep(set, tell) == ["control group busy"]


def test_one_that_cannot_be_swept_spares_no_other(groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says which it is."""
    told: list[str] = []
    for name in ("a", "stuck", "z"):
        groups.tree.create(name, None)
    end = groups.tree.end

    def end_all_but_one(name: str) -> None:
        if name == "stuck":
            raise OSError(16, "busy")
        end(name)

    monkeypatch.setattr(groups.tree, "end", end_all_but_one)
    removed = groups.sweep(set, lambda event, fields: told.append(f"{event} {fields['name']}"))
    assert sorted(removed) == ["control group a", "control group z"]
    assert told == ["group.not_removed stuck"]


def test_helpers_are_known_until_they_are_removed(groups: Groups) -> None:
    """No guard stops them meanwhile."""
    one = groups.of("one")
    one.create("helper", None, is_helper=True)
    one.create("sandbox", None)
    assert groups.helpers() == {"helper"}
    one.remove("helper")
    assert groups.helpers() == set()
