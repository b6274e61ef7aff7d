"""The launcher's side of TLS: picks the certificate's source, hands it to each api process, and again when it has changed.

Runs as root, because private keys are readable to root only. Invariant: a certificate that cannot be read or is wrong never replaces one
that works; at start it ends the start.
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
from cloister.template.certificates import read_trusted, to_pem
from cloister.tls.authority import ServerNames, ca_file, read_certificate
from cloister.tls.handover import make_pair, send
from cloister.tls.source import AuthoritySource, CertificateSource, FileSource

__all__ = ["Certificates", "make_source", "server_names", "write_bundle"]

_log = structlog.get_logger("cloister.serve")
_LOOK_EVERY_S = 2.0


def server_names(settings: Settings) -> ServerNames:
    """The names that the settings give the server. Raises: InvalidRequestError for an address that is none."""
    listen = settings.listen_tls or settings.listen
    host = listen.rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise InvalidRequestError(f"setting listen_tls: {listen!r} does not begin with an IP address") from error
    return ServerNames(settings.domain and settings.domain.partition(":")[0].lower(), host)


def make_source(settings: Settings) -> CertificateSource | None:
    """Where the certificate of the TLS listener comes from; None without such a listener.

    Raises:
        InvalidRequestError: settings that belong together are not given together.
    """
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise InvalidRequestError("tls_cert_file and tls_key_file must be given together")
    if settings.listen_tls is None:
        if settings.tls_cert_file is not None:
            raise InvalidRequestError("tls_cert_file is given, but no listener uses it", hint="set listen_tls, such as 0.0.0.0:443")
        return None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        return FileSource(settings.tls_cert_file, settings.tls_key_file)
    return AuthoritySource(settings.data_dir, server_names(settings))


def write_bundle(data_dir: Path) -> None:
    """Write ``<data>/ca/bundle.crt``: the certificates that this host trusts, and the authority's. Nothing in it is secret."""
    trusted = read_trusted(Path("/"), os.environ.get("SSL_CERT_FILE"), None)
    path = ca_file(data_dir).with_name("bundle.crt")
    partial = path.with_suffix(".partial")
    partial.write_bytes(to_pem([*trusted.all, read_certificate(data_dir)]))
    partial.chmod(0o644)
    partial.rename(path)


class Certificates:
    """The TLS listener's socket and certificate, across api processes."""

    def __init__(self, source: CertificateSource, listener: socket.socket) -> None:
        self._source = source
        self._listener = listener
        self._pem = source.load()
        self._channel: socket.socket | None = None

    def close(self) -> None:
        """Close the channel to the api process; the listener is the caller's."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def url(self) -> str:
        """The listener's address."""
        host, port = self._listener.getsockname()[:2]
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
        """Options and descriptors for a new api process, to be started within; the certificate waits for it on one of them."""
        self.close()
        self._channel, theirs = make_pair()
        with theirs:
            send(self._channel, self._pem)
            fds = (self._listener.fileno(), theirs.fileno())
            yield ("--tls-listen-fd", str(fds[0]), "--tls-fd", str(fds[1])), fds

    async def watch(self) -> None:
        """Look for changes for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if self._source.is_stale():
                self.reload()

    def reload(self) -> None:
        """Read the certificate again and hand it to the api process; on failure the present one stays in use, and the log says why."""
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
