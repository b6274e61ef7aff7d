"""Changes of the network of running sandboxes, and of the bounds of teams.

Owns their order: first the sandbox's programs trust the authority that a policy with header rules needs, then the kernel and the egress
process follow the policy, then the journal has it. A crash in between leaves the former one in the journal, and the client without an
answer. Invariant I4: after an error the former policy is in force, or none.
Runs in: supervisor, on the event loop; the runtime's call runs on a thread. Needs: nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Iterable
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from cloister.agentclient.handover import set_authority
from cloister.model.connection import LookUp
from cloister.model.network import EgressPolicy
from cloister.model.secret import reveal
from cloister.model.team_traffic import TeamTraffic
from cloister.node.authorities import AuthorityFor, no_authority
from cloister.node.background import WorkerThreads
from cloister.node.live import LiveSandbox, LiveSandboxes
from cloister.nodewire.requests import NoteLookUps, SetNetwork, SetTeamTraffic

__all__ = ["KernelNetwork", "NetworkChanges"]


class KernelNetwork(Protocol):
    """The part of :class:`~cloister.network.slots.NetworkNode` that is of all sandboxes."""

    def bound_teams(self, traffic: Collection[TeamTraffic]) -> None:
        """Bound the traffic of these teams, and of no others; it blocks."""

    def note_look_ups(self, look_ups: Iterable[LookUp]) -> None:
        """Keep names that sandboxes looked up; it does not block."""


class NetworkChanges:
    """Makes the changes, those of one sandbox one after another. Event loop only."""

    def __init__(
        self,
        live: LiveSandboxes,
        threads: WorkerThreads,
        kernel: KernelNetwork,
        authority_for: AuthorityFor = no_authority,
    ) -> None:
        self._live = live
        self._threads = threads
        self._kernel = kernel
        self._authority_for = authority_for
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def set_team_traffic(self, request: SetTeamTraffic) -> None:
        """See :class:`SandboxMethods`."""
        await self._threads.run(partial(self._kernel.bound_teams, request.teams))

    def note_look_ups(self, request: NoteLookUps) -> None:
        """See :class:`SandboxMethods`."""
        self._kernel.note_look_ups(request.look_ups)

    async def set_network(self, request: SetNetwork) -> None:
        """See :class:`SandboxMethods`."""
        lock = self._locks.setdefault(request.sandbox_id, asyncio.Lock())
        async with lock:
            live = self._live.find(request.sandbox_id)
            former = live.record.egress
            await self._threads.run(partial(self._follow, live, request.egress, former))
            try:
                self._note(live, request)
            except BaseException:
                await self._threads.run(partial(self._follow, live, former, request.egress))
                raise

    def _follow(self, live: LiveSandbox, policy: EgressPolicy, former: EgressPolicy) -> None:
        """Follow ``policy``. Programs trust the authority before the first connection is intercepted. Raises: as ``set_egress``."""
        sandbox_id = live.record.sandbox_id
        authority = self._authority_for(sandbox_id, policy)
        has_changed = authority != self._authority_for(sandbox_id, former)
        if has_changed and authority:
            self._trust(live, authority)
        try:
            live.sandbox.set_egress(policy)
        except BaseException:
            if has_changed and authority:
                self._trust(live, "")
            raise
        if has_changed and not authority:
            self._trust(live, "")

    def _trust(self, live: LiveSandbox, authority: str) -> None:
        set_authority(live.sandbox.dial(), authority, reveal(live.record.access_token))

    def _note(self, live: LiveSandbox, request: SetNetwork) -> None:
        record = self._live.find(live.record.sandbox_id).record  # it may have been paused or ended meanwhile
        client = record.client
        if client is not None:
            client = dataclasses.replace(client, egress=request.egress, network=request.network)
        self._live.replace_record(live, dataclasses.replace(record, egress=request.egress, client=client))
