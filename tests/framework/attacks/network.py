"""Attacks by sockets: other kinds of network, other addresses, and the rules of the network."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable
from functools import partial

from .base import Family
from .netlink import INTERFACE, ask, attribute, change_link, delete_route, make_tunnel, new_address

__all__ = ["FAMILY"]

FAMILY = Family("no CAP_NET_ADMIN over it", "no CAP_NET_ADMIN")

_KINDS = {
    "AX.25": 3, "IPX": 4, "AppleTalk": 5, "NetRom": 6, "ATM": 8, "X.25": 9, "Rose": 11, "key management": 15, "RDS": 21, "PPP": 24,
    "LLC": 26, "InfiniBand": 27, "CAN": 29, "TIPC": 30, "Bluetooth": 31, "RxRPC": 33, "Phonet": 35, "CAIF": 37,
    "the kernel's ciphers": 38, "NFC": 39, "virtual machines (vsock)": 40, "KCM": 41, "Qualcomm": 42, "SMC": 43, "XDP": 44, "MCTP": 45,
}  # fmt: skip


def _any_type(family: int, protocol: int = 0) -> object:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            return socket.socket(family, kind, protocol)
        except OSError as error:
            last = error
    raise last


for _name, _number in _KINDS.items():
    FAMILY.add(
        f"use a socket of {_name}",
        partial(_any_type, _number),
        *("EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"),
        namespace="seccomp: four families of sockets",
        gvisor="gVisor's kernel does not have it",
    )

for _name, _protocol in {"SCTP": 132, "DCCP": 33, "UDP-Lite": 136, "MPTCP": 262, "L2TP": 115}.items():
    FAMILY.add(
        f"use {_name}",
        partial(_any_type, socket.AF_INET, _protocol),
        *("EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EPROTOTYPE", "EINVAL"),
        namespace="seccomp: six protocols",
        gvisor="gVisor's kernel does not have it",
    )

_RAW = (("ICMP", socket.AF_INET, 1), ("IP", socket.AF_INET, 255), ("TCP", socket.AF_INET, 6), ("ICMPv6", socket.AF_INET6, 58))
for _name, _family, _protocol in _RAW:
    FAMILY.add(
        f"use a raw socket of {_name}",
        partial(socket.socket, _family, socket.SOCK_RAW, _protocol),
        namespace="no CAP_NET_RAW",
        gvisor="no CAP_NET_RAW",
    )
for _name, _kind in (("whole frames", socket.SOCK_RAW), ("packets", socket.SOCK_DGRAM)):
    FAMILY.add(
        f"use a socket of {_name}",
        partial(socket.socket, 17, _kind, 0x300),
        "EAFNOSUPPORT",
        namespace="seccomp; no CAP_NET_RAW",
        gvisor="no CAP_NET_RAW",
    )

_NETLINK = {"xfrm": 6, "SELinux": 7, "audit": 9, "routing look-ups": 10, "process events": 11, "netfilter": 12, "SCSI": 18, "ciphers": 21,
            "RDMA": 20, "generic": 16}  # fmt: skip
for _name, _protocol in _NETLINK.items():
    FAMILY.add(
        f"talk to the kernel about {_name}",
        partial(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, _protocol),
        "EPROTONOSUPPORT",
        namespace="seccomp: netlink for routes and socket statistics",
        gvisor="gVisor's kernel does not have it",
    )


@FAMILY.attack("hear of devices of the host", "EPROTONOSUPPORT", "ENOTSUP", namespace="seccomp", gvisor="gVisor tells of its own devices")
def _() -> str | None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as sock:
        sock.bind((0, 0xFFFFFFFF))
        sock.settimeout(0.2)
        try:
            return repr(sock.recv(4096))
        except TimeoutError:
            return None


_GATEWAY = "10.201.32.1"
_ETHERNET = bytes.fromhex("02434c000099")
FAMILY.add("add an address", lambda: new_address("10.200.0.9"))
FAMILY.add("add the address of its gateway", lambda: new_address(_GATEWAY))
FAMILY.add("delete its address", lambda: new_address(own_address(), delete=True))
FAMILY.add("take its interface down", lambda: change_link(up=False))
FAMILY.add("change its Ethernet address", lambda: change_link(up=True, attributes=[attribute(1, _ETHERNET)]), "EOPNOTSUPP")
FAMILY.add("change the size of packets", lambda: change_link(up=True, attributes=[attribute(4, struct.pack("=I", 9000))]), "EOPNOTSUPP")
FAMILY.add("rename its interface", lambda: change_link(up=False, attributes=[attribute(3, b"other0\0")]), "EOPNOTSUPP")
FAMILY.add(
    "move its interface to another namespace", lambda: change_link(up=True, attributes=[attribute(19, struct.pack("=I", 1))]), "EOPNOTSUPP"
)
FAMILY.add("delete its default route", delete_route, "EOPNOTSUPP")
_ROUTE = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
FAMILY.add("add a route", lambda: ask(24, _ROUTE, [attribute(4, struct.pack("=I", INTERFACE()))], flags=0x400), "EOPNOTSUPP")
_NEIGHBOUR = struct.pack("=BBHiHBB", socket.AF_INET, 0, 0, 2, 0x80, 0, 0)
FAMILY.add(
    "set the Ethernet address of its gateway",
    lambda: ask(28, _NEIGHBOUR, [attribute(1, socket.inet_aton(_GATEWAY)), attribute(2, _ETHERNET)], flags=0x400),
    "EOPNOTSUPP",
)
FAMILY.add("add a rule of routing", lambda: ask(32, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0), flags=0x400), "EOPNOTSUPP")
FAMILY.add(
    "make a virtual interface",
    lambda: ask(
        16, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0), [attribute(3, b"d0\0"), attribute(18, attribute(1, b"dummy\0"))], flags=0x600
    ),
    "EOPNOTSUPP",
)


def own_address() -> str:
    """That of the interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("198.51.100.1", 1))
        return str(sock.getsockname()[0])


