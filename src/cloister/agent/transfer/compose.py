"""POST /files/compose: joins several files into one and removes the parts. Blocking; run it in a thread that acts as the user."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from dataclasses import dataclass

from cloister.agent.accounts import Account
from cloister.agent.filesystem.entries import Describer
from cloister.agent.filesystem.faults import faults
from cloister.agent.filesystem.staging import StagedFile
from cloister.errors import InvalidRequestError
from cloister.protocol.filesystem import EntryInfo

__all__ = ["ComposeRequest", "compose", "parse_compose"]

_MAX_SOURCES = 10_000


@dataclass(frozen=True)
class ComposeRequest:
    """The parts in order, and the destination. Paths as the client wrote them."""

    sources: tuple[str, ...]
    destination: str
    username: str | None


def parse_compose(body: bytes) -> ComposeRequest:
    """Read the request's JSON. Raises: InvalidRequestError."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from None
    data = data if isinstance(data, dict) else {}
    sources, destination, username = data.get("source_paths"), data.get("destination"), data.get("username")
    if not isinstance(sources, list) or not 1 <= len(sources) <= _MAX_SOURCES or not all(isinstance(one, str) and one for one in sources):
        raise InvalidRequestError(f"'source_paths' must be a list of 1 to {_MAX_SOURCES} paths")
    if not isinstance(destination, str) or not destination:
        raise InvalidRequestError("'destination' must be a path")
    if username is not None and not isinstance(username, str):
        raise InvalidRequestError("'username' must be a string")
    return ComposeRequest(tuple(sources), destination, username or None)


def compose(user: Account, sources: list[str], destination: str) -> EntryInfo:
    """Concatenate the sources into the destination, which may be one of them, and remove the others. Raises: CloisterError."""
    staged = StagedFile(user, destination)
    try:
        staged.open()
        for source in sources:
            _append(staged, source)
        staged.commit({})
    finally:
        staged.close()
    for source in dict.fromkeys(sources):
        if source != destination:
            with faults(source), contextlib.suppress(FileNotFoundError):
                os.unlink(source)
    with faults(destination):
        return Describer().describe(destination)


def _append(staged: StagedFile, source: str) -> None:
    with faults(source):
        fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
                raise OSError(number, os.strerror(number))
            staged.append_file(fd)
        finally:
            os.close(fd)
