"""Errors of the project as HTTP answers: the one place where a fault gets a status.

Every answer is ``{"code": int, "message": str}``: the JavaScript SDK reads the status from the body, the Python SDK from the status line.
"""

from __future__ import annotations

import json

from aiohttp import web

from cloister.errors import (
    AuthenticationError,
    CloisterError,
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    NoCapacityError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    StartFailedError,
    StorageFullError,
    TooLargeError,
    UnavailableError,
)

__all__ = ["error_response", "render_error"]

_STATUS: tuple[tuple[type[CloisterError], int], ...] = (
    (TooLargeError, 413),
    (InvalidRequestError, 400),
    (AuthenticationError, 401),
    (PermissionDeniedError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (QuotaExceededError, 429),
    (RateLimitedError, 429),
    (StorageFullError, 507),
    (NoCapacityError, 503),
    (UnavailableError, 503),
    (DeadlineError, 504),
    (StartFailedError, 500),
)
_RETRY: tuple[tuple[type[CloisterError], dict[str, str]], ...] = (
    (QuotaExceededError, {"Should-Retry": "false"}),
    (RateLimitedError, {"Should-Retry": "true", "Retry-After": "1"}),
    (NoCapacityError, {"Should-Retry": "true", "Retry-After": "2"}),
    (UnavailableError, {"Should-Retry": "true", "Retry-After": "1"}),
    (DeadlineError, {"Should-Retry": "false"}),
    (StartFailedError, {"Should-Retry": "false"}),
)


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An answer of the published error shape."""
    body = json.dumps({"code": status, "message": message}).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def render_error(error: CloisterError) -> web.Response:
    """The answer for ``error``: 500 for what is not listed, which is a fault of ours."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = next((headers for kind, headers in _RETRY if isinstance(error, kind)), None)
    return error_response(status, str(error), headers)