def _ioctl(number: int, *parts: bytes) -> object:
    name = socket.if_indextoname(INTERFACE()).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, number, struct.pack("16s", name) + b"".join(parts).ljust(24, b"\0"))


_INET = struct.pack("HH", socket.AF_INET, 0)
for _name, _number, _parts in (
    ("set an address", 0x8916, (_INET, socket.inet_aton("10.200.0.9"))),
    ("set a netmask", 0x891C, (_INET, socket.inet_aton("255.0.0.0"))),
    ("set flags of the interface (promiscuous)", 0x8914, (struct.pack("H", 0x1143),)),
    ("set the Ethernet address", 0x8924, (struct.pack("H", 1), _ETHERNET)),
    ("set the size of packets", 0x8922, (struct.pack("i", 9000),)),
):
    FAMILY.add(f"{_name} by ioctl", partial(_ioctl, _number, *_parts), "ENOTTY", gvisor="gVisor has no such request")


@FAMILY.attack("set an entry of the ARP table by ioctl", "ENOTTY", gvisor="gVisor has no such request")
def _() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = (
            _INET + socket.inet_aton(_GATEWAY) + bytes(8) + struct.pack("H", 1) + _ETHERNET + bytes(8) + struct.pack("i16x16s", 6, b"eth0")
        )
        return fcntl.ioctl(sock, 0x8955, request)


FAMILY.add("make a tunnel", make_tunnel, "ENOENT", namespace="no such device")


def _option(level: int, number: int, value: bytes | int, family: int = socket.AF_INET) -> Callable[[], object]:
    def attempt() -> str:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(level, number, value)
        return "set"

    return attempt


FAMILY.add("mark its packets (SO_MARK)", _option(1, 36, 7), "ENOPROTOOPT", gvisor="gVisor has no such option")
FAMILY.add("exceed buffer bounds (SO_RCVBUFFORCE)", _option(1, 33, 1 << 30), "ENOPROTOOPT", gvisor="gVisor has no such option")
FAMILY.add("replace the packet filter (iptables)", _option(0, 64, bytes(96)), "ENOPROTOOPT")
FAMILY.add("replace the packet filter (ip6tables)", _option(41, 64, bytes(96), socket.AF_INET6), "ENOPROTOOPT")


@FAMILY.attack("exceed buffer bounds (SO_SNDBUFFORCE)", gvisor="gVisor's own bound of 8 MiB")
def _() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(1, 32, 1 << 30)
        size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return f"{size} bytes" if size > 16 << 20 else None


_FREEBIND, _TRANSPARENT = 15, 19


def _send_from(address: str, option: int = 0) -> str:
    """Send a datagram as another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if option:
            sock.setsockopt(0, option, 1)
        sock.bind((address, 0))
        sock.connect(("198.51.100.1", 9))
        sock.send(b"attack")
        return f"sent from {sock.getsockname()[0]}"


_NOT_OURS = ("EADDRNOTAVAIL", "EINVAL", "ENETUNREACH", "EHOSTUNREACH", "ENOPROTOOPT")
for _name, _address in (("its gateway", _GATEWAY), ("a neighbour", "10.201.2.200"), ("a public address", "203.0.113.7")):
    for _by, _option_number in (("", 0), (" by IP_FREEBIND", _FREEBIND), (" by IP_TRANSPARENT", _TRANSPARENT)):
        FAMILY.add(
            f"send from {_name}{_by}",
            partial(_send_from, _address, _option_number),
            *_NOT_OURS,
            held="the address is not its own",
        )


@FAMILY.attack("name another source in a control message", *_NOT_OURS, held="the address is not its own")
def _() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind((own_address(), 0))
        heard.settimeout(1)
        source = struct.pack("=I4s4s", 0, socket.inet_aton("203.0.113.7"), bytes(4))
        sock.sendmsg([b"attack"], [(socket.IPPROTO_IP, 8, source)], 0, heard.getsockname())
        return None if heard.recvfrom(99)[1][0] == own_address() else "heard from another address"
