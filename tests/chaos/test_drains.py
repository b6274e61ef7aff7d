"""``cloister drain`` on a whole server: clients are told, sandboxes go on or are paused, and a crash or a stop loses nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from framework.http import call
from framework.inside import python
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]


def _refused(server: Server, path: str, body: dict[str, Any]) -> str:
    """The message of a request that the drained server refuses, once."""
    headers = {"X-API-Key": server.api_key, "Content-Type": "application/json"}
    answer = call(server.url, "POST", path, headers=headers, body=json.dumps(body).encode())
    assert answer.status == 503, answer
    return str(answer.json()["message"])


def _drain(server: Server, *options: str) -> dict[str, Any]:
    return dict(json.loads(server.cli("drain", "--json", *options).stdout))


def test_a_drained_server_loses_nothing(stock_templates: None) -> None:
    """No new sandbox, in spite of a crash; those that run go on, are paused on demand, and outlive a stop with ``on_stop=kill``."""
    with running_server() as server:
        sandbox = Sandbox.create(timeout=900, **server.sdk)
        python(sandbox, "kept = 7")
        assert _drain(server, "--reason", "a new disk")["running"] == 1
        server.kill_child("node")
        assert python(sandbox, "print(kept)") == "7"
        message = _refused(server, "/sandboxes", {"templateID": "base"})
        assert "drained" in message
        assert "a new disk" in message
        status = server.cli("status")
        assert "takes no new sandboxes" in status.stdout
        assert "on_stop=pause: 1 lose nothing" in status.stdout
        waited = server.cli("drain", "--wait", "0.1", check=False)
        assert (waited.returncode, "1 sandboxes still run" in waited.stderr) == (1, True)
        paused = _drain(server, "--pause")
        assert (paused["running"], sum(paused["paused"].values())) == (0, 1)
        assert "resumes none" in _refused(server, f"/sandboxes/{sandbox.sandbox_id}/connect", {"timeout": 60})
        assert _drain(server, "--undo")["state"] is None
        assert python(Sandbox.connect(sandbox.sandbox_id, timeout=900, **server.sdk), "print(kept)") == "7"
        _drain(server)
        assert server.stop() == 0
        with running_server("--listen", server.url.removeprefix("http://"), data_dir=server.data_dir) as again:
            Sandbox.create("base", **again.sdk).kill()
            assert python(Sandbox.connect(sandbox.sandbox_id, timeout=900, **again.sdk), "print(kept)") == "7"
            assert sandbox.kill()
