"""The certificate that a sandbox's programs must trust, because the egress process takes part in their connections.

Runs in: supervisor, any thread. The supervisor never writes it into a sandbox: it gives it to the agent (invariant I2).
"""

from __future__ import annotations

from collections.abc import Callable

from cloister.model.network import EgressPolicy

__all__ = ["AuthorityFor", "authority_by", "no_authority"]

AuthorityFor = Callable[[str, EgressPolicy], str]
"""The certificate (PEM) for a sandbox under a policy; empty: no connection is intercepted. Raises: InvalidRequestError, OSError."""


def authority_by(pem: Callable[[str], str], *, inspects: bool = False) -> AuthorityFor:
    """The certificate that ``pem`` gives for the id of a sandbox with header rules; if ``inspects``, also of one limited to names."""

    def authority_for(sandbox_id: str, policy: EgressPolicy) -> str:
        return pem(sandbox_id) if policy.rules or (inspects and policy.is_limited_to_names) else ""

    return authority_for


def no_authority(_sandbox_id: str, _policy: EgressPolicy) -> str:
    """For nodes without an egress process."""
    return ""
