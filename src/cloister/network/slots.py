"""The network of one server, as numbered slots: a sandbox attaches to a slot and releases it.

Owns: the order in which the router's and the host's objects are made, adopted, repaired and removed.
Must not: choose slot numbers.
Invariant I8: every call reads the kernel, so a new :class:`NetworkNode` continues with the objects of a dead one.
Invariant I4: see egress.py; packets of a sandbox pass only once all its other objects are in place.
Runs in: supervisor; any thread may call.
Needs: CAP_SYS_ADMIN, CAP_NET_ADMIN over the host's and the sandboxes' namespaces.

::

    sandbox netns              router netns (<run>/netns/router)              host netns
    eth0 10.200.0.5/32 <-veth-> cl0s5   lo 10.200.32.1   cl0rt <-----veth-----> cl0up      eth0 -> internet
                                ruleset "cloister"                             table "cloister0" (masquerade)

Lock order: the host-wide file lock (start, refresh and stop only), the slot's lock, a namespace's thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import TypeVar

from cloister.errors import IsolationError
from cloister.linux.conntrack import TrackedConnection, forget_connections
from cloister.linux.netlink import Netlink
from cloister.linux.netns import NetnsThread, is_netns_pinned, open_current_netns, run_in_netns, unpin_netns
from cloister.model.connection import ConnectionRecord, LookUp
from cloister.model.network import EgressPolicy
from cloister.model.team_traffic import TeamTraffic
from cloister.network.connections import SlotOwners, take_ended
from cloister.network.gate import EgressGate
from cloister.network.host_side import HostSide
from cloister.network.looked_up import LookedUpNames
from cloister.network.plan import AddressPlan, NetworkConfig
from cloister.network.policy_rules import policy_rules
from cloister.network.port_forward import PortForward, find_target, inside_address
from cloister.network.reaper import Reaper
from cloister.network.refusals import Refusal
from cloister.network.router import Router

__all__ = ["NO_OWNER", "NetworkConfig", "NetworkNode", "NetworkSlot", "SlotOwner"]

T = TypeVar("T")
_LOOPBACK = 1
"""Its interface index in every namespace."""


@dataclass(frozen=True)
class SlotOwner:
    """The sandbox of a slot and its team; both empty where the node needs neither."""

    sandbox_id: str = ""
    team_id: str = ""


NO_OWNER = SlotOwner()


@dataclass(frozen=True)
class NetworkSlot:
    """A sandbox's place in the network. The gateway is its resolver too."""

    slot: int
    address: str
    gateway: str


