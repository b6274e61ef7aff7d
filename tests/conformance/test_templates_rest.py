"""Templates, builds and tags over plain HTTP: how builds go, what is listed, and what a crash leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from e2b.api.client.models import (
    Template,
    TemplateBuildLogsResponse,
    TemplateTagAssignmentsResponse,
    TemplateTagExistsResponse,
    TemplateTagGroupsResponse,
    TemplateTagsCountResponse,
    TemplateWithBuilds,
)

from cloister.errors import NoCapacityError, StorageFullError
from cloister.model.build import BuildLogEntry, BuildReport, BuildStatus
from framework.control_plane import ControlPlane
from framework.http import Answer
from framework.requests import ask, create
from framework.template_requests import (
    archive,
    build,
    build_now,
    building_plane,
    link,
    new_name,
    put,
    request_build,
    start,
    status,
    wait_for,
)
from framework.waiting import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane whose builds run."""
    with building_plane(tmp_path_factory.mktemp("templates") / "data") as plane:
        yield plane


# ---- how builds go ----


def test_newer_build_supersedes(plane: ControlPlane) -> None:
    """A newer build of the same tag ends an older one that has not ended, started or not; one of another tag goes on."""
    plane.node.builds_run = False
    try:
        name = new_name()
        unstarted, other = request_build(plane, name), request_build(plane, f"{name}:other")
        running = request_build(plane, name)
        assert "superseded" in status(plane, *unstarted)["reason"]["message"]
        late = start(plane, *unstarted)
        assert (late.status, "superseded" in late.json()["message"]) == (400, True), "a start that comes too late says why"
        assert start(plane, *running).status == 202
        newest = request_build(plane, name)
        assert (status(plane, *running)["status"], status(plane, *newest)["status"]) == ("building", "waiting"), "started, and requested only"
        assert start(plane, *newest).status == 202
        assert "superseded" in status(plane, *running)["reason"]["message"]
        assert status(plane, *other)["status"] == "waiting"
        assert plane.node.reports[running[1]].status is BuildStatus.ERROR
    finally:
        plane.node.builds_run = True
        ask(plane, "DELETE", f"/templates/{name}")


def test_cancel(plane: ControlPlane) -> None:
    """A build is cancelled before and after its start, once; the node hears of it."""
    plane.node.builds_run = False
    try:
        first, second = request_build(plane, new_name()), request_build(plane, new_name())
        assert start(plane, *second).status == 202
        while second[1] not in plane.node.builds:
            time.sleep(0.01)
        for ids in (first, second):
            assert ask(plane, "DELETE", f"/templates/{ids[0]}/builds/{ids[1]}").status == 204
            assert status(plane, *ids)["reason"]["message"] == "the build was cancelled"
            assert ask(plane, "DELETE", f"/templates/{ids[0]}/builds/{ids[1]}").status == 409
        assert start(plane, *first).status == 400
        assert plane.node.reports[second[1]].status is BuildStatus.ERROR
    finally:
        plane.node.builds_run = True


def test_failed_build_takes_nothing_away(plane: ControlPlane) -> None:
    """After a failed build the tag still means the build before it."""
    name = new_name()
    good = build(plane, name)
    bad = request_build(plane, name)
    start(plane, *bad, fromImage="missing")
    wait_for(plane, *bad, "error")
    created = create(plane, templateID=name)
    assert plane.node.find(created["sandboxID"]).request.template == good[1]
    assert (created["templateID"], created["alias"]) == (good[0], name)


def test_levels_and_log_pages(plane: ControlPlane) -> None:
    """The status filters by level with offsets of its own; the log route goes both ways from a time on."""
    ids = request_build(plane, new_name())
    assert start(plane, *ids, fromImage="debian", steps=[{"type": "RUN", "args": ["exit 2"]}]).status == 202
    wait_for(plane, *ids, "error")
    whole = status(plane, *ids)["logEntries"]
    assert [entry["level"] for entry in whole] == ["info", "info", "error"]
    assert status(plane, *ids, "?level=error")["logEntries"] == whole[2:]
    assert status(plane, *ids, "?level=error&logsOffset=1")["logEntries"] == []
    assert status(plane, *ids, "?logsOffset=1&limit=1")["logEntries"] == whole[1:2]
    path = f"/templates/{ids[0]}/builds/{ids[1]}/logs"
    assert ask(plane, "GET", path).json()["logs"] == whole
    assert ask(plane, "GET", f"{path}?direction=backward&limit=2").json()["logs"] == whole[:0:-1]
    assert ask(plane, "GET", f"{path}?level=warn").json()["logs"] == whole[2:]
    assert ask(plane, "GET", f"{path}?cursor={int((time.time() + 60) * 1000)}").json()["logs"] == []
    TemplateBuildLogsResponse.from_dict(ask(plane, "GET", path).json())
    for query in ("?limit=0", "?limit=101", "?limit=x", "?direction=up", "?level=loud", "?cursor=-1"):
        assert ask(plane, "GET", path + query).status == 400
    for query in ("?logsOffset=-1", "?logsOffset=x", "?logsOffset=99999999999999999", "?limit=0", "?level=loud"):
        assert ask(plane, "GET", f"/templates/{ids[0]}/builds/{ids[1]}/status{query}").status == 400


