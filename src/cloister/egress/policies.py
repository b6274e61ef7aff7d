"""The policies of the sandboxes, and their live connections. Event loop only.

Invariant I4: a change is in force when the call returns. Connections that the new policy does not allow as they were allowed are cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from cloister.egress.connection import Connection
from cloister.egress.pace import Pace
from cloister.egress.pins import Pin
from cloister.egress.verdicts import Judge
from cloister.model.network import EgressPolicy

__all__ = ["Admitted", "PolicyTable"]


@dataclass(eq=False)
class Admitted:
    """A sandbox whose connections pass through this process."""

    sandbox_id: str
    address: str
    judge: Judge
    pace: Pace = field(default_factory=Pace)
    connections: set[Connection] = field(default_factory=set)
    pins: dict[str, Pin] = field(default_factory=dict)
    """The addresses of names, by name; the oldest first."""

    @property
    def policy(self) -> EgressPolicy:
        """The policy that is in force."""
        return self.judge.policy


class PolicyTable:
    """The sandboxes by their source address."""

    def __init__(self, private: tuple[IPv4Network, ...] = ()) -> None:
        """``private``: private networks that the operator lets sandboxes reach."""
        self._private = private
        self._admitted: dict[str, Admitted] = {}

    def find(self, address: str) -> Admitted | None:
        """The sandbox at ``address``."""
        return self._admitted.get(address)

    def put(self, address: str, sandbox_id: str, policy: EgressPolicy) -> None:
        """Follow ``policy`` from now on. An earlier sandbox of the address is forgotten."""
        found = self._admitted.get(address)
        judge = Judge(policy, self._private)
        if found is None or found.sandbox_id != sandbox_id:
            self.forget(address)
            self._admitted[address] = Admitted(sandbox_id, address, judge)
            return
        found.judge = judge
        found.pins.clear()
        for connection in [one for one in found.connections if not _still_allowed(one, judge)]:
            connection.cut()

    def forget(self, address: str) -> None:
        """Cut the connections from ``address`` and refuse new ones. Idempotent."""
        found = self._admitted.pop(address, None)
        for connection in list(found.connections) if found else ():
            connection.cut()


def _still_allowed(connection: Connection, judge: Judge) -> bool:
    """Whether the new policy allows ``connection`` as it is. One without a verdict is judged later."""
    if connection.verdict is None:
        return True
    if judge.rule_for(connection.name) != connection.rule or judge.policy.proxy != connection.proxy:
        return False
    address, port = connection.original
    verdict = judge.judge(IPv4Address(address), port, connection.name)
    if connection.rule is not None and not judge.allows_all_public and not _is_destination_allowed(connection, judge):
        return False
    if not verdict.is_allowed or verdict.is_by_name == connection.verdict.is_by_name:
        return verdict.is_allowed
    if verdict.is_by_name or connection.upstream is None or not connection.upstream.address:
        return False  # it goes where the program wanted, or not known where
    return judge.judge(IPv4Address(connection.upstream.address), port, None).is_allowed


def _is_destination_allowed(connection: Connection, judge: Judge) -> bool:
    """Whether a connection with a header rule may go where it went; not where that is unknown, unless its name is allowed."""
    if connection.name is not None and judge.allows_name(connection.name):
        return True
    address = "" if connection.upstream is None else connection.upstream.address
    return bool(address) and judge.judge(IPv4Address(address), connection.original[1], None).is_allowed
