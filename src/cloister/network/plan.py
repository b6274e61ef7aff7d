"""Addresses and interface names of one server's network, by slot. Pure: no I/O.

Owns: :class:`NetworkConfig` and the address plan.
Invariant: all names and numbers follow from the instance number and the slot number, so that objects found in the kernel after a crash
can be assigned.
Runs in: supervisor. Needs: no capability.

::

    base + 0x0000 + slot   sandbox (slots 1..8190)      cl<n>s<slot> in the router, eth0 in the sandbox
    base + 0x2001          gateway and resolver         lo of the router
    base + 0x2002          router's end of the uplink   cl<n>rt
    base + 0x2003          host's end of the uplink     cl<n>up
    base + 0x2004          caller of sandboxes' ports   lo of the router
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from pathlib import Path

from cloister.errors import InvalidRequestError
from cloister.linux.nftsets import Element, interface_key, name_key
from cloister.network.bounds import NO_BOUNDS, TrafficBounds
from cloister.network.egress import ROUTER_TABLE, RulesetPlan

__all__ = ["MAX_SLOT", "AddressPlan", "NetworkConfig"]

MAX_SLOT = 8190
_MAX_INSTANCE = 6
_MIN_PREFIX, _MAX_PREFIX = 8, 18


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of one server's network.

    ``run_dir`` is the instance's run-time directory; its parent holds the lock that all instances of the host share. ``cidr`` is the
    sandboxes' range (a /8 to /18; None: ``10.(200 + instance).0.0/16``). ``upstream_dns`` are the DNS relay's upstream resolvers.
    ``allow_private`` are private destinations (CIDR) that sandboxes may reach; the host itself is never one of them.
    """

    instance: int
    run_dir: Path
    cidr: str | None
    upstream_dns: tuple[str, ...]
    allow_private: tuple[str, ...]
    relay_uid: int
    """Host uid of the process that the DNS relay runs in."""
    egress_uid: int
    """Host uid of the egress process, which runs in the router's namespace."""
    mbit_per_s: int | None = None
    """Bound of one sandbox's traffic, each way; None: no bound."""
    bounds: TrafficBounds = NO_BOUNDS


def _network(text: str, setting: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidRequestError(f"{setting}: {text!r} is not an IPv4 network: {error}", hint="write it like 10.20.0.0/16") from error


class AddressPlan:
    """The address plan of an instance.

    Raises: InvalidRequestError: the configuration is not valid.
    """

    def __init__(self, config: NetworkConfig) -> None:
        if not 0 <= config.instance <= _MAX_INSTANCE:
            raise InvalidRequestError(f"instance number {config.instance} is not in 0..{_MAX_INSTANCE}")
        self.instance = config.instance
        self.cidr = _network(config.cidr or f"10.{200 + config.instance}.0.0/16", "sandbox network")
        if not _MIN_PREFIX <= self.cidr.prefixlen <= _MAX_PREFIX:
            raise InvalidRequestError(f"sandbox network {self.cidr} must be a /{_MIN_PREFIX} to /{_MAX_PREFIX}")
        self.allowed = tuple(_network(text, "allowed private network") for text in config.allow_private)
        base = self.cidr.network_address
        self.gateway, self.router_uplink, self.host_uplink = base + 0x2001, base + 0x2002, base + 0x2003
        self.caller = base + 0x2004
        self.host_interface, self.router_interface = f"cl{self.instance}up", f"cl{self.instance}rt"
        self._relay_uid, self._egress_uid = config.relay_uid, config.egress_uid
        self._mbit_per_s, self._bounds = config.mbit_per_s, config.bounds
        self.router_path = config.run_dir / "netns" / "router"
        self.lock_path = config.run_dir.parent / "network.lock"

    def address(self, slot: int) -> IPv4Address:
        """The sandbox's address.

        Raises: InvalidRequestError outside 1..MAX_SLOT.
        """
        if not 1 <= slot <= MAX_SLOT:
            raise InvalidRequestError(f"network slot {slot} is not in 1..{MAX_SLOT}")
        return self.cidr.network_address + slot

    def interface(self, slot: int) -> str:
        """The router's end of the sandbox's pair."""
        return f"cl{self.instance}s{slot}"

    def volume(self, slot: int) -> list[Element]:
        """The slot's element with its used volume; empty if there is no bound."""
        name = self._bounds.volume_set
        return [] if name is None else [Element(ROUTER_TABLE, name, name_key(self.interface(slot)))]

    def own_name(self, slot: int) -> str:
        """The router's chain and set of a sandbox with lists."""
        return f"s{slot}"

    def slot_of(self, interface: str) -> int | None:
        """The slot whose interface this is, or None."""
        match = re.fullmatch(rf"cl{self.instance}s([0-9]+)", interface)
        return int(match[1]) if match else None

    def slot_at(self, address: str | IPv4Address) -> int | None:
        """The slot whose address this is, or None."""
        slot = int(IPv4Address(address)) - int(self.cidr.network_address)
        return slot if 1 <= slot <= MAX_SLOT else None

    def element(self, set_name: str, slot: int) -> Element:
        """The slot's element in one of the router's sets of sandboxes."""
        return Element(ROUTER_TABLE, set_name, interface_key(self.interface(slot), self.address(slot).packed))

    def flow(self, slot: int) -> Element:
        """The slot's element in the router's set of sandboxes that had connections."""
        return Element(ROUTER_TABLE, "flows", self.address(slot).packed)

    def rules(self) -> RulesetPlan:
        """The input of the rulesets."""
        return RulesetPlan(
            instance=self.instance,
            cidr=self.cidr,
            gateway=self.gateway,
            caller=self.caller,
            host_interface=self.host_interface,
            router_interface=self.router_interface,
            router_uplink=self.router_uplink,
            allowed=self.allowed,
            relay_uid=self._relay_uid,
            egress_uid=self._egress_uid,
            mbit_per_s=self._mbit_per_s,
            bounds=self._bounds,
        )
