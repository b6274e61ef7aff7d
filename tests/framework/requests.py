"""Requests to a control plane under test, and to ports of its fake sandboxes."""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web

from framework.control_plane import ControlPlane
from framework.fake_node import FakeSandbox
from framework.http import Answer, call

__all__ = ["PORT", "ask", "create", "echo", "records", "sandbox", "to"]

PORT = 8080


def ask(plane: ControlPlane, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """An authenticated request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(plane.url, method, path, body=body, headers={"X-API-KEY": plane.api_key, **named})


def create(plane: ControlPlane, path: str = "/v2/sandboxes", **fields: Any) -> dict[str, Any]:
    """A sandbox, as the create call answered it."""
    answer = ask(plane, "POST", path, {"templateID": "base", **fields})
    assert answer.status == 201, answer.body
    created: dict[str, Any] = answer.json()
    return created


def sandbox(plane: ControlPlane, **fields: Any) -> tuple[str, FakeSandbox]:
    """A new sandbox and its inside."""
    sandbox_id = create(plane, **fields)["sandboxID"]
    return sandbox_id, plane.node.find(sandbox_id)


def records(plane: ControlPlane, **query: str) -> list[dict[str, Any]]:
    """The team's records of the audit log, latest first."""
    answer = ask(plane, "GET", "/audit?" + "&".join(f"{name}={value}" for name, value in query.items()))
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()
    return found


def to(sandbox_id: str, port: int = PORT, **more: str) -> dict[str, str]:
    """The headers that address a sandbox's port."""
    return {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port), **{name.replace("_", "-"): value for name, value in more.items()}}


async def echo(request: web.Request) -> web.Response:
    """A server inside: what it saw of the request."""
    body = await request.read()
    seen = {
        "method": request.method,
        "target": request.raw_path,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers],
        "sha": hashlib.sha256(body).hexdigest(),
        "length": len(body),
    }
    return web.json_response(seen, headers={"X-Seen": "yes", "Set-Cookie": "a=b"})
