"""Keys and teams: what they may be called, and what a key opens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloister.api.keys import parse_new_key, render_key
from cloister.cli.moments import moment
from cloister.control.keys import Keys
from cloister.errors import AuthenticationError, InvalidRequestError, PermissionDeniedError, QuotaExceededError
from cloister.model.team import KeyScope
from cloister.store.sqlite import SqliteStore


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    """The use cases on a new store."""
    store = await SqliteStore.open(tmp_path / "x.db")
    yield Keys(store)
    await store.close()


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\x1b[2Jb", "a\0b", "a\ud800b"])
async def test_names_of_keys_and_teams_are_bounded(keys: Keys, name: str) -> None:
    """A name is 1 to 128 printable characters: it is a line of a list that an operator reads in a terminal."""
    for made in (keys.create(name, "key"), keys.create("team", name), keys.create_for_operator(KeyScope.METRICS, name)):
        with pytest.raises(InvalidRequestError, match="1 to 128 printable"):
            await made
    assert await keys.list() == []


async def test_a_key_opens_what_it_is_for(keys: Keys) -> None:
    """A team's key is a team's and does not open metrics; a metrics key opens them and is no team's."""
    _, secret = await keys.create("größe", "key")
    _, metrics = await keys.create_for_operator(KeyScope.METRICS, "prometheus")
    assert (await keys.authenticate(secret)).team.name == "größe"
    await keys.check_scope(metrics, KeyScope.METRICS)
    with pytest.raises(PermissionDeniedError, match="--metrics"):
        await keys.check_scope(secret, KeyScope.METRICS)
    for wrong in (None, "", "x", "x" * 10_000, secret + "x"):
        with pytest.raises(AuthenticationError):
            await keys.check_scope(wrong, KeyScope.METRICS)
    with pytest.raises(AuthenticationError):
        await keys.authenticate(metrics)


async def test_a_key_ends_at_its_time(tmp_path: Path) -> None:
    """It works until then, and afterwards the error says when that was."""
    now = [1_000_000.0]
    store = await SqliteStore.open(tmp_path / "x.db")
    keys = Keys(store, clock=lambda: now[0])
    _, secret = await keys.create("team", "key", now[0] + 10)
    with pytest.raises(InvalidRequestError, match="expire at once"):
        await keys.create("team", "key", now[0])
    now[0] += 9.5
    caller = await keys.authenticate(secret)
    child, _ = await keys.create_by(caller, "child", now[0] + 1000)
    assert (child.expires_at, child.created_by) == (caller.key.expires_at, caller.key.key_id)
    now[0] += 0.5
    with pytest.raises(AuthenticationError, match="expired at 1970-01-12T13:46:50Z"):
        await keys.authenticate(secret)
    await keys.close()
    await store.close()


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.999999Z"])
async def test_a_key_that_no_list_could_show_is_not_made(keys: Keys, text: str) -> None:
    """A client's key with such an end would break the lists of its team and of the operator."""
    name, expires_at = parse_new_key({"name": "key", "expiresAt": text})
    with pytest.raises(InvalidRequestError, match="year 9999"):
        await keys.create("team", name, expires_at)
    await keys.create("team", "latest", 253_402_300_799.0)
    assert [(render_key(key)["expiresAt"], moment(key.expires_at)) for key, _ in await keys.list()] == [
        ("9999-12-31T23:59:59.000Z", "9999-12-31T23:59:59Z")
    ]


async def test_last_use_is_written_once_a_minute(tmp_path: Path) -> None:
    """The first use of a minute is stored, by a task beside the request; an earlier clock does not stop it for ever."""
    now = [1_000_000.0]
    store = await SqliteStore.open(tmp_path / "x.db")
    keys = Keys(store, clock=lambda: now[0])
    _, secret = await keys.create("team", "key")
    seen = []
    for step in (0, 30, 29, 1, 1, -500):
        now[0] += step
        await keys.authenticate(secret)
        await keys.close()
        seen.append((await store.teams.list_keys())[0].last_used_at)
    first = 1_000_000.0
    assert seen == [first, first, first, first + 60, first + 60, first - 439]
    await store.close()


async def test_clients_have_a_bounded_number_of_keys(keys: Keys) -> None:
    """A client that makes keys without end is refused, and revoked ones make room but do not fill the store."""
    _, secret = await keys.create("team", "key")
    caller = await keys.authenticate(secret)
    made = [(await keys.create_by(caller, "x"))[0] for _ in range(199)]
    with pytest.raises(QuotaExceededError, match="200 keys"):
        await keys.create_by(caller, "x")
    for key in made:
        await keys.revoke_of(caller.team, key.key_id)
    for _ in range(2):
        await keys.create_by(caller, "x")
    assert len(await keys.list()) <= 104
    await keys.create("team", "of the operator")


async def test_a_revoked_key_takes_the_keys_that_it_made_with_it(keys: Keys) -> None:
    """Those that these made too, and no others. A request that began before the revocation makes none after it."""
    _, leaked = await keys.create("team", "leaked")
    _, other = await keys.create("team", "other")
    caller = await keys.authenticate(leaked)
    _, child = await keys.create_by(caller, "child")
    _, grandchild = await keys.create_by(await keys.authenticate(child), "grandchild")
    _, others = await keys.create_by(await keys.authenticate(other), "of another")
    await keys.revoke_of(caller.team, caller.key.key_id)
    for secret in (leaked, child, grandchild):
        with pytest.raises(AuthenticationError):
            await keys.authenticate(secret)
    for secret in (other, others):
        await keys.authenticate(secret)
    with pytest.raises(AuthenticationError, match="revoked"):
        await keys.create_by(caller, "late")


async def test_a_client_replaces_its_key_by_one_that_it_made(keys: Keys) -> None:
    """The key that asks for the revocation of its maker stays, and so do those that it made."""
    _, old = await keys.create("team", "old")
    caller = await keys.authenticate(old)
    _, new = await keys.create_by(caller, "new")
    _, other = await keys.create_by(caller, "other")
    by = (await keys.authenticate(new)).key
    _, child = await keys.create_by(await keys.authenticate(new), "child")
    await keys.revoke_of(caller.team, caller.key.key_id, by)
    for secret in (new, child):
        await keys.authenticate(secret)
    for secret in (old, other):
        with pytest.raises(AuthenticationError):
            await keys.authenticate(secret)