class NetworkNode:
    """The network of one server. Thread-safe, blocking, idempotent; all but :meth:`survey` and :meth:`stop` need :meth:`start` first.

    "The host" is the network namespace of the thread that makes the object.
    """

    def __init__(self, config: NetworkConfig, gate: EgressGate | None = None) -> None:
        """``gate`` is the egress process; without one, policies that need it are refused."""
        self.config = config
        self._gate = gate
        self._plan = AddressPlan(config)
        self._host_fd = open_current_netns()
        weakref.finalize(self, os.close, self._host_fd)
        self._host_thread: NetnsThread | None = None
        self._host: HostSide | None = None
        self._router: Router | None = None
        self._mtu = 0
        self._reaper = Reaper(self._remove)
        self._stale: set[int] = set()
        """Slots that had connections at the start: of sandboxes to be adopted, or of sandboxes that ended while no supervisor ran."""
        self._owners = SlotOwners()
        self._names = LookedUpNames()
        self._gated: set[int] = set()
        """Slots that the egress process knows."""
        self._slot_locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    @property
    def gateway_address(self) -> str:
        """The address of the sandboxes' gateway and resolver."""
        return str(self._plan.gateway)

    @contextmanager
    def _host_lock(self) -> Iterator[None]:
        """Hold the lock that all servers of this host share: forwarding flags are changed under it."""
        self._plan.lock_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(self._plan.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def start(self) -> None:
        """Make missing objects, adopt existing ones, renew every rule. Attached sandboxes keep their connections.

        A failure leaves kernel objects in place, since they may serve sandboxes: another ``start`` repairs them, :meth:`stop` removes them.
        Raises: IsolationError, UnavailableError (no libnftables).
        """
        with self._host_lock():
            self._open()
            host, router = self._opened()
            self._in_host(host.check_range_is_free)
            self._mtu = self._in_host(host.mtu)
            self._in_host(host.apply_rules)
            router.set_up()
            self._refuse_host_networks(host, router)
            self._join_uplink(host, router)
            router.drop_stale_elements()
            self._forget_strangers(host, router)
            self._stale = router.slots_with_flows()
            self._in_host(host.open_forwarding)

    def _refuse_host_networks(self, host: HostSide, router: Router) -> None:
        networks = self._in_host(host.networks)
        router.refuse_networks(networks)
        self._in_host(lambda: host.refuse_networks(networks))

    def _forget_strangers(self, host: HostSide, router: Router) -> None:
        router.forget_strangers()
        used = {str(self._plan.address(slot)) for slot in router.slots_in_use()}
        host.refusals.forget(host.refusals.sources() - used)

    def _join_uplink(self, host: HostSide, router: Router) -> None:
        if not router.has_uplink():
            self._in_host(host.delete_uplink)  # its router is gone
            router.add_uplink(self._host_fd, self._mtu)
        router.bring_uplink_up(self._mtu)
        self._in_host(lambda: host.bring_uplink_up(self._mtu))
        router.settle_uplink()

    def refresh(self) -> None:
        """Follow changes of the host's networks, routes and forwarding switch. Cheap; call it periodically."""
        with self._host_lock():
            host, router = self._opened()
            self._refuse_host_networks(host, router)
            self._in_host(host.open_forwarding)
            router.begin_day()

    def attach(
        self, slot: int, netns_fd: int, policy: EgressPolicy, owner: SlotOwner = NO_OWNER, *, has_own_stack: bool = False
    ) -> NetworkSlot:
        """Join a sandbox's network namespace (``netns_fd`` stays the caller's) to the router, under an egress policy.

        A second call with the same namespace repairs the pair and keeps connections; with another namespace it replaces the pair.
        ``has_own_stack``: a second call, for a sandbox that has taken the address out of the namespace into a network stack of its own.
        Raises: IsolationError (nothing of the slot is left then), InvalidRequestError for a slot number out of range.
        """
        address = self._plan.address(slot)
        router = self._opened()[1]
        self._reaper.settle(slot)
        with self._slot_locks[slot], ExitStack() as undo:
            began = time.time()
            undo.callback(router.release, slot)
            undo.callback(self._forget_gate, slot)
            is_new = self._rejoin(slot, netns_fd) if has_own_stack else self._join(slot, netns_fd)
            self._tell_gate(slot, owner.sandbox_id, policy)
            router.admit(slot, policy, is_new=is_new, team_id=owner.team_id)
            self._owners.note(slot, began if is_new else 0, owner.sandbox_id, policy)
            undo.pop_all()
        return NetworkSlot(slot, str(address), self.gateway_address)

    def _join(self, slot: int, netns_fd: int) -> bool:
        """Whether the pair is new; else it is repaired, and the slot still has its rules."""
        router = self._opened()[1]
        if slot not in self._stale:
            try:
                router.join(slot, netns_fd, self._mtu)
            except IsolationError as error:
                if error.errno != errno.EEXIST:
                    raise
            else:
                return True
        is_joined = router.repair(slot, netns_fd)
        if not is_joined:
            router.shut_out(slot)
            self._remove([slot])  # a former sandbox's pair
            router.join(slot, netns_fd, self._mtu)
        self._stale.discard(slot)
        return not is_joined

    def _rejoin(self, slot: int, netns_fd: int) -> bool:
        if not self._opened()[1].repair(slot, netns_fd, has_own_stack=True):
            raise IsolationError(f"the pair of network slot {slot} is gone", step="network")
        self._stale.discard(slot)
        return False

    def _tell_gate(self, slot: int, sandbox_id: str, policy: EgressPolicy) -> None:
        """Let the egress process follow the policy. Raises: IsolationError, UnavailableError.

        A sandbox that no longer needs it may still have connections there, which go on if the policy allows them.
        """
        if policy.is_closed or (not policy.needs_gate and slot not in self._gated):
            self._forget_gate(slot)
            return
        if self._gate is None:
            raise IsolationError("names, rules and proxies in a network policy need the egress process", step="network")
        self._gate.admit(slot, str(self._plan.address(slot)), sandbox_id, policy)
        self._gated.add(slot)

    def join_team(self, slot: int, team_id: str) -> None:
        """The sandbox of an attached slot, which was made ahead, is the team's now. Raises: IsolationError."""
        with self._slot_locks[slot]:
            self._opened()[1].join_team(slot, team_id)

    def bound_teams(self, traffic: Collection[TeamTraffic]) -> None:
        """Bound the traffic of these teams, each of all its sandboxes together, and of no others; for live sandboxes too.

        Where a bound stays the same, its count goes on. Raises: IsolationError; call it again then.
        """
        self._opened()[1].bound_teams(traffic)

    def set_egress(self, slot: int, policy: EgressPolicy, *, sandbox_id: str = "") -> None:
        """Change the egress policy (DNS included) at once, for established connections too.

        Connections that the new policy does not allow are cut; others go on. Raises: IsolationError when the slot is not attached.
        After an error the former policy is in force, but connections by the egress process are cut.
        """
        router = self._opened()[1]
        with self._slot_locks[slot], ExitStack() as undo:
            undo.callback(self._forget_gate, slot)
            self._tell_gate(slot, sandbox_id, policy)
            router.set_egress(slot, policy)
            self._owners.rename(slot, time.time(), policy)
            undo.pop_all()
            if not policy.is_closed and router.has_flows(slot):
                self._cut(slot, policy)

    def _cut(self, slot: int, policy: EgressPolicy) -> None:
        """Forget the connections that the policy does not allow, or that would go another way.

        The rules refuse their packets already. But they count as the sandbox's, and the kernel translates addresses as it once began to.
        """
        rules, address = policy_rules(policy), self._plan.address(slot)

        def is_cut(connection: TrackedConnection) -> bool:
            return not rules.keeps(connection, self._plan.gateway)

        self._opened()[1].forget_some(slot, is_cut)
        run_in_netns(self._host_fd, partial(forget_connections, address, is_cut))

    def release(self, slot: int) -> None:
        """Remove the slot's rules, then its interface. Idempotent; the sandbox's namespace may be gone already."""
        address = self._plan.address(slot)
        self._reaper.settle(slot)
        with self._slot_locks[slot]:
            had_connections = self._opened()[1].release(slot)
            self._forget_gate(slot)
            if had_connections:
                self._in_host(lambda: forget_connections(address))
            self._forget_refusals([slot])

    def _forget_gate(self, slot: int) -> None:
        self._gated.discard(slot)
        if self._gate is not None:
            self._gate.forget(slot)

    def _forget_refusals(self, slots: Sequence[int]) -> None:
        host, router = self._opened()
        router.forget_refusals(slots)
        host.refusals.forget([str(self._plan.address(slot)) for slot in slots])

    def release_later(self, slot: int, netns_fd: int | None, on_gone: Callable[[], None]) -> None:
        """Remove the slot's rules now and the rest later, in a batch; then call ``on_gone``: the slot may be used again.

        Takes ``netns_fd``, the sandbox's namespace, over and keeps it open until the pair is deleted, so that namespaces end together.
        """
        with self._slot_locks[slot]:
            self._opened()[1].shut_out(slot)
            self._forget_gate(slot)
        self._reaper.add(slot, netns_fd, on_gone)

    def _remove(self, slots: Sequence[int]) -> None:
        router = self._opened()[1]
        router.delete_pairs(slots)
        for address in [self._plan.address(slot) for slot in slots if router.forget(slot)]:
            run_in_netns(self._host_fd, partial(forget_connections, address))
        self._forget_refusals(slots)

    def slots_in_use(self) -> set[int]:
        """Slots with an object in the kernel."""
        self._reaper.settle()
        return self._opened()[1].slots_in_use()

    def dial_socket(self, netns_fd: int) -> socket.socket:
        """A new, unconnected TCP socket inside the namespace; the caller owns it. The namespace needs no interface.

        The socket is IPv6, for ``::1`` and ``::ffff:127.0.0.1``, or IPv4 where the kernel has no IPv6.
        """
        return run_in_netns(netns_fd, _new_socket)

    def call_socket(self, slot: int) -> tuple[socket.socket, str]:
        """A new, unconnected TCP socket that reaches the address of an attached sandbox, and that address; the caller owns it.

        For a sandbox with a network stack of its own, which the namespace does not show. Raises: IsolationError.
        """
        return self._opened()[1].call_socket(slot), str(self._plan.address(slot))

    def forward_port(self, netns_fd: int, host: str, port: int) -> PortForward:
        """Forward ``port`` of ``host``, as the sandbox in the namespace reaches it, to the same on this host; the caller closes it.

        Raises: UnavailableError: no program on this host listens there; IsolationError; OSError.
        """
        target = run_in_netns(self._host_fd, partial(find_target, host, port))
        listener = run_in_netns(netns_fd, partial(_new_listener, inside_address(host), port))
        return run_in_netns(self._host_fd, partial(PortForward, listener, target))  # its thread stays in that namespace

    def dns_sockets(self) -> tuple[socket.socket, socket.socket]:
        """The sandboxes' resolver address, port 53: a UDP and a listening TCP socket, non-blocking, the caller's to close.

        Each query goes to one of all open copies, so a process that passes the sockets on must close its own.
        """
        return self._opened()[1].dns_sockets()

    def counters(self) -> dict[str, int]:
        """Packets counted by each rule of the router, by the rule's name in docs/network.md."""
        return self._opened()[1].counters()

    def take_refusals(self) -> list[Refusal]:
        """The packets of all sandboxes that the policy refused since the last call."""
        host, router = self._opened()
        return router.take_refusals() + host.refusals.take()

    def take_connections(self) -> tuple[list[ConnectionRecord], int]:
        """The connections that went directly, by the kernel, and ended since the last call; and how many more got lost.

        Many of one sandbox are summed by destination. Call it often: the kernel keeps about 12,000. Not thread-safe.
        """
        own = (self._plan.gateway, self._plan.caller)
        return take_ended(self._opened()[1].ended, self._owners, self._plan.slot_at, own, self._names)

    def named(self, records: Iterable[ConnectionRecord]) -> list[ConnectionRecord]:
        """The records, those of allowed connections without a name with the name that was looked up. Thread-safe."""
        return [self._names.named(record) for record in records]

    def note_look_ups(self, look_ups: Iterable[LookUp]) -> None:
        """Names of later connections; those of addresses that no sandbox had at that time are left out. Thread-safe."""
        for look_up in look_ups:
            try:
                slot = self._plan.slot_at(look_up.client)
            except ValueError:
                continue
            owner = None if slot is None else self._owners.at(slot, look_up.at)
            if owner is not None:
                self._names.note(owner.sandbox_id, look_up)

    def survey(self) -> list[str]:
        """The kernel objects of this instance; needs no start."""
        self._reaper.settle()
        found = [f"network namespace {self._plan.router_path}"] if is_netns_pinned(self._plan.router_path) else []
        was_open = self._router is not None
        if found and not was_open:
            self._open()
        found += self._router.survey() if self._router else []
        host = run_in_netns(self._host_fd, lambda: HostSide(self._plan))
        found += run_in_netns(self._host_fd, host.survey)
        host.close()
        if found and not was_open:
            self.close()
        return found

    def stop(self) -> None:
        """Remove everything of this instance from the kernel, attached sandboxes' pairs included. Idempotent; needs no start."""
        with self._host_lock():
            self._open(make_router=False)
            self._reaper.settle()
            if self._router:
                self._router.empty()
            host = self._host
            if host is not None:
                self._in_host(host.close_forwarding)
                self._in_host(host.delete_uplink)
                self._in_host(host.delete_rules)
            self.close()
            unpin_netns(self._plan.router_path)

    def close(self) -> None:
        """End the threads and close the descriptors; kernel objects stay. A supervisor calls this when it exits. Idempotent."""
        self._reaper.settle()
        if self._router:
            self._router.close()
        if self._host:
            self._host.close()
        if self._host_thread:
            self._host_thread.close()
        self._router = self._host = self._host_thread = None

    def _open(self, *, make_router: bool = True) -> None:
        if self._host_thread is None:
            self._host_thread = NetnsThread(self._host_fd, f"host{self._plan.instance}")
            self._host = self._host_thread.call(lambda: HostSide(self._plan))
        if self._router is None and (make_router or is_netns_pinned(self._plan.router_path)):
            self._router = Router(self._plan)

    def _opened(self) -> tuple[HostSide, Router]:
        if self._host is None or self._router is None:
            raise IsolationError("the network is not started", step="network")
        return self._host, self._router

    def _in_host(self, function: Callable[[], T]) -> T:
        if self._host_thread is None:
            raise IsolationError("the network is not started", step="network")
        return self._host_thread.call(function)


def _new_listener(address: IPv4Address, port: int) -> socket.socket:
    """A listening socket on loopback, which gets the address if it lacks it."""
    if not address.is_loopback:
        with Netlink() as netlink:
            netlink.add_address(_LOOPBACK, address)
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.bind((str(address), port))
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


def _new_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
