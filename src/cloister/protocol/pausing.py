"""The announcement that a sandbox is about to stand still: what the server tells its agent. Server and agent use this code.

The server sends it in ``POST /pausing``. A node of an earlier release sends an empty body, which means ``memory``. No I/O.
"""

from __future__ import annotations

import json
from enum import StrEnum

from cloister.errors import InvalidRequestError

__all__ = ["Standstill"]


class Standstill(StrEnum):
    """Its kind."""

    MEMORY = "memory"
    """A pause: connections break, and processes go on when it is resumed."""
    FILES = "files"
    """A pause without memory: processes end."""
    COPY = "copy"
    """A capture of the memory: connections go on here and break in the copies."""
    OVER = "over"
    """The capture has been made: the sandbox is not a copy and goes on."""

    def to_json(self) -> bytes:
        """The body of the request."""
        return json.dumps({"kind": self.value}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Standstill:
        """The inverse of :meth:`to_json`. Raises: InvalidRequestError."""
        if not body:
            return cls.MEMORY
        try:
            return cls(json.loads(body)["kind"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidRequestError("the body is not that of an announcement") from error
