"""Templates of clients in each store: stored fields, meaning of tags, compare-and-set, and unreachable builds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cloister.errors import AlreadyExistsError, StoreError
from cloister.model.build import Build, BuildStatus
from cloister.model.sandbox import EndReason, Sandbox, SandboxState
from cloister.model.team import Team
from cloister.model.template import OwnedTemplate, TemplateKind
from cloister.model.upload import Upload
from cloister.store.sql_store import SqlStore
from cloister.store.templates import TemplateStore

TEMPLATE = OwnedTemplate(template_id="tpl", team_id="t1", name="mine", public=True, created_at=1.0, updated_at=2.0)
BUILD = Build(
    build_id="b1",
    template_id="tpl",
    created_at=3.0,
    updated_at=4.0,
    started_at=5.0,
    cpu_count=1.5,
    mem_mib=10,
    disk_mib=20,
    message="ü",
    step="2",
    parent="base",
    uploads=("a", "b"),
)
READY = replace(BUILD, status=BuildStatus.READY, finished_at=6.0)
UPLOAD = Upload(team_id="t1", hash="h", size_bytes=5, created_at=1.0, used_at=2.0)


SANDBOX = Sandbox(
    sandbox_id="box",
    team_id="t1",
    template_id="tpl",
    template="mine",
    state=SandboxState.RUNNING,
    started_at=1.0,
    end_at=9.0,
    cpu_count=1.0,
    mem_mib=1,
    disk_mib=1,
    build_id="b1",
)


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[SqlStore]]) -> SqlStore:
    """An open store with two teams and a template."""
    store = await open_store()
    for team in ("t1", "t2"):
        await store.teams.add_team(Team(team_id=team, name=team, created_at=1.0))
    await store.templates.add_template(TEMPLATE)
    return store


@pytest.fixture
def rows(store: SqlStore) -> TemplateStore:
    """The templates of that store."""
    return store.templates


async def test_rows_come_back_as_they_went(rows: TemplateStore) -> None:
    """Every field of a template, a build and an upload survives."""
    await rows.add_build(BUILD, ["x"], 7.0)
    await rows.put_upload(UPLOAD)
    assert await rows.find_template("tpl") == replace(TEMPLATE, updated_at=7.0)
    assert await rows.find_named_template("t1", "mine") == replace(TEMPLATE, updated_at=7.0)
    assert await rows.find_build("b1") == BUILD
    assert list(await rows.list_builds("tpl")) == [BUILD]
    assert await rows.find_upload("t1", "h") == UPLOAD
    assert await rows.find_named_template("t2", "mine") is None
    assert await rows.find_upload("t2", "h") is None


async def test_names_are_unique_in_a_team_until_deletion(rows: TemplateStore) -> None:
    """A team has a name once, another team may have it too, snapshots need none, and a deleted template's name is free."""
    with pytest.raises(AlreadyExistsError):
        await rows.add_template(replace(TEMPLATE, template_id="other"))
    await rows.add_template(replace(TEMPLATE, template_id="theirs", team_id="t2"))
    for number in range(2):
        await rows.add_template(replace(TEMPLATE, template_id=f"s{number}", name=None, kind=TemplateKind.SNAPSHOT))
    assert [one.template_id for one in await rows.list_templates("t1")] == ["tpl"]
    assert await rows.count_templates("t1") == 3
    assert await rows.delete_template("tpl", 9.0)
    assert not await rows.delete_template("tpl", 9.0)
    assert await rows.find_template("tpl") is None
    await rows.add_template(replace(TEMPLATE, template_id="other"))
    await rows.forget_deleted_templates()
    with pytest.raises(StoreError):
        await rows.add_build(BUILD, [], 9.0)


