"""The egress process as the network sees it: a record of the policies it was told, and sockets where it would listen."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass, field

from cloister.model.network import EgressPolicy
from cloister.network.gate import DNS_PORT, TCP_PORT
from framework.network_lab import EGRESS_UID, Namespace

__all__ = ["RecordedGate", "connects_as_egress", "original_destination"]

_SO_ORIGINAL_DST = 80


@dataclass
class RecordedGate:
    """An :class:`~cloister.network.gate.EgressGate` that keeps what it is told; ``failure`` is raised instead."""

    policies: dict[int, EgressPolicy] = field(default_factory=dict)
    failure: Exception | None = None

    def admit(self, slot: int, address: str, sandbox_id: str, policy: EgressPolicy) -> None:
        """Keep the slot's policy."""
        if self.failure is not None:
            raise self.failure
        self.policies[slot] = policy

    def forget(self, slot: int) -> None:
        """Drop the slot's policy."""
        self.policies.pop(slot, None)

    def listen(self, router: Namespace, gateway: str) -> tuple[socket.socket, socket.socket]:
        """The sockets of redirected connections (TCP) and of redirected questions (UDP)."""
        tcp, names = router.listen(gateway, TCP_PORT), router.open_socket(socket.SOCK_DGRAM)
        tcp.settimeout(1)
        names.bind((gateway, DNS_PORT))
        names.settimeout(1)
        return tcp, names


def original_destination(connection: socket.socket) -> tuple[str, int]:
    """Where the sandbox connected to."""
    found = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    return socket.inet_ntoa(found[4:8]), int.from_bytes(found[2:4], "big")


def connects_as_egress(router: Namespace, address: str, port: int = 8080, uid: int = EGRESS_UID) -> bool:
    """Whether a process with the egress process's uid connects to that address from the router's namespace."""
    code = f"import os, socket; os.setuid({uid}); s = socket.socket(); s.settimeout(0.5); print(s.connect_ex(('{address}', {port})))"
    return router.run(f'{sys.executable} -c "{code}"').strip() == "0"
