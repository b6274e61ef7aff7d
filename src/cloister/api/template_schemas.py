"""Wire names of templates, builds, tags and snapshots: parses request bodies, and renders answers.

The contract is the published one. The SDKs' models are strict, so an answer has every field. Unknown fields of a request are treated as
in schemas.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

from cloister.api.fields import Fields
from cloister.api.schemas import ENVD_VERSION, render_time, whole_cpus
from cloister.control.builds.requests import BuildPlan, BuildStatusView, NewBuild, PlannedStep, RegisteredBuild
from cloister.control.snapshots import Snapshot
from cloister.control.templates import TemplateView
from cloister.errors import InvalidRequestError
from cloister.model.build import Build, BuildLogEntry, BuildStatus, ImageSource
from cloister.model.template import TagAssignment, Template

__all__ = [
    "parse_new_build",
    "parse_plan",
    "parse_public",
    "parse_snapshot",
    "parse_tags",
    "render_assignment",
    "render_build",
    "render_entry",
    "render_requested",
    "render_snapshot",
    "render_stock",
    "render_tag",
    "render_template",
    "render_view",
]

_ARGS = {"COPY": (2, 4), "RUN": (1, 2), "WORKDIR": (1, 1), "USER": (1, 1), "ENV": (2, 1000)}
"""Least and greatest number of arguments, by kind of step."""
_AMAZON = re.compile(r"\.dkr[.-]ecr[.-].*\.(amazonaws\.com|on\.aws)(\.cn)?(:[0-9]+)?\Z")
_IGNORED = ("forceUpload", "resolveSymlinks", "gzip")
"""Fields of a step that only the client uses."""


def parse_new_build(body: object, team_id: str) -> NewBuild:
    """``TemplateBuildRequestV3``. Raises: InvalidRequestError."""
    fields = Fields(body)
    name, alias = fields.take("name", str, None), fields.take("alias", str, None)
    wanted_team = fields.take("teamID", str, None)
    new = NewBuild(
        name=name or alias or "",
        tags=fields.take_list("tags"),
        cpu_count=fields.take("cpuCount", int, None),
        mem_mib=fields.take("memoryMB", int, None),
        min_free_disk_mib=fields.take("minFreeDiskMb", int, None),
    )
    fields.end()
    if not new.name:
        raise InvalidRequestError("Name is required")
    if wanted_team not in (None, team_id):
        raise InvalidRequestError("teamID is not the team of the key")
    return new


def parse_plan(body: object) -> BuildPlan:
    """``TemplateBuildStartV2``. Raises: InvalidRequestError."""
    fields = Fields(body)
    image, template = fields.take("fromImage", str, None), fields.take("fromTemplate", str, None)
    registry = fields.take("fromImageRegistry", dict, None)
    steps = fields.take_items("steps")
    plan = BuildPlan(
        image=_parse_image(image, registry) if image else None,
        template=template or None,
        steps=tuple(_parse_step(step, number) for number, step in enumerate(steps, 1)),
        start_cmd=fields.take("startCmd", str, ""),
        ready_cmd=fields.take("readyCmd", str, ""),
        force=fields.take("force", bool, False),
    )
    fields.end()
    if bool(image) == bool(template):
        raise InvalidRequestError("Exactly one of fromImage or fromTemplate must be given and non-empty")
    if registry is not None and not image:
        raise InvalidRequestError("fromImageRegistry is for fromImage only")
    return plan


def _parse_image(reference: str, registry: dict[str, Any] | None) -> ImageSource:
    if registry is None:
        return ImageSource(reference=reference)
    fields = Fields(registry, "fromImageRegistry.", is_strict=True)
    match fields.take("type", str):
        case "registry":
            source = ImageSource(reference=reference, username=fields.take("username", str), password=fields.take("password", str))
        case "gcp":
            source = ImageSource(
                reference=reference, username="_json_key", password=_service_account(fields.take("serviceAccountJson", str))
            )
        case "aws":
            source = _amazon_source(reference, fields)
        case other:
            raise InvalidRequestError(f"fromImageRegistry.type must be registry, gcp or aws, not {other[:50]!r}")
    fields.end()
    return source


def _amazon_source(reference: str, fields: Fields) -> ImageSource:
    if not _AMAZON.search(reference.partition("/")[0]):
        what = f"'{reference[:200]}' is in no registry of Amazon, whose names are like 123456789012.dkr.ecr.us-east-1.amazonaws.com"
        raise InvalidRequestError(what, hint="use type registry, with a user name and a password, for any other")
    fields.take("awsRegion", str)  # the registry's name implies it
    key_id, secret = fields.take("awsAccessKeyId", str), fields.take("awsSecretAccessKey", str)
    return ImageSource(reference=reference, username=key_id, password=secret, is_aws_key=True)


def _service_account(text: str) -> str:
    try:
        account = json.loads(text)
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, dict):
        raise InvalidRequestError("fromImageRegistry.serviceAccountJson must be the JSON of a service account")
    return text


def _parse_step(step: object, number: int) -> PlannedStep:
    where = f"steps[{number}]."
    fields = Fields(step, where)
    kind = fields.take("type", str).upper()
    planned = PlannedStep(
        kind=kind, args=fields.take_list("args"), files_hash=fields.take("filesHash", str, None), force=fields.take("force", bool, False)
    )
    for name in _IGNORED:
        fields.take(name, bool, None)
    fields.end()
    if kind not in _ARGS:
        raise InvalidRequestError(f"{where}type must be one of {', '.join(_ARGS)}, not {kind[:50]!r}")
    least, most = _ARGS[kind]
    if not least <= len(planned.args) <= most or (kind == "ENV" and len(planned.args) % 2):
        raise InvalidRequestError(f"{where}args: {kind} does not take {len(planned.args)} arguments")
    if (kind == "COPY") != (planned.files_hash is not None):
        raise InvalidRequestError(f"{where}filesHash is missing" if kind == "COPY" else f"{where}filesHash is for COPY only")
    return planned


def parse_public(body: object) -> bool | None:
    """``TemplateUpdateRequest``: whether to make the template public; None: no change. Raises: InvalidRequestError."""
    fields = Fields(body)
    public: bool | None = fields.take("public", bool, None)
    fields.end()
    return public


def parse_tags(body: object, name: str) -> tuple[str, tuple[str, ...]]:
    """The field ``name``, and the tags. Raises: InvalidRequestError."""
    fields = Fields(body)
    text, tags = fields.take(name, str), fields.take_list("tags")
    fields.end()
    return text, tags


def parse_snapshot(body: object) -> tuple[str | None, bool | None]:
    """``SandboxSnapshotRequest``: the name, and whether memory is wanted; None where there is none. Raises: InvalidRequestError."""
    fields = Fields(body)
    name: str | None = fields.take("name", str, None)
    memory: bool | None = fields.take("memory", bool, None)
    fields.end()
    return name, memory


# ---- answers ----


def _names(view: TemplateView) -> dict[str, list[str]]:
    name = view.template.name
    return {"aliases": [] if name is None else [name], "names": [] if name is None else [f"{view.namespace}/{name}"]}


def render_requested(requested: RegisteredBuild) -> dict[str, Any]:
    """``TemplateRequestResponseV3``."""
    view = TemplateView(template=requested.template, namespace=requested.namespace, builds=())
    return {
        "templateID": requested.template.template_id,
        "buildID": requested.build.build_id,
        "public": requested.template.public,
        **_names(view),
        "tags": list(requested.tags),
    }


def render_template(view: TemplateView) -> dict[str, Any]:
    """``Template`` for a team's template."""
    row, build = view.template, view.newest
    return {
        "templateID": row.template_id,
        "buildID": "" if build is None else build.build_id,
        "cpuCount": 0 if build is None else whole_cpus(build.cpu_count),
        "memoryMB": 0 if build is None else build.mem_mib,
        "diskSizeMB": 0 if build is None else build.disk_mib,
        "public": row.public,
        **_names(view),
        "createdAt": render_time(row.created_at),
        "updatedAt": render_time(row.updated_at),
        "createdBy": None,
        "lastSpawnedAt": None if row.last_spawned_at is None else render_time(row.last_spawned_at),
        "spawnCount": row.spawn_count,
        "buildCount": len(view.builds),
        "envdVersion": ENVD_VERSION,
        "buildStatus": (BuildStatus.WAITING if build is None else _told(build)).value,
        "isDefault": False,
    }


