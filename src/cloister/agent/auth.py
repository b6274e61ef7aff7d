"""Decides who may call the agent, and as which user: compares the sandbox's access token in constant time. No other module does."""

from __future__ import annotations

import base64
import binascii
import hmac

from cloister.errors import AuthenticationError

__all__ = ["basic_user", "is_allowed", "is_allowed_or_absent"]


def is_allowed(token: str | None, given: str | None) -> bool:
    """Whether ``given`` (header X-Access-Token) matches the sandbox's ``token``. Without a token every caller may."""
    if token is None:
        return True
    return hmac.compare_digest(token.encode(), (given or "").encode(errors="surrogateescape"))


def is_allowed_or_absent(token: str | None, given: str | None) -> bool:
    """The same for calls in which official clients send no token: no token is accepted, a wrong one is refused."""
    return given is None or is_allowed(token, given)


def basic_user(header: str | None) -> str | None:
    """The user name of a header Authorization with basic authentication (RFC 7617); None if it names none.

    The password is ignored: a client with the sandbox's token may act as any of its users. Raises: AuthenticationError.
    """
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0] or None
    except (binascii.Error, ValueError):
        raise AuthenticationError("The header Authorization is not valid basic authentication") from None
