"""Variables in words: put in where they are named, and everything else stays as it is."""

from __future__ import annotations

import pytest

from cloister.errors import BuildError
from cloister.template.building.expansion import expand, expand_value

_VARIABLES = {"A": "1", "B": "two words", "E": "", "N": "a\nb", "D": "$A", "Q": "'\"`$(id)"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""), ("plain", "plain"), ("$A", "1"), ("${A}", "1"), ("x$A-y${A}z", "x1-y1z"), ("$B", "two words"), ("$N", "a\nb"),
        ("$AB", ""), ("${AB}x", "x"), ("$absent/bin", "/bin"), ("$A$A", "11"),
        ("$D", "$A"), ("$Q", "'\"`$(id)"),
        ("\\$A", "$A"), ("\\\\", "\\\\"), ("\\n", "\\n"), ("\\", "\\"), ("a\\$", "a$"), ("5$", "5$"), ("$ A", "$ A"), ("$$", "$$"),
        ("$1", "$1"),
        ("$(id)", "$(id)"), ("`id`", "`id`"), ("'$A' \"$A\"", "'1' \"1\""), ("$((1+1))", "$((1+1))"),
        ("${A:-x}", "1"), ("${X:-x}", "x"), ("${E:-x}", "x"), ("${E-x}", ""), ("${X-x}", "x"), ("${X:-}", ""),
        ("${A:+x}", "x"), ("${E:+x}", ""), ("${E+x}", "x"), ("${X+x}", ""),
        ("${X:-${A}}", "1"), ("${X:-$B}y", "two wordsy"), ("${X:-${Y:-z}}", "z"), ("${X:-{a}}", "{a}"),
        ("${A", "${A"), ("${}", "${}"), ("${A%x}", "${A%x}"), ("${1}", "${1}"), ("{A}", "{A}"), ("${X:-a", "${X:-a"),
    ],
)  # fmt: skip
def test_expansion(text: str, expected: str) -> None:
    """Values are data: what is in them is not looked at again, and nothing is ever run."""
    assert expand(text, _VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"$A"', "1"), ("'$A'", "$A"), ('""', ""), ('"', '"'), ("''", ""), ('"a" or "b"', '"a" or "b"'), ("$A", "1"),
        ('it\'s "$A"', 'it\'s "1"'), ('"it\'s"', "it's"), ("\"mixed'", "\"mixed'"),
    ],
)  # fmt: skip
def test_quotes_around_a_value_are_taken_off(text: str, expected: str) -> None:
    """As a shell would; all others are data."""
    assert expand_value(text, _VARIABLES) == expected


def test_results_are_bounded() -> None:
    """Neither doubling nor nesting makes a build's memory grow."""
    with pytest.raises(BuildError, match="longer than"):
        expand("$A" * 60, {"A": "x" * 2000})
    with pytest.raises(BuildError, match="nested"):
        expand("${X:-" * 30 + "}" * 30, {})