def render_stock(template: Template, since: float) -> dict[str, Any]:
    """``Template`` for a stock template. ``since`` is used for one without a build time."""
    created_at = render_time(template.created_at or since)
    return {
        "templateID": template.template_id,
        "buildID": template.build_id,
        "cpuCount": whole_cpus(template.limits.cpu_count),
        "memoryMB": template.limits.mem_mib,
        "diskSizeMB": template.limits.disk_mib,
        "public": True,
        "aliases": [template.name, *template.aliases],
        "names": [template.name, *template.aliases],
        "createdAt": created_at,
        "updatedAt": created_at,
        "createdBy": None,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "buildCount": 1,
        "envdVersion": ENVD_VERSION,
        "buildStatus": "ready",
        "isDefault": True,
    }


def _told(build: Build) -> BuildStatus:
    """A started build is reported as building, even while it waits in the node's queue."""
    return BuildStatus.BUILDING if build.status is BuildStatus.WAITING and build.started_at is not None else build.status


def render_build(build: Build) -> dict[str, Any]:
    """``TemplateBuild``."""
    return {
        "buildID": build.build_id,
        "status": _told(build).value,
        "createdAt": render_time(build.created_at),
        "updatedAt": render_time(build.updated_at),
        **({} if build.finished_at is None else {"finishedAt": render_time(build.finished_at)}),
        "cpuCount": whole_cpus(build.cpu_count),
        "memoryMB": build.mem_mib,
        "diskSizeMB": build.disk_mib,
        "envdVersion": ENVD_VERSION,
    }


