"""The order to start kernels before a client wants them: what the server tells the agent of a sandbox that it saves as an image.

The server sends it in ``POST /kernels`` before any client reaches the sandbox. Server and agent use this code. No I/O.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cloister.errors import InvalidRequestError

__all__ = ["KernelOrder"]


@dataclass(frozen=True)
class KernelOrder:
    """The languages; those that the sandbox has not are passed over."""

    languages: tuple[str, ...]

    def to_json(self) -> bytes:
        """The body of the request."""
        return json.dumps({"languages": self.languages}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> KernelOrder:
        """The inverse of :meth:`to_json`. Raises: InvalidRequestError."""
        try:
            languages = json.loads(body)["languages"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidRequestError("the body is not an order of kernels") from error
        if not isinstance(languages, list) or not all(isinstance(name, str) for name in languages):
            raise InvalidRequestError("the languages of kernels must be a list of names")
        return cls(tuple(languages))
