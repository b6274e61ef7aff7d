"""The launcher's side of TLS: chooses the certificate's source, sends it to each api process, and sends it again after a change.

Runs as root, because only root can read private keys. Invariant: an unreadable or invalid certificate never replaces a valid one. At start
it is an error that ends the launcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import structlog

from cloister.config.settings import Settings
from cloister.errors import CloisterError, InvalidRequestError
from cloister.tls.authority import ServerNames, ca_file, read_certificate
from cloister.tls.handover import make_pair, send
from cloister.tls.source import AuthoritySource, CertificateSource, FileSource
from cloister.tls.trusted import read_trusted, to_pem

__all__ = ["CertificateReloader", "make_source", "server_names", "write_bundle"]

_log = structlog.get_logger("cloister.serve")
_LOOK_EVERY_S = 2.0


def server_names(settings: Settings) -> ServerNames:
    """The names of the server, from the settings. Raises: InvalidRequestError if the listener has no valid address."""
    listen = settings.listen_tls or settings.listen
    host = listen.rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise InvalidRequestError(f"setting listen_tls: {listen!r} does not begin with an IP address") from error
    return ServerNames(settings.public_domain and settings.public_domain.partition(":")[0].lower(), host)


def make_source(settings: Settings) -> CertificateSource | None:
    """The source of the TLS listener's certificate; None without such a listener.

    Raises:
        InvalidRequestError: only one of two settings that belong together is given.
    """
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise InvalidRequestError("tls_cert_file and tls_key_file must be given together")
    if settings.listen_tls is None:
        if settings.tls_cert_file is not None:
            raise InvalidRequestError("no listener uses tls_cert_file", hint="set listen_tls, such as 0.0.0.0:443")
        return None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        return FileSource(settings.tls_cert_file, settings.tls_key_file)
    return AuthoritySource(settings.data_dir, server_names(settings))


def write_bundle(data_dir: Path) -> None:
    """Write ``<data>/ca/bundle.crt``: the certificates that this host trusts, and the authority's. It has no secrets."""
    trusted = read_trusted(Path("/"), os.environ.get("SSL_CERT_FILE"), None)
    path = ca_file(data_dir).with_name("bundle.crt")
    partial = path.with_suffix(".partial")
    partial.write_bytes(to_pem([*trusted.all, read_certificate(data_dir)]))
    partial.chmod(0o644)
    partial.rename(path)


class CertificateReloader:
    """The TLS listener's socket and certificate, which outlive each api process."""

    def __init__(self, source: CertificateSource, listener: socket.socket) -> None:
        self._source = source
        self._listener = listener
        self._pem = source.load()
        self._channel: socket.socket | None = None

    def close(self) -> None:
        """Close the channel to the api process. The caller closes the listener."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def url(self) -> str:
        """The listener's address."""
        host, port = self._listener.getsockname()[:2]
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
        """Options and descriptors for a new api process, which the caller starts inside the block. The certificate is already sent."""
        self.close()
        self._channel, theirs = make_pair()
        with theirs:
            send(self._channel, self._pem)
            fds = (self._listener.fileno(), theirs.fileno())
            yield ("--tls-listen-fd", str(fds[0]), "--tls-fd", str(fds[1])), fds

    async def watch(self) -> None:
        """Check for changes until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._source.is_stale():
                self.reload()

    def reload(self) -> None:
        """Read the certificate again and send it to the api process. On failure the current one stays, and the log gives the cause."""
        try:
            pem = self._source.load()
            if pem == self._pem:
                return
            if self._channel is not None:
                send(self._channel, pem)
        except CloisterError as error:
            _log.error("certificate.not_replaced", error=str(error))
            return
        self._pem = pem
        _log.info("certificate.replaced")
