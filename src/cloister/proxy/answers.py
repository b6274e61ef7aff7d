"""Answers that the ingress gives in a sandbox's stead, in the published shapes.

SDKs tell a sandbox that is gone from one whose port is closed by the words ``was not found`` and ``port is not open``; keep them.
A browser that navigates gets a page instead of JSON.
"""

from __future__ import annotations

import html
import json
from typing import Any

from aiohttp import web

__all__ = ["gone", "malformed", "not_found", "port_closed", "refused", "unavailable", "unusable"]


def _answer(request: web.BaseRequest, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    body = {**body, "code": status}
    fetching = request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
    if fetching and "text/html" in request.headers.get("Accept", ""):
        text = html.escape(str(body["message"]))
        page = f"<!doctype html><meta charset=utf-8><title>{status}</title><h1>{status}</h1><p>{text}</p>\n"
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", headers=headers)


def malformed(request: web.BaseRequest, message: str) -> web.Response:
    """400: the address is not a possible one."""
    return _answer(request, 400, {"message": message})


def not_found(request: web.BaseRequest, sandbox_id: str) -> web.Response:
    """502: no sandbox of that id is known."""
    return _answer(request, 502, {"sandboxId": sandbox_id, "message": "The sandbox was not found"})


def gone(request: web.BaseRequest, sandbox_id: str, why: str) -> web.Response:
    """502: the sandbox ended, and why."""
    return _answer(request, 502, {"sandboxId": sandbox_id, "message": f"The sandbox was not found: it {why}", "reason": why})


def port_closed(request: web.BaseRequest, sandbox_id: str, port: int) -> web.Response:
    """502: the sandbox runs, and nothing listens there."""
    message = "The sandbox is running but port is not open"
    return _answer(request, 502, {"sandboxId": sandbox_id, "message": message, "port": port})


def unusable(request: web.BaseRequest, sandbox_id: str, port: int, detail: str) -> web.Response:
    """502: what listens there hung up or does not speak HTTP."""
    message = f"The program on port {port} of the sandbox gave no usable answer: {detail}"
    return _answer(request, 502, {"sandboxId": sandbox_id, "message": message, "port": port})


def refused(request: web.BaseRequest, status: int, message: str) -> web.Response:
    """A request that must not reach the sandbox."""
    return _answer(request, status, {"message": message})


def unavailable(request: web.BaseRequest, sandbox_id: str, message: str) -> web.Response:
    """503: the part of the server that reaches sandboxes does not answer now."""
    return _answer(request, 503, {"sandboxId": sandbox_id, "message": message}, {"Retry-After": "1", "Should-Retry": "true"})
