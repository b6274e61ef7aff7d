"""The code interpreter's wire format."""

from __future__ import annotations

import json

import pytest

from cloister.errors import InvalidRequestError
from cloister.protocol import execution


def test_execute_request_of_the_sdk() -> None:
    """The body that the official SDKs send, nulls included, is read."""
    body = b'{"code": "1", "context_id": null, "language": null, "env_vars": null}'
    assert execution.parse_execute_request(body) == execution.ExecuteRequest("1")
    body = b'{"code": "1", "language": "r", "env_vars": {"A": "\\u00e9"}}'
    assert execution.parse_execute_request(body) == execution.ExecuteRequest("1", None, "r", {"A": "é"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{}",
        b'{"code": 1}',
        b'{"code": "1", "context_id": "a", "language": "b"}',
        b'{"code": "1", "language": 5}',
        b"[" * 100_000,
    ],
)
def test_bad_execute_requests(body: bytes) -> None:
    """A malformed request is refused and never crashes the agent."""
    with pytest.raises(InvalidRequestError):
        execution.parse_execute_request(body)


def test_empty_context_request_asks_for_defaults() -> None:
    """POST /contexts without a body is a request for the default language and directory."""
    assert execution.parse_context_request(b"") == execution.ContextRequest()


@pytest.mark.parametrize("envs", [{"": "1"}, {"A=": "1"}, {"A\0": "1"}, {"A": "\0"}, {"A": None}, [], "A"])
def test_bad_envs(envs: object) -> None:
    """Variables that no environment can hold are refused."""
    with pytest.raises(InvalidRequestError):
        execution.parse_envs(envs, "envs")


def test_lines_are_ascii_and_strict() -> None:
    """An event is one ASCII line of strict JSON whatever it holds, lone surrogates and infinities included."""
    line = execution.encode_event(execution.result_event({"text": "é\n\ud800", "json": {"a": [float("inf")]}}, {}, main=False))
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert json.loads(line, parse_constant=pytest.fail) == {
        "type": "result",
        "text": "é\n\ud800",
        "json": {"a": [None]},
        "is_main_result": False,
    }


def test_extra_is_left_out_when_empty() -> None:
    """Official clients take an empty ``extra`` for a format."""
    assert "extra" not in execution.result_event({"text": "1"}, {}, main=True)
    assert execution.result_event({}, {"a/b": 1}, main=True)["extra"] == {"a/b": 1}
