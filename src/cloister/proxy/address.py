"""Which sandbox and port a request means: by headers, or by the first label of its host. Pure.

The contract is the published one: ``E2b-Sandbox-Id`` and ``E2b-Sandbox-Port`` headers, which count first, or a host of the form
``<port>-<id>[-<client id>].<domain>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Address", "AddressError", "find_address"]

ID_HEADER = "E2b-Sandbox-Id"
PORT_HEADER = "E2b-Sandbox-Port"
_HOST = re.compile(r"(\d{1,5})-([a-z0-9]+)(?:-[a-z0-9]+)?\.", re.IGNORECASE)
_ID = re.compile(r"[a-z0-9]{1,64}\Z")


class AddressError(ValueError):
    """The request means a sandbox, but not a possible one."""


@dataclass(frozen=True)
class Address:
    """A port of a sandbox."""

    sandbox_id: str
    port: int


def find_address(headers: Mapping[str, str]) -> Address | None:
    """The address that ``headers`` mean, or None for a request to the API.

    Raises:
        AddressError: the id or the port is malformed, or one header of the pair is missing.
    """
    sandbox_id = headers.get(ID_HEADER)
    if sandbox_id is not None:
        return _check(sandbox_id.partition("-")[0], headers.get(PORT_HEADER))
    match = _HOST.match(headers.get("Host", ""))
    return None if match is None else _check(match[2].lower(), match[1])


def _check(sandbox_id: str, port: str | None) -> Address:
    if not _ID.match(sandbox_id):
        raise AddressError("the sandbox id is malformed")
    if port is None:
        raise AddressError(f"the {PORT_HEADER} header is missing")
    if not port.isascii() or not port.isdecimal() or len(port) > 5 or not 1 <= int(port) <= 65_535:
        raise AddressError("the sandbox port is malformed")
    return Address(sandbox_id, int(port))