def render_view(template_id: str, view: BuildStatusView) -> dict[str, Any]:
    """``TemplateBuildInfo``."""
    build = view.build
    reason = {
        "message": build.message or "the build failed",
        **({} if build.step is None else {"step": build.step}),
        "logEntries": [render_entry(entry) for entry in view.tail],
    }
    return {
        "templateID": template_id,
        "buildID": build.build_id,
        "status": _told(build).value,
        "logs": [],
        "logEntries": [render_entry(entry) for entry in view.entries],
        **({"reason": reason} if build.status is BuildStatus.ERROR else {}),
    }


def render_entry(entry: BuildLogEntry) -> dict[str, Any]:
    """``BuildLogEntry``."""
    step = {} if entry.step is None else {"step": entry.step}
    return {"timestamp": render_time(entry.at), "message": entry.message, "level": entry.level, **step}


def render_tag(assignment: TagAssignment) -> dict[str, Any]:
    """``TemplateTag``."""
    return {"tag": assignment.tag, "buildID": assignment.build_id, "createdAt": render_time(assignment.assigned_at)}


def render_assignment(assignment: TagAssignment) -> dict[str, Any]:
    """``TemplateTagAssignment``."""
    finished_at = assignment.build_finished_at
    return {
        "assignmentId": assignment.assignment_id,
        "buildId": assignment.build_id,
        "assignedAt": render_time(assignment.assigned_at),
        "buildCreatedAt": render_time(assignment.build_created_at),
        "buildFinishedAt": None if finished_at is None else render_time(finished_at),
    }


def render_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """``SnapshotInfo``."""
    return {"snapshotID": snapshot.snapshot_id, "names": snapshot.names}
