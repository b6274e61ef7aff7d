"""A host that goes down is told from one that runs on, by what systemd answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.linux.shutdown import host_goes_down


@pytest.mark.parametrize(
    ("answer", "status", "expected"), [("stopping", 1, True), ("running", 0, False), ("degraded", 1, False), ("", 1, False)]
)
def test_the_answer_of_systemd_decides(tmp_path: Path, answer: str, status: int, expected: bool) -> None:
    """The status of the command does not matter: it is 1 for several states."""
    assert host_goes_down(tmp_path, ("sh", "-c", f"echo {answer}; exit {status}")) is expected


def test_another_init_is_not_asked(tmp_path: Path) -> None:
    """Without systemd, no program tells."""
    assert not host_goes_down(tmp_path / "none", ("sh", "-c", "echo stopping"))


def test_no_answer_is_an_error(tmp_path: Path) -> None:
    """The caller has to decide."""
    with pytest.raises(OSError, match="no-such-program"):
        host_goes_down(tmp_path, (str(tmp_path / "no-such-program"),))
