"""Tables, sizes and spans of time as the commands print them."""

from __future__ import annotations

import pytest

from cloister.cli.table import shown_size, shown_span, table
from cloister.model.text import printable


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """Numbers stand to the right, words to the left; no line ends in spaces."""
    assert table(("ID", ">N"), [("a", "1"), ("long", "100")]) == ["ID      N", "a       1", "long  100"]
    assert table(("ID", "REST"), [("a", "")]) == ["ID  REST", "a"]


def test_cells_cannot_steer_a_terminal() -> None:
    """Escape sequences, line ends and marks of direction of a cell are replaced."""
    assert table(("A",), [("\x1b[2Jx\n\u202e",)])[1] == "\ufffd[2Jx\ufffd\ufffd"
    assert printable("plain é 漢") == "plain é 漢"


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0"), (1023, "0KiB"), (1 << 10, "1KiB"), (5 << 20, "5MiB"), (3 << 29, "1.5GiB"), (1 << 40, "1024.0GiB")]
)
def test_sizes(size: int, told: str) -> None:
    """In the unit that suits them."""
    assert shown_size(size) == told


@pytest.mark.parametrize(("seconds", "told"), [(-5, "0s"), (59, "59s"), (90, "1.5m"), (7200, "2.0h"), (129_600, "1.5d")])
def test_spans(seconds: float, told: str) -> None:
    """Likewise."""
    assert shown_span(seconds) == told
