"""Which texts can be kept."""

from __future__ import annotations

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.text import size_of_text


@pytest.mark.parametrize(("text", "size"), [("", 0), ("a", 1), ("ü", 2), ("\U0001f600", 4), ("\x01\n", 2)])
def test_size_is_in_bytes(text: str, size: int) -> None:
    """As UTF-8 has it."""
    assert size_of_text(text, "x") == size


@pytest.mark.parametrize(("text", "why"), [("a\0", "a NUL"), ("\ud800", "half of a surrogate"), ("\udfffa", "half of a surrogate")])
def test_texts_that_no_file_holds_are_refused(text: str, why: str) -> None:
    """The error names the field and says why."""
    with pytest.raises(InvalidRequestError, match=f"^the field must not have {why}"):
        size_of_text(text, "the field")
