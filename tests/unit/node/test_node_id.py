"""The node's own id: made once, kept with the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.errors import UnusableStateError
from cloister.ids import is_node_id
from cloister.node.identity import load_node_id


def test_id_is_made_once_and_kept(tmp_path: Path) -> None:
    """A restart finds the same id, and another data directory has another one."""
    other = tmp_path / "other"
    other.mkdir()
    first = load_node_id(tmp_path)
    assert is_node_id(first)
    assert load_node_id(tmp_path) == first
    assert load_node_id(other) != first
    assert (tmp_path / "node_id").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"node_", b"node_0123456789ABCDEF", b"node_0123456789abcdef0", b"\xff\x00"])
def test_damaged_id_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """The start is refused: under a new id the rows of all sandboxes would be another node's."""
    (tmp_path / "node_id").write_bytes(content)
    with pytest.raises(UnusableStateError, match=r"node_id does not hold the id of a node"):
        load_node_id(tmp_path)
    assert (tmp_path / "node_id").read_bytes() == content
