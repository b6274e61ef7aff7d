"""docs/network.md explains each reason that a refused connection may have, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from cloister.egress.reasons import Reason
from cloister.network.refusals import REASONS

_DOCUMENT = Path(__file__).parents[2] / "docs" / "network.md"
_OF_REQUESTS = "request_refused_<status>"


def test_each_reason_is_documented_once() -> None:
    """The kernel's reasons and the egress process's are in the first column of one table; only the kernel's have rules."""
    section = _DOCUMENT.read_text(encoding="utf-8").partition("## Reasons of refusals\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    reasons = [reason for row in rows for reason in re.findall("`([^`]+)`", row[0])]
    assert sorted(reasons) == sorted({*REASONS, *get_args(Reason), _OF_REQUESTS})
    of_kernel = {reason for row in rows if row[2].strip() for reason in re.findall("`([^`]+)`", row[0])}
    assert of_kernel == set(REASONS)
