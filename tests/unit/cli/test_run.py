"""``cloister run --kernel``: what its exit code says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloister.cli.main import main

ERRORS: list[dict[str, str]] = []


class _Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        created = {"sandboxID": "s", "envdAccessToken": "t"}
        events = [*({"type": "error", **error} for error in ERRORS), {"type": "end_of_execution"}]
        runs = self.path == "/execute"
        self._answer(200 if runs else 201, "".join(json.dumps(event) + "\n" for event in (events if runs else [created])))

    def do_DELETE(self) -> None:
        self._answer(204, "")

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server whose every run has the events of ERRORS."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("E2B_API_URL", f"http://127.0.0.1:{made.server_port}")
    monkeypatch.setenv("E2B_API_KEY", "key")
    yield
    made.shutdown()
    made.server_close()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("SystemExit", "0", 0),
        ("SystemExit", "3", 3),
        ("SystemExit", "exit code 4", 4),
        ("ExitStatus", "5", 5),
        ("SystemExit", "no", 1),
        ("E", "0", 1),
    ],
)
def test_exit_code_is_the_program_s(tmp_path: Path, name: str, value: str, code: int) -> None:
    """A program that ends with a code gives it to ``cloister run``; other errors are 1."""
    ERRORS[:] = [{"name": name, "value": value, "traceback": "trace"}]
    (tmp_path / "program.py").write_text("", encoding="ascii")
    assert main(["run", "--kernel", str(tmp_path / "program.py")]) == code


@pytest.mark.usefixtures("server")
def test_output_without_text_is_none(tmp_path: Path) -> None:
    """An event that is not as published, as a hostile sandbox may send, ends nothing."""
    ERRORS[:] = [{"type": "stdout"}, {"type": "stderr"}]
    (tmp_path / "program.py").write_text("", encoding="ascii")
    assert main(["run", "--kernel", str(tmp_path / "program.py")]) == 0
