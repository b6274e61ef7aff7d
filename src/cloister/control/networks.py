"""Changes of the network of a team's running sandboxes. Knows no HTTP.

Invariant: the node is told first, then the row is stored, so a row never promises a policy that is not in force. If this process dies in
between, the reconciliation takes the node's policy for the row. Changes of one sandbox are made one after another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from weakref import WeakValueDictionary

import structlog

from cloister.cluster.base import NodeClient
from cloister.control.registry import Registry, absence
from cloister.control.sandboxes import Sandboxes
from cloister.errors import ConflictError, SandboxNotFoundError
from cloister.model.network import EgressPolicy
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.nodewire.requests import SetNetwork

__all__ = ["CheckProxy", "Networks"]

_log = structlog.get_logger("cloister.control")
CheckProxy = Callable[[str, str], Awaitable[None]]
"""Looks up the address (``host:port``) of a proxy of a client of the team. Raises: InvalidRequestError: no connection to it may be made."""


class Networks:
    """The use cases about networks of sandboxes."""

    def __init__(self, node: NodeClient, registry: Registry, sandboxes: Sandboxes, check_proxy: CheckProxy) -> None:
        self._node = node
        self._registry = registry
        self._sandboxes = sandboxes
        self._check_proxy = check_proxy
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changes: set[asyncio.Task[Sandbox]] = set()

    async def close(self) -> None:
        """Wait for changes under way."""
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def check(self, team_id: str, policy: EgressPolicy | None) -> None:
        """Check what only a lookup shows of a policy that a client of the team sent. Raises: InvalidRequestError."""
        if policy is not None and policy.proxy is not None:
            await self._check_proxy(policy.proxy.address, team_id)

    async def change(self, team_id: str, sandbox_id: str, policy: EgressPolicy, sent: dict[str, Any]) -> Sandbox:
        """Replace the egress policy of a running sandbox; returns its row when the new policy is in force. Goes on without its caller.

        ``sent`` is the policy as answers show it; the options of the ingress stay.

        Raises:
            SandboxNotFoundError; ConflictError: it does not run; InvalidRequestError; and the node's errors: the former policy is in force,
            or the sandbox may connect to nothing.
        """
        self._find_running(team_id, sandbox_id)
        await self.check(team_id, policy)
        task = asyncio.create_task(self._change(team_id, sandbox_id, policy, sent))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _change(self, team_id: str, sandbox_id: str, policy: EgressPolicy, sent: dict[str, Any]) -> Sandbox:
        lock = self._locks.setdefault(sandbox_id, asyncio.Lock())
        async with lock:
            row = self._find_running(team_id, sandbox_id)
            network = replace(row.network, sent={**(row.network.sent or {}), "egress": sent})
            try:
                await self._node.set_network(SetNetwork(sandbox_id, policy, network))
            except SandboxNotFoundError as error:
                raise absence(sandbox_id, "it ended meanwhile") from error
            changed = await self._registry.set_network(sandbox_id, policy, network)
        _log.info("sandbox.network_changed", sandbox_id=sandbox_id, team_id=team_id)
        return changed

    def _find_running(self, team_id: str, sandbox_id: str) -> Sandbox:
        row = self._sandboxes.get(team_id, sandbox_id)
        if (state := row.state_at(time.time())) is not SandboxState.RUNNING:
            raise ConflictError(f"sandbox {sandbox_id} is not running: it is {state}", hint="resume it by a connect, then repeat this")
        return row
