"""The table of REST routes: served ones, and routes of the published API that are not built and are refused by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from cloister.api import (
    admin,
    builds,
    events,
    forks,
    keys,
    lifecycles,
    logs,
    network_record,
    networks,
    nodes,
    sandboxes,
    secrets,
    snapshots,
    tags,
    teams,
    templates,
    volumes,
    webhook_stats,
    webhooks,
)
from cloister.api.handlers import Api
from cloister.model.team import Team

__all__ = ["ADMIN_ROUTES", "HINTS", "NOT_BUILT", "ROUTES", "AdminHandler", "Handler"]

Handler = Callable[[Api, web.Request, Team], Awaitable[web.Response]]
AdminHandler = Callable[[Api, web.Request], Awaitable[web.Response]]

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/sandboxes", sandboxes.create),
    ("POST", "/v2/sandboxes", sandboxes.create_v2),
    ("GET", "/sandboxes", sandboxes.list_running),
    ("GET", "/v2/sandboxes", sandboxes.list_all),
    ("GET", "/sandboxes/metrics", sandboxes.metrics_of_many),
    ("GET", "/sandboxes/{sandbox_id}", sandboxes.get),
    ("DELETE", "/sandboxes/{sandbox_id}", sandboxes.kill),
    ("POST", "/sandboxes/{sandbox_id}/timeout", lifecycles.set_timeout),
    ("POST", "/sandboxes/{sandbox_id}/refreshes", sandboxes.refresh),
    ("PUT", "/sandboxes/{sandbox_id}/network", networks.change),
    ("POST", "/sandboxes/{sandbox_id}/pause", lifecycles.pause),
    ("POST", "/sandboxes/{sandbox_id}/resume", lifecycles.resume),
    ("POST", "/sandboxes/{sandbox_id}/connect", lifecycles.connect),
    ("POST", "/v2/sandboxes/{sandbox_id}/connect", lifecycles.connect_v2),
    ("GET", "/sandboxes/{sandbox_id}/metrics", sandboxes.metrics),
    ("GET", "/sandboxes/{sandbox_id}/logs", logs.logs),
    ("GET", "/v2/sandboxes/{sandbox_id}/logs", logs.logs_v2),
    ("GET", "/sandboxes/{sandbox_id}/connections", network_record.connections),
    ("POST", "/sandboxes/{sandbox_id}/snapshots", snapshots.create),
    ("POST", "/sandboxes/{sandbox_id}/fork", forks.fork),
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
    ("POST", "/v2/templates", builds.request_second_build),
    ("POST", "/v3/templates", builds.request_build),
    ("GET", "/templates/{template_id}/files/{hash}", builds.offer),
    ("POST", "/v2/templates/{template_id}/builds/{build_id}", builds.start),
    ("GET", "/templates/{template_id}/builds/{build_id}/status", builds.status),
    ("GET", "/templates/{template_id}/builds/{build_id}/logs", builds.logs),
    ("DELETE", "/templates/{template_id}/builds/{build_id}", builds.cancel),
    ("POST", "/secrets", secrets.create),
    ("GET", "/secrets", secrets.list_all),
    ("GET", "/secrets/{secret_id}", secrets.get),
    ("POST", "/secrets/{secret_id}", secrets.update),
    ("DELETE", "/secrets/{secret_id}", secrets.delete),
    ("POST", "/volumes", volumes.create),
    ("GET", "/volumes", volumes.list_all),
    ("GET", "/volumes/{volume_id}", volumes.get),
    ("DELETE", "/volumes/{volume_id}", volumes.delete),
    ("POST", "/volumes/{volume_id}/copy", volumes.copy),
    ("GET", "/teams", teams.list_teams),
    ("GET", "/teams/{team_id}/metrics", teams.metrics),
    ("GET", "/teams/{team_id}/metrics/max", teams.highest),
    ("GET", "/api-keys", keys.list_keys),
    ("POST", "/api-keys", keys.create),
    ("PATCH", "/api-keys/{key_id}", keys.rename),
    ("DELETE", "/api-keys/{key_id}", keys.revoke),
    ("POST", "/access-tokens", keys.create_token),
    ("DELETE", "/access-tokens/{key_id}", keys.revoke),
    ("GET", "/events/sandboxes", events.list_events),
    ("GET", "/events/sandboxes/{sandbox_id}", events.list_of_sandbox),
    ("POST", "/events/webhooks", webhooks.create),
    ("GET", "/events/webhooks", webhooks.list_all),
    ("GET", "/events/webhooks/{webhook_id}", webhooks.get),
    ("PATCH", "/events/webhooks/{webhook_id}", webhooks.change),
    ("DELETE", "/events/webhooks/{webhook_id}", webhooks.delete),
    ("GET", "/events/webhooks/{webhook_id}/stats", webhook_stats.stats),
    ("GET", "/events/webhooks/{webhook_id}/deliveries", webhooks.deliveries),
    ("POST", "/events/webhooks/{webhook_id}/deliveries/{delivery_id}", webhooks.send_again),
)

ADMIN_ROUTES: tuple[tuple[str, str, AdminHandler], ...] = (
    ("GET", "/admin/teams", admin.list_teams),
    ("POST", "/admin/teams", admin.create_team),
    ("GET", "/admin/teams/{team_id}", admin.get_team),
    ("PATCH", "/admin/teams/{team_id}", admin.limit_team),
    ("DELETE", "/admin/teams/{team_id}", admin.remove_team),
    ("GET", "/admin/teams/{team_id}/api-keys", admin.list_keys),
    ("POST", "/admin/teams/{team_id}/api-keys", admin.create_key),
    ("DELETE", "/admin/teams/{team_id}/api-keys/{key_id}", admin.revoke_key),
    ("POST", "/admin/teams/{team_id}/sandboxes/kill", admin.kill_sandboxes),
    ("GET", "/admin/sandboxes/running-counts", admin.running_counts),
    ("GET", "/admin/sandboxes", admin.list_sandboxes),
    ("DELETE", "/admin/sandboxes/{sandbox_id}", admin.kill_sandbox),
    ("GET", "/admin/node", admin.node_state),
    ("GET", "/nodes", nodes.list_nodes),
    ("GET", "/nodes/{node_id}", nodes.get_node),
    ("POST", "/nodes/{node_id}", nodes.change_node),
    ("DELETE", "/nodes/{node_id}", nodes.remove_node),
)
"""Routes for a key of the scope ``admin``."""

_DOCKER_BUILDS = "the first build system, which pushes an image by Docker,"
HINTS = {
    _DOCKER_BUILDS: "'e2b template migrate' turns an e2b.Dockerfile into a template that builds here, as Template().from_dockerfile() does"
}
"""Alternatives to routes that are not built."""
NOT_BUILT: tuple[tuple[str, str, str], ...] = (
    ("POST", "/templates", _DOCKER_BUILDS),
    ("POST", "/templates/{template_id}", _DOCKER_BUILDS),
    ("POST", "/templates/{template_id}/builds/{build_id}", _DOCKER_BUILDS),
)
