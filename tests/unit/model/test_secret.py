"""Tokens: no repr and no log shows them, in whatever record they are."""

from __future__ import annotations

import dataclasses
import io
import json
import traceback

import pytest
import structlog

from cloister.model.client_data import ClientData
from cloister.model.resources import Limits
from cloister.model.sandbox import Sandbox, SandboxRecord, SandboxRequest, SandboxState
from cloister.model.secret import Secret, conceal, reveal

TOKEN = "0123456789abcdef"
CLIENT = ClientData(template_id="t", template="base", traffic_token=Secret(TOKEN))
RECORD = SandboxRecord(
    sandbox_id="s",
    template="t",
    runtime="namespace",
    state=SandboxState.RUNNING,
    started_at=1.0,
    end_at=2.0,
    limits=Limits(),
    access_token=Secret(TOKEN),
    client=CLIENT,
)
HOLDERS = [
    Secret(TOKEN),
    CLIENT,
    RECORD,
    SandboxRequest(sandbox_id="s", template="t", end_at=2.0, access_token=Secret(TOKEN), client=CLIENT, envs={"PASSWORD": TOKEN}),
    Sandbox(
        sandbox_id="s",
        team_id="t",
        template_id="t",
        template="base",
        state=SandboxState.RUNNING,
        started_at=1.0,
        end_at=2.0,
        cpu_count=1.0,
        mem_mib=1,
        disk_mib=1,
        access_token=Secret(TOKEN),
        traffic_token=Secret(TOKEN),
    ),
]
PROCESSORS: dict[str, list[structlog.typing.Processor]] = {
    "json": [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
    "json with locals": [
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=True)),
        structlog.processors.JSONRenderer(),
    ],
    "console": [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)],
}
"""The two forms of the server, and one that shows more."""


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("form", PROCESSORS)
def test_log_does_not_show_a_token(holder: object, form: str) -> None:
    """Neither as a value, nor inside one, nor in a message or the locals of a traceback."""
    out = io.StringIO()
    log = structlog.wrap_logger(structlog.PrintLogger(out), processors=PROCESSORS[form])
    log.info("a.logged", holder=holder, several=[holder], by_name={"it": holder}, text=f"{holder} {holder!r}")
    try:
        raise ValueError(holder)
    except ValueError:
        log.exception("it.failed")
        out.write(traceback.format_exc())
    assert "a.logged" in out.getvalue()
    assert "it.failed" in out.getvalue()
    assert TOKEN not in out.getvalue()


def test_secret_is_not_written_by_mistake() -> None:
    """It is no text: JSON refuses it, and so does a concatenation."""
    with pytest.raises(TypeError):
        json.dumps({"token": Secret(TOKEN)})
    with pytest.raises(TypeError):
        "".join(["Bearer ", Secret(TOKEN)])  # type: ignore[list-item]  # the mistake that is meant


def test_secret_is_revealed_on_purpose() -> None:
    """Whoever has to send it gets the text, and no secret stays none."""
    assert reveal(conceal(TOKEN)) == TOKEN
    assert reveal(conceal(None)) is None
    assert Secret(TOKEN) == Secret(TOKEN) != Secret("other")


def test_record_keeps_its_secrets_in_the_journal() -> None:
    """Its JSON form has them as plain text, so that a restart of the server loses none."""
    written = json.dumps(RECORD.to_json())
    assert written.count(TOKEN) == 2
    assert SandboxRecord.from_json(json.loads(written)) == RECORD


def test_client_data_of_a_newer_release_is_read() -> None:
    """Terms that are not known are left out: none of them restricts the sandbox."""
    assert ClientData.from_json({**CLIENT.to_json(), "colour": "red"}) == CLIENT
    assert dataclasses.replace(CLIENT, traffic_token=None).to_json()["traffic_token"] is None
