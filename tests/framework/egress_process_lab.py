"""An egress process with its supervisor's side, in a namespace that stands for the router: the sandboxes' addresses are its own."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from dnslib import RCODE, DNSRecord

from cloister.linux.cgroup import find_tree
from cloister.model.network import ALL_ADDRESSES, EgressPolicy
from cloister.model.secret import Secret
from cloister.network.gate import DNS_PORT
from cloister.node.egress_group import EgressGroup
from cloister.node.egress_process import EgressConfig
from cloister.runtime.groups import Groups
from framework.network_lab import EGRESS_UID, Namespace

__all__ = ["GATEWAY", "NAMES", "ONE", "TWO", "egress_config", "egress_group", "is_followed", "router_namespace"]

GATEWAY = "10.200.32.1"
ONE, TWO = "10.200.0.1", "10.200.0.2"
"""Addresses of sandboxes."""
NAMES = EgressPolicy(public=True, names=("good.example",), deny=(ALL_ADDRESSES,))


@contextlib.contextmanager
def router_namespace(directory: Path) -> Iterator[Namespace]:
    """The router's place."""
    made = Namespace(directory / "router")
    try:
        made.run(*(f"ip address add {address} dev lo" for address in (GATEWAY, ONE, TWO)))
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def egress_group(mem_mib: int = 256) -> Iterator[EgressGroup]:
    """A control group, as an instance's that no server has."""
    groups = Groups(find_tree(10_000 + os.getpid()))
    try:
        yield EgressGroup(groups, mem_mib)
    finally:
        groups.end_all(lambda _event, _fields: None)
        groups.tree.remove_all()


def egress_config(router: Namespace, group: EgressGroup) -> EgressConfig:
    """The configuration of a process."""
    return EgressConfig(router.path, IPv4Address(GATEWAY), (), EGRESS_UID, Path("/nowhere"), lambda: Secret("00" * 32), group)


def is_followed(router: Namespace, source: str) -> bool:
    """Whether a question from ``source`` for a name that no policy has is refused. Sources without a policy get no answer."""
    with router.open_socket(socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.connect((GATEWAY, DNS_PORT))
        sock.settimeout(0.5)
        try:
            sock.send(bytes(DNSRecord.question("evil.example").pack()))
            return bool(DNSRecord.parse(sock.recv(4096)).header.rcode == RCODE.REFUSED)
        except OSError:
            return False
