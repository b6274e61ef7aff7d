"""The default key: there is one for programs of this machine, until it is revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.control.keys import Keys
from cloister.errors import AuthenticationError
from cloister.store.sqlite import SqliteStore


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    """Of an empty store."""
    store = await SqliteStore.open(tmp_path / "x.db")
    yield Keys(store)
    await store.close()


async def test_a_new_server_gets_one_and_keeps_it(keys: Keys) -> None:
    """It is made once; a start that finds it in its file makes no other."""
    secret = await keys.ensure_default_key(None)
    assert (await keys.authenticate(secret)).team.name == "default"
    assert await keys.ensure_default_key(secret) == secret
    assert len(await keys.list()) == 1


async def test_a_lost_file_gets_a_new_one(keys: Keys) -> None:
    """Whoever lost the file, or has one of another server, gets a key that works."""
    first = await keys.ensure_default_key(None)
    for wrong in (None, "", "e2b_of_another_server", "x" * 5000):
        secret = await keys.ensure_default_key(wrong)
        assert secret != first
        await keys.authenticate(secret)


async def test_a_removed_default_team_stays_removed(keys: Keys) -> None:
    """An operator who has teams of other names may remove it: no start makes it again, with a key that has no limits."""
    secret = await keys.ensure_default_key(None)
    await keys.create("blue", "key")
    teams = keys._teams
    await teams.remove(await teams.find("default"), even_with_sandboxes=False)
    for known in (secret, "", None):
        assert not await keys.ensure_default_key(known)
    assert [team.name for team in await teams.list()] == ["blue"]
    await teams.remove(await teams.find("blue"), even_with_sandboxes=False)
    await keys.authenticate(await keys.ensure_default_key(None))


async def test_a_revoked_key_stays_revoked(keys: Keys) -> None:
    """No start brings it back or makes another in its place, whether or not its file is still there; one made by hand works."""
    await keys.ensure_default_key(None)
    secret = await keys.ensure_default_key(None)
    await keys.revoke((await keys.list())[-1][0].key_id)
    for known in (secret, "", None):
        assert not await keys.ensure_default_key(known)
    with pytest.raises(AuthenticationError):
        await keys.authenticate(secret)
    _, made = await keys.create("default", "mine")
    assert not await keys.ensure_default_key("")
    await keys.authenticate(made)
