"""The bounds of texts in JSON bodies: one table, by the field's wire name.

:class:`~cloister.api.fields.Fields` reads only texts that are in this table, so a new field needs a bound here first. The bound of the
request's head also bounds path, query and headers. Pure data.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister.model.build import MAX_STEPS
from cloister.model.network import MAX_ENTRIES

__all__ = ["BOUNDS", "Bound"]

_KIB = 1024
_NAME = 512
"""A name with namespace and tag, each of at most 128 characters."""
_ARGUMENT = 128 * _KIB
"""Linux's bound of one program argument (``MAX_ARG_STRLEN``, execve(2))."""
_SECRET = 16 * _KIB
_ENTRY = 300
"""A host name, which has at most 253 characters, with a port."""
_CREDENTIAL = 255
"""Of a SOCKS5 proxy. Source: RFC 1929 section 2."""


@dataclass(frozen=True)
class Bound:
    """A field's bound: ``size`` is in UTF-8 bytes, for a text, for each text of a list, or for all names and values of an object
    together; ``entries`` bounds a list or an object.
    """

    size: int
    entries: int = 1


BOUNDS: dict[str, Bound] = {
    "templateID": Bound(_NAME),
    "metadata": Bound(64 * _KIB, 1000),
    "envVars": Bound(_ARGUMENT, 1000),
    "network.maskRequestHost": Bound(_NAME),
    "network.allowOut": Bound(_ENTRY, MAX_ENTRIES),
    "network.denyOut": Bound(_ENTRY, MAX_ENTRIES),
    "network.dnsServers": Bound(_ENTRY, 10),
    "network.httpsPorts": Bound(0, 128),
    "network.egressProxy.address": Bound(_ENTRY),
    "network.egressProxy.username": Bound(_CREDENTIAL),
    "network.egressProxy.password": Bound(_CREDENTIAL),
    "network.egressProxy.tls.serverName": Bound(253),
    "network.egressProxy.tls.caCert": Bound(8 * _KIB),
    "name": Bound(_NAME),
    "value": Bound(_SECRET),
    "key": Bound(_NAME),
    "volumeMounts": Bound(0, 1000),
    "volumeMounts[].name": Bound(_NAME),
    "volumeMounts[].path": Bound(4 * _KIB),
    "expiresAt": Bound(64),
    "status": Bound(64),
    "tokenID": Bound(64),
    "nodeID": Bound(64),
    "address": Bound(512),
    "request": Bound(8 * _KIB),
    "nonce": Bound(128),
    "mark": Bound(128),
    "url": Bound(2 * _KIB),
    "events": Bound(64, 32),
    "signatureSecret": Bound(2 * _KIB),
    "alias": Bound(_NAME),
    "teamID": Bound(128),
    "target": Bound(_NAME),
    "tags": Bound(_NAME, 100),
    "fromImage": Bound(1 * _KIB),
    "fromTemplate": Bound(_NAME),
    "startCmd": Bound(_ARGUMENT),
    "readyCmd": Bound(_ARGUMENT),
    "fromImageRegistry.type": Bound(64),
    "fromImageRegistry.username": Bound(_SECRET),
    "fromImageRegistry.password": Bound(_SECRET),
    "fromImageRegistry.serviceAccountJson": Bound(_SECRET),
    "fromImageRegistry.awsRegion": Bound(64),
    "fromImageRegistry.awsAccessKeyId": Bound(_SECRET),
    "fromImageRegistry.awsSecretAccessKey": Bound(_SECRET),
    "steps": Bound(0, MAX_STEPS),
    "steps[].type": Bound(64),
    "steps[].args": Bound(_ARGUMENT, 1000),
    "steps[].filesHash": Bound(128),
}
