"""Traces are the operator's: requests without a valid credential add nothing to them, and no client writes in another one's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.protocol.agent import AGENT_PORT, INTERPRETER_PORT
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import call
from framework.otlp_receiver import OtlpReceiver, otlp_receiver
from framework.requests import ask, create, echo, sandbox, to

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """The operator's collector."""
    with otlp_receiver() as one:
        yield one


def test_client_cannot_add_spans_without_a_key(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Of requests without a key, with a wrong one and to no route, none is recorded; one with a key is, with its own team."""
    with running_control_plane(tmp_path, otlp_endpoint=receiver.url) as plane:
        for headers in ({}, {"X-API-KEY": "e2b_" + "0" * 40}):
            assert call(plane.url, "GET", "/sandboxes", headers={**headers, "traceparent": PARENT}).status == 401
        assert ask(plane, "GET", "/nowhere", traceparent=PARENT).status == 404
        assert ask(plane, "GET", "/sandboxes", traceparent=PARENT, tracestate="vendor=x", baggage="cloister.team_id=other").status == 200
        (team,) = ask(plane, "GET", "/teams").json()
    (span,) = [span for span in receiver.spans if span.trace_id == TRACE]
    assert (span.name, span.attributes["cloister.team_id"]) == ("GET /sandboxes", team["teamID"])
    assert set(span.attributes) == {"http.request.method", "http.route", "cloister.team_id", "http.response.status_code"}


def test_client_cannot_add_spans_without_the_sandboxs_token(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """A request to the agent with a wrong token or none, or to a public port, is not recorded, and its header is not replaced."""
    with running_control_plane(tmp_path, otlp_endpoint=receiver.url) as plane:
        sandbox_id, inside = sandbox(plane, secure=True)
        inside.agent = echo
        plane.run(lambda: inside.serve(8080, echo))
        for headers in (to(sandbox_id, AGENT_PORT), to(sandbox_id, AGENT_PORT, X_Access_Token="wrong"), to(sandbox_id, 8080)):
            answer = call(plane.url, "GET", "/files", headers={**headers, "traceparent": PARENT})
            assert ["traceparent", PARENT] in answer.json()["headers"]
    assert sorted(span.name for span in receiver.spans) == ["POST /v2/sandboxes", "supervisor: make it"]


def test_a_creation_a_run_and_a_command_are_recorded_with_their_steps(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """They join the client's trace; the supervisor's steps, the agent and the kernel are below, and the agent is told the new parent."""
    with running_control_plane(tmp_path, otlp_endpoint=receiver.url) as plane:
        answer = ask(plane, "POST", "/v2/sandboxes", {"templateID": "base", "secure": True}, traceparent=PARENT)
        sandbox_id, token = answer.json()["sandboxID"], answer.json()["envdAccessToken"]
        plane.node.find(sandbox_id).agent = echo
        headers = {**to(sandbox_id, INTERPRETER_PORT, X_Access_Token=token), "traceparent": PARENT}
        assert call(plane.url, "POST", "/execute", body={"code": "1"}, headers=headers).status == 200
        headers["E2b-Sandbox-Port"] = str(AGENT_PORT)
        seen = call(plane.url, "POST", "/process.Process/Start", body={}, headers=headers).json()["headers"]
    by_name = {span.name: span for span in receiver.spans}
    assert set(by_name) == {
        "POST /v2/sandboxes",
        "supervisor: make it",
        "run_code",
        "agent: accept the run",
        "kernel: run the code",
        "command",
        "agent",
    }
    assert {span.trace_id for span in receiver.spans} == {TRACE}
    creation, code, command = (by_name[name] for name in ("POST /v2/sandboxes", "run_code", "command"))
    assert {creation.parent_id, code.parent_id, command.parent_id} == {PARENT.split("-")[2]}
    assert by_name["supervisor: make it"].parent_id == creation.span_id
    assert {by_name[name].parent_id for name in ("agent: accept the run", "kernel: run the code")} == {code.span_id}
    assert [value for name, value in seen if name == "traceparent"] == [f"00-{TRACE}-{command.span_id}-01"]
    assert {creation.attributes["cloister.sandbox_id"], code.attributes["cloister.sandbox_id"]} == {sandbox_id}
    assert "cloister.first_output_ms" in by_name["kernel: run the code"].attributes


def test_a_collector_that_is_away_disturbs_nobody(tmp_path: Path) -> None:
    """Requests are answered, and the server stops within its time."""
    with running_control_plane(tmp_path, otlp_endpoint="http://127.0.0.1:9") as plane:
        assert create(plane)["sandboxID"]


def test_without_an_endpoint_headers_pass(control_plane: ControlPlane) -> None:
    """A server without traces leaves the client's header as it is."""
    sandbox_id, inside = sandbox(control_plane)
    inside.agent = echo
    answer = call(control_plane.url, "GET", "/files", headers={**to(sandbox_id, AGENT_PORT), "traceparent": PARENT})
    assert ["traceparent", PARENT] in answer.json()["headers"]
