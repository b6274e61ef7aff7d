"""Cross-origin access for browsers. The API, the ingress and the agent grant it to every origin, since none of them uses cookies.

A key or token is in a header, which a page can only send if it knows the value. ``Access-Control-Allow-Private-Network`` is never sent, so
that browsers that ask for it keep public pages away from a server on a private address. Pure.

Source: fetch.spec.whatwg.org, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ANY_ORIGIN", "is_preflight", "preflight_headers"]

ANY_ORIGIN = {"Access-Control-Allow-Origin": "*"}
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_MAX_AGE_S = 7200


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether this is a browser's preflight request, which carries no keys and tokens."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def preflight_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The answer to a preflight with ``headers``; the caller adds :data:`ANY_ORIGIN`."""
    return {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": headers.get("Access-Control-Request-Headers", "*"),
        "Access-Control-Max-Age": str(_MAX_AGE_S),
    }
