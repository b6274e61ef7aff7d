"""Faults that are not of the program or the sandbox: each has one line of error, the documented exit code, and no other server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.client.api import connect
from cloister.config.client_env import ClientEnv
from cloister.errors import UnavailableError

ASKED: list[tuple[str, str | None]] = []
"""Path and key of each request."""


class _Server(BaseHTTPRequestHandler):
    """Creates sandboxes whose cells print a line and give a result, or sends its clients elsewhere."""

    redirects = False

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        ASKED.append((self.path, self.headers.get("X-API-KEY")))
        if self.redirects:
            self._answer(307, "", Location="/elsewhere")
        elif self.path == "/execute":
            events = [{"type": "stdout", "text": "x\n"}, {"type": "result", "html": "<b>"}, {"type": "end_of_execution"}]
            self._answer(200, "".join(json.dumps(event) + "\n" for event in events))
        elif self.path == "/contexts":
            self._answer(200, '{"id": "c"}')
        elif self.path.endswith("/MakeDir"):
            self._answer(200, "")
        elif self.path.startswith("/filesystem"):
            self._answer(404, '{"code": "not_found", "message": "no"}')
        else:
            self._answer(201, '{"sandboxID": "s", "envdAccessToken": "t"}')

    def do_DELETE(self) -> None:
        self._answer(204, "")

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a server."""
    ASKED.clear()
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


async def test_a_key_does_not_follow_a_redirect(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer could name any address; the error names it."""
    monkeypatch.setattr(_Server, "redirects", True)
    with pytest.raises(UnavailableError, match="redirects to /elsewhere"):
        async with connect(ClientEnv(url, "secret")) as api:
            await api.get("s")
    assert ASKED == [("/sandboxes/s", "secret")]


@pytest.mark.parametrize("words", [["ps"], ["kill", "--all"], ["logs", "s"], ["run", "-"], ["exec", "s", "--", "true"], ["top", "--once"]])
def test_an_address_without_a_key_is_an_error(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that was meant for another server does not act on the one of this machine."""
    monkeypatch.setenv("E2B_API_URL", "http://elsewhere.example")
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    if words[0] == "run":
        words = ["run", "--language", "bash", "-"]
        monkeypatch.setattr("cloister.cli.run._read", lambda _: b"")
    assert main(words) == (125 if words[0] in ("run", "exec") else 1)
    assert "E2B_API_URL names http://elsewhere.example, and E2B_API_KEY is not set" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["exec", "-t", "s", "--", "true"], ["shell", "s"], ["exec", "-e", "A", "s", "--", "true"]])
def test_a_program_that_was_not_run_has_no_code_of_its_own(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Options that do not fit, and a terminal that is not there, have 125 as any other fault before the program."""
    assert main(words) == 125
    assert capsys.readouterr().err.startswith("cloister: ")


def _command(url: str, tmp_path: Path, *words: str, output: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "p.py").write_text("")
    environ = {**os.environ, "E2B_API_URL": url, "E2B_API_KEY": "k"}
    with Path(output).open("w") as out:
        command = [sys.executable, "-m", "cloister.cli.main", *words]
        return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=environ, cwd=tmp_path)


@pytest.mark.parametrize(("words", "code"), [(("run", "--kernel", "p.py"), 125), (("config", "show"), 1)])
def test_output_on_a_full_disk_is_one_line_of_error(url: str, tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    """And no traceback, also where Python writes the output at its end."""
    done = _command(url, tmp_path, *words, output="/dev/full")
    assert (done.returncode, done.stderr) == (code, "cloister: cannot write: No space left on device\n")


def test_results_on_a_full_disk_are_one_line_of_error(url: str, tmp_path: Path) -> None:
    """It names the file."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result-1.html").symlink_to("/dev/full")
    done = _command(url, tmp_path, "run", "--kernel", "--save", "out", "p.py", output="/dev/null")
    assert done.returncode == 125
    assert done.stderr == "cloister: cannot write: No space left on device\n"


def test_an_endpoint_for_other_programs_ends_no_command(tmp_path: Path) -> None:
    """OTEL_EXPORTER_OTLP_ENDPOINT may have a form that the server cannot use."""
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}
    command = [sys.executable, "-m", "cloister.cli.main", "config", "check", "--data-dir", str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert "otlp_endpoint" not in done.stderr