def test_builds_of_a_team_are_bounded(control_plane: ControlPlane) -> None:
    """A team's builds at a time are bounded; the refusal does not ask for a repetition."""
    last: Answer | None = None
    for _ in range(21):
        last = ask(control_plane, "POST", "/v3/templates", {"name": new_name()})
        if last.status == 202:
            assert start(control_plane, last.json()["templateID"], last.json()["buildID"]).status == 202
    assert last is not None
    assert (last.status, last.headers["Should-Retry"]) == (429, "false")


# ---- what is listed ----


def test_models_are_whole(plane: ControlPlane) -> None:
    """Every answer has each field of the SDKs' strict models, whatever a template has gone through."""
    name = new_name()
    ids = build(plane, name)
    request_build(plane, f"{name}:later")
    empty, _ = request_build(plane, new_name())
    create(plane, templateID=name)
    told = Template.from_dict(next(one for one in ask(plane, "GET", "/templates").json() if one["templateID"] == ids[0]))
    assert (told.names, told.aliases, told.build_id, told.build_count) == ([f"default/{name}"], [name], ids[1], 2)
    assert (told.cpu_count, told.memory_mb, told.disk_size_mb, told.public) == (2, 1024, 5120, False)
    whole = TemplateWithBuilds.from_dict(ask(plane, "GET", f"/templates/{name}").json())
    assert (whole.spawn_count, whole.last_spawned_at is not None) == (1, True)
    assert [one.status.value for one in whole.builds] == ["waiting", "ready"]
    assert Template.from_dict(ask(plane, "GET", f"/templates/{empty}").json()).build_status.value == "waiting"
    assert TemplateWithBuilds.from_dict(ask(plane, "GET", "/templates/base").json()).is_default is True
    assert {Template.from_dict(one).aliases[0] for one in ask(plane, "GET", "/default-templates").json()} == {"base", "code-interpreter-v1"}


def test_builds_of_the_sdks_to_2_3(plane: ControlPlane) -> None:
    """``POST /v2/templates`` answers with a whole template, whose build is started and followed as any other."""
    name = new_name()
    answer = ask(plane, "POST", "/v2/templates", {"alias": name, "cpuCount": 1, "memoryMB": 512})
    made = Template.from_dict(answer.json())
    assert (answer.status, made.aliases, made.build_count, made.build_status.value) == (202, [name], 1, "waiting")
    assert start(plane, made.template_id, made.build_id).status == 202
    wait_for(plane, made.template_id, made.build_id, "ready")
    again = Template.from_dict(ask(plane, "POST", "/v2/templates", {"alias": name}).json())
    assert (again.template_id, again.build_count, again.build_id != made.build_id) == (made.template_id, 2, True)


def test_pages_of_templates_and_builds(plane: ControlPlane) -> None:
    """Pages neither overlap nor leave gaps; tokens that are none are refused."""
    name = new_name()
    for number in range(3):
        request_build(plane, f"{name}:v{number}")
    for path in ("/v2/templates", f"/templates/{name}"):
        seen: list[str] = []
        token = ""
        while True:
            answer = ask(plane, "GET", f"{path}?limit=2&nextToken={token}")
            page = answer.json() if path == "/v2/templates" else answer.json()["builds"]
            seen += [one["templateID" if path == "/v2/templates" else "buildID"] for one in page]
            token = answer.headers.get("X-Next-Token", "")
            if not token:
                break
        assert len(seen) == len(set(seen))
        assert len(seen) == (len(ask(plane, "GET", "/templates").json()) if path == "/v2/templates" else 3)
        for bad in ("?nextToken=x", "?nextToken=W10=", "?nextToken=W251bGwsMV0=", "?limit=0", "?limit=101"):
            assert ask(plane, "GET", path + bad).status == 400


