"""Log lines: their form, and that secrets stay out of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from cloister.telemetry.logging import configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_secrets_are_blanked(capsys: pytest.CaptureFixture[str]) -> None:
    """A field whose name says that it holds a secret has no value in the line; others have."""
    configure_logging("info", "json", process="test")
    structlog.get_logger().info("thing.done", access_token="abc", api_key="def", team_id="t")
    line = json.loads(capsys.readouterr().err)
    assert (line["access_token"], line["api_key"], line["team_id"], line["process"]) == ("[blanked]", "[blanked]", "t", "test")


def test_a_line_and_its_end_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes share the file of the log; between two writes another's line could come."""
    writes: list[str] = []

    class File(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr("sys.stderr", File())
    configure_logging("info", "json")
    structlog.get_logger().info("thing.done")
    assert [(text.count("\n"), text[-1]) for text in writes] == [(1, "\n")]


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_have_no_local_variables(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """A logged traceback shows lines of code, not the values of variables, which may be secrets."""
    configure_logging("info", form)
    hidden = "swor" + "dfish"[:5]
    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger().exception("thing.failed")
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "swordfish" not in text
