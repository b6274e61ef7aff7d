"""The table of REST routes: what is served, and what is known of the published API but not built, which is refused by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cloister.api import builds, logs, metrics, sandboxes, snapshots, tags, templates
from cloister.api.handlers import Api
from cloister.store.base import Team

__all__ = ["NOT_BUILT", "ROUTES", "Handler"]

Handler = Callable[[Api, web.Request, Team], Awaitable[web.Response]]

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/sandboxes", sandboxes.create),
    ("POST", "/v2/sandboxes", sandboxes.create_v2),
    ("GET", "/sandboxes", sandboxes.list_running),
    ("GET", "/v2/sandboxes", sandboxes.list_all),
    ("GET", "/sandboxes/metrics", sandboxes.metrics_of_many),
    ("GET", "/sandboxes/{sandbox_id}", sandboxes.get),
    ("DELETE", "/sandboxes/{sandbox_id}", sandboxes.kill),
    ("POST", "/sandboxes/{sandbox_id}/timeout", sandboxes.set_timeout),
    ("POST", "/sandboxes/{sandbox_id}/refreshes", sandboxes.refresh),
    ("POST", "/sandboxes/{sandbox_id}/connect", sandboxes.connect),
    ("POST", "/v2/sandboxes/{sandbox_id}/connect", sandboxes.connect_v2),
    ("GET", "/sandboxes/{sandbox_id}/metrics", sandboxes.metrics),
    ("GET", "/sandboxes/{sandbox_id}/logs", logs.logs),
    ("GET", "/v2/sandboxes/{sandbox_id}/logs", logs.logs_v2),
    ("POST", "/sandboxes/{sandbox_id}/snapshots", snapshots.create),
    ("GET", "/snapshots", snapshots.list_snapshots),
    ("GET", "/templates", templates.list_templates),
    ("GET", "/v2/templates", templates.list_pages),
    ("GET", "/default-templates", templates.list_default),
    ("GET", "/templates/aliases/{alias}", templates.find_alias),
    ("POST", "/templates/tags", tags.assign),
    ("DELETE", "/templates/tags", tags.remove),
    ("GET", "/templates/{template_id}/tags", tags.list_tags),
    ("GET", "/templates/{template_id}/tags/count", tags.count),
    ("GET", "/templates/{template_id}/tags/exists", tags.exists),
    ("GET", "/templates/{template_id}/tags/groups", tags.groups),
    ("GET", "/templates/{template_id}/tags/{tag}/assignments", tags.assignments),
    ("GET", "/templates/{template_id}", templates.get),
    ("DELETE", "/templates/{template_id}", templates.delete),
    ("PATCH", "/templates/{template_id}", templates.change),
    ("PATCH", "/v2/templates/{template_id}", templates.change),
    ("POST", "/v3/templates", builds.request_build),
    ("GET", "/templates/{template_id}/files/{hash}", builds.offer),
    ("POST", "/v2/templates/{template_id}/builds/{build_id}", builds.start),
    ("GET", "/templates/{template_id}/builds/{build_id}/status", builds.status),
    ("GET", "/templates/{template_id}/builds/{build_id}/logs", builds.logs),
    ("DELETE", "/templates/{template_id}/builds/{build_id}", builds.cancel),
    ("GET", "/teams", templates.list_teams),
    ("GET", "/metrics", metrics.metrics),
)

NOT_BUILT: tuple[tuple[str, str, str], ...] = (
    ("POST", "/sandboxes/{sandbox_id}/pause", "pausing a sandbox"),
    ("POST", "/sandboxes/{sandbox_id}/resume", "resuming a sandbox"),
    ("POST", "/sandboxes/{sandbox_id}/fork", "forking a sandbox"),
    ("PUT", "/sandboxes/{sandbox_id}/network", "changing a sandbox's network"),
    ("POST", "/v2/templates", "building templates by the first build system"),
    ("POST", "/templates", "building templates by the first build system"),
    ("POST", "/templates/{template_id}", "building templates by the first build system"),
    ("POST", "/templates/{template_id}/builds/{build_id}", "building templates by the first build system"),
    ("*", "/volumes", "volumes"),
    ("*", "/volumes/{volume_id}", "volumes"),
    ("*", "/secrets", "secrets"),
    ("*", "/secrets/{secret_id}", "secrets"),
)
