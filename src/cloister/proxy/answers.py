"""Responses of the ingress itself, in the published shapes.

SDKs recognise an ended sandbox by the words ``was not found`` and a closed port by ``port is not open``, so the messages are exactly the
published ones. ``reason`` has what this server adds. A browser gets a page instead of JSON, unless a script in a page asks. The ingress
grants a browser's preflight request, so that the page can read the response.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from cloister.errors import (
    AgentSilentAtPauseError,
    CloisterError,
    ConflictError,
    LimitError,
    QuotaExceededError,
    RateLimitedError,
    UnavailableError,
)
from cloister.protocol.cors import ANY_ORIGIN, is_preflight, preflight_headers

__all__ = ["absent", "malformed", "no_traffic_token", "not_woken", "port_closed", "refused", "slowed", "unavailable", "unusable"]

_SECURED = "Sandbox is secured with traffic access token. "
_TOKEN_HEADER = "'e2b-traffic-access-token'"  # noqa: S105 - the name of a header
_LATER = {"Retry-After": "1", "Should-Retry": "false"}
_PAGE = """<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{text}</p></body>
</html>
"""
_BROWSERS = ("mozilla", "chrome", "safari", "firefox", "edge", "opera", "msie")
_OF_SCRIPTS = {"cors", "no-cors", "same-origin", "websocket"}
"""Values of ``Sec-Fetch-Mode`` of requests that no person sees the answer of."""


def _answer(
    request: web.BaseRequest, status: int, body: dict[str, Any], headers: dict[str, str] | None = None, *, title: str = "", text: str = ""
) -> web.Response:
    """A page shows ``title`` and ``text``, if given, instead of the status and the message."""
    if "Origin" in request.headers:
        headers = {**(headers or {}), **ANY_ORIGIN}
    if is_preflight(request.method, request.headers):
        return web.Response(status=204, headers={**(headers or {}), **preflight_headers(request.headers)})
    body = {**body, "code": status}
    if _is_of_a_browser(request.headers):
        page = _PAGE.format(title=html.escape(title or str(status)), text=html.escape(text or str(body["message"])))
        return web.Response(status=status, text=page, content_type="text/html", headers=headers)
    return web.Response(status=status, text=json.dumps(body), content_type="application/json", headers=headers)


def _is_of_a_browser(headers: Mapping[str, str]) -> bool:
    """Whether a person will look at the answer: a browser asks, and not a script in one of its pages."""
    mode, accept = headers.get("Sec-Fetch-Mode", ""), headers.get("Accept", "")
    if mode in _OF_SCRIPTS or ("application/json" in accept and "text/html" not in accept):
        return False
    if mode != "navigate" and "X-Requested-With" in headers:
        return False
    return "text/html" in accept or any(name in headers.get("User-Agent", "").lower() for name in _BROWSERS)


def malformed(request: web.BaseRequest, message: str) -> web.Response:
    """400: the address is malformed."""
    return _answer(request, 400, {"message": message})


def absent(request: web.BaseRequest, sandbox_id: str, reason: str) -> web.Response:
    """502: no sandbox with that id runs. ``reason`` completes the sentence "The sandbox ..."."""
    body = {"sandboxId": sandbox_id, "message": "The sandbox was not found", "reason": reason}
    return _answer(request, 502, body, title="Sandbox Not Found", text=f"The sandbox {sandbox_id} was not found: it {reason}.")


def not_woken(request: web.BaseRequest, sandbox_id: str, error: CloisterError) -> web.Response:
    """The answer for a paused sandbox that ``error`` keeps from running: 429 for a quota, 409 if it takes too long, 502 or 503 else.

    It has no details of the error: they are the team's, and the ports of a sandbox may be public.
    """
    if isinstance(error, QuotaExceededError | RateLimitedError):
        message = "The sandbox is paused and cannot be resumed: its team has reached a limit"
        return _answer(request, 429, {"sandboxId": sandbox_id, "message": message}, _LATER)
    if isinstance(error, ConflictError) and not isinstance(error, AgentSilentAtPauseError):
        return _answer(request, 409, {"sandboxId": sandbox_id, "message": "The sandbox is paused and did not run again in time"})
    if isinstance(error, UnavailableError | LimitError):
        return unavailable(request, sandbox_id, "The sandbox is paused and cannot be resumed now: the server has no capacity for it")
    return absent(request, sandbox_id, "is paused and could not be resumed")


def port_closed(request: web.BaseRequest, sandbox_id: str, port: int) -> web.Response:
    """502: the sandbox runs, but no program listens on the port."""
    body = {"sandboxId": sandbox_id, "message": "The sandbox is running but port is not open", "port": port}
    text = f"The sandbox {sandbox_id} is running, but there is no service running on port {port}."
    return _answer(request, 502, body, title="Port Not Open", text=text)


def no_traffic_token(request: web.BaseRequest, sandbox_id: str, *, is_wrong: bool) -> web.Response:
    """403: the sandbox's ports require a token, which is missing or wrong."""
    what = f"Provided token in header {_TOKEN_HEADER} is invalid" if is_wrong else f"Token header {_TOKEN_HEADER} is missing"
    title = f"{'Invalid' if is_wrong else 'Missing'} Traffic Access Token"
    body = {"sandboxId": sandbox_id, "message": _SECURED + what}
    return _answer(request, 403, body, title=title, text=f"{sandbox_id}: {_SECURED}{what}.")


def unusable(request: web.BaseRequest, sandbox_id: str, port: int, detail: str) -> web.Response:
    """502: the program on the port closed the connection or does not speak HTTP."""
    message = f"The program on port {port} of the sandbox gave no usable answer: {detail}"
    return _answer(request, 502, {"sandboxId": sandbox_id, "message": message, "port": port})


def refused(request: web.BaseRequest, status: int, message: str) -> web.Response:
    """Refuse a request, with any status; it does not reach the sandbox."""
    return _answer(request, status, {"message": message})


def slowed(request: web.BaseRequest, message: str) -> web.Response:
    """429: the client sent too many wrong tokens."""
    return _answer(request, 429, {"message": message}, {"Retry-After": "10", "Should-Retry": "false"})


def unavailable(request: web.BaseRequest, sandbox_id: str, message: str) -> web.Response:
    """503: the supervisor, through which the ingress reaches sandboxes, does not answer now."""
    return _answer(request, 503, {"sandboxId": sandbox_id, "message": message}, {"Retry-After": "1", "Should-Retry": "true"})
