"""The table of file modes is what the documentation shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.config.settings import Settings
from cloister.errors import SettingsError
from cloister.node.layout import make_directories, render

DOCUMENT = Path(__file__).parents[3] / "docs" / "files.md"


def test_documentation_is_complete() -> None:
    """docs/files.md is what the table generates."""
    assert DOCUMENT.read_text(encoding="utf-8") == render(), "run: python -m cloister.node.layout docs/files.md"


def test_a_directory_of_other_things_is_no_store(tmp_path: Path) -> None:
    """A directory that holds other things is not closed to its users, but refused; so is a file in place of a directory."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "letter.txt").touch()
    settings = Settings(data_dir=tmp_path / "data", store_dir=home, run_dir=tmp_path / "run")
    with pytest.raises(SettingsError, match=r"store_dir.*holds other things"):
        make_directories(settings)
    assert home.stat().st_mode & 0o777 == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"data_dir.*cannot be a directory"):
        make_directories(Settings(data_dir=tmp_path / "file", store_dir=tmp_path / "store", run_dir=tmp_path / "run"))
