"""Names of templates: what is one, in which namespace, and which tags there can be."""

from __future__ import annotations

import random
import string

import pytest

from cloister.control.names import Reference, clean_tags, namespace_of, parse_new_name, parse_reference
from cloister.errors import InvalidRequestError
from cloister.model.team import Team


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("name", Reference(None, "name", None)),
        (" My_Name-1 ", Reference(None, "my_name-1", None)),
        ("name:V1.2", Reference(None, "name", "v1.2")),
        ("team/name", Reference("team", "name", None)),
        ("team/name:default", Reference("team", "name", "default")),
        ("", None),
        (":v1", None),
        ("name:", None),
        ("name:a:b", None),
        ("/name", None),
        ("team/", None),
        ("a/b/c", None),
        ("na me", None),
        ("nämé", None),
        ("name:täg", None),
        ("x" * 129, None),
        ("x:" + "y" * 129, None),
        ("name\n", Reference(None, "name", None)),
        ("na\nme", None),
        ("name:v/1", None),
    ],
)
def test_references(text: str, reference: Reference | None) -> None:
    """Namespace, name and tag are told apart, in lower case; what cannot be a name is none."""
    assert parse_reference(text) == reference


def test_references_are_written_as_they_are_read() -> None:
    """Whatever is read as a reference is the same reference when it is written and read again."""
    chance = random.Random(3)
    for _ in range(5000):
        text = "".join(chance.choice(string.ascii_letters + "0-_./: ") for _ in range(chance.randrange(12)))
        if (reference := parse_reference(text)) is not None:
            assert parse_reference(str(reference)) == reference


def test_new_names() -> None:
    """A new name must be possible, and its tag must not be a UUID."""
    assert parse_new_name("a:b") == Reference(None, "a", "b")
    for text in ("a b", "a:", "a:5b1fe2a4-4f51-4b6f-8a4e-27ab02a05c1e"):
        with pytest.raises(InvalidRequestError):
            parse_new_name(text)


def test_tags() -> None:
    """Tags are cleaned, kept in order and once; impossible and too many are refused."""
    assert clean_tags(["B", " a ", "b", "v1.0"]) == ["b", "a", "v1.0"]
    for tags in ([""], ["a b"], ["x" * 129], ["5B1FE2A4-4F51-4B6F-8A4E-27AB02A05C1E"], [str(number) for number in range(101)]):
        with pytest.raises(InvalidRequestError):
            clean_tags(tags)


def test_namespaces() -> None:
    """A team's namespace is its name as far as it can be, unless an older team has it; then its id."""
    teams = [
        Team(team_id=f"team_{number}", name=name, created_at=number) for number, name in enumerate(("My Team!", "my-team", "ü", "other"))
    ]
    assert [namespace_of(team, teams) for team in teams] == ["my-team", "team_1", "team_2", "other"]