def test_tag_history(plane: ControlPlane) -> None:
    """A tag's assignments are kept, counted and paged, as the generated client reads them."""
    name = new_name()
    builds = [build(plane, name)[1] for _ in range(3)]
    template_id = ask(plane, "GET", f"/templates/aliases/{name}").json()["templateID"]
    ask(plane, "POST", "/templates/tags", {"target": name, "tags": ["v1", "prod"]})
    base = f"/templates/{name}/tags"
    first = TemplateTagAssignmentsResponse.from_dict(ask(plane, "GET", f"{base}/default/assignments?limit=2").json())
    rest = TemplateTagAssignmentsResponse.from_dict(ask(plane, "GET", f"{base}/default/assignments?cursor={first.next_cursor}").json())
    assert [str(one.build_id) for one in first.data + rest.data] == builds[::-1]
    assert rest.next_cursor is None
    assert TemplateTagsCountResponse.from_dict(ask(plane, "GET", f"/templates/{template_id}/tags/count").json()).total == 3
    for tag, there in (("PROD", True), ("none", False)):
        found = TemplateTagExistsResponse.from_dict(ask(plane, "GET", f"{base}/exists?tag={tag}").json())
        assert (found.exists, found.normalized_tag) == (there, tag.lower())
    groups = TemplateTagGroupsResponse.from_dict(ask(plane, "GET", f"{base}/groups?assignmentLimit=2&sort=name_asc").json())
    assert [(one.tag, len(one.assignments), one.has_more) for one in groups.tags] == [
        ("default", 2, True),
        ("prod", 1, False),
        ("v1", 1, False),
    ]
    page = TemplateTagGroupsResponse.from_dict(ask(plane, "GET", f"{base}/groups?tagsLimit=2&search=").json())
    more = TemplateTagGroupsResponse.from_dict(ask(plane, "GET", f"{base}/groups?tagsLimit=2&tagsCursor={page.next_cursor}").json())
    assert [one.tag for one in page.tags + more.tags] == ["prod", "v1", "default"]
    for bad in ("/exists?tag=", "/groups?sort=x", "/groups?tagsCursor=x", "/%20/assignments", "/default/assignments?cursor=W10="):
        assert ask(plane, "GET", base + bad).status == 400


# ---- crashes ----


def test_a_build_ends_while_the_api_process_is_away(control_plane: ControlPlane) -> None:
    """The next start finds the end of a build that was missed. The template can be used, and upload links stay valid."""
    name = new_name()
    ids, failing = request_build(control_plane, name), request_build(control_plane, new_name())
    url = link(control_plane, ids[0])["url"]
    assert start(control_plane, *ids).status == start(control_plane, *failing).status == 202
    eventually(lambda: {ids[1], failing[1]} <= set(control_plane.node.builds))
    reports = control_plane.node.reports
    control_plane.run(control_plane.server.close)
    entry = BuildLogEntry(at=time.time(), level="info", message="said alone")
    reports[ids[1]] = BuildReport(build_id=ids[1], status=BuildStatus.READY, total=1, entries=(entry,))
    reports[failing[1]] = BuildReport(build_id=failing[1], status=BuildStatus.ERROR, total=0, message="it broke", step="1")
    control_plane.restart_api()
    assert ask(control_plane, "POST", "/v2/sandboxes", {"templateID": name}).status == 201
    told = status(control_plane, *failing)
    assert (told["status"], told["reason"]["message"], told["reason"]["step"]) == ("error", "it broke", "1")
    assert [one["message"] for one in status(control_plane, *ids)["logEntries"]] == ["said alone"]
    assert put(url, archive()).status == 200


def test_an_end_is_heard_at_once(control_plane: ControlPlane) -> None:
    """The node's event makes a template usable although no client asks for its status."""
    name = new_name()
    control_plane.node.builds_run = True
    start(control_plane, *request_build(control_plane, name))
    eventually(lambda: ask(control_plane, "POST", "/v2/sandboxes", {"templateID": name}).status == 201)


def test_a_build_that_the_node_never_got(control_plane: ControlPlane) -> None:
    """A build whose preparation died with the api process ends with an error that says so."""
    ids = request_build(control_plane, new_name())
    assert start(control_plane, *ids).status == 202
    eventually(lambda: ids[1] in control_plane.node.builds)
    control_plane.run(control_plane.server.close)
    del control_plane.node.builds[ids[1]], control_plane.node.reports[ids[1]]
    control_plane.restart_api()
    told = status(control_plane, *ids)
    assert (told["status"], "restarted while the build was prepared" in told["reason"]["message"]) == ("error", True)


