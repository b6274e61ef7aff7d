"""Whose rights a command has while it uses the audit log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.cli.recording import audit_files
from cloister.config.settings import Settings


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine's user is not root")
def test_root_keeps_no_group_while_it_uses_the_log(tmp_path: Path) -> None:
    """The log's owner may have put a link to any directory there, such as one that root's groups may write to."""
    (tmp_path / "api").mkdir()
    os.chown(tmp_path / "api", 12345, 12346)
    before = os.getgroups()
    os.setgroups([0, 4])
    try:
        with audit_files(Settings(data_dir=tmp_path)):
            inside = os.geteuid(), os.getegid(), os.getgroups()
        after = os.geteuid(), os.getegid(), os.getgroups()
    finally:
        os.setgroups(before)
    assert (inside, after) == ((12345, 12346, []), (0, 0, [0, 4]))
