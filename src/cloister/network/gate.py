"""The egress process, as the network sees it: it follows a policy before the kernel sends connections to it.

The kernel redirects connections of a sandbox whose policy :attr:`~cloister.model.network.EgressPolicy.needs_gate` to the egress process,
which runs in the router's network namespace. Invariant I4: if the egress process is not there, they are refused.
"""

from __future__ import annotations

from typing import Protocol

from cloister.model.network import EgressPolicy

__all__ = ["DNS_PORT", "TCP_PORT", "EgressGate"]

TCP_PORT = 15_001
"""Where the egress process listens, on the router's gateway address, for redirected connections (TCP)."""
DNS_PORT = 15_053
"""Where it listens for redirected questions to resolvers (UDP and TCP)."""


class EgressGate(Protocol):
    """The egress process, from the supervisor's side. Thread-safe; calls block."""

    def admit(self, slot: int, address: str, sandbox_id: str, policy: EgressPolicy) -> None:
        """Let it follow ``policy`` for connections from the sandbox at ``address``; it does when this returns.

        It replaces an earlier policy of the slot, and cuts connections that the new one does not allow. Raises: IsolationError,
        UnavailableError (it cannot be started).
        """
        ...

    def forget(self, slot: int) -> None:
        """Cut the slot's connections and refuse new ones. Idempotent; does not start it."""
        ...
