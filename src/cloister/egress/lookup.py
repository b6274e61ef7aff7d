"""Resolves names for sandboxes and pins the answers: for its lifetime a name has the same addresses, for the sandbox's own questions too.

Owns the questions in flight. Invariant I4: a pin has only addresses that the sandbox may reach, so a name that is rebound to a private
address leads nowhere. One sandbox's answers are no other's.
Runs in: egress process, on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from ipaddress import IPv4Address

from cloister.egress.connection import DialError
from cloister.egress.pins import Pin
from cloister.egress.policies import Admitted, PolicyTable
from cloister.egress.reasons import Reason
from cloister.network.dns_addresses import ask_addresses
from cloister.network.dns_exchange import SERVFAIL, Resolver
from cloister.network.dns_messages import NXDOMAIN
from cloister.network.limits import FairBound

__all__ = ["DNS_PORT", "MAX_LIFETIME_S", "MIN_LIFETIME_S", "Lookup"]

MIN_LIFETIME_S, MAX_LIFETIME_S = 30, 3600
_FAILURE_LIFETIME_S = 5
_PINS_PER_SANDBOX = 1024
PER_SANDBOX, TOTAL = 64, 1024
"""Lookups in flight, of one sandbox and of all. Beyond the second number the sandbox with the most gives up its oldest one."""
DNS_PORT = 53


class Lookup:
    """Finds the addresses of names."""

    def __init__(self, policies: PolicyTable, gateway: IPv4Address, port: int = DNS_PORT) -> None:
        """``gateway`` has the server's resolver. ``port``: that of all resolvers."""
        self._policies = policies
        self._gateway = gateway
        self._port = port
        self._bound = FairBound(PER_SANDBOX, TOTAL)
        self._in_flight: dict[tuple[Admitted, int, str], asyncio.Task[Pin]] = {}

    def resolvers(self, admitted: Admitted) -> list[Resolver]:
        """A sandbox's resolvers, the server's or those of its policy that it may reach; for each, the address to ask from.

        The server's resolver bounds the questions of each address, so a sandbox's questions have an address of the loopback as their own.
        """
        policy = admitted.policy
        if not policy.names or policy.dns_servers is None:
            return [((str(self._gateway), self._port), "127." + admitted.address.partition(".")[2])]
        reachable = [server for server in policy.dns_servers if not admitted.judge.is_private(IPv4Address(server))]
        return [((server, self._port), None) for server in reachable]

    async def resolve(self, source: str, name: str) -> Sequence[IPv4Address]:
        """The addresses of ``name`` for the sandbox at ``source``. Raises: DialError."""
        admitted = self._policies.find(source)
        if admitted is None:
            raise DialError("closed")
        pin = await self.pin(admitted, name)
        if not pin.addresses:
            raise DialError(pin.reason)
        return pin.addresses

    async def pin(self, admitted: Admitted, name: str) -> Pin:
        """The pin of ``name``, which may have no address. Raises: DialError: the sandbox has too many lookups in flight."""
        found = admitted.pins.get(name)
        if found is not None and found.until > time.monotonic():
            return found
        key = (admitted, id(admitted.judge), name)
        task = self._in_flight.get(key)
        if task is None:
            use = self._bound.take(admitted.address, lambda: finding.cancel())  # noqa: PLW0108 - it is made below
            if use is None:
                raise DialError("too_many_lookups")
            task = finding = asyncio.create_task(self._find(admitted, name))
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._forget(key, use))
        await asyncio.wait([task])
        if task.cancelled():
            raise DialError("too_many_lookups")
        return task.result()

    def _forget(self, key: tuple[Admitted, int, str], use: object) -> None:
        del self._in_flight[key]
        self._bound.give_back(key[0].address, use)

    async def _find(self, admitted: Admitted, name: str) -> Pin:
        judge = admitted.judge
        answer = await ask_addresses(self.resolvers(admitted), name)
        now = time.monotonic()
        if answer is None:
            return Pin((), now + _FAILURE_LIFETIME_S, SERVFAIL, "resolver_failed")
        reachable = tuple(address for address in answer.addresses if not judge.is_private(address))
        if not reachable:
            reason: Reason = "not_public" if answer.addresses else "name_not_found"
            pin = Pin((), now + _FAILURE_LIFETIME_S, NXDOMAIN if answer.addresses else answer.code, reason)
        else:
            pin = Pin(reachable, now + min(max(answer.lifetime_s, MIN_LIFETIME_S), MAX_LIFETIME_S))
        if admitted.judge is judge:  # else the policy has changed meanwhile, and with it the resolvers perhaps
            admitted.pins[name] = pin
            while len(admitted.pins) > _PINS_PER_SANDBOX:
                admitted.pins.pop(next(iter(admitted.pins)))
        return pin
