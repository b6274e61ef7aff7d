"""TLS contexts of both sides: for the guest with a certificate of its sandbox's authority, for the upstream with the host's certificates.

Invariant: an upstream's certificate is always verified, name included, with TLS 1.2 or newer. No private key is in a file with a name.
"""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from cloister.tls.context import make_client_context, make_context
from cloister.tls.sandbox_authority import SandboxAuthority, authority_of

__all__ = ["GuestContexts", "UpstreamContexts"]

_MAX_CONTEXTS = 256
_MAX_AGE_S = 86_400.0
"""Far below the lifetime of a certificate."""


class GuestContexts:
    """Contexts for handshakes with guests, by sandbox, name and protocol. Keeps the latest ones."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._authority = lru_cache(maxsize=_MAX_CONTEXTS)(lambda sandbox_id: authority_of(secret, sandbox_id))
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str, str | None], tuple[float, ssl.SSLContext]] = OrderedDict()

    def authority(self, sandbox_id: str) -> SandboxAuthority:
        """The authority of a sandbox."""
        return self._authority(sandbox_id)

    def context(self, sandbox_id: str, name: str, protocol: str | None) -> ssl.SSLContext:
        """The context for a guest that asked for ``name`` and is to speak ``protocol`` (ALPN)."""
        key = (sandbox_id, name, protocol)
        made_at, context = self._kept.get(key, (0.0, None))
        if context is None or self._clock() - made_at > _MAX_AGE_S:
            context = _guest_context(self.authority(sandbox_id).issue(name), name, protocol)
            self._kept[key] = (self._clock(), context)
        self._kept.move_to_end(key)
        while len(self._kept) > _MAX_CONTEXTS:
            self._kept.popitem(last=False)
        return context


def _guest_context(pem: bytes, name: str, protocol: str | None) -> ssl.SSLContext:
    context = make_context(pem, () if protocol is None else (protocol,))

    def check_name(_connection: ssl.SSLObject | ssl.SSLSocket, asked: str | None, _context: ssl.SSLContext) -> int | None:
        # A second hello of the same handshake could name another host than the one that was inspected.
        is_same = asked is not None and asked.lower() == name
        return None if is_same else int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)

    context.sni_callback = check_name
    return context


class UpstreamContexts:
    """Contexts for handshakes with upstreams, by the protocols that are offered. They trust ``certificates`` (PEM) alone."""

    def __init__(self, certificates: str) -> None:
        self._certificates = certificates
        self._kept: dict[tuple[str, ...], ssl.SSLContext] = {}

    def context(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """The context that offers ``protocols`` (ALPN). Raises: ssl.SSLError, ValueError: there is no certificate to trust."""
        if protocols not in self._kept:
            self._kept[protocols] = make_client_context(self._certificates, protocols)
        return self._kept[protocols]
