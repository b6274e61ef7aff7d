"""The keys that encrypt secrets: what they open, what they refuse, and their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.errors import StoreError, UnusableStateError
from cloister.model.secret import Secret
from cloister.store.sealing import SealingKeys


def opened(path: Path) -> SealingKeys:
    """The keys in the file."""
    keys = SealingKeys(path)
    keys.open()
    return keys


def test_what_is_sealed_can_be_read_by_the_next_process(tmp_path: Path) -> None:
    """The file is made once, for its owner alone, and the next process opens what the first one sealed."""
    path = tmp_path / "secrets.key"
    key_id, sealed = opened(path).seal(Secret("sk-1 ä"), b"context")
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"sk-1" not in sealed
    before = path.read_bytes()
    assert opened(path).unseal(key_id, sealed, b"context") == Secret("sk-1 ä")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["secrets.key"]


def test_the_same_value_is_sealed_differently_each_time(tmp_path: Path) -> None:
    """Two secrets with one value do not show that they are equal."""
    keys = opened(tmp_path / "secrets.key")
    assert len({keys.seal(Secret("x"), b"")[1] for _ in range(100)}) == 100


@pytest.mark.parametrize("change", ["context", "nonce", "text", "end"])
def test_a_changed_row_cannot_be_read(tmp_path: Path, change: str) -> None:
    """A value that was moved to another place or changed in any byte is refused, without a word of it."""
    keys = opened(tmp_path / "secrets.key")
    key_id, sealed = keys.seal(Secret("sk-1"), b"team one")
    changed = {"nonce": bytes([sealed[0] ^ 1]) + sealed[1:], "text": sealed[:-1] + bytes([sealed[-1] ^ 1]), "end": sealed[:-1]}.get(
        change, sealed
    )
    with pytest.raises(StoreError, match="cannot be decrypted") as caught:
        keys.unseal(key_id, changed, b"team two" if change == "context" else b"team one")
    assert "sk-1" not in str(caught.value)


def test_rotation(tmp_path: Path) -> None:
    """A new key encrypts from now on, former ones still read until they are forgotten; another process learns of the new key."""
    path = tmp_path / "secrets.key"
    keys, other = opened(path), opened(path)
    former_id, former = keys.seal(Secret("a"), b"")
    keys.rotate()
    new_id, new = keys.seal(Secret("b"), b"")
    assert new_id != former_id
    assert [keys.unseal(former_id, former, b""), other.unseal(new_id, new, b"")] == [Secret("a"), Secret("b")]
    keys.forget_former()
    for one in (keys, opened(path)):
        assert one.unseal(new_id, new, b"") == Secret("b")
        with pytest.raises(StoreError, match="not in the key file any more"):
            one.unseal(former_id, former, b"")


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xfe", b"1234 AAAA\n", b"1234 !!!\n", b" " + b"A" * 44])
def test_a_damaged_file_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """The server does not start with a new key in the place of one that an operator can restore."""
    path = tmp_path / "secrets.key"
    path.write_bytes(content)
    with pytest.raises(UnusableStateError, match=r"secrets\.key"):
        opened(path)
    assert path.read_bytes() == content
