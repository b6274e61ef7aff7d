"""The network of one server: the slots that sandboxes take and give back.

Owns: the order in which the router's and the host's side are made, adopted, repaired and removed. Must not: decide who gets which slot or
when. Invariant I8: every call reads the kernel; a new :class:`NetworkNode` over the objects of a dead one goes on where that ended.
Invariant I4: see egress.py; a sandbox is let through only after everything else of its network stands.

::

    sandbox netns              router netns (<run>/netns/router)              host netns
    eth0 10.200.0.5/32 <-veth-> cl0s5   lo 10.200.32.1   cl0rt <-----veth-----> cl0up      eth0 -> internet
                                ruleset "cloister"                             table "cloister0" (masquerade)

Lock order: the slot's lock, then a namespace's thread; the host-wide file lock is taken by start, refresh and stop only, outside of both.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import TypeVar

from cloister.errors import IsolationError
from cloister.linux.conntrack import forget_connections
from cloister.linux.netlink import Netlink
from cloister.linux.netns import NetnsThread, is_netns_pinned, open_current_netns, run_in_netns, unpin_netns
from cloister.network.door import Door, find_target, inside_address
from cloister.network.host_side import HostSide
from cloister.network.plan import AddressPlan, NetworkConfig
from cloister.network.reaper import Reaper
from cloister.network.refusals import Refusal
from cloister.network.router import Router

__all__ = ["NetworkConfig", "NetworkNode", "NetworkSlot"]

T = TypeVar("T")
_LOOPBACK = 1
"""The index of that interface in every namespace."""


@dataclass(frozen=True)
class NetworkSlot:
    """What a sandbox has: its number, its one address, and the gateway, which is its resolver too."""

    slot: int
    address: str
    gateway: str


class NetworkNode:
    """The network of one server. Thread-safe, blocking, idempotent; all but :meth:`survey` and :meth:`stop` need :meth:`start` first.

    "The host" is the network namespace of the thread that makes the object.
    """

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self._plan = AddressPlan(config)
        self._host_fd = open_current_netns()
        weakref.finalize(self, os.close, self._host_fd)
        self._host_thread: NetnsThread | None = None
        self._host: HostSide | None = None
        self._router: Router | None = None
        self._mtu = 0
        self._reaper = Reaper(self._remove)
        self._stale: set[int] = set()
        """Slots that had connections when this started: those of a sandbox to be adopted, or left by one that ended unseen."""
        self._slot_locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    @property
    def gateway_address(self) -> str:
        """The address of the sandboxes' gateway and resolver."""
        return str(self._plan.gateway)

    @contextmanager
    def _host_lock(self) -> Iterator[None]:
        """Hold the lock that all servers of this host share while forwarding flags change hands."""
        self._plan.lock_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(self._plan.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def start(self) -> None:
        """Make what is missing, adopt what is there, renew every rule. Sandboxes that are attached keep their connections.

        A failure leaves kernel objects as they are (they may serve sandboxes): ``start`` again repairs them, :meth:`stop` removes them.
        Raises: IsolationError, UnavailableError (no libnftables).
        """
        with self._host_lock():
            self._open()
            host, router = self._opened()
            self._in_host(host.check_range_is_free)
            self._mtu = self._in_host(host.mtu)
            self._in_host(host.apply_rules)
            router.set_up()
            self._join_uplink(host, router)
            router.drop_stale_elements()
            self._forget_strangers(host, router)
            self._stale = router.slots_with_flows()
            self._in_host(host.open_forwarding)

    def _forget_strangers(self, host: HostSide, router: Router) -> None:
        router.forget_strangers()
        used = {str(self._plan.address(slot)) for slot in router.slots_in_use()}
        self._in_host(lambda: host.refusals.forget(host.refusals.sources() - used))

    def _join_uplink(self, host: HostSide, router: Router) -> None:
        if not router.has_uplink():
            self._in_host(host.delete_uplink)  # one that leads to a router that is gone
            router.add_uplink(self._host_fd, self._mtu)
        router.bring_uplink_up(self._mtu)
        self._in_host(lambda: host.bring_uplink_up(self._mtu))
        router.settle_uplink()

    def refresh(self) -> None:
        """Follow changes of the host's routes and of its forwarding switch. Cheap; to be called now and then."""
        with self._host_lock():
            self._in_host(self._opened()[0].open_forwarding)

    def attach(self, slot: int, netns_fd: int, allow_internet: bool) -> NetworkSlot:
        """Join a sandbox's network namespace (``netns_fd`` stays the caller's) to the router, with or without a way out.

        Again with the same namespace: repairs and keeps the connections. With another one: the old pair is deleted.
        Raises: IsolationError (nothing of the slot is left then), InvalidRequestError for a slot number out of range.
        """
        address = self._plan.address(slot)
        router = self._opened()[1]
        self._reaper.settle(slot)
        with self._slot_locks[slot], ExitStack() as undo:
            undo.callback(router.release, slot)
            self._join(slot, netns_fd)
            router.admit(slot, online=allow_internet)
            undo.pop_all()
        return NetworkSlot(slot, str(address), self.gateway_address)

    def _join(self, slot: int, netns_fd: int) -> None:
        router = self._opened()[1]
        if slot not in self._stale:
            try:
                router.join(slot, netns_fd, self._mtu)
            except IsolationError as error:
                if error.errno != errno.EEXIST:
                    raise
            else:
                return
        if not router.repair(slot, netns_fd):
            self._remove([slot])  # of another sandbox that had the slot once
            router.join(slot, netns_fd, self._mtu)
        self._stale.discard(slot)

    def set_internet(self, slot: int, allowed: bool) -> None:
        """Give or take the internet (DNS included) at once, for established connections too.

        Raises: IsolationError when the slot is not attached.
        """
        with self._slot_locks[slot]:
            self._opened()[1].set_online(slot, online=allowed)

    def release(self, slot: int) -> None:
        """Give the slot back: its rules, then its interface. Idempotent, also after the sandbox's namespace has died."""
        address = self._plan.address(slot)
        self._reaper.settle(slot)
        with self._slot_locks[slot]:
            had_connections = self._opened()[1].release(slot)
            if had_connections:
                self._in_host(lambda: forget_connections(address))
            self._forget_refusals([slot])

    def _forget_refusals(self, slots: Sequence[int]) -> None:
        host, router = self._opened()
        router.forget_refusals(slots)
        self._in_host(lambda: host.refusals.forget([str(self._plan.address(slot)) for slot in slots]))

    def release_later(self, slot: int, netns_fd: int | None, on_gone: Callable[[], None]) -> None:
        """Give the slot back, its rules now and the rest behind, together with others': ``on_gone`` is called when nothing of it exists.

        ``netns_fd``, the sandbox's namespace, is taken over: it is kept open until the pair is deleted, so that namespaces end together.
        """
        with self._slot_locks[slot]:
            self._opened()[1].shut_out(slot)
        self._reaper.add(slot, netns_fd, on_gone)

    def _remove(self, slots: Sequence[int]) -> None:
        router = self._opened()[1]
        router.delete_pairs(slots)
        for address in [self._plan.address(slot) for slot in slots if router.forget(slot)]:
            run_in_netns(self._host_fd, partial(forget_connections, address))
        self._forget_refusals(slots)

    def slots_in_use(self) -> set[int]:
        """Slots that anything in the kernel belongs to."""
        self._reaper.settle()
        return self._opened()[1].slots_in_use()

    def dial_socket(self, netns_fd: int) -> socket.socket:
        """A fresh, unconnected TCP socket inside the namespace; the caller owns it. It needs no interface there.

        It is an IPv6 one, which can be connected to ``::1`` and to ``::ffff:127.0.0.1``, unless the kernel has no IPv6.
        """
        return run_in_netns(netns_fd, _new_socket)

    def open_door(self, netns_fd: int, host: str, port: int) -> Door:
        """Let ``host``, at ``port``, of the sandbox in the namespace lead to the same of this host, until the caller closes the door.

        Raises: UnavailableError: there is nothing here to lead to; IsolationError; OSError.
        """
        target = run_in_netns(self._host_fd, partial(find_target, host, port))
        listener = run_in_netns(netns_fd, partial(_new_listener, inside_address(host), port))
        return run_in_netns(self._host_fd, partial(Door, listener, target))  # its thread stays in that namespace

    def dns_sockets(self) -> tuple[socket.socket, socket.socket]:
        """The sandboxes' resolver address, port 53: a UDP and a listening TCP socket, non-blocking, the caller's to close.

        Two holders share the queries between them, so whoever passes the sockets on closes its own copies.
        """
        return self._opened()[1].dns_sockets()

    def counters(self) -> dict[str, int]:
        """Packets seen by each rule of the router, by the rule's name in docs/network.md."""
        return self._opened()[1].counters()

    def take_refusals(self) -> list[Refusal]:
        """What the policy refused to all sandboxes since the last call."""
        host, router = self._opened()
        return router.take_refusals() + self._in_host(host.refusals.take)

    def survey(self) -> list[str]:
        """Every kernel object that exists for this instance; needs no start."""
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
        """Let go of threads and descriptors and leave the kernel's objects: what a clean supervisor exit does. Idempotent."""
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
    """On loopback, which gets the address when it is none of its own."""
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
