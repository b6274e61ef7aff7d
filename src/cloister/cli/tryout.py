"""Tries what ``cloister serve`` needs beyond kernel features, for ``cloister doctor``: installation, settings, listeners, resolvers.

Every attempt is undone at once. A server that runs with the same settings is not disturbed; a conflict with it is a warning.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Iterator, Mapping

from cloister.config.settings import Settings
from cloister.errors import CloisterError
from cloister.model.addresses import parse_listen, parse_upstream
from cloister.network.dns_relay import host_nameservers
from cloister.node.checkup import Finding
from cloister.node.strict_modes import code_paths, find_weak_paths, sudo_user
from cloister.processes.preflight import find_host_faults

__all__ = ["try_serving"]

_RESOLVER_TIMEOUT_S = 2.0
_QUESTION = b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01"
"""A DNS query without its id: recursion desired, one question, the root's name servers. Source: RFC 1035, section 4.1."""


def try_serving(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Every attempt, in the order in which an operator would fix the faults."""
    return [*_installation(environ), *_settings(settings), *_listeners(settings), *_resolvers(settings)]


def _installation(environ: Mapping[str, str]) -> Iterator[Finding]:
    user = sudo_user(environ)
    paths = code_paths()
    weak = find_weak_paths(paths, user)
    for one in weak[:3]:
        yield Finding("installation", False, one.cause, one.remedy)
    if not weak:
        theirs = find_weak_paths(paths)
        detail = f"only root can change what runs ({len(paths)} files)"
        if theirs:
            detail = f"user {user}, who called sudo, can change what runs as root: {theirs[0].path}" + (" and more" if theirs[1:] else "")
        yield Finding("installation", not theirs, detail, "if others use that account, install a copy that belongs to root", needed=False)


def _settings(settings: Settings) -> Iterator[Finding]:
    faults = find_host_faults(settings)
    for fault in faults:
        yield Finding("settings", False, f"{fault.setting}: {fault.cause}", fault.remedy)
    if not faults:
        yield Finding("settings", True, f"they are valid on this host; the api process's user can reach {settings.data_dir}")


def _listeners(settings: Settings) -> Iterator[Finding]:
    for name in ("listen", "listen_tls"):
        text = getattr(settings, name)
        if text is None:
            continue
        host, port = parse_listen(text)
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            cause = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            is_taken = error.errno == errno.EADDRINUSE
            remedy = "none if it is this server; else stop the process that listens there" if is_taken else "give an address of this host"
            yield Finding(name, False, f"{text}: {cause}", remedy, needed=not is_taken)
        else:
            yield Finding(name, True, f"{text} is free")


def _resolvers(settings: Settings) -> Iterator[Finding]:
    addresses = settings.dns_upstreams or host_nameservers()
    answering = [address for address in addresses if _answers(address)]
    detail = f"{', '.join(answering)} answer" if answering else f"none of {', '.join(addresses)} answers"
    remedy = "repair it, or remove it from the list" if answering else "set dns_upstreams; without it, sandboxes cannot resolve names"
    yield Finding("resolvers", len(answering) == len(addresses), detail, remedy, needed=False)


def _answers(address: str) -> bool:
    """Whether a resolver answers a query."""
    try:
        host, port = parse_upstream(address)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_RESOLVER_TIMEOUT_S)
            sock.connect((host, port))
            number = secrets.token_bytes(2)
            sock.send(number + _QUESTION)
            return sock.recv(4096)[:2] == number
    except (OSError, CloisterError):
        return False
