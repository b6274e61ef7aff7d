"""REST handlers of webhooks: parse, call control, render. No secret is ever rendered."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from cloister.api.bodies import read_json
from cloister.api.events import parse_types
from cloister.api.fields import Fields
from cloister.api.handlers import OBJECT_ID, Api, json_answer
from cloister.api.paging import parse_cursor, parse_limit, render_cursor
from cloister.api.schemas import render_time
from cloister.control.webhooks import WebhookChange
from cloister.errors import InvalidRequestError, NotFoundError
from cloister.model.event import Delivery, Webhook
from cloister.model.secret import Secret
from cloister.model.team import Team

__all__ = ["change", "create", "delete", "deliveries", "get", "list_all", "send_again"]

_STATES = {None: None, "": None, "waiting": False, "failed": True}
_MAX_DIGITS = 16


async def create(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /events/webhooks``."""
    webhook = await api.deliveries.webhooks.create(team.team_id, _parse(await read_json(api, request)))
    request[OBJECT_ID] = webhook.webhook_id
    return json_answer(_render(webhook), status=201)


async def list_all(api: Api, _request: web.Request, team: Team) -> web.Response:
    """``GET /events/webhooks``."""
    return json_answer([_render(one) for one in await api.deliveries.webhooks.list(team.team_id)])


async def get(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /events/webhooks/{webhook_id}``."""
    return json_answer(_render(await api.deliveries.webhooks.get(team.team_id, request.match_info["webhook_id"])))


async def change(api: Api, request: web.Request, team: Team) -> web.Response:
    """``PATCH /events/webhooks/{webhook_id}``: the fields that are given."""
    changed = await api.deliveries.webhooks.change(team.team_id, request.match_info["webhook_id"], _parse(await read_json(api, request)))
    api.deliveries.look()
    return json_answer(_render(changed))


async def delete(api: Api, request: web.Request, team: Team) -> web.Response:
    """``DELETE /events/webhooks/{webhook_id}``: deliveries that wait for it are dropped."""
    await api.deliveries.webhooks.delete(team.team_id, request.match_info["webhook_id"])
    return web.Response(status=200)


async def deliveries(api: Api, request: web.Request, team: Team) -> web.Response:
    """``GET /events/webhooks/{webhook_id}/deliveries``: those that wait or failed, newest first, in pages. The form is this server's."""
    state, limit = request.query.get("state"), parse_limit(request.query)
    if state not in _STATES:
        raise InvalidRequestError("state must be waiting or failed")
    before = parse_cursor(request.query, "nextToken")
    webhook_id = request.match_info["webhook_id"]
    found = await api.deliveries.webhooks.deliveries(team.team_id, webhook_id, is_dead=_STATES[state], before=before, limit=limit)
    headers = {"X-Next-Token": render_cursor(found[-1].number)} if len(found) == limit else {}
    return json_answer([_render_delivery(one) for one in found], headers=headers)


async def send_again(api: Api, request: web.Request, team: Team) -> web.Response:
    """``POST /events/webhooks/{webhook_id}/deliveries/{delivery_id}``: try one that failed again. This server's own."""
    text = request.match_info["delivery_id"]
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise NotFoundError("there is no such delivery that was given up")
    await api.deliveries.webhooks.send_again(team.team_id, request.match_info["webhook_id"], int(text))
    api.deliveries.look()
    return web.Response(status=202)


def _parse(body: object) -> WebhookChange:
    """``EventsWebhookCreate`` and ``EventsWebhookConfiguration``: all fields optional here."""
    fields = Fields(body)
    name, url = fields.take("name", str, None), fields.take("url", str, None)
    enabled, secret = fields.take("enabled", bool, None), fields.take("signatureSecret", str, None)
    events = fields.take_optional_list("events")
    fields.end()
    return WebhookChange(
        name=name,
        url=url,
        events=None if events is None else parse_types("events", events),
        enabled=enabled,
        secret=None if secret is None else Secret(secret),
    )


def _render(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.webhook_id,
        "teamId": webhook.team_id,
        "name": webhook.name,
        "createdAt": render_time(webhook.created_at),
        "enabled": webhook.enabled,
        "url": webhook.url,
        "events": list(webhook.events),
    }


def _render_delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": str(delivery.number),
        "state": "failed" if delivery.is_dead else "waiting",
        "attempts": delivery.attempts,
        "nextAttemptAt": None if delivery.is_dead else render_time(delivery.next_at),
        "status": delivery.status,
        "error": delivery.error,
        "eventId": delivery.event.event_id,
        "eventType": delivery.event.type.value,
        "sandboxId": delivery.event.sandbox_id,
        "timestamp": render_time(delivery.event.at),
    }
