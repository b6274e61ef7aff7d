"""The init document and its update: the server writes and the agent reads them with the same code."""

from __future__ import annotations

import json

import pytest

from cloister.errors import InvalidRequestError
from cloister.protocol.init_document import AgentLimits, InitDocument, InitUpdate, StartPlan

FULL = InitDocument(
    sandbox_id="s",
    template_id="t",
    template="base",
    envs={"A": "1", "B": "ä"},
    access_token="secret",
    user="vera",
    workdir="/app",
    kernel_user="vera",
    languages=("python", "bash"),
    programs={"python": "/opt/python"},
    start=StartPlan(command="serve", ready="ask", envs={"A": "1"}, timeout_s=3.5),
    limits=AgentLimits(cpu_count=0.5, mem_mib=99, output_mib=7),
)


@pytest.mark.parametrize("document", [FULL, InitDocument(sandbox_id="s")])
def test_a_document_is_read_as_it_was_written(document: InitDocument) -> None:
    """Every field survives, also those of the parts."""
    assert InitDocument.from_json(document.to_json()) == document


def test_unknown_and_missing_fields() -> None:
    """Undeclared fields are ignored at every level; absent and null fields have their defaults."""
    text = {"sandbox_id": "s", "later": 1, "limits": {"mem_mib": 5, "disk_mib": 6}, "start": {"command": "x", "more": 2}, "envs": None}
    assert InitDocument.from_json(json.dumps(text).encode()) == InitDocument(
        sandbox_id="s", limits=AgentLimits(mem_mib=5), start=StartPlan(command="x")
    )


@pytest.mark.parametrize("text", [b"", b"[]", b"[" * 100_000, b'{"languages": []}', b'{"sandbox_id": 5}'])
def test_a_bad_document_is_refused(text: bytes) -> None:
    """The agent stops with a clear error."""
    with pytest.raises(InvalidRequestError, match="init document"):
        InitDocument.from_json(text)


@pytest.mark.parametrize("update", [InitUpdate(), InitUpdate({"A": "1"}, "token"), InitUpdate({}, None)])
def test_an_update_is_read_as_it_was_written(update: InitUpdate) -> None:
    """The body of ``POST /init`` survives."""
    assert InitUpdate.from_json(update.to_json()) == update


def test_an_empty_update_changes_nothing() -> None:
    """A body without fields, or without a byte, is no fault."""
    assert InitUpdate.from_json(b"") == InitUpdate.from_json(b"{}") == InitUpdate()


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"accessToken": 5}', b'{"envVars": {"A": 1}}', b'{"envVars": []}'])
def test_a_bad_update_is_refused(body: bytes) -> None:
    """No part of a bad body is taken."""
    with pytest.raises(InvalidRequestError):
        InitUpdate.from_json(body)


@pytest.mark.parametrize("record", [FULL, InitUpdate({"A": "of the client"}, "secret")])
def test_a_repr_has_no_secret(record: InitDocument | InitUpdate) -> None:
    """A log or traceback that shows the record shows neither the token nor variables."""
    assert "secret" not in repr(record)
    assert "'A'" not in repr(record)
