"""Finds the sandbox and port of a request, from its headers or from the first label of its host. Pure.

The contract is the published one: the headers ``E2b-Sandbox-Id`` and ``E2b-Sandbox-Port``, which take precedence, or a host of the form
``<port>-<id>[-<client id>].<domain>``. Some SDKs (Python 2.7 to 2.26) also send the headers, with the agent's port, in API requests.
Paths that only the API serves therefore go to the API. The host ``api.<domain>`` means the API, except for what the console asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from multidict import MultiMapping

from cloister.protocol.agent import AGENT_PORT, AGENT_PORTS

__all__ = ["ID_HEADER", "RUN_PATH", "Address", "AddressError", "api_host", "find_address"]

ID_HEADER = "E2b-Sandbox-Id"
PORT_HEADER = "E2b-Sandbox-Port"
RUN_PATH = "/execute"
"""Runs code, at the interpreter's port."""
_HOST = re.compile(r"(\d{1,5})-([a-z0-9]+)(?:-[a-z0-9]+)?\.", re.IGNORECASE)
_ID = re.compile(r"[a-z0-9]{1,64}\Z")
_API_PATH = re.compile(
    r"/(?:v[0-9]/)?(?:sandboxes|templates|default-templates|snapshots|teams|volumes|secrets|uploads|api-keys|access-tokens|admin"
    r"|events|audit|nodes|cluster)(?:/|\Z)"
)
"""Paths that only the API serves. The API and the agent both serve ``/health`` and ``/metrics``; here these go to the agent."""
_CONSOLE_PATH = re.compile(r"(?:/execute|/files|/process\.Process/\w+|/filesystem\.Filesystem/\w+)\Z")
"""Paths of the agent that the console uses. The API has none of them."""
_SINGLE = ("Host", ID_HEADER, PORT_HEADER)


class AddressError(ValueError):
    """The request addresses a sandbox, but the address is malformed."""


@dataclass(frozen=True)
class Address:
    """A port of a sandbox."""

    sandbox_id: str
    port: int


def find_address(headers: MultiMapping[str], path: str, api_host: str) -> Address | None:
    """The address in a request for ``path``, or None if the request is for the API. ``api_host`` is the API's own host.

    Raises:
        AddressError: the id or port is malformed, one header of the pair is missing, or a header that must be unique occurs twice.
    """
    for name in _SINGLE:
        if len(headers.getall(name, ())) > 1:
            raise AddressError(f"the {name} header occurs twice")
    host = headers.get("Host", "")
    sandbox_id = headers.get(ID_HEADER)
    if _name(host) == api_host and (sandbox_id is None or not _CONSOLE_PATH.match(path)):
        return None
    if sandbox_id is not None:
        address = _check(sandbox_id.partition("-")[0], headers.get(PORT_HEADER))
        if _name(host) == api_host and address.port not in AGENT_PORTS:
            return None
        return None if address.port == AGENT_PORT and _API_PATH.match(path) else address
    match = _HOST.match(host)
    return None if match is None else _check(match[2].lower(), match[1])


def api_host(domain: str) -> str:
    """The host of the API below ``domain``, without a port."""
    return f"api.{_name(domain)}"


def _name(host: str) -> str:
    return host.partition(":")[0].rstrip(".").lower()


def _check(sandbox_id: str, port: str | None) -> Address:
    if not _ID.match(sandbox_id):
        raise AddressError("the sandbox id is malformed")
    if port is None:
        raise AddressError(f"the {PORT_HEADER} header is missing")
    if not port.isascii() or not port.isdecimal() or len(port) > 5 or not 1 <= int(port) <= 65_535:
        raise AddressError("the sandbox port is malformed")
    return Address(sandbox_id, int(port))
