"""The changelog's form: Keep a Changelog, so that people and programs can read it."""

from __future__ import annotations

import re

from .sources import ROOT

_TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
_SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def test_unreleased_changes_stand_first() -> None:
    """The first version is Unreleased; each other one has a number and a date."""
    versions = re.findall(r"(?m)^## (.*)$", _TEXT)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])


def test_sections_are_the_known_ones() -> None:
    """Sections bear the names of Keep a Changelog, and none is empty."""
    found = re.split(r"(?m)^### (.*)$", _TEXT)[1:]
    assert found
    for name, body in zip(found[::2], found[1::2], strict=True):
        assert name in _SECTIONS
        assert body.split("## ")[0].strip().startswith("- ")


def test_entries_are_sentences() -> None:
    """An entry is for users: it begins with a capital letter and ends with a full stop."""
    entries = [" ".join(entry.split()) for entry in re.findall(r"(?ms)^- (.*?)(?=^- |^#|\Z)", _TEXT)]
    assert entries
    for entry in entries:
        assert entry[0].isupper() or entry[0] in "`*", entry
        assert entry.endswith("."), entry
