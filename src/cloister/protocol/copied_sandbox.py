"""The identity of a sandbox that continues the memory of another one: what the server tells its agent. Server and agent use this code.

The server sends it in ``POST /resumed`` when the sandbox runs, before any client reaches it. No I/O.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from cloister.errors import InvalidRequestError
from cloister.protocol.execution import parse_envs

__all__ = ["CopiedSandbox"]


@dataclass(frozen=True, kw_only=True)
class CopiedSandbox:
    """The copy's own facts."""

    sandbox_id: str
    access_token: str | None = field(repr=False)
    """The token that its agent demands from now on; None: none, as for an insecure sandbox."""
    envs: dict[str, str] | None = field(default=None, repr=False)
    """The variables of host, template and sandbox, merged, as in the init document; None: those of the original."""
    hostname: str | None = None
    """Name in ``/etc/hostname`` and ``/etc/hosts``; None: the original's. The kernel's host name is the server's to set."""
    ca_bundle: str = ""
    """The certificate (PEM) of the copy's own authority; empty: it has no header rules."""

    def to_json(self) -> bytes:
        """The body of the request."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, body: bytes) -> CopiedSandbox:
        """The inverse of :meth:`to_json`. Raises: InvalidRequestError."""
        try:
            data = json.loads(body)
            sandbox_id, token, envs, hostname = (data[name] for name in ("sandbox_id", "access_token", "envs", "hostname"))
            bundle = data.get("ca_bundle", "")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidRequestError("the body is not that of a copied sandbox") from error
        if not isinstance(sandbox_id, str) or not isinstance(token, str | None):
            raise InvalidRequestError("id and token of a copied sandbox must be text")
        if not isinstance(hostname, str | None) or not isinstance(bundle, str):
            raise InvalidRequestError("host name and authority of a copied sandbox must be text")
        return cls(
            sandbox_id=sandbox_id,
            access_token=token,
            envs=None if envs is None else parse_envs(envs, "envs"),
            hostname=hostname,
            ca_bundle=bundle,
        )