def test_a_node_without_room_is_waited_for(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build waits while the node has no room for it, and begins when it has."""
    monkeypatch.setattr("cloister.control.builds.starting._QUEUE_RETRY_S", 0.05)
    node, real, refusals = control_plane.node, control_plane.node.start_build, iter(range(3))
    node.builds_run = True

    async def refuse(request: Any) -> None:
        if next(refusals, None) is not None:
            raise NoCapacityError("the queue is full")
        await real(request)

    monkeypatch.setattr(node, "start_build", refuse)
    ids = request_build(control_plane, new_name())
    assert start(control_plane, *ids).status == 202
    assert status(control_plane, *ids)["status"] == "building"
    wait_for(control_plane, *ids, "ready")


def test_a_node_that_cannot_keep_a_build_is_not_waited_for(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told at once, not after ten minutes of waiting."""

    async def refuse(_request: Any) -> None:
        raise StorageFullError("the build cannot be recorded: No space left on device")

    monkeypatch.setattr(control_plane.node, "start_build", refuse)
    ids = request_build(control_plane, new_name())
    assert start(control_plane, *ids).status == 202
    wait_for(control_plane, *ids, "error")
    assert "No space left" in status(control_plane, *ids)["reason"]["message"]


def test_node_away(control_plane: ControlPlane) -> None:
    """While the supervisor is away a running build is told as running, and a deletion is made up for at its return."""
    ids = request_build(control_plane, new_name())
    gone = build_now(control_plane)
    assert start(control_plane, *ids).status == 202
    eventually(lambda: ids[1] in control_plane.node.builds)
    control_plane.run(control_plane.node.die)
    assert status(control_plane, *ids)["status"] == "building"
    assert ask(control_plane, "DELETE", f"/templates/{gone[0]}").status == 204
    assert ask(control_plane, "DELETE", f"/templates/{ids[0]}/builds/{ids[1]}").status == 204
    time.sleep(0.2)
    control_plane.run(control_plane.node.start)
    eventually(lambda: gone[1] in control_plane.node.dropped)
    eventually(lambda: control_plane.node.reports[ids[1]].status is BuildStatus.ERROR)


def test_what_nobody_can_reach_is_dropped(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Superseded and failed builds go after a day; those with a tag, and those that a build under way began with, stay."""
    plane = control_plane
    plane.node.builds_run = True
    name = new_name()
    old, new, tagged = build(plane, name), build(plane, name), build(plane, f"{name}:kept")
    parent = build(plane, f"{name}:parent")
    plane.node.builds_run = False
    child = request_build(plane, new_name())
    assert start(plane, *child, fromTemplate=f"{name}:parent").status == 202
    ask(plane, "DELETE", "/templates/tags", {"name": name, "tags": ["parent"]})
    builds = plane.server.builds
    plane.run(builds.garbage.prune)
    assert plane.node.dropped == []
    monkeypatch.setattr("cloister.control.builds.garbage._KEPT_S", -1.0)
    plane.run(builds.garbage.prune)
    assert plane.node.dropped == [old[1]]
    assert create(plane, templateID=name)["templateID"] == new[0]
    assert create(plane, templateID=f"{name}:kept")["templateID"] == tagged[0]
    plane.run(lambda: plane.node.report(replace(plane.node.reports[child[1]], status=BuildStatus.READY)))
    eventually(lambda: status(plane, *child)["status"] == "ready")
    plane.run(builds.garbage.prune)
    assert plane.node.dropped == [old[1], parent[1]]


def test_unused_archives_go(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that was of no use for a week is removed, one of a build under way is not."""
    plane = control_plane
    ids = request_build(plane, new_name())
    needed, idle = "a" * 64, "b" * 64
    for upload_hash in (needed, idle):
        assert put(link(plane, ids[0], upload_hash)["url"], archive()).status == 200
    steps = [{"type": "COPY", "args": ["a", "b"], "filesHash": needed}]
    assert start(plane, *ids, fromImage="debian", steps=steps).status == 202
    plane.run(plane.server.builds.garbage.prune)
    assert link(plane, ids[0], idle)["present"] is True
    monkeypatch.setattr("cloister.control.uploads._UNUSED_S", -1.0)
    plane.run(plane.server.builds.garbage.prune)
    uploads = plane.settings.data_dir / "api" / "uploads"
    assert [path.parent.name for path in uploads.glob("*/*/archive")] == [needed]
    assert link(plane, ids[0], idle)["present"] is False
