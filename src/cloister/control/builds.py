"""Template builds of clients: requested, started, followed, cancelled, and brought to their end whatever dies meanwhile.

Owns the rows of builds. The node's word on how a build goes counts, and a row that has ended does not change any more. Between the
client's start and the node's there is the preparation (archives are read): a build whose preparation died with this process ends with an
error that says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.build_terms import BuildPlan, BuildPolicy, BuildView, NewBuild, PlannedStep, RequestedBuild, sized
from cloister.control.names import DEFAULT_TAG, Reference, clean_tags, parse_new_name
from cloister.control.templates import Templates
from cloister.control.uploads import Uploads
from cloister.errors import (
    AlreadyExistsError,
    CloisterError,
    ConflictError,
    InvalidRequestError,
    NoCapacityError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    StorageFullError,
    TemplateNotFoundError,
    UnavailableError,
)
from cloister.ids import new_template_id
from cloister.model.build import BASE_STEP, BuildLogEntry, BuildReport, BuildRequest, BuildStatus, BuildStep, EndedBuild
from cloister.store.base import Store, Team
from cloister.store.templates import Build, OwnedTemplate, TemplateKind

__all__ = ["Builds"]

_log = structlog.get_logger("cloister.control")
_SUPERSEDED = "The build was canceled because it was superseded by a newer one."
_CUT_OFF = "the server was restarted while the build was prepared; build again"
_QUEUE_WAIT_S = 600.0
_QUEUE_RETRY_S = 2.0
_UNSTARTED_S = 86_400.0
_KEPT_S = 86_400.0
_MAX_MESSAGE = 10_000
_TAIL = 20
_PAGE = 1000


class Builds:
    """The use cases about builds, on one node."""

    def __init__(self, node: NodeClient, store: Store, templates: Templates, uploads: Uploads, policy: BuildPolicy) -> None:
        self._node = node
        self._rows = store.templates
        self._templates = templates
        self._uploads = uploads
        self._policy = policy
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._needed: dict[str, frozenset[tuple[str, str]]] = {}
        self._snapshots: set[str] = set()
        """Builds that are snapshots which this process is making."""
        self._uncancelled: set[str] = set()
        self._background: set[asyncio.Task[Any]] = set()
        uploads.in_use = lambda: {pair for pairs in self._needed.values() for pair in pairs}

    async def load(self) -> None:
        """Read which archives are needed; to be called once, before anything else."""
        for build in await self._rows.list_unfinished_builds():
            template = await self._rows.find_template(build.template_id)
            if template is not None:
                self._needed[build.build_id] = frozenset((template.team_id, one) for one in build.uploads)

    async def close(self) -> None:
        """End preparations, and wait for what is being written."""
        for task in self._preparing.values():
            task.cancel()
        await asyncio.gather(*self._preparing.values(), *self._background, return_exceptions=True)

    # ---- request ----

    async def request(self, team: Team, new: NewBuild) -> RequestedBuild:
        """Register a build of the template of that name, which is made if the team has none.

        Raises:
            InvalidRequestError, PermissionDeniedError (the name is the server's), QuotaExceededError.
        """
        reference = parse_new_name(new.name)
        tags = tuple(clean_tags([*([reference.tag] if reference.tag else []), *new.tags])) or (DEFAULT_TAG,)
        now = time.time()
        build = sized(new, self._policy, now)
        if len([one for one in await self._rows.list_unfinished_builds(team.team_id) if one.started_at]) >= self._policy.max_builds:
            raise QuotaExceededError(
                f"you have reached the maximum number of concurrent template builds ({self._policy.max_builds})",
                hint="wait for some to end, or cancel them",
            )
        template = await self.template_for(team, reference, TemplateKind.TEMPLATE)
        await self._supersede(template, tags, build.build_id, started=False)
        build = replace(build, template_id=template.template_id)
        await self._rows.add_build(build, tags, now)
        _log.info("build.requested", team_id=team.team_id, template_id=template.template_id, build_id=build.build_id)
        return RequestedBuild(template=template, namespace=await self._templates.namespace(team), build=build, tags=tags)

    async def template_for(self, team: Team, reference: Reference | None, kind: TemplateKind) -> OwnedTemplate:
        """The team's template of that name; a new one if there is none, or no name.

        Raises:
            InvalidRequestError (another team's namespace), PermissionDeniedError (the name is the server's), QuotaExceededError.
        """
        if reference is not None:
            namespace = await self._templates.namespace(team)
            if reference.namespace not in (None, namespace):
                raise InvalidRequestError(f"namespace '{reference.namespace}' must match your team '{namespace}'")
            if await self._templates.find_stock(reference.name) is not None:
                raise PermissionDeniedError(
                    f"Alias '{reference.name}' already used, by a template of this server", hint="choose another name"
                )
            if (found := await self._rows.find_named_template(team.team_id, reference.name)) is not None:
                return found
        most = self._policy.max_templates
        if await self._rows.count_templates(team.team_id) >= most:
            raise QuotaExceededError(f"the team has {most} templates and snapshots, which is its limit", hint="delete some")
        name, now = None if reference is None else reference.name, time.time()
        template = OwnedTemplate(template_id=new_template_id(), team_id=team.team_id, name=name, kind=kind, created_at=now, updated_at=now)
        try:
            await self._rows.add_template(template)
        except AlreadyExistsError:
            found = None if name is None else await self._rows.find_named_template(team.team_id, name)
            if found is None:
                raise
            return found
        return template

    async def add_snapshot(self, build: Build, tag: str, now: float) -> None:
        """Add a build that is a snapshot under way: this process brings it to its end, or the next one does."""
        self._snapshots.add(build.build_id)
        await self._rows.add_build(build, [tag], now)

    async def finish_snapshot(self, build_id: str, fault: str | None) -> None:
        """End it; ``fault`` says why it failed."""
        await self._finish(build_id, BuildStatus.READY if fault is None else BuildStatus.ERROR, fault or "", None)
        self._snapshots.discard(build_id)
        if fault is not None and (build := await self._rows.find_build(build_id)) is not None:
            template = await self._rows.find_template(build.template_id)
            if template is not None and template.name is None:
                await self._rows.delete_template(template.template_id, time.time())

    async def _supersede(self, template: OwnedTemplate, tags: Sequence[str], build_id: str, *, started: bool) -> None:
        """End other unfinished builds of the template that would get one of the tags."""
        for build in await self._rows.list_builds(template.template_id):
            if build.status.is_final or build.build_id == build_id or (build.started_at is not None) != started:
                continue
            if set(tags) & set(await self._rows.list_build_tags(build.build_id)):
                await self._end(build, _SUPERSEDED)

    # ---- start ----

    async def find(self, team: Team, template: str, build_id: str) -> tuple[OwnedTemplate, Build]:
        """A build of the team's.

        Raises:
            TemplateNotFoundError, PermissionDeniedError: see :meth:`Templates.find_own`.
            NotFoundError: the template has no such build.
        """
        row, _ = await self._templates.find_own(team, template)
        build = await self._rows.find_build(build_id.lower())
        if build is None or build.template_id != row.template_id:
            raise NotFoundError(f"build '{build_id[:64]}' not found")
        return row, build

    async def start(self, team: Team, template: str, build_id: str, plan: BuildPlan) -> None:
        """Have a requested build run; returns when it is accepted.

        Raises:
            InvalidRequestError: the plan cannot be, an archive is missing, or the build was started before.
            TemplateNotFoundError: the template to begin with is not there; and as :meth:`find`.
        """
        row, build = await self.find(team, template, build_id)
        parent = None if plan.template is None else (await self._templates.find(team.team_id, plan.template)).runs
        hashes = tuple(dict.fromkeys(step.files_hash for step in plan.steps if step.files_hash is not None))
        for number, step in enumerate(plan.steps, 1):
            if step.files_hash is not None and not (await self._uploads.offer(team.team_id, step.files_hash))[0]:
                raise InvalidRequestError(f"step {number}: the files of '{step.args[0]}' were not uploaded")
        now = time.time()
        started = replace(build, started_at=now, updated_at=now, uploads=hashes, parent=parent, version=build.version + 1)
        if build.started_at is not None or build.status.is_final:
            raise InvalidRequestError("build is not in waiting state", hint=build.message or None)
        self._needed[build.build_id] = frozenset((team.team_id, one) for one in hashes)
        if not await self._rows.change_build(started, expected_version=build.version):
            raise InvalidRequestError("build is not in waiting state")
        await self._supersede(row, await self._rows.list_build_tags(build.build_id), build.build_id, started=True)
        task = asyncio.create_task(self._prepare(row, started, plan))
        self._preparing[build.build_id] = task
        task.add_done_callback(lambda _: self._preparing.pop(build.build_id, None))
        _log.info("build.started", team_id=team.team_id, template_id=row.template_id, build_id=build.build_id, steps=len(plan.steps))

    async def _prepare(self, template: OwnedTemplate, build: Build, plan: BuildPlan) -> None:
        where = BASE_STEP
        try:
            steps = []
            for number, step in enumerate(plan.steps, 1):
                where = str(number)
                steps.append(await self._resolve(template.team_id, step))
            where = BASE_STEP
            await self._hand_over(template, build, plan, tuple(steps))
        except CloisterError as error:
            await self._finish(build.build_id, BuildStatus.ERROR, str(error), where)
        except Exception:  # noqa: BLE001 - task border: without an end the client would wait for ever
            _log.exception("build.preparation_failed", build_id=build.build_id)
            await self._finish(build.build_id, BuildStatus.ERROR, "internal error of the server while the build was prepared", BASE_STEP)

    async def _resolve(self, team_id: str, step: PlannedStep) -> BuildStep:
        if step.files_hash is None:
            return BuildStep(kind=step.kind, args=step.args, force=step.force)
        files = await self._uploads.files(team_id, step.files_hash, step.args[0], step.args[1])
        return BuildStep(kind=step.kind, args=step.args, force=step.force, files=files)

    async def _hand_over(self, template: OwnedTemplate, build: Build, plan: BuildPlan, steps: tuple[BuildStep, ...]) -> None:
        """Give the build to the node; waits a while for one that is away or has no room."""
        request = BuildRequest(
            build_id=build.build_id,
            template_id=template.template_id,
            team_id=template.team_id,
            name=template.name or template.template_id,
            image=plan.image,
            parent=build.parent,
            steps=steps,
            start_cmd=plan.start_cmd,
            ready_cmd=plan.ready_cmd,
            cpu_count=build.cpu_count,
            mem_mib=build.mem_mib,
            disk_mib=build.disk_mib,
            force=plan.force,
        )
        deadline = time.monotonic() + _QUEUE_WAIT_S
        while True:
            present = await self._rows.find_build(build.build_id)
            if present is None or present.status.is_final:
                return
            try:
                await self._node.start_build(request)
            except StorageFullError:  # nothing that time mends by itself
                raise
            except (NoCapacityError, UnavailableError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_QUEUE_RETRY_S)
            else:
                break
        present = await self._rows.find_build(build.build_id)
        if present is None or present.status.is_final:  # cancelled while it was handed over
            await self._node.cancel_build(build.build_id)

    # ---- how it goes ----

    async def report(self, team: Team, template: str, build_id: str, *, offset: int, limit: int, levels: Sequence[str]) -> BuildView:
        """How the build is, and at most ``limit`` entries of its log from number ``offset`` on; of ``levels`` only, if there are any."""
        _, build = await self.find(team, template, build_id)
        report = await self._ask(build, offset, 0 if levels else limit)
        if report is None:
            return BuildView(build=build, entries=())
        build = await self._settle(build, report)
        entries: Sequence[BuildLogEntry] = report.entries
        if levels:
            entries = [entry for entry in await self._whole_log(build) if entry.level in levels][offset : offset + limit]
        tail: Sequence[BuildLogEntry] = ()
        if build.status is BuildStatus.ERROR and report.total:
            last = await self._node.report_build(build.build_id, max(0, report.total - _PAGE), _PAGE)
            tail = [entry for entry in last.entries if build.step is None or entry.step == build.step][-_TAIL:]
        return BuildView(build=build, entries=entries, tail=tail)

    async def log(self, team: Team, template: str, build_id: str) -> Sequence[BuildLogEntry]:
        """The build's whole log, oldest entry first."""
        _, build = await self.find(team, template, build_id)
        return await self._whole_log(build)

    async def _whole_log(self, build: Build) -> Sequence[BuildLogEntry]:
        entries: list[BuildLogEntry] = []
        while (report := await self._ask(build, len(entries), _PAGE)) is not None and report.entries:
            entries.extend(report.entries)
        return entries

    async def _ask(self, build: Build, offset: int, limit: int) -> BuildReport | None:
        """The node's report; None when it knows nothing of the build, or is away while the build goes on."""
        if build.started_at is None or build.build_id in self._preparing:
            return None
        try:
            return await self._node.report_build(build.build_id, offset, limit)
        except NotFoundError:
            return None
        except UnavailableError:
            if build.status.is_final:
                raise
            return None

    async def _settle(self, build: Build, report: BuildReport) -> Build:
        """The build after taking over what the node says."""
        if build.status.is_final:
            return build
        if report.status.is_final:
            return await self._finish(build.build_id, report.status, report.message, report.step) or build
        if report.status is build.status:
            return build
        going = replace(build, status=report.status, updated_at=time.time(), version=build.version + 1)
        await self._rows.change_build(going, expected_version=build.version)  # who else changes it knows better
        return going

    async def _finish(self, build_id: str, status: BuildStatus, message: str, step: str | None) -> Build | None:
        """Store the end of a build, unless it has one; returns the build."""
        while True:
            build = await self._rows.find_build(build_id)
            if build is None or build.status.is_final:
                return build
            now = time.time()
            told = message[:_MAX_MESSAGE].encode("utf-8", "replace").decode()  # it may quote what no database takes
            ended = replace(build, status=status, message=told, step=step, updated_at=now, finished_at=now, version=build.version + 1)
            if await self._rows.change_build(ended, expected_version=build.version):
                self._needed.pop(build_id, None)
                _log.info("build.ended", build_id=build_id, template_id=build.template_id, status=status, step=step)
                return ended

    # ---- ends ----

    async def cancel(self, team: Team, template: str, build_id: str) -> None:
        """End a build that has not ended.

        Raises:
            ConflictError: it has ended; and as :meth:`find`.
        """
        _, build = await self.find(team, template, build_id)
        if build.status.is_final:
            raise ConflictError(f"build '{build_id}' has ended already")
        await self._end(build, "the build was cancelled")

    async def _end(self, build: Build, why: str) -> None:
        await self._finish(build.build_id, BuildStatus.ERROR, why, None)
        if build.started_at is not None:
            self._uncancelled.add(build.build_id)
            self._in_background(self._cancel_at_node(self._node, build.build_id))

    async def _cancel_at_node(self, node: NodeClient, build_id: str) -> None:
        try:
            await node.cancel_build(build_id)
        except UnavailableError as error:
            _log.warning("build.cancel_deferred", build_id=build_id, error=str(error))  # the reconciliation at its return does it
        else:
            self._uncancelled.discard(build_id)

    async def delete(self, team: Team, text: str) -> None:
        """Delete a template, or of ``name:tag`` only the tag when the template has others. Builds under way end; live sandboxes live on.

        Raises:
            TemplateNotFoundError, PermissionDeniedError: see :meth:`Templates.find_own`.
        """
        row, reference = await self._templates.find_own(team, text)
        if reference.tag is not None:
            tags = {one.tag for one in await self._rows.list_tags(row.template_id)}
            if reference.tag not in tags:
                raise TemplateNotFoundError(f"tag '{reference.tag}' does not exist for template '{reference.name}'")
            if tags != {reference.tag}:
                await self._rows.remove_tags(row.template_id, [reference.tag])
                return
        for build in await self._rows.list_builds(row.template_id):
            if not build.status.is_final:
                await self._end(build, "its template was deleted")
        if await self._rows.delete_template(row.template_id, time.time()):
            _log.info("template.deleted", template_id=row.template_id, team_id=row.team_id)
        self._in_background(self._sweep_quietly())

    def ended(self, event: EndedBuild) -> None:
        """Take note of the node's word that a build ended."""
        self._in_background(self._finish(event.build_id, event.status, event.message, event.step))

    async def reconcile(self, node: NodeClient) -> None:
        """Bring rows and node together after a (re)connection, with calls on ``node``."""
        for build in await self._rows.list_unfinished_builds():
            if build.started_at is None or build.build_id in self._preparing or build.build_id in self._snapshots:
                continue
            try:
                report = await node.report_build(build.build_id, 0, 0)
            except NotFoundError:
                await self._finish(build.build_id, BuildStatus.ERROR, _CUT_OFF, BASE_STEP)
            else:
                await self._settle(build, report)
        for build_id in tuple(self._uncancelled):
            await self._cancel_at_node(node, build_id)
        await self.sweep(node)

    async def prune(self) -> None:
        """End what was requested and never started, and have the node forget what nobody can reach."""
        oldest = time.time() - _UNSTARTED_S
        for build in await self._rows.list_unfinished_builds():
            if build.started_at is None and build.created_at < oldest:
                await self._finish(build.build_id, BuildStatus.ERROR, "the build was requested and not started within a day", None)
        await self.sweep(self._node)
        await self._uploads.prune()

    async def sweep(self, node: NodeClient) -> None:
        """Have the node forget builds that nobody can reach, and forget them."""
        for build in await self._rows.list_unwanted_builds(time.time() - _KEPT_S):
            if build.build_id in self._preparing or build.build_id in self._snapshots:
                continue
            await node.cancel_build(build.build_id)
            await node.drop_build(build.build_id)
            await self._rows.forget_build(build.build_id)
            _log.info("build.dropped", build_id=build.build_id, template_id=build.template_id)
        await self._rows.forget_deleted_templates()

    async def _sweep_quietly(self) -> None:
        try:
            await self.sweep(self._node)
        except CloisterError as error:
            _log.warning("build.drop_deferred", error=str(error))

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