async def test_a_tag_means_its_latest_assignment_that_is_ready(rows: TemplateStore) -> None:
    """Builds that wait or failed change no tag; a later assignment does; a removed tag means nothing."""
    await rows.add_build(replace(READY, build_id="old"), ["t", "u"], 7.0)
    await rows.add_build(replace(BUILD, build_id="waiting"), ["t"], 8.0)
    await rows.add_build(replace(READY, build_id="failed", status=BuildStatus.ERROR), ["t"], 9.0)
    found = await rows.find_tagged_build("tpl", "t")
    assert found is not None
    assert found.build_id == "old"
    waiting = await rows.find_build("waiting")
    assert waiting is not None
    assert await rows.change_build(replace(waiting, status=BuildStatus.READY, finished_at=10.0, version=2), expected_version=1)
    assert {one.tag: one.build_id for one in await rows.list_tags("tpl")} == {"t": "waiting", "u": "old"}
    assert [one.build_id for one in await rows.list_assignments("tpl", "t", before=None, limit=9)] == ["waiting", "old"]
    await rows.assign_tags("tpl", "old", ["t"], 11.0)
    history = await rows.list_assignments("tpl", "t", before=None, limit=2)
    assert [one.build_id for one in history] == ["old", "waiting"]
    assert [one.build_id for one in await rows.list_assignments("tpl", "t", before=history[1].number, limit=2)] == ["old"]
    assert await rows.remove_tags("tpl", ["t", "none"]) == 1
    assert await rows.find_tagged_build("tpl", "t") is None
    assert [one.tag for one in await rows.list_tags("tpl")] == ["u"]


async def test_compare_and_set_of_builds(rows: TemplateStore) -> None:
    """Of two writers of one build the second is told."""
    await rows.add_build(BUILD, [], 7.0)
    writes = [replace(BUILD, message=text, version=2) for text in ("one", "two")]
    assert sorted(await asyncio.gather(*(rows.change_build(one, expected_version=1) for one in writes))) == [False, True]


async def test_a_build_is_added_with_its_tags_or_not_at_all(rows: TemplateStore) -> None:
    """A second build of the same id leaves no assignment behind."""
    await rows.add_build(READY, ["a"], 7.0)
    with pytest.raises(AlreadyExistsError):
        await rows.add_build(READY, ["b"], 8.0)
    assert list(await rows.list_build_tags("b1")) == ["a"]


async def test_what_nobody_can_reach(rows: TemplateStore) -> None:
    """Failed and superseded builds are unwanted once they are old, those of deleted templates at once, parents of running ones never."""
    for build_id, tags, status in (("old", ["t"], BuildStatus.READY), ("new", ["t"], BuildStatus.READY), ("bad", ["t"], BuildStatus.ERROR)):
        await rows.add_build(replace(READY, build_id=build_id, status=status, parent=None), tags, 7.0)
    await rows.add_build(replace(BUILD, build_id="running", parent="old"), ["x"], 8.0)

    async def unwanted(before: float) -> set[str]:
        return {one.build_id for one in await rows.list_unwanted_builds(before)}

    assert await unwanted(6.0) == set()
    assert await unwanted(6.5) == {"bad"}
    await rows.forget_build("running")
    assert await unwanted(6.5) == {"bad", "old"}
    await rows.delete_template("tpl", 9.0)
    assert await unwanted(0.0) == {"bad", "old", "new"}
    await rows.forget_deleted_templates()
    assert await rows.find_build("new") is not None
    for build_id in ("bad", "old", "new"):
        await rows.forget_build(build_id)
    await rows.forget_deleted_templates()
    assert await unwanted(99.0) == set()


async def test_a_build_stays_while_a_sandbox_stands_on_it(store: SqlStore) -> None:
    """Neither the deletion of its template nor a newer build makes it unwanted, until the sandbox has ended."""
    rows = store.templates
    await rows.add_build(READY, ["t"], 7.0)
    await store.add_sandbox(SANDBOX)
    await rows.add_build(replace(READY, build_id="b2"), ["t"], 8.0)
    assert await rows.list_unwanted_builds(99.0) == []
    await rows.delete_template("tpl", 9.0)
    assert [one.build_id for one in await rows.list_unwanted_builds(99.0)] == ["b2"]
    ended = replace(SANDBOX, state=SandboxState.ENDED, ended_at=1.0, end_reason=EndReason.KILLED, version=2)
    assert await store.change_sandbox(ended, expected_version=1)
    assert {one.build_id for one in await rows.list_unwanted_builds(99.0)} == {"b1", "b2"}


