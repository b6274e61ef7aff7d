"""A pretend internet: a network namespace behind a veth pair, with a resolver, httpbin and git by HTTP and HTTPS, and further hosts.

::

    host (this process's namespace, or a given one) 192.0.2.1 pi0 ---- pi1 192.0.2.2, router to
                                                                       198.51.100.53 resolver  198.51.100.80 web servers
                                                                       and what pretend_hosts.py lists, when a test asks for it

The servers are behind a router, like the internet. Networks that the host reaches without a router are its own, and refused to sandboxes.
A server under test needs: ``dns_address`` as its upstream resolver and ``ca_file`` as its extra CA. Start it before the
server, which looks at the host's routes when it starts. Packets that arrive are counted by source and destination.
:meth:`PretendInternet.stop` removes all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from cloister.linux.netns import unpin_netns
from framework.network_lab import Namespace
from framework.pretend_certificates import write_certificates
from framework.pretend_control import Process

__all__ = [
    "DNS_ADDRESS",
    "HOST_ADDRESS",
    "HOST_NAMES",
    "NAMES",
    "OTHER_HOST",
    "PRIVATE_ADDRESS",
    "RESOLVER",
    "SHARED_HOST",
    "SOCKS_HOST",
    "UNTRUSTED_HOST",
    "WEB_ADDRESS",
    "Hosts",
    "PretendInternet",
    "pretend_internet",
]

HOST_ADDRESS, FAR_ADDRESS = "192.0.2.1", "192.0.2.2"
_INTERNET = "198.51.100.0/24"
DNS_ADDRESS, WEB_ADDRESS = "198.51.100.53", "198.51.100.80"
PRIVATE_ADDRESS = "10.77.0.80"
NAMES = ("httpbin.org", "www.httpbin.org", "example.com", "git.example.com")
RESOLVER, SHARED_HOST, OTHER_HOST, UNTRUSTED_HOST, SOCKS_HOST = (f"198.51.100.{number}" for number in (54, 81, 82, 83, 90))
HOST_NAMES = {
    "api.example.net": SHARED_HOST,
    "www.example.net": SHARED_HOST,
    "deep.api.example.net": SHARED_HOST,
    "example.net": SHARED_HOST,
    "xn--bcher-kva.example": SHARED_HOST,
    "misnamed.example": SHARED_HOST,
    "evil.example": OTHER_HOST,
    "evil-example.net": OTHER_HOST,
    "a.evil-example.net": OTHER_HOST,
    "api.example.net.evil.example": OTHER_HOST,
    "untrusted.example": UNTRUSTED_HOST,
    "socks.example": SOCKS_HOST,
    "dns.example": RESOLVER,
}
"""Names of :class:`Hosts`, which the resolver knows from the start. All but ``misnamed.example`` are in the servers' certificate."""
_HOST_ADDRESSES = (RESOLVER, SHARED_HOST, OTHER_HOST, UNTRUSTED_HOST, SOCKS_HOST)
_LOCK = Path(tempfile.gettempdir()) / "cloister-test-internet.lock"
_SERVER, _HOSTS = (Path(__file__).with_name(name) for name in ("pretend_server.py", "pretend_hosts.py"))
_COUNT = """
table ip pretend {
  set seen { type ipv4_addr . ipv4_addr; size 65535; flags dynamic; counter; }
  set opened { type ipv4_addr . ipv4_addr; size 65535; flags dynamic; counter; }
  chain arrivals {
    type filter hook prerouting priority raw;
    iifname "pi1" update @seen { ip saddr . ip daddr counter };
    iifname "pi1" tcp flags & (syn | ack) == syn update @opened { ip saddr . ip daddr counter };
  }
}
"""


