"""Identity tokens: signed statements to other services that a request comes from a sandbox of a team. Knows no HTTP.

Claims: ``iss`` (this server), ``sub`` (a SPIFFE id of team and sandbox), ``aud`` (as the creation gave it), ``iat``, ``nbf``, ``exp`` and
``jti``, and ``team_id`` and ``sandbox_id`` for verifiers that compare whole claims. The form is that of a JWT-SVID (SPIFFE).

Invariant: a token is valid for five minutes, and is made when a request needs it; none is stored or logged.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import structlog

from cloister.model.sandbox import Sandbox
from cloister.model.secret import Secret
from cloister.store.signing import ALGORITHM, SigningKeys

__all__ = ["LIFETIME_S", "Identity"]

_log = structlog.get_logger("cloister.control")
LIFETIME_S = 300
_SKEW_S = 10
"""Clocks of verifiers may be late by so much."""
_NO_TRUST_DOMAIN = re.compile(r"[^a-z0-9._-]")


class Identity:
    """Makes the tokens of all sandboxes. ``issuer`` is the URL of this server, without a slash at its end."""

    algorithm = ALGORITHM

    def __init__(self, keys: SigningKeys, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._renewing = asyncio.Lock()
        self.issuer = issuer
        self._trust_domain = _NO_TRUST_DOMAIN.sub("-", (urlsplit(issuer).hostname or "localhost").lower())

    async def token(self, row: Sandbox, audience: str) -> Secret:
        """A new token of the sandbox for the audience. Raises: OSError: a new key could not be stored."""
        await self._renew()
        now = int(self._clock())
        claims = {
            "iss": self.issuer,
            "sub": f"spiffe://{self._trust_domain}/team/{row.team_id}/sandbox/{row.sandbox_id}",
            "aud": audience,
            "iat": now,
            "nbf": now - _SKEW_S,
            "exp": now + LIFETIME_S,
            "jti": secrets.token_hex(16),
            "team_id": row.team_id,
            "sandbox_id": row.sandbox_id,
        }
        return Secret(self._keys.sign(claims))

    async def public_keys(self) -> list[dict[str, Any]]:
        """The keys that verify tokens, as JSON Web Keys."""
        await self._renew()
        return self._keys.public()

    async def _renew(self) -> None:
        if self._keys.is_due(self._clock()):
            async with self._renewing:
                await asyncio.to_thread(self._keys.renew, self._clock())
            _log.info("identity.keys_renewed")
