"""Numbers of descriptors, also of processes that cannot be looked at: the supervisor's answer to a ping depends on none of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.linux.process import count_descriptors, descriptor_limit


def test_own_descriptors() -> None:
    """This process has some open, and may open more."""
    count, limit = count_descriptors(os.getpid()), descriptor_limit(os.getpid())
    assert count is not None
    assert limit is not None
    assert 0 < count < limit


def test_a_process_that_may_not_be_read_has_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_SYS_PTRACE, as in many containers, the descriptors of another user's process cannot be listed."""

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert count_descriptors(1) is None


def test_a_process_that_is_being_reaped_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is there, but empty."""
    monkeypatch.setattr(Path, "read_text", lambda _: "")
    assert descriptor_limit(1) is None
