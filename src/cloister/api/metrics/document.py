"""Writes the tables of series into docs/howto/monitoring.md: ``python -m cloister.api.metrics.document docs/howto/monitoring.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from cloister.api.metrics.series import GROUPS, Series

__all__ = ["BEGIN", "END", "render"]

BEGIN = "<!-- Generated from src/cloister/api/metrics/series.py by `make docs`; do not edit. -->\n"
END = "<!-- End of the generated part. -->\n"


def render(page: str) -> str:
    """The page, with its generated part made anew. Raises: ValueError: it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks of its generated part")
    return before + begin + "".join(_table(heading, rows) for heading, rows in GROUPS.items()) + "\n" + end + after


def _table(heading: str, rows: tuple[Series, ...]) -> str:
    lines = "".join(f"| `{row.shown}` | {row.kind} | {row.help} |\n" for row in rows)
    return f"\n### {heading}\n\n| series | kind | meaning |\n| --- | --- | --- |\n{lines}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
