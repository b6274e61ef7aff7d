"""The keys that sign identity tokens: their renewal, the published halves, and their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest

from cloister.errors import UnusableStateError
from cloister.store.signing import ALGORITHM, SigningKeys

DAY_S = 86_400.0


def verified(token: str, keys: list[dict[str, Any]]) -> dict[str, Any]:
    """The claims of a token that one of the published keys verifies."""
    key = next(key for key in keys if key["kid"] == jwt.get_unverified_header(token)["kid"])
    claims: dict[str, Any] = jwt.decode(token, jwt.PyJWK(key), algorithms=[ALGORITHM])
    return claims


def test_tokens_are_verified_by_the_published_keys(tmp_path: Path) -> None:
    """The public half verifies a token, also after the next process has read the file; it has no private part."""
    path = tmp_path / "identity.json"
    keys = SigningKeys(path)
    keys.open()
    assert keys.is_due(0)
    keys.renew(0)
    token = keys.sign({"a": 1})
    again = SigningKeys(path)
    again.open()
    assert not again.is_due(1)
    assert verified(token, again.public()) == {"a": 1}
    assert [set(key) for key in again.public()] == [{"kty", "n", "e", "use", "alg", "kid"}]
    assert path.stat().st_mode & 0o777 == 0o600


def test_renewal_keeps_the_former_key_published(tmp_path: Path) -> None:
    """A key signs for 90 days; its public half goes a day after its successor came, when every token of it has expired."""
    keys = SigningKeys(tmp_path / "identity.json")
    keys.open()
    keys.renew(0)
    former = keys.sign({"a": 1})
    assert not keys.is_due(89 * DAY_S)
    assert keys.is_due(91 * DAY_S)
    keys.renew(91 * DAY_S)
    assert len(keys.public()) == 2
    assert verified(former, keys.public()) == {"a": 1}
    assert verified(keys.sign({"a": 2}), keys.public()[:1]) == {"a": 2}
    assert not keys.is_due(91.5 * DAY_S)
    keys.renew(92.1 * DAY_S)
    assert len(keys.public()) == 1
    assert verified(keys.sign({"a": 3}), keys.public()) == {"a": 3}


@pytest.mark.parametrize("content", ["", "{}", '{"keys": [{"pem": "x", "made_at": 0}]}', '{"keys": 1}', "[1]"])
def test_a_damaged_file_is_reported(tmp_path: Path, content: str) -> None:
    """The server says which file to remove."""
    path = tmp_path / "identity.json"
    path.write_text(content)
    with pytest.raises(UnusableStateError, match=r"identity\.json is damaged"):
        SigningKeys(path).open()
