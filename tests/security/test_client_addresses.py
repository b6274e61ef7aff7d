"""Attacks by the address of a request: at the API in a sandbox's name, with two addresses, by guessed tokens, by what a host is masked with."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from aiohttp import web

from framework.control_plane import ControlPlane, running_control_plane
from framework.http import call
from framework.requests import ask, create, sandbox, to

pytestmark = pytest.mark.root
AGENT = 49983


@pytest.mark.parametrize("domain", [None, "headers-only"])
def test_vendor_cannot_get_programs_of_clients_that_are_told_no_domain(tmp_path: Path, domain: str | None) -> None:
    """Whatever the server's settings, clients are told a domain that leads to this machine or nowhere; SDKs would take their vendor's."""
    with running_control_plane(tmp_path / "plane", domain=domain) as plane:
        told = create(plane)["domain"]
    assert told == "no-domain.invalid" if domain else told.startswith("localhost:")


def test_stranger_cannot_use_the_api_by_an_address(control_plane: ControlPlane) -> None:
    """With the agent's address, on the API's paths and at its host, the API wants a key as always."""
    sandbox_id, _ = sandbox(control_plane)
    for headers in (to(sandbox_id, AGENT), {**to(sandbox_id), "Host": "api.localhost"}):
        assert call(control_plane.url, "DELETE", f"/sandboxes/{sandbox_id}", headers=headers).status == 401


@pytest.mark.parametrize("extra", ["Host: other", "E2b-Sandbox-Id: {id}", "E2b-Sandbox-Port: 22"])
def test_client_cannot_send_two_addresses(control_plane: ControlPlane, extra: str) -> None:
    """A request that names its host, sandbox or port twice is refused, at the API and on the way to a sandbox."""
    sandbox_id, _ = sandbox(control_plane)
    connection = http.client.HTTPConnection(control_plane.url.removeprefix("http://"), timeout=10)
    connection.putrequest("GET", "/")
    for name, value in to(sandbox_id).items():
        connection.putheader(name, value)
    name, _, value = extra.format(id=sandbox_id).partition(": ")
    connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()


def test_stranger_cannot_guess_tokens_without_an_address(control_plane: ControlPlane) -> None:
    """A wrong token reaches no sandbox, is answered alike whatever runs, and counts as other wrong keys do."""
    created = create(control_plane)
    seen: list[str] = []

    async def agent(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response()

    control_plane.node.find(created["sandboxID"]).agent = agent
    token, told = created["envdAccessToken"], set()
    failures = control_plane.server.failures
    counted: list[web.BaseRequest] = []
    note = failures.note

    async def counting(request: web.BaseRequest) -> None:
        counted.append(request)
        await note(request)

    control_plane.server.ingress.note_failure = counting
    for wrong in ("0" * len(token), token[:-1], token + "0", token.upper() + "x"):
        answer = call(control_plane.url, "GET", "/files?path=/x", headers={"X-Access-Token": wrong})
        told.add((answer.status, answer.body))
    assert len(told) == 1
    assert next(iter(told))[0] == 502
    assert (len(counted), seen) == (4, [])


@pytest.mark.parametrize(
    "mask",
    [
        "a\r\nX-Injected: 1",
        "a\nb",
        "a\tb",
        "a b",
        "a\0b",
        "a\x7fb",
        "a/b",
        "a?b",
        "a@b",
        "user:pw@host",
        "a,b",
        "ä.test",
        "\u0661.test",
        "a:b",
        "a:0",
        "a:65536",
        "a:1:2",
        ":80",
        "${PORT}",
        "a:${PORT}${PORT}",
        "${port}",
        "${HOME}",
        "[::1",
        "::1",
        "[a]",
        "a" * 300,
        " localhost",
        "localhost ",
    ],
)
def test_client_cannot_write_into_the_head_by_a_mask(control_plane: ControlPlane, mask: str) -> None:
    """A creation refuses a mask that is no host with an optional port, by the field's name. No mask can end a header line."""
    answer = ask(control_plane, "POST", "/v2/sandboxes", {"templateID": "base", "network": {"maskRequestHost": mask}})
    assert (answer.status, answer.json()["code"]) == (400, 400)
    assert "maskRequestHost" in answer.json()["message"]
