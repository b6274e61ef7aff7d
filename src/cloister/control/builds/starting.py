"""Starts registered builds: reads the uploaded archives and hands the build to the node.

Archives take a while to read, so the client gets its answer before. If this process dies in between, the reconciliation ends the build with
an error that says so.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import structlog

from cloister.cluster.base import Fleet, Need
from cloister.control.builds.ending import BuildEnds
from cloister.control.builds.requests import BuildPlan, PlannedStep
from cloister.control.templates import Templates
from cloister.control.uploads import NeededUploads, Uploads
from cloister.errors import (
    CloisterError,
    InvalidRequestError,
    NoCapacityError,
    StorageFullError,
    UnavailableError,
)
from cloister.model.build import BASE_STEP, Build, BuildRequest, BuildStatus, BuildStep
from cloister.model.template import OwnedTemplate
from cloister.nodewire.requests import BuildRef
from cloister.store.templates import TemplateStore

__all__ = ["BuildStarter"]

_log = structlog.get_logger("cloister.control")
_QUEUE_WAIT_S = 600.0
_QUEUE_RETRY_S = 2.0


class BuildStarter:
    """Starts builds, each in a task of its own."""

    def __init__(
        self,
        fleet: Fleet,
        rows: TemplateStore,
        templates: Templates,
        uploads: Uploads,
        needed_uploads: NeededUploads,
        ends: BuildEnds,
    ) -> None:
        self._fleet = fleet
        self._node = fleet.calls
        self._rows = rows
        self._templates = templates
        self._uploads = uploads
        self._needed_uploads = needed_uploads
        self._ends = ends
        self._starting: dict[str, asyncio.Task[None]] = {}

    def is_starting(self, build_id: str) -> bool:
        """Whether the build was accepted here and the node may not have it yet."""
        return build_id in self._starting

    async def close(self) -> None:
        """Cancel the tasks, and wait for them."""
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)

    async def start(self, template: OwnedTemplate, build: Build, plan: BuildPlan) -> None:
        """Start a registered build. Returns when it is accepted.

        Raises:
            InvalidRequestError: the plan is wrong, an archive is missing, or the build was started before.
            TemplateNotFoundError: there is no such template to begin with.
        """
        team_id = template.team_id
        parent = None if plan.template is None else (await self._templates.find(team_id, plan.template)).runs
        hashes = tuple(dict.fromkeys(step.files_hash for step in plan.steps if step.files_hash is not None))
        for number, step in enumerate(plan.steps, 1):
            if step.files_hash is not None and not (await self._uploads.offer(team_id, step.files_hash))[0]:
                raise InvalidRequestError(f"step {number}: the files of '{step.args[0]}' were not uploaded")
        now = time.time()
        started = replace(build, started_at=now, updated_at=now, uploads=hashes, parent=parent, version=build.version + 1)
        if build.started_at is not None or build.status.is_final:
            raise InvalidRequestError("build is not in waiting state", hint=build.message or None)
        self._needed_uploads.add(build.build_id, team_id, hashes)
        if not await self._rows.change_build(started, expected_version=build.version):
            raise InvalidRequestError("build is not in waiting state")
        await self._ends.supersede(template, await self._rows.list_build_tags(build.build_id), build.build_id, started=True)
        task = asyncio.create_task(self._start(template, started, plan))
        self._starting[build.build_id] = task
        task.add_done_callback(lambda _: self._starting.pop(build.build_id, None))
        _log.info("build.started", team_id=team_id, template_id=template.template_id, build_id=build.build_id, steps=len(plan.steps))

    async def _start(self, template: OwnedTemplate, build: Build, plan: BuildPlan) -> None:
        where = BASE_STEP
        try:
            steps = []
            for number, step in enumerate(plan.steps, 1):
                where = str(number)
                steps.append(await self._with_archive(template.team_id, step))
            where = BASE_STEP
            await self._hand_over(_node_request(template, build, plan, tuple(steps)))
        except CloisterError as error:
            await self._ends.finish(build.build_id, BuildStatus.ERROR, str(error), where)
        except Exception:  # noqa: BLE001 - task border: without an end the client would wait for ever
            _log.exception("build.preparation_failed", build_id=build.build_id)
            message = "internal error of the server while the build was prepared"
            await self._ends.finish(build.build_id, BuildStatus.ERROR, message, BASE_STEP)

    async def _with_archive(self, team_id: str, step: PlannedStep) -> BuildStep:
        if step.files_hash is None:
            return BuildStep(kind=step.kind, args=step.args, force=step.force)
        files = await self._uploads.files(team_id, step.files_hash, step.args[0])
        return BuildStep(kind=step.kind, args=step.args, force=step.force, files=files)

    async def _hand_over(self, request: BuildRequest) -> None:
        """Give the build to the node. Waits a while for a node that is away or has no room."""
        deadline = time.monotonic() + _QUEUE_WAIT_S
        while True:
            if await self._has_ended(request.build_id):
                return
            try:
                await self._assign_node(request.build_id)
                await self._node.start_build(request)
            except StorageFullError:  # waiting does not help
                raise
            except (NoCapacityError, UnavailableError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_QUEUE_RETRY_S)
            else:
                break
        if await self._has_ended(request.build_id):  # cancelled while it was handed over
            await self._node.cancel_build(BuildRef(request.build_id))

    async def _assign_node(self, build_id: str) -> None:
        """Name the build's node in its row, before the node has the build: another node's reconciliation must leave it alone."""
        build = await self._rows.find_build(build_id)
        if build is None or build.node_id is not None:
            return
        parent = None if build.parent is None else await self._rows.find_build(build.parent)
        node_id = await self._fleet.find_place(Need(mem_mib=build.mem_mib, node_id=None if parent is None else parent.node_id))
        build = await self._rows.find_build(build_id)
        if build is not None and build.node_id is None:  # a concurrent change is an end; the caller looks for that
            assigned = replace(build, node_id=node_id, version=build.version + 1)
            await self._rows.change_build(assigned, expected_version=build.version)

    async def _has_ended(self, build_id: str) -> bool:
        build = await self._rows.find_build(build_id)
        return build is None or build.status.is_final


def _node_request(template: OwnedTemplate, build: Build, plan: BuildPlan, steps: tuple[BuildStep, ...]) -> BuildRequest:
    return BuildRequest(
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
