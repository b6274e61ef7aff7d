"""Jupyter's messages as frames: made, signed, checked and read. No I/O and no sockets.

The input is not trusted: any program of the sandbox may have written it. Frames that are no message of this kernel give None.
Source: the Jupyter messaging protocol 5.4, "The Wire Protocol".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Message", "Wire"]

_DELIMITER = b"<IDS|MSG>"
_MAX_IDENTITIES = 16


class Message(NamedTuple):
    """The used parts of one message."""

    kind: str
    parent: str
    """``msg_id`` of the request that it answers; empty if there is none."""
    content: dict[str, Any]


class Wire:
    """One client's session with one kernel."""

    def __init__(self, key: bytes) -> None:
        self._hmac = hmac.new(key, digestmod=hashlib.sha256)
        self.session = os.urandom(16).hex()
        self._sent = 0

    def pack(self, kind: str, content: dict[str, Any]) -> tuple[str, list[bytes]]:
        """(``msg_id``, frames) of a request."""
        self._sent += 1
        msg_id = f"{self.session}_{self._sent}"
        date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000000Z"
        header = {"msg_id": msg_id, "session": self.session, "username": "cloister", "date": date, "msg_type": kind, "version": "5.4"}
        parts = [json.dumps(part).encode("ascii") for part in (header, {}, {}, content)]
        return msg_id, [_DELIMITER, self._sign(parts), *parts]

    def unpack(self, frames: Sequence[bytes]) -> Message | None:
        """The message, if its signature is the kernel's and it has a message's form."""
        try:
            start = frames.index(_DELIMITER, 0, _MAX_IDENTITIES) + 1
        except ValueError:
            return None
        if len(frames) < start + 5 or not hmac.compare_digest(frames[start], self._sign(frames[start + 1 : start + 5])):
            return None
        try:
            header, parent, content = (json.loads(frames[start + place]) for place in (1, 2, 4))
        except (ValueError, RecursionError):
            return None
        if not (isinstance(header, dict) and isinstance(parent, dict) and isinstance(content, dict)):
            return None
        kind, parent_id = header.get("msg_type"), parent.get("msg_id", "")
        return Message(kind, parent_id if isinstance(parent_id, str) else "", content) if isinstance(kind, str) else None

    def _sign(self, parts: Sequence[bytes]) -> bytes:
        signer = self._hmac.copy()
        for part in parts:
            signer.update(part)
        return signer.hexdigest().encode("ascii")
