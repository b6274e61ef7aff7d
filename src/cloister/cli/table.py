"""Tables, sizes and times as the commands print them. Pure. Cells are words of clients, so they are printed without control characters."""

from __future__ import annotations

from collections.abc import Sequence

from cloister.model.text import printable

__all__ = ["shown_size", "shown_span", "table"]

_GAP = "  "


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns that are as wide as their widest cell. A head that begins with ">" is of a column of numbers."""
    names = [head.removeprefix(">") for head in heads]
    cells = [names, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if head.startswith(">") else cell.ljust(width) for cell, width, head in zip(row, widths, heads, strict=True)
        ]
        lines.append(_GAP.join(padded).rstrip())
    return lines


def shown_size(size_bytes: float) -> str:
    """A size in the unit that suits it, such as ``512MiB``."""
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):.1f}{unit}" if shift == 30 else f"{int(size_bytes) >> shift}{unit}"
    return f"{int(size_bytes) >> 10}KiB" if size_bytes else "0"


def shown_span(seconds: float) -> str:
    """A span of time in its largest unit, such as ``2.5h``."""
    seconds = max(0.0, seconds)
    for size, letter in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f}{letter}"
    return f"{seconds:.0f}s"