class PretendInternet:
    """A running pretend internet.

    ``directory`` is the test's own. ``host`` is a network namespace that plays the host; None: the one of the calling process. ``names``
    resolve to the web servers, and their certificate is made out for them and for ``HOST_NAMES``; every other name does not exist until
    :meth:`answer`. ``addresses`` are further ones that belong to the other side, private ones for instance, and are in the certificate too.

    In the namespace of the calling process there is one at a time: a second test run waits for the first one's end, and what a killed run
    left is removed.
    """

    dns_address = DNS_ADDRESS
    web_address = WEB_ADDRESS

    def __init__(self, directory: Path, host: Namespace | None = None, names: Sequence[str] = NAMES, addresses: Sequence[str] = ()) -> None:
        self._host = host
        self._undo = ExitStack()
        directory = directory / "pretend"
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = directory / "ca.pem"
        self.certificate = directory / "server.pem"
        self._addresses = addresses
        with ExitStack() as undo:
            self._far = Namespace(directory / "netns")
            undo.callback(self._far.close)
            if host is None:
                self._replace_killed(undo)
            self._join(undo)
            named = [*names, *(name for name in HOST_NAMES if name != "misnamed.example")]
            write_certificates(self.ca_file, self.certificate, named, (WEB_ADDRESS, *_HOST_ADDRESSES, *addresses))
            self._resolver = self._serve(undo, dict.fromkeys(names, WEB_ADDRESS))
            self._undo = undo.pop_all()

    def _in_host(self, command: str) -> None:
        if self._host is not None:
            self._host.run(command)
        else:
            subprocess.run(["sh", "-c", command], check=True, capture_output=True)

    def _replace_killed(self, undo: ExitStack) -> None:
        lock = undo.enter_context(os.fdopen(os.open(_LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._remove_link()
        before = lock.read()
        if before:
            unpin_netns(Path(before))
        lock.seek(0)
        lock.truncate()
        lock.write(str(self._far.path))
        lock.flush()
        undo.callback(os.truncate, _LOCK, 0)

    def _join(self, undo: ExitStack) -> None:
        self._far.run("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        self._in_host(f"ip link add pi0 type veth peer name pi1 netns {self._far.path}")
        undo.callback(self._remove_link)
        self._in_host(f"echo 1 > /proc/sys/net/ipv6/conf/pi0/disable_ipv6;ip address add {HOST_ADDRESS}/30 dev pi0 && ip link set pi0 up")
        addresses = " && ".join(
            f"ip address add {address} dev pi1"
            for address in (f"{FAR_ADDRESS}/30", DNS_ADDRESS, WEB_ADDRESS, *_HOST_ADDRESSES, *self._addresses)
        )
        for network in (_INTERNET, *self._addresses):
            self._in_host(f"ip route add {network} via {FAR_ADDRESS} dev pi0")
        self._far.run(f"{addresses} && ip link set pi1 up && ip route add default via {HOST_ADDRESS}", f"echo '{_COUNT}' | nft -f -")

    def _remove_link(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.CalledProcessError):  # not there, or gone with the host's namespace
            self._in_host("ip link delete pi0")

    def _serve(self, undo: ExitStack, names: dict[str, str]) -> Process:
        options = ["--dns", DNS_ADDRESS, "--web", WEB_ADDRESS, "--git", str(self.certificate.parent / "git")]
        return self._start(undo, _SERVER, [*options, "--certificate", str(self.certificate)], {**names, **HOST_NAMES})

    def _start(self, undo: ExitStack, program: Path, options: Sequence[str], names: dict[str, str]) -> Process:
        command = ["nsenter", f"--net={self._far.path}", sys.executable, "-P", str(program), *options]
        named = [f"--name={name}={address}" for name, address in names.items()]
        process = Process([*command, *named], self.certificate.with_name(f"{program.stem}.log"))
        undo.callback(process.end)
        return process

    @cached_property
    def hosts(self) -> Hosts:
        """The further hosts; the first look starts them, in less than a second."""
        other = self.certificate.with_name("other.pem")
        write_certificates(self.certificate.with_name("other-ca.pem"), other, ("untrusted.example",), (UNTRUSTED_HOST,))
        options = ["--web", SHARED_HOST, "--web", OTHER_HOST, "--resolver", RESOLVER, "--untrusted", UNTRUSTED_HOST, "--proxy", SOCKS_HOST]
        options += ["--certificate", str(self.certificate), "--other-certificate", str(other)]
        return Hosts(self._start(self._undo, _HOSTS, options, HOST_NAMES))

    def answer(self, name: str, *answers: str | Sequence[str], ttl: int = 5, fault: str | None = None, ech: bool = False) -> None:
        """Let the resolver answer so for a name, or for all names below x if it is ``*.x``, from now on.

        With several answers, each an address or some, every question gets the next, and the last stays. ``fault`` and ``ech``:
        see :class:`~framework.pretend_names.Zone`.
        """
        self._resolver.order("name", name=name, entry=_entry(answers, ttl, fault, ech))

    def forget(self, name: str) -> None:
        """Let a name not exist."""
        self._resolver.order("name", name=name, entry=None)

    def questions(self) -> list[tuple[str, str]]:
        """Name and type of the questions to the resolver, oldest first."""
        return [(name, kind) for name, kind, _ in self._resolver.order("questions")]

    @property
    def namespace(self) -> Path:
        """The network namespace of the other side, for further servers."""
        return self._far.path

    def packets(self, *, source: str | None = None, destination: str | None = None) -> int:
        """Packets that have arrived, of that source and destination when they are given."""
        return self._counted("seen", source, destination)

    def openings(self, *, destination: str) -> int:
        """First packets of TCP connections to that destination that have arrived. The host resets connections by packets of its own."""
        return self._counted("opened", None, destination)

    def _counted(self, name: str, source: str | None, destination: str | None) -> int:
        listed = json.loads(self._far.run(f"nft -j list set ip pretend {name}"))
        elements = next(item["set"] for item in listed["nftables"] if "set" in item).get("elem", [])
        total = 0
        for item in elements:
            came_from, went_to = item["elem"]["val"]["concat"]
            if source in (None, came_from) and destination in (None, went_to):
                total += item["elem"]["counter"]["packets"]
        return total

    def stop(self) -> None:
        """End the servers and remove interfaces and namespace. Idempotent."""
        self._undo.close()


class Hosts:
    """The further hosts of a pretend internet (pretend_hosts.py), to look at and to direct."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def requests(self) -> list[dict[str, Any]]:
        """The requests that the web servers got, oldest first, in the form of ``/headers`` (pretend_app.py)."""
        found: list[dict[str, Any]] = self._process.order("requests")
        return found

    def allow(self, pieces: int) -> None:
        """Let ``/stream`` send that many pieces more."""
        self._process.order("allow", pieces=pieces)

    def proxied(self) -> list[dict[str, Any]]:
        """Host, port and user of each connection that the SOCKS proxy was asked for."""
        found: list[dict[str, Any]] = self._process.order("proxied")
        return found

    def refuse_proxied(self, *, refuse: bool) -> None:
        """Let the SOCKS proxy refuse connections, or not."""
        self._process.order("refuse", refuse=refuse)

    def answer(self, name: str, *answers: str | Sequence[str], ttl: int = 5, fault: str | None = None, ech: bool = False) -> None:
        """As :meth:`PretendInternet.answer`, for the foreign resolver."""
        self._process.order("name", name=name, entry=_entry(answers, ttl, fault, ech))

    def questions(self) -> list[tuple[str, str]]:
        """As :meth:`PretendInternet.questions`, for the foreign resolver."""
        return [(name, kind) for name, kind, _ in self._process.order("questions")]


def _entry(answers: Sequence[str | Sequence[str]], ttl: int, fault: str | None, ech: bool) -> dict[str, Any]:
    listed = [[answer] if isinstance(answer, str) else list(answer) for answer in answers] or [[]]
    return {"addresses": listed, "ttl": ttl, "fault": fault, "ech": ech}


@contextmanager
def pretend_internet(
    directory: Path, host: Namespace | None = None, names: Sequence[str] = NAMES, addresses: Sequence[str] = ()
) -> Iterator[PretendInternet]:
    """A :class:`PretendInternet` for the time of a ``with``."""
    made = PretendInternet(directory, host, names, addresses)
    try:
        yield made
    finally:
        made.stop()
