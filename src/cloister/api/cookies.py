"""Reads the console's session from a request: the key that a browser's cookie stands for.

Invariant: a cookie alone opens nothing, because browsers send it without a page's doing. A request also shows the session's token in a
header, and comes from a page of this very origin. So neither another site nor a page of a sandbox on a subdomain can use the session.
"""

from __future__ import annotations

import hmac

from aiohttp import web

from cloister.control.keys import HashedKey
from cloister.control.sessions import Session, Sessions
from cloister.errors import AuthenticationError, PermissionDeniedError
from cloister.model.console import COOKIE, SECURE_COOKIE

__all__ = ["TOKEN_HEADER", "check_origin", "cookie_name", "is_by_tls", "session_id_of", "session_key", "session_of"]

TOKEN_HEADER = "X-Console-Token"  # noqa: S105 - the name of a header
_MAX_ID = 100


def is_by_tls(request: web.BaseRequest) -> bool:
    """Whether the browser came by TLS, as far as the listener, a proxy or the browser says: the cookie then is for TLS only."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return request.secure or forwarded == "https" or request.headers.get("Origin", "").startswith("https://")


def cookie_name(request: web.BaseRequest) -> str:
    """The name of the console's cookie for this browser."""
    return SECURE_COOKIE if is_by_tls(request) else COOKIE


def session_id_of(request: web.BaseRequest) -> str | None:
    """The id in the console's cookie; None: there is not exactly one.

    Under TLS only the one with the prefix counts, and elsewhere it counts first: a page on a subdomain can set the other one.
    """
    pairs = [pair.strip().partition("=") for header in request.headers.getall("Cookie", ()) for pair in header.split(";")]
    found = [value for name, _, value in pairs if name == SECURE_COOKIE]
    if not found and not is_by_tls(request):
        found = [value for name, _, value in pairs if name == COOKIE]
    return found[0] if len(found) == 1 and 0 < len(found[0]) <= _MAX_ID else None


def check_origin(request: web.BaseRequest) -> None:
    """Refuse a request of another site's page, or of a page on a subdomain, by what browsers say of it. Raises: PermissionDeniedError."""
    origin = request.headers.get("Origin")
    is_own = origin is None or origin.partition("://")[2] == request.host
    if not is_own or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise PermissionDeniedError("only the console's own pages may use its session")


def session_of(sessions: Sessions, request: web.BaseRequest) -> Session:
    """The session of the cookie. Raises: AuthenticationError: there is none, or it has ended."""
    session_id = session_id_of(request)
    session = None if session_id is None else sessions.find(session_id)
    if session is None:
        raise AuthenticationError("the session has ended", hint="log in again")
    return session


def session_key(sessions: Sessions, request: web.BaseRequest) -> HashedKey | None:
    """The key of the request's session; None: the request shows no session's token.

    Raises:
        AuthenticationError: it shows one, and there is no session.
        PermissionDeniedError: the token is not the session's, or another site's page sent the request.
    """
    token = request.headers.get(TOKEN_HEADER)
    if token is None:
        return None
    check_origin(request)
    session = session_of(sessions, request)
    if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), session.token.encode()):
        raise PermissionDeniedError("the token is not the session's", hint="load the console anew")
    return session.key
