"""Records the changes that requests make, and serves the records: ``GET /audit``.

A record names the action and the object's id, and has nothing of a body, a header or a query. Requests without a valid key make no
record: they change nothing, and they could fill the files. The server's log has them.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from aiohttp import web

from cloister.api.auth import authenticate, check_scope
from cloister.api.errors import status_of
from cloister.api.handlers import KEY_ID, OBJECT_ID, REQUEST_ID, SANDBOX_ID, TEAM_ID, Api, json_answer
from cloister.api.paging import parse_limit, parse_position, render_cursor
from cloister.errors import CloisterError, InvalidRequestError, PermissionDeniedError
from cloister.model.audit import AuditQuery, AuditRecord, StoredRecord
from cloister.model.team import KeyScope, Team

__all__ = ["ACTIONS", "AUDIT_PATH", "list_records", "recorded", "recorded_of_operator"]

_Handler = Callable[[Api, web.Request, Team], Awaitable[web.Response]]
_OperatorHandler = Callable[[Api, web.Request], Awaitable[web.Response]]

AUDIT_PATH = "/audit"
ACTIONS = {
    ("POST", "/sandboxes"): "sandbox.create",
    ("POST", "/v2/sandboxes"): "sandbox.create",
    ("DELETE", "/sandboxes/{sandbox_id}"): "sandbox.kill",
    ("POST", "/sandboxes/{sandbox_id}/timeout"): "sandbox.set_timeout",
    ("POST", "/sandboxes/{sandbox_id}/refreshes"): "sandbox.set_timeout",
    ("PUT", "/sandboxes/{sandbox_id}/network"): "sandbox.set_network",
    ("POST", "/sandboxes/{sandbox_id}/pause"): "sandbox.pause",
    ("POST", "/sandboxes/{sandbox_id}/resume"): "sandbox.resume",
    ("POST", "/sandboxes/{sandbox_id}/connect"): "sandbox.connect",
    ("POST", "/v2/sandboxes/{sandbox_id}/connect"): "sandbox.connect",
    ("POST", "/sandboxes/{sandbox_id}/snapshots"): "sandbox.snapshot",
    ("POST", "/sandboxes/{sandbox_id}/fork"): "sandbox.fork",
    ("POST", "/templates/tags"): "template.tag",
    ("DELETE", "/templates/tags"): "template.untag",
    ("DELETE", "/templates/{template_id}"): "template.delete",
    ("PATCH", "/templates/{template_id}"): "template.update",
    ("PATCH", "/v2/templates/{template_id}"): "template.update",
    ("POST", "/v2/templates"): "template.request_build",
    ("POST", "/v3/templates"): "template.request_build",
    ("POST", "/v2/templates/{template_id}/builds/{build_id}"): "template.build",
    ("DELETE", "/templates/{template_id}/builds/{build_id}"): "template.cancel_build",
    ("POST", "/secrets"): "secret.create",
    ("POST", "/secrets/{secret_id}"): "secret.update",
    ("DELETE", "/secrets/{secret_id}"): "secret.delete",
    ("POST", "/api-keys"): "key.create",
    ("PATCH", "/api-keys/{key_id}"): "key.rename",
    ("DELETE", "/api-keys/{key_id}"): "key.revoke",
    ("POST", "/access-tokens"): "key.create",
    ("DELETE", "/access-tokens/{key_id}"): "key.revoke",
    ("POST", "/admin/teams"): "team.create",
    ("PATCH", "/admin/teams/{team_id}"): "team.limit",
    ("DELETE", "/admin/teams/{team_id}"): "team.remove",
    ("POST", "/admin/teams/{team_id}/api-keys"): "key.create",
    ("DELETE", "/admin/teams/{team_id}/api-keys/{key_id}"): "key.revoke",
    ("POST", "/admin/teams/{team_id}/sandboxes/kill"): "team.kill_sandboxes",
    ("DELETE", "/admin/sandboxes/{sandbox_id}"): "sandbox.kill",
    ("POST", "/nodes/{node_id}"): "node.change",
    ("DELETE", "/nodes/{node_id}"): "node.remove",
    ("POST", "/console/session"): "session.create",
    ("POST", "/volumes"): "volume.create",
    ("DELETE", "/volumes/{volume_id}"): "volume.delete",
    ("POST", "/volumes/{volume_id}/copy"): "volume.copy",
    ("POST", "/events/webhooks"): "webhook.create",
    ("PATCH", "/events/webhooks/{webhook_id}"): "webhook.update",
    ("DELETE", "/events/webhooks/{webhook_id}"): "webhook.delete",
    ("POST", "/events/webhooks/{webhook_id}/deliveries/{delivery_id}"): "webhook.send_again",
}
"""Names of the actions. A route that changes something and is not here is recorded by its method and path."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_NOT_OF_IDS = re.compile(r"[^A-Za-z0-9._:/-]")
_CANCELLED = 499
"""Status of requests whose client went away before the answer, as proxies write it."""


