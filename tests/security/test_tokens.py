"""The two checks of a sandbox's access token, each without the other, and that of the traffic token (I5)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from framework.inside import pids_of, python
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

_WRONG: tuple[dict[str, str], ...] = ({}, {"X-Access-Token": ""}, {"X-Access-Token": "0" * 64})


def _token(sandbox: Sandbox) -> str:
    """The token that the creation returned to the SDK."""
    token = sandbox._envd_access_token
    assert token
    return str(token)


def _execute(server: Server, sandbox: Sandbox, tokens: dict[str, str], timeout_s: float) -> httpx.Response:
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49999"}
    return httpx.post(f"{server.url}/execute", headers=headers | tokens, json={"code": "6 * 7"}, timeout=timeout_s)


@pytest.fixture
def stopped_agent(attacker: Sandbox) -> Iterator[None]:
    """The agent of the sandbox answers nothing as long as the test lasts."""
    found = [pid for pid in pids_of(attacker) if b"agent/main.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert found
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in found:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.usefixtures("stopped_agent")
def test_stranger_cannot_have_the_agent_asked_without_the_token(server: Server, attacker: Sandbox) -> None:
    """The ingress refuses by itself: a wrong token is answered while the agent is stopped, and only the right one waits for the agent."""
    for tokens in _WRONG:
        assert _execute(server, attacker, tokens, 10).status_code == 401
    with pytest.raises(httpx.ReadTimeout):
        _execute(server, attacker, {"X-Access-Token": _token(attacker)}, 2)


@pytest.mark.parametrize(
    ("port", "method", "path"), [(49999, "POST", "/execute"), (49983, "POST", "/process.Process/List"), (49983, "GET", "/files?path=/etc/hostname")]
)
def test_program_inside_cannot_use_the_agent_without_the_token(attacker: Sandbox, port: int, method: str, path: str) -> None:
    """The agent refuses by itself: a program of the sandbox asks it past the ingress, and only the right token is let in."""
    code = f"""
import urllib.error, urllib.request
def ask(headers):
    body = None if {method!r} == 'GET' else b'{{"code": "1", "path": "/"}}' if {port} == 49999 else b'{{}}'
    asked = urllib.request.Request('http://127.0.0.1:{port}{path}', body, {{'Content-Type': 'application/json', **headers}}, method={method!r})
    try:
        return urllib.request.urlopen(asked, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code
print([ask(headers) for headers in {list(_WRONG)!r}], ask({{'X-Access-Token': {_token(attacker)!r}}}))
"""
    assert python(attacker, code) == "[401, 401, 401] 200"


def test_stranger_cannot_reach_a_private_port_without_the_traffic_token(server: Server) -> None:
    """A port of a sandbox without public traffic is refused at the ingress, and open to who has the token."""
    sandbox = Sandbox.create(timeout=120, network={"allow_public_traffic": False}, **server.sdk)
    try:
        python(
            sandbox,
            "import http.server, threading\nserved = http.server.ThreadingHTTPServer(('127.0.0.1', 8000), http.server.SimpleHTTPRequestHandler)\n"
            "threading.Thread(target=served.serve_forever, daemon=True).start()",
        )
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
        for tokens in ({}, {"e2b-traffic-access-token": "0" * 64}):
            assert httpx.get(server.url, headers=headers | tokens).status_code == 403
        right = {"e2b-traffic-access-token": str(sandbox.traffic_access_token)}
        assert httpx.get(server.url, headers=headers | right).status_code == 200
    finally:
        sandbox.kill()
