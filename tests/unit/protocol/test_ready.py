"""The words on the ready pipe: written and read with the same code, and distinct from what pid 1 writes."""

from __future__ import annotations

import re
import select
from pathlib import Path

import pytest

import cloister
from cloister.protocol import ready

INIT_C = Path(cloister.__file__).parent / "runtime" / "namespace" / "native" / "init.c"


@pytest.mark.parametrize("failure", ["", "the ready command failed:\nline ä", "S"])
def test_an_outcome_is_read_as_it_was_written(failure: str) -> None:
    """Success and every reason survive."""
    assert ready.parse_outcome(ready.encode_outcome(failure)) == failure


def test_a_long_outcome_is_cut() -> None:
    """One write to the pipe takes all of an outcome, and one read gives it."""
    data = ready.encode_outcome("ä" * 100_000)
    assert len(data) <= min(select.PIPE_BUF, ready.MAX_OUTCOME_BYTES)
    assert ready.parse_outcome(data).startswith("ää")


@pytest.mark.parametrize(("data", "shown"), [(b"", "did not say"), (b"agent ended by signal 9\n", "signal 9"), (b"\xff\n", "\ufffd")])
def test_anything_else_is_a_failure(data: bytes, shown: str) -> None:
    """Text of pid 1, of an impostor or none at all never counts as success."""
    assert shown in ready.parse_outcome(data)


def test_pid_1_writes_none_of_the_words() -> None:
    """The report of pid 1 (native/init.c) is neither that the agent serves nor an outcome."""
    report = re.search(r"static void report_agent_end\(.*?\n}\n", INIT_C.read_text(), re.DOTALL)
    assert report is not None
    texts = re.findall(r'snprintf\(text, sizeof text, "([^"]+)"', report[0])
    assert len(texts) == 2
    for text in texts:
        assert not text.encode().startswith((ready.SERVING, ready.encode_outcome("")[:1], ready.encode_outcome("x")[:1]))