def recorded(method: str, path: str, handler: _Handler) -> _Handler:
    """``handler``, with a record of each request; or as it is, if requests of the route change nothing."""
    if method in _READS:
        return handler

    async def handle(api: Api, request: web.Request, team: Team) -> web.Response:
        return await _record(api, request, _action(method, path), lambda: handler(api, request, team))

    return handle


def recorded_of_operator(method: str, path: str, handler: _OperatorHandler) -> _OperatorHandler:
    """As :func:`recorded`, of a route for an operator's key. The record is of the team that the request was about, if there is one."""
    if method in _READS:
        return handler

    async def handle(api: Api, request: web.Request) -> web.Response:
        return await _record(api, request, _action(method, path), lambda: handler(api, request))

    return handle


def _action(method: str, path: str) -> str:
    return ACTIONS.get((method, path), f"{method} {path}")


async def _record(api: Api, request: web.Request, action: str, work: Callable[[], Awaitable[web.Response]]) -> web.Response:
    status = _CANCELLED
    error: str | None = "cancelled"
    try:
        api.audit.check_writable()
        response = await work()
        status, error = response.status, None
    except CloisterError as fault:
        status, error = status_of(fault), fault.code
        raise
    except web.HTTPException as fault:
        status, error = fault.status, "invalid_request"
        raise
    except Exception:
        status, error = 500, "internal"
        raise
    else:
        return response
    finally:
        api.audit.add(
            AuditRecord(
                at=time.time(),
                team_id=request.get(TEAM_ID),
                key_id=request.get(KEY_ID),
                address=api.peers.address(request),
                action=action,
                object_id=_object_of(request),
                status=status,
                error=error,
                request_id=request.get(REQUEST_ID),
            )
        )


def _object_of(request: web.Request) -> str:
    """The id of the request's object: of one that it made, or that in the path, which may be any text."""
    made = request.get(OBJECT_ID) or request.get(SANDBOX_ID)
    names = request.match_info
    return made or _NOT_OF_IDS.sub("?", "/".join(names[name] for name in names if name.endswith("_id")))


async def list_records(api: Api, request: web.Request) -> web.Response:
    """``GET /audit``: the records of the key's team, latest first, in pages. A key of the scope ``admin`` shows those of all teams.

    Raises: InvalidRequestError; and as :func:`~cloister.api.auth.authenticate`.
    """
    query = request.query
    owner = await _readable_owner(api, request, query.get("team") or None)
    page = await api.audit.read(
        AuditQuery(
            owner=owner,
            action=query.get("action") or None,
            object_id=query.get("objectID") or None,
            since=_parse_since(query.get("since")),
            before=parse_position(query, "nextToken"),
            limit=parse_limit(query),
        )
    )
    headers = {} if page.following is None else {"X-Next-Token": render_cursor(list(page.following))}
    return json_answer([_render(one) for one in page.records], headers=headers)


async def _readable_owner(api: Api, request: web.Request, wanted: str | None) -> str | None:
    """The owner whose records the request may read and wants; None: of all owners."""
    with contextlib.suppress(PermissionDeniedError):
        await check_scope(api, request, KeyScope.ADMIN)
        return wanted
    own = (await authenticate(api, request)).team_id
    if wanted not in (None, own):
        raise PermissionDeniedError("a team's key gives access to the team's own records only")
    return own


def _parse_since(text: str | None) -> float | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError
        return at.timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("since must be a time with its zone, such as 2030-01-31T12:00:00Z") from error


def _render(stored: StoredRecord) -> dict[str, Any]:
    record = stored.record.to_json()
    return {
        "number": stored.number,
        "timestamp": record["at"],
        "teamID": record["team_id"],
        "keyID": record["key_id"],
        "address": record["address"],
        "action": record["action"],
        "objectID": record["object_id"],
        "status": record["status"],
        "error": record["error"],
        "requestID": record["request_id"],
    }
