"""The store's interface, on each database: what is kept, compare-and-set, uniqueness, the use of a team."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cloister.errors import AlreadyExistsError, PermissionDeniedError, QuotaExceededError, StoreError
from cloister.model.lifecycle import Lifecycle, Pause, PauseKind, TimeoutAction
from cloister.model.network import NO_EGRESS
from cloister.model.sandbox import EndReason, Sandbox, SandboxState, transition
from cloister.model.secret import Secret
from cloister.model.team import ApiKey, Team, TeamLimits, TeamUse
from cloister.model.usage import use_of
from cloister.model.volume import Volume, VolumeMount
from cloister.store.sql_store import SqlStore

TEAM = Team(team_id="t1", name="one", created_at=1.0)
KEY = ApiKey(key_id="k1", team_id="t1", name="key", key_hash="h1", hint="e2b_", created_at=2.0)
ROW = Sandbox(
    sandbox_id="s" * 20,
    team_id="t1",
    template_id="tpl",
    template="base",
    state=SandboxState.RUNNING,
    started_at=10.5,
    end_at=20.25,
    cpu_count=1.5,
    mem_mib=10,
    disk_mib=20,
    metadata={"ü": "'\"\n"},
    access_token=Secret("a"),
    egress=NO_EGRESS,
    node_id="node_1",
    idempotency_key="idem",
)


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[SqlStore]]) -> SqlStore:
    """An open store with one team."""
    store = await open_store()
    await store.teams.add_team(TEAM)
    return store


async def test_rows_come_back_as_they_went(store: SqlStore, open_store: Callable[[], Awaitable[SqlStore]]) -> None:
    """Every field of a sandbox survives, also a reopening of the database."""
    ended = replace(ROW, sandbox_id="e" * 20, state=SandboxState.ENDED, end_reason=EndReason.EXPIRED, ended_at=30.0, egress=None)
    pause = Pause(kind=PauseKind.CHECKPOINT, at=15.5, why_not_deeper="why", agent_silent=True)
    lifecycle = Lifecycle(on_timeout=TimeoutAction.PAUSE_FILES, wake_s=420)
    paused = transition(transition(replace(ROW, sandbox_id="p" * 20, idempotency_key=None), SandboxState.PAUSING), SandboxState.PAUSED)
    paused = replace(paused, pause=pause, lifecycle=lifecycle)
    rows = {row.sandbox_id: row for row in (ROW, ended, paused)}
    for row in rows.values():
        await store.add_sandbox(row)
    other = await open_store()
    assert {row.sandbox_id: row for row in await other.list_sandboxes(ended_since=0)} == rows
    assert {row.sandbox_id for row in await other.list_sandboxes(ended_since=31)} == {ROW.sandbox_id, paused.sandbox_id}


async def test_compare_and_set(store: SqlStore) -> None:
    """Of two writers that saw the same version one wins and the other is told."""
    await store.add_sandbox(ROW)
    changes = [replace(ROW, end_at=float(number), version=2) for number in (1, 2)]
    won = await asyncio.gather(*(store.change_sandbox(row, expected_version=1) for row in changes))
    assert sorted(won) == [False, True]
    assert list(await store.list_sandboxes(ended_since=0)) == [changes[won.index(True)]]


async def test_what_must_be_unique(store: SqlStore) -> None:
    """Ids, team names and idempotency keys of live sandboxes are taken once."""
    await store.add_sandbox(ROW)
    for clashing in (ROW, replace(ROW, sandbox_id="o" * 20)):
        with pytest.raises(AlreadyExistsError):
            await store.add_sandbox(clashing)
    with pytest.raises(AlreadyExistsError):
        await store.teams.add_team(replace(TEAM, team_id="t2"))
    await store.change_sandbox(replace(ROW, state=SandboxState.ENDED, version=2), expected_version=1)
    await store.add_sandbox(replace(ROW, sandbox_id="o" * 20))


async def test_a_sandbox_needs_its_team(store: SqlStore) -> None:
    """A sandbox of no team is refused, and not as something that exists already."""
    with pytest.raises(StoreError):
        await store.add_sandbox(replace(ROW, team_id="nobody"))


async def test_keys(store: SqlStore) -> None:
    """A key is found by its hash until it is revoked, which works once."""
    await store.teams.add_key(KEY)
    assert await store.teams.find_key("h1") == (KEY, TEAM)
    assert await store.teams.find_key("h2") is None
    assert await store.teams.revoke_key("k1", 5.0)
    assert not await store.teams.revoke_key("k1", 6.0)
    assert await store.teams.find_key("h1") is None
    assert list(await store.teams.list_keys()) == [replace(KEY, revoked_at=5.0)]


async def test_keys_end_with_their_maker(store: SqlStore) -> None:
    """Those that a key made, and in turn those; but for the key that is spared, and its own. A revoked key makes none."""
    keys = [replace(KEY, key_id=f"k{n}", key_hash=f"h{n}", created_by=None if n == 1 else f"k{n - 1}") for n in range(1, 5)]
    spared = replace(KEY, key_id="k5", key_hash="h5", created_by="k1")
    for key in (*keys, spared, replace(KEY, key_id="k6", key_hash="h6", created_by="k5")):
        assert await store.teams.add_key(key)
    assert not await store.teams.revoke_key("k1", 5.0, team_id="t2")
    assert await store.teams.revoke_key("k1", 5.0, team_id="t1", spared="k5")
    assert [key.key_id for key in await store.teams.list_keys() if key.revoked_at is None] == ["k5", "k6"]
    assert not await store.teams.add_key(replace(KEY, key_id="k7", key_hash="h7", created_by="k2"))
    assert await store.teams.revoke_key("k5", 6.0)
    assert all(key.revoked_at is not None for key in await store.teams.list_keys())


async def test_limits_change_one_by_one(store: SqlStore) -> None:
    """Changes of different limits at the same moment both hold; None takes a limit away; a team that is gone has none."""
    changed = await asyncio.gather(store.teams.change_limits("t1", {"sandboxes": 3}), store.teams.change_limits("t1", {"cpu_count": 1.5}))
    assert all(changed)
    assert await store.teams.find_team("t1") == replace(TEAM, limits=TeamLimits(sandboxes=3, cpu_count=1.5))
    assert await store.teams.change_limits("t1", {"sandboxes": None})
    assert await store.teams.find_team("t1") == replace(TEAM, limits=TeamLimits(cpu_count=1.5))
    assert not await store.teams.change_limits("t2", {"sandboxes": 3})


async def test_volumes(store: SqlStore) -> None:
    """A team has volumes of different names, up to its most; a removed team gets none."""
    volumes = [
        Volume(volume_id=f"v{n}", team_id="t1", name=f"data{n}", size_mib=64, created_at=float(n), is_ready=n == 1) for n in range(1, 9)
    ]
    added = await asyncio.gather(*(store.volumes.add_volume(volume, most=3) for volume in volumes))
    assert sorted(added) == [False] * 5 + [True] * 3
    kept = [volume for volume, is_added in zip(volumes, added, strict=True) if is_added]
    assert list(await store.volumes.list_volumes("t1")) == list(await store.volumes.list_volumes()) == kept
    assert list(await store.volumes.list_volumes("t2")) == []
    with pytest.raises(AlreadyExistsError):
        await store.volumes.add_volume(replace(kept[0], volume_id="v9"), most=99)
    assert await store.volumes.set_volume_ready(kept[1].volume_id, is_ready=True)
    assert await store.volumes.find_volume(kept[1].volume_id) == replace(kept[1], is_ready=True)
    assert await store.volumes.delete_volume(kept[1].volume_id)
    assert not await store.volumes.delete_volume(kept[1].volume_id)
    assert not await store.volumes.set_volume_ready(kept[1].volume_id, is_ready=True)
    await store.add_sandbox(replace(ROW, volumes=(VolumeMount(volume_id="v1", name="data1", path="/data", is_read_only=True),)))
    assert (await store.find_sandboxes([ROW.sandbox_id]))[0].volumes[0].path == "/data"
    assert await store.teams.remove_team("t1", 9.0, even_with_sandboxes=True, ends_sandboxes=True)
    with pytest.raises(PermissionDeniedError):
        await store.volumes.add_volume(replace(kept[0], volume_id="v9", name="more"), most=99)


async def test_pruning(store: SqlStore) -> None:
    """Only what ended long enough ago is forgotten."""
    await store.add_sandbox(ROW)
    await store.add_sandbox(replace(ROW, sandbox_id="e" * 20, state=SandboxState.ENDED, ended_at=30.0))
    assert await store.prune_sandboxes(ended_before=30.0) == 0
    assert await store.prune_sandboxes(ended_before=30.5) == 1
    assert list(await store.list_sandboxes(ended_since=0)) == [ROW]


async def test_sandboxes_are_found_by_id(store: SqlStore) -> None:
    """Ended ones too, and nothing for an id that there is not."""
    ended = replace(ROW, sandbox_id="e" * 20, state=SandboxState.ENDED, ended_at=30.0)
    for row in (ROW, ended):
        await store.add_sandbox(row)
    found = await store.find_sandboxes([ROW.sandbox_id, ended.sandbox_id, "x" * 20])
    assert {row.sandbox_id: row for row in found} == {ROW.sandbox_id: ROW, ended.sandbox_id: ended}
    assert list(await store.find_sandboxes([])) == []


class _Limit:
    """A reservation that notes each use, and refuses what is above ``most`` sandboxes."""

    rate: float | None = None

    def __init__(self, most: int = 99) -> None:
        self.most = most
        self.seen: list[TeamUse] = []

    def check(self, use: TeamUse) -> None:
        self.seen.append(use)
        if use.sandboxes > self.most:
            raise QuotaExceededError("too many")

    def refuse(self) -> None:
        raise AssertionError


def _rows() -> list[Sandbox]:
    """A sandbox in each state and with each way to be kept."""
    checkpoint, files = (Pause(kind=kind, at=15.0) for kind in (PauseKind.CHECKPOINT, PauseKind.FILES))
    kept = Lifecycle(on_timeout=TimeoutAction.PAUSE_FILES, wake_s=9)
    states = [state for state in SandboxState if state is not SandboxState.ENDING]
    choices = [(state, pause, lifecycle) for state in states for pause in (None, checkpoint, files) for lifecycle in (Lifecycle(), kept)]
    return [
        replace(ROW, sandbox_id=f"{index:020}", idempotency_key=None, state=state, pause=pause, lifecycle=lifecycle, cpu_count=index / 4)
        for index, (state, pause, lifecycle) in enumerate(choices)
    ]


async def test_the_use_of_a_team_is_the_sum_of_its_sandboxes(store: SqlStore) -> None:
    """The database adds up as the api process does, in every state; a refused sandbox is not added."""
    limit, total = _Limit(), TeamUse()
    for row in _rows():
        total = total.plus(use_of(row))
        await store.add_sandbox(row, within=limit)
        assert limit.seen[-1] == total
    with pytest.raises(QuotaExceededError):
        await store.add_sandbox(ROW, within=_Limit(3))
    assert list(await store.find_sandboxes([ROW.sandbox_id])) == []


async def test_a_place_is_taken_once(store: SqlStore) -> None:
    """Of many creations and resumes at the same moment exactly as many get a place as there are."""
    paused = [replace(ROW, sandbox_id=f"{index:020}", idempotency_key=None, state=SandboxState.PAUSED) for index in range(6)]
    for row in paused:
        await store.add_sandbox(row)
    resumed = [replace(row, state=SandboxState.RESUMING, version=2) for row in paused]
    new = [replace(ROW, sandbox_id=f"{index:020}", idempotency_key=None) for index in range(6, 12)]
    limit = _Limit(4)
    works = [store.change_sandbox(row, expected_version=1, within=limit) for row in resumed]
    results = await asyncio.gather(*works, *(store.add_sandbox(row, within=limit) for row in new), return_exceptions=True)
    assert sum(isinstance(result, QuotaExceededError) for result in results) == 8
    assert sum(use_of(row).sandboxes for row in await store.list_sandboxes(ended_since=0)) == 4
