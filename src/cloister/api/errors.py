"""Translates errors to HTTP answers; the only place that assigns statuses.

Every answer is ``{"code": int, "message": str}``, a few have ``error_code`` too. The JavaScript SDK reads the status from the body, the
Python SDK from the status line.
"""

from __future__ import annotations

import json

from aiohttp import web

from cloister.errors import (
    AgentSilentAtPauseError,
    AgentSilentError,
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
    SecretLimitError,
    StartFailedError,
    StartInFlightError,
    StorageFullError,
    StoreUnreachableError,
    TooLargeError,
    TooManyFailuresError,
    UnavailableError,
)

__all__ = ["error_response", "render_error", "status_of"]

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
    (StoreUnreachableError, 503),
    (DeadlineError, 504),
    (StartFailedError, 500),
)
_RETRY: tuple[tuple[type[CloisterError], dict[str, str]], ...] = (
    (QuotaExceededError, {"Should-Retry": "false"}),
    (TooManyFailuresError, {"Should-Retry": "false", "Retry-After": "10"}),
    (RateLimitedError, {"Should-Retry": "true", "Retry-After": "1"}),
    (NoCapacityError, {"Should-Retry": "true", "Retry-After": "2"}),
    (AgentSilentError, {"Should-Retry": "false"}),
    (UnavailableError, {"Should-Retry": "true", "Retry-After": "1"}),
    (StoreUnreachableError, {"Should-Retry": "true", "Retry-After": "1"}),
    (DeadlineError, {"Should-Retry": "false"}),
    (StartFailedError, {"Should-Retry": "false"}),
)
_PUBLISHED_CODES = (AgentSilentAtPauseError, SecretLimitError, StartInFlightError)
"""Errors that clients recognise by their code, as ``error_code``."""


def error_response(status: int, message: str, headers: dict[str, str] | None = None, *, error_code: str | None = None) -> web.Response:
    """An answer in the published error form."""
    body = json.dumps({"code": status, "message": message, **({} if error_code is None else {"error_code": error_code})}).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def status_of(error: CloisterError) -> int:
    """The status for ``error``; one that is not listed is internal: 500."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def render_error(error: CloisterError) -> web.Response:
    """The answer for ``error``."""
    status = status_of(error)
    headers = next((headers for kind, headers in _RETRY if isinstance(error, kind)), None)
    return error_response(status, str(error), headers, error_code=error.code if isinstance(error, _PUBLISHED_CODES) else None)
