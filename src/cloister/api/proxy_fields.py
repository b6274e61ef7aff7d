"""Reads the ``egressProxy`` of a network. Pure: the control plane looks up its address.

The contract is the published one. Password and certificates are never returned. Source: RFC 1929 (a user name has 1 to 255 bytes).
"""

from __future__ import annotations

import re
from typing import Any

from cryptography import x509

from cloister.api.fields import Fields, shown
from cloister.errors import InvalidRequestError
from cloister.model.addresses import is_host_name, parse_listen
from cloister.model.network import EgressProxy
from cloister.model.secret import conceal

__all__ = ["parse_proxy"]

_WHERE = "network.egressProxy."
_BEGIN = re.compile(r"-----BEGIN ([^-]*)-----")


def parse_proxy(fields: Fields) -> tuple[EgressProxy | None, dict[str, Any] | None]:
    """The proxy, and what answers show of it; both None if the field is absent. Raises: InvalidRequestError."""
    body = fields.take("egressProxy", dict, None)
    if body is None:
        return None, None
    proxy = Fields(body, _WHERE, is_strict=True)
    address = _parse_address(proxy.take("address", str))
    username, password = proxy.take("username", str, None), proxy.take("password", str, None)
    tls = Fields(proxy.take("tls", dict, {}), f"{_WHERE}tls.", is_strict=True)
    enabled, server_name, ca_cert = tls.take("enabled", bool, False), tls.take("serverName", str, None), tls.take("caCert", str, None)
    tls.end()
    proxy.end()
    if username == "":
        raise InvalidRequestError(f"{_WHERE}username is empty", hint="SOCKS5 has no empty user name; leave it out for a proxy without one")
    if password is not None and username is None:
        raise InvalidRequestError(f"{_WHERE}password needs {_WHERE}username")
    if not enabled and (server_name is not None or ca_cert is not None):
        raise InvalidRequestError(f"{_WHERE}tls.serverName and caCert need tls.enabled: true")
    if server_name is not None and not is_host_name(server_name):
        raise InvalidRequestError(f"{_WHERE}tls.serverName is not a host name: {shown(server_name)}")
    if ca_cert is not None:
        _check_certificates(ca_cert)
    found = EgressProxy(
        address=address, username=username, password=conceal(password), tls=enabled, server_name=server_name, ca_certs=ca_cert
    )
    sent: dict[str, Any] = {"address": address, **({} if username is None else {"username": username})}
    if enabled:
        sent["tls"] = {"enabled": True, **({} if server_name is None else {"serverName": server_name})}
    return found, sent


def _parse_address(text: str) -> str:
    address = text.strip().lower()
    try:
        _, port = parse_listen(address)
    except InvalidRequestError as error:
        hint = "host:port, such as proxy.example.com:1080"
        raise InvalidRequestError(f"{_WHERE}address is not valid: {shown(text)}", hint=hint) from error
    if port == 0:
        raise InvalidRequestError(f"{_WHERE}address has no port")
    return address


def _check_certificates(pem: str) -> None:
    kinds = _BEGIN.findall(pem)
    try:
        if not kinds or any(kind != "CERTIFICATE" for kind in kinds):
            raise ValueError
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise InvalidRequestError(f"{_WHERE}tls.caCert must have certificates in PEM form, and nothing else") from error