async def test_a_capture_is_hidden(store: SqlStore) -> None:
    """No client can find or list it, it counts for no quota, and it goes when no sandbox stands on it."""
    rows = store.templates
    capture = replace(READY, build_id="cap", template_id="hidden", sandbox_id="box")
    before = await rows.count_templates("t1")
    await rows.add_capture(replace(capture, status=BuildStatus.BUILDING), "t1", 7.0)
    await store.add_sandbox(replace(SANDBOX, build_id="cap"))
    await rows.change_build(replace(capture, version=2), expected_version=1)
    assert await rows.find_template("hidden") is None
    assert [one.template_id for one in await rows.list_templates("t1")] == ["tpl"]
    assert await rows.list_snapshots("t1", sandbox_id=None, tag=None, before=None, limit=9) == []
    assert await rows.count_templates("t1") == before
    await rows.forget_deleted_templates()
    assert await rows.list_unwanted_builds(0.0) == []
    ended = replace(SANDBOX, build_id="cap", state=SandboxState.ENDED, ended_at=1.0, end_reason=EndReason.KILLED, version=2)
    assert await store.change_sandbox(ended, expected_version=1)
    assert [one.build_id for one in await rows.list_unwanted_builds(0.0)] == ["cap"]
    await rows.forget_build("cap")
    await rows.forget_deleted_templates()
    assert await rows.list_unwanted_builds(99.0) == []


async def test_unfinished_builds_of_a_team(rows: TemplateStore) -> None:
    """Only what waits or is built counts, for one team or for all."""
    await rows.add_template(replace(TEMPLATE, template_id="theirs", team_id="t2"))
    await rows.add_build(BUILD, [], 7.0)
    await rows.add_build(replace(BUILD, build_id="b2", status=BuildStatus.BUILDING, created_at=4.0, template_id="theirs"), [], 7.0)
    await rows.add_build(replace(READY, build_id="b3"), [], 7.0)
    assert [one.build_id for one in await rows.list_unfinished_builds()] == ["b1", "b2"]
    assert [one.build_id for one in await rows.list_unfinished_builds("t2")] == ["b2"]


async def test_snapshots_are_listed_by_team_and_sandbox(rows: TemplateStore) -> None:
    """There is one for each template, by its latest tag: latest first, in pages, without other builds and without other teams'."""
    await rows.add_build(READY, ["plain"], 7.0)
    for number in range(4):
        template = replace(TEMPLATE, template_id=f"tpl{number % 3}", name=f"name{number % 3}")
        if number < 3:
            await rows.add_template(template)
        build = replace(READY, build_id=f"s{number}", template_id=template.template_id, sandbox_id=f"box{number % 2}")
        await rows.add_build(build, [f"v{number}"], 8.0)

    async def listed(team: str = "t1", *, box: str | None = None, tag: str | None = None, before: int | None = None, limit: int = 9) -> str:
        found = await rows.list_snapshots(team, sandbox_id=box, tag=tag, before=before, limit=limit)
        return " ".join(f"{one.template.name}:{one.assignment.tag}" for one in found)

    assert await listed() == "name0:v3 name2:v2 name1:v1"
    (_, last) = await rows.list_snapshots("t1", sandbox_id=None, tag=None, before=None, limit=2)
    assert await listed(before=last.assignment.number) == "name1:v1"
    assert await listed(tag="v0") == "name0:v0"
    assert await listed(tag="plain") == ""
    assert await listed(box="box0") == "name2:v2 name0:v0"
    assert await listed("t2") == ""


async def test_an_upload_that_was_replaced_or_used_stays(rows: TemplateStore) -> None:
    """A digest is stored for exactly the upload that was read. Only uploads unchanged since then are removed."""
    await rows.put_upload(UPLOAD)
    assert await rows.note_digest(UPLOAD, "d")
    await rows.use_upload("t1", "h", 3.0)
    assert not await rows.remove_upload(UPLOAD)
    await rows.put_upload(replace(UPLOAD, created_at=4.0, used_at=4.0))
    assert not await rows.note_digest(UPLOAD, "d")
    present = await rows.find_upload("t1", "h")
    assert present is not None
    assert (present.digest, present.created_at) == (None, 4.0)
    assert await rows.remove_upload(present)
    assert list(await rows.list_uploads()) == []


async def test_spawns_and_publication(rows: TemplateStore) -> None:
    """Creations are counted, and a template is published and taken back."""
    await rows.note_spawn("tpl", 7.0)
    await rows.note_spawn("tpl", 8.0)
    await rows.change_template("tpl", public=False, at=9.0)
    found = await rows.find_template("tpl")
    assert found is not None
    assert (found.spawn_count, found.last_spawned_at, found.public, found.updated_at) == (2, 8.0, False, 9.0)
