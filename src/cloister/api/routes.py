"""The table of REST routes: what is served, and what is known of the published API but not built, which is refused by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cloister.api import logs, metrics, sandboxes, templates
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
    ("GET", "/templates", templates.list_templates),
    ("GET", "/v2/templates", templates.list_templates),
    ("GET", "/templates/aliases/{alias}", templates.find_alias),
    ("GET", "/teams", templates.list_teams),
    ("GET", "/metrics", metrics.metrics),
)

NOT_BUILT: tuple[tuple[str, str, str], ...] = (
    ("POST", "/sandboxes/{sandbox_id}/pause", "pausing a sandbox"),
    ("POST", "/sandboxes/{sandbox_id}/resume", "resuming a sandbox"),
    ("POST", "/sandboxes/{sandbox_id}/snapshots", "snapshots"),
    ("GET", "/snapshots", "snapshots"),
    ("POST", "/sandboxes/{sandbox_id}/fork", "forking a sandbox"),
    ("PUT", "/sandboxes/{sandbox_id}/network", "changing a sandbox's network"),
    ("POST", "/v3/templates", "building templates by the API"),
    ("POST", "/v2/templates", "building templates by the API"),
    ("POST", "/templates", "building templates by the API"),
    ("DELETE", "/templates/{template_id}", "deleting templates by the API"),
    ("PATCH", "/v2/templates/{template_id}", "changing templates by the API"),
    ("PATCH", "/templates/{template_id}", "changing templates by the API"),
    ("POST", "/templates/tags", "template tags"),
    ("DELETE", "/templates/tags", "template tags"),
    ("GET", "/templates/{template_id}/tags", "template tags"),
    ("*", "/volumes", "volumes"),
    ("*", "/volumes/{volume_id}", "volumes"),
    ("*", "/secrets", "secrets"),
    ("*", "/secrets/{secret_id}", "secrets"),
)
