"""A pretend internet: a network namespace with a resolver, httpbin and git by HTTP and HTTPS, joined to the host by a veth pair.

::

    host (this process's namespace, or a given one) 198.51.100.1 pi0 ---- pi1 198.51.100.2  .53 resolver  .80 web servers

What a server under test needs to know: ``dns_address`` as its upstream resolver and ``ca_file`` as its extra CA. Start it before the
server, which looks at the host's routes when it starts. Packets that arrive are counted by source and destination.
:meth:`PretendInternet.stop` removes all.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloister.linux.netns import unpin_netns
from framework.network_lab import Namespace

__all__ = [
    "DNS_ADDRESS",
    "HOST_ADDRESS",
    "NAMES",
    "PRIVATE_ADDRESS",
    "WEB_ADDRESS",
    "PretendInternet",
    "pretend_internet",
    "write_certificates",
]

HOST_ADDRESS, FAR_ADDRESS = "198.51.100.1", "198.51.100.2"
DNS_ADDRESS, WEB_ADDRESS = "198.51.100.53", "198.51.100.80"
PRIVATE_ADDRESS = "10.77.0.80"
NAMES = ("httpbin.org", "www.httpbin.org", "example.com", "git.example.com")
_LOCK = Path(tempfile.gettempdir()) / "cloister-test-internet.lock"
_SERVER = Path(__file__).with_name("pretend_server.py")
_COUNT = """
table ip pretend {
  set seen { type ipv4_addr . ipv4_addr; size 65535; flags dynamic; counter; }
  chain arrivals { type filter hook prerouting priority raw; iifname "pi1" update @seen { ip saddr . ip daddr counter }; }
}
"""


class PretendInternet:
    """A running pretend internet.

    ``directory`` is the test's own. ``host`` is a network namespace that plays the host; None: the one of the calling process. ``names``
    resolve to the web servers, and their certificate is made out for them; every other name does not exist. ``addresses`` are further ones
    that belong to the other side, private ones for instance, and are in the certificate too.

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
            write_certificates(self.ca_file, self.certificate, names, addresses)
            self._serve(undo, self.certificate, names)
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
        self._in_host(f"echo 1 > /proc/sys/net/ipv6/conf/pi0/disable_ipv6;ip address add {HOST_ADDRESS}/24 dev pi0 && ip link set pi0 up")
        addresses = " && ".join(
            f"ip address add {address}/24 dev pi1" for address in (FAR_ADDRESS, DNS_ADDRESS, WEB_ADDRESS, *self._addresses)
        )
        for address in self._addresses:
            self._in_host(f"ip route add {address}/32 dev pi0")
        self._far.run(f"{addresses} && ip link set pi1 up && ip route add default via {HOST_ADDRESS}", f"echo '{_COUNT}' | nft -f -")

    def _remove_link(self) -> None:
        with contextlib.suppress(AssertionError, subprocess.CalledProcessError):  # not there, or gone with the host's namespace
            self._in_host("ip link delete pi0")

    def _serve(self, undo: ExitStack, certificate: Path, names: Sequence[str]) -> None:
        command = ["nsenter", f"--net={self._far.path}", sys.executable, "-P", str(_SERVER), "--dns", DNS_ADDRESS, "--web", WEB_ADDRESS]
        command += ["--certificate", str(certificate), "--git", str(certificate.parent / "git")]
        command += [f"--name={name}={WEB_ADDRESS}" for name in names]
        with (certificate.parent / "server.log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        undo.callback(_end, process)
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise AssertionError("the pretend internet's servers did not start: " + (certificate.parent / "server.log").read_text())

    @property
    def namespace(self) -> Path:
        """The network namespace of the other side, for further servers."""
        return self._far.path

    def packets(self, *, source: str | None = None, destination: str | None = None) -> int:
        """Packets that have arrived, of that source and destination when they are given."""
        listed = json.loads(self._far.run("nft -j list set ip pretend seen"))
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


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, key: ec.EllipticCurvePrivateKey, ca_key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name("Pretend Internet CA")).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=30))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def write_certificates(ca_file: Path, server_file: Path, names: Sequence[str], addresses: Sequence[str]) -> None:
    """A fresh CA, and a chain and key for ``names`` and all addresses, strict enough for every language's TLS library."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _builder("Pretend Internet CA", ca_key, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca_certificate = ca.add_extension(_usage(is_ca=True), critical=True).sign(ca_key, hashes.SHA256())
    alternatives = [*(x509.DNSName(name) for name in names), *(x509.IPAddress(ip_address(one)) for one in (WEB_ADDRESS, *addresses))]
    server = _builder(names[0], key, ca_key).add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    server = server.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
        _usage(is_ca=False), critical=True
    )
    server = server.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    certificate = server.sign(ca_key, hashes.SHA256())
    ca_pem = ca_certificate.public_bytes(serialization.Encoding.PEM)
    ca_file.write_bytes(ca_pem)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    fd = os.open(server_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM) + ca_pem + private)
