"""Texts of headers with their placeholders replaced, for which the egress process asks the api process.

The api process listens on the unix stream socket ``<run>/<n>/values.sock``, which only it and the egress process may use (the peer's uid
is checked). One connection carries any number of requests, one after another. Request and answer are one line of JSON each::

    {"sandbox_id": "…", "host": "api.example.com", "texts": ["Bearer ${e2b.secrets.key}"]}
    {"texts": ["Bearer sk-…"]}
    {"error": {"code": "not_found", "message": "there is no secret 'key'"}}

The api process answers only for a sandbox that lives, and only with texts that its own network rules have for a pattern that fits the host:
so a broken egress process learns no secret that no live sandbox uses. The egress process keeps an answer for a few seconds at most, in
memory. No placeholder is left in an answer: a secret that does not exist is an error, and the request of the sandbox is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cloister.errors import InvalidRequestError

__all__ = [
    "ANSWER_S",
    "MAX_LINE_BYTES",
    "VALUES_SOCKET",
    "AskValues",
    "parse_answer",
    "parse_request",
    "render_answer",
    "render_error",
    "render_request",
]

MAX_LINE_BYTES = 1 << 20
ANSWER_S = 10.0
"""Within this time the api process answers, or says that it cannot."""
VALUES_SOCKET = "values.sock"
"""Name of the socket in the instance's run directory."""


@dataclass(frozen=True)
class AskValues:
    """Asks for the headers' texts of one request that a sandbox makes."""

    sandbox_id: str
    host: str
    """The name that the request goes to."""
    texts: tuple[str, ...]
    """Values of the rule's headers, with their placeholders."""


def render_request(request: AskValues) -> bytes:
    """The request as a line."""
    return json.dumps({"sandbox_id": request.sandbox_id, "host": request.host, "texts": list(request.texts)}).encode() + b"\n"


def parse_request(line: bytes) -> AskValues:
    """The request in a line. Raises: InvalidRequestError."""
    match _load(line):
        case {"sandbox_id": str(sandbox_id), "host": str(host), "texts": list(texts)} if all(isinstance(one, str) for one in texts):
            return AskValues(sandbox_id, host, tuple(texts))
    raise InvalidRequestError("a request for values is malformed")


def render_answer(texts: tuple[str, ...]) -> bytes:
    """The answer as a line."""
    return json.dumps({"texts": list(texts)}).encode() + b"\n"


def render_error(code: str, message: str) -> bytes:
    """A refusal as a line."""
    return json.dumps({"error": {"code": code, "message": message}}).encode() + b"\n"


def parse_answer(line: bytes) -> tuple[str, ...]:
    """The texts in an answer. Raises: InvalidRequestError with the api process's message, or: the answer is malformed."""
    match _load(line):
        case {"texts": list(texts)} if all(isinstance(one, str) for one in texts):
            return tuple(texts)
        case {"error": {"message": str(message)}}:
            raise InvalidRequestError(message)
    raise InvalidRequestError("an answer with values is malformed")


def _load(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("a message about values is not JSON") from error
