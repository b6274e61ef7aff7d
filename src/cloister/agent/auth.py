"""Who may call the agent: the sandbox's access token, compared in constant time. The one place that decides it."""

from __future__ import annotations

import hmac

__all__ = ["is_allowed", "is_allowed_or_absent"]


def is_allowed(token: str | None, given: str | None) -> bool:
    """Whether ``given`` (header X-Access-Token) opens a sandbox whose token is ``token``; without a token all may."""
    if token is None:
        return True
    return hmac.compare_digest(token.encode(), (given or "").encode(errors="surrogateescape"))


def is_allowed_or_absent(token: str | None, given: str | None) -> bool:
    """The same for calls where official clients send no token: a wrong one is still refused."""
    return given is None or is_allowed(token, given)
