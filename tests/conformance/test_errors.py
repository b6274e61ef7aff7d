"""Each class of error that the official SDKs export is provoked by a fault, or there is a reason why no server can have it raised.

Introspection finds the exported classes, so a new class of a new SDK version fails here until it has a fault or a reason.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import e2b
import e2b_code_interpreter
import pytest
from e2b import PtySize, Secret, Template, Volume
from e2b_code_interpreter import Sandbox

from framework.control_plane import ControlPlane
from framework.inside import FILL_DISK
from framework.server import Server, running_server

JS = Path(__file__).parent / "js"
pytestmark = [pytest.mark.root, pytest.mark.templates]

NOT_REACHABLE = {
    "DockerfileSyntaxError": "raised by the SDK's own parser, before any request",
}
NOT_REACHABLE_JS: dict[str, str] = {}
JAVASCRIPT = {
    "AuthenticationError": "^Unauthorized.* the API key is not valid",
    "BuildError": "^403: Alias 'base' already used",
    "CommandExitError": "^exit status 3$",
    "FileNotFoundError": "^path '/home/user/nothing' does not exist$",
    "FileUploadError": "^Failed to upload file: Insufficient Storage$",
    "GitAuthError": "^Git clone requires credentials",
    "GitUpstreamError": "^Git pull failed because no upstream branch",
    "InvalidArgumentError": "^path '/home' is a directory$",
    "NotEnoughSpaceError": "^not enough disk space available in the sandbox",
    "NotFoundError": "process with pid 999999 does not exist",
    "RateLimitError": "^Rate limit exceeded.* - the team has 1 live sandboxes",
    "SandboxError": "^404: template 'nope' not found",
    "SandboxNotFoundError": "^Sandbox [a-z0-9]{20} not found$",
    "SecretError": "^400: limit must be between 1 and 100",
    "SecretNotFoundError": "Secret .*not found",
    "ServiceBusyError": "^Service temporarily unavailable.* fewer than the reserve",
    "TemplateError": "^404: template 'nothing' not found",
    "TimeoutError": "deadline_exceeded.*exceeding 'timeoutMs'",
    "VolumeError": "^400: Invalid volume name",
    "VolumeNotFoundError": "Volume .* not found",
    "VolumePathNotFoundError": "Path /nothing not found",
}
"""What the message says, by class."""


@dataclass(frozen=True)
class Place:
    """Where faults of the Python SDK are provoked."""

    server: Server
    sandbox: Sandbox
    ask: Callable[[str], Any]
    """A fixture by its name: servers that only one fault needs."""

    @property
    def api(self) -> dict[str, Any]:
        """The connection arguments of calls that do not reach into sandboxes."""
        return {"api_key": self.server.api_key, "api_url": self.server.url}

    def ended(self) -> Sandbox:
        """A sandbox that has been killed."""
        sandbox = Sandbox.create("base", timeout=60, **self.server.sdk)
        sandbox.kill()
        return sandbox


def clone_with_password(place: Place) -> None:
    """Inside the sandbox, a server that asks for a password whatever it is asked."""
    handler = "class H(http.server.BaseHTTPRequestHandler):\n def do_GET(s): s.send_response(401); s.send_header('WWW-Authenticate', 'Basic'); s.end_headers()"
    place.sandbox.files.write("refuse.py", f"import http.server\n{handler}\nhttp.server.HTTPServer(('127.0.0.1', 8401), H).serve_forever()\n")
    place.sandbox.commands.run("python3 refuse.py", background=True, timeout=60)
    place.sandbox.commands.run("until (exec 3<>/dev/tcp/127.0.0.1/8401) 2>/dev/null; do sleep 0.05; done", timeout=30)
    place.sandbox.git.clone("http://127.0.0.1:8401/a.git", "/home/user/a")


def pull_without_upstream(place: Place) -> None:
    """A repository whose branch belongs to no branch elsewhere."""
    place.sandbox.git.init("/home/user/w", initial_branch="main")
    place.sandbox.git.remote_add("/home/user/w", "origin", "/home/user/r.git")
    place.sandbox.git.pull("/home/user/w")


def write_to_a_full_disk(place: Place) -> None:
    """A sandbox of its own: nothing works well on a full disk."""
    with Sandbox.create("base", timeout=120, **place.server.sdk) as sandbox:
        sandbox.commands.run(FILL_DISK, user="root", timeout=120)
        sandbox.files.write("big", io.BytesIO(bytes(64 << 20)))


def upload_to_a_full_server(place: Place) -> None:
    """A file of a build, and a disk without room for it."""
    server: Server = place.ask("full_server")
    template = Template(file_context_path=str(JS)).from_image("debian").copy("package.json", "/")
    Template.build(template, "mine", api_key=server.api_key, api_url=server.url)


def reach_a_dead_agent(place: Place) -> None:
    """The fake node's sandbox runs, and its ports are closed: a real agent is started again at once."""
    plane: ControlPlane = place.ask("control_plane")
    sandbox = Sandbox.create(retries=0, **plane.sdk)
    plane.run(plane.node.find(sandbox.sandbox_id).stack.aclose)
    sandbox.commands.run("true")


def resume_a_silent_agent(place: Place) -> None:
    """The fake node's sandbox is paused while its agent does not answer: a real agent is started again at once."""
    plane: ControlPlane = place.ask("control_plane")
    sandbox = Sandbox.create(retries=0, **plane.sdk)
    plane.run(plane.node.find(sandbox.sandbox_id).stack.aclose)
    sandbox.pause()
    sandbox.connect(retries=0)


def missing_in_a_volume(place: Place) -> None:
    """A path that no volume has."""
    volume = Volume.create(f"v{uuid.uuid4().hex}", **place.api)
    try:
        volume.read_file("/nothing", api_url=place.server.url)
    finally:
        Volume.destroy(volume.volume_id, **place.api)


def exceed_the_team(place: Place) -> None:
    """One sandbox more than the team may have."""
    sdk = place.ask("small_server").sdk
    with Sandbox.create("base", **sdk):
        Sandbox.create("base", retries=0, **sdk)


PYTHON: dict[str, tuple[Callable[[Place], object], str]] = {
    "AuthenticationException": (
        lambda at: Sandbox.create(**{**at.server.sdk, "api_key": "e2b_" + "0" * 40}),
        "^401: Unauthorized.* the API key is not valid",
    ),
    "BuildException": (lambda at: Template.build(Template().from_image("debian"), "base", **at.api), "^403: Alias 'base' already used"),
    "CommandExitException": (lambda at: at.sandbox.commands.run("echo oh >&2; exit 3"), "^Command exited with code 3"),
    "FileNotFoundException": (lambda at: at.sandbox.files.read("nothing"), "^path '/home/user/nothing' does not exist$"),
    "FileUploadException": (upload_to_a_full_server, "^Failed to upload file: .*507"),
    "GitAuthException": (clone_with_password, "^Git clone requires credentials"),
    "GitUpstreamException": (pull_without_upstream, "^Git pull failed because no upstream branch"),
    "GuestUnresponsiveException": (resume_a_silent_agent, "did not answer when it was paused"),
    "InvalidArgumentException": (lambda at: at.sandbox.files.read("/home"), "^path '/home' is a directory$"),
    "NotEnoughSpaceException": (write_to_a_full_disk, "^not enough disk space available in the sandbox"),
    "NotFoundException": (lambda at: at.sandbox.commands.connect(999_999), "^process with pid 999999 does not exist$"),
    "RateLimitException": (exceed_the_team, "^429: .* the team has 1 live sandboxes"),
    "SandboxException": (lambda at: Sandbox.create("nope", **at.server.sdk), "^404: template 'nope' not found"),
    "SandboxNotFoundException": (lambda at: Sandbox.get_info(at.ended().sandbox_id, **at.api), "^Sandbox [a-z0-9]{20} not found$"),
    "SandboxNotRunningException": (lambda at: at.ended().pty.create(PtySize(9, 9)), "was not found"),
    "SandboxUnreachableException": (reach_a_dead_agent, "port is not open"),
    "SecretException": (lambda at: Secret.list(limit=101, **at.api).next_items(), "limit must be between 1 and 100"),
    "SecretNotFoundException": (lambda at: Secret.get_info("nothing", **at.api), "not found"),
    "ServiceBusyException": (lambda at: Sandbox.create(retries=0, **at.ask("full_server").sdk), "fewer than the reserve"),
    "TemplateException": (lambda at: Template.get_tags("nothing", **at.api), "^404: template 'nothing' not found"),
    "TimeoutException": (lambda at: at.sandbox.commands.run("sleep 30", timeout=0.3), "exceeding 'timeout'"),
    "VolumeException": (lambda at: Volume.create("no name", **at.api), "^400: Invalid volume name"),
    "VolumeNotFoundException": (lambda at: Volume.get_info(str(uuid.uuid4()), **at.api), "not found"),
    "VolumePathNotFoundException": (missing_in_a_volume, "Path /nothing not found"),
}
"""The fault, and what the message says, by class."""


def exported(module: object) -> dict[str, type[Exception]]:
    """The exceptions that a package of the SDK exports."""
    return {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Exception)}


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for most faults."""
    with Sandbox.create(timeout=600, **server.sdk) as made:
        yield made


@pytest.fixture(scope="module")
def small_server(stock_templates: None) -> Iterator[Server]:
    """A server that gives each team one sandbox."""
    with running_server("--max-sandboxes-per-team", "1") as running:
        yield running


@pytest.fixture(scope="module")
def full_server(stock_templates: None) -> Iterator[Server]:
    """A server on a disk without room for sandboxes."""
    with running_server("--disk-reserve-mib", str(1 << 24)) as running:
        yield running


@pytest.mark.parametrize("name", sorted(exported(e2b).keys() | exported(e2b_code_interpreter).keys()))
def test_python(name: str, server: Server, sandbox: Sandbox, request: pytest.FixtureRequest) -> None:
    """The fault raises this very class, whichever package it is taken from, and the message says what was wrong."""
    if name in NOT_REACHABLE:
        assert name not in PYTHON
        return
    assert name in PYTHON, "a class of errors that is neither provoked nor explained"
    provoke, message = PYTHON[name]
    kind = exported(e2b)[name]
    assert exported(e2b_code_interpreter)[name] is kind
    with pytest.raises(kind, match=message) as caught:
        provoke(Place(server, sandbox, request.getfixturevalue))
    assert caught.type is kind


def test_the_python_tables_are_of_today() -> None:
    """Nothing in them has left the SDK."""
    assert set(PYTHON) | set(NOT_REACHABLE) <= set(exported(e2b))


def test_an_execution_error(sandbox: Sandbox) -> None:
    """The interpreter's package also has the error of a run, which is a result and not raised."""
    error = sandbox.run_code("1 / 0").error
    assert type(error) is e2b_code_interpreter.ExecutionError
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")


def in_javascript(server: Server, *names: str) -> dict[str, Any]:
    """What ``errors.mjs`` prints."""
    environ = {"PATH": os.environ["PATH"], **server.environ, "E2B_VOLUME_API_URL": server.url}
    done = subprocess.run(["node", "errors.mjs", *names], cwd=JS, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_javascript(server: Server, small_server: Server, full_server: Server) -> None:
    """The same of both JavaScript packages: each exported class is provoked or explained, and class and message are right."""
    told = in_javascript(server)
    for package in ("e2b", "interpreter"):
        assert set(told["exported"][package]) == set(JAVASCRIPT) | set(NOT_REACHABLE_JS), package
        assert None not in told["exported"][package].values()
    assert not set(JAVASCRIPT) & set(NOT_REACHABLE_JS)
    seen = told["seen"] | in_javascript(full_server, "ServiceBusyError", "FileUploadError")["seen"]
    with Sandbox.create("base", **small_server.sdk):
        seen |= in_javascript(small_server, "RateLimitError")["seen"]
    assert {name: kind for name, (kind, _) in seen.items()} == {name: name for name in JAVASCRIPT}
    for name, (_, message) in seen.items():
        assert re.search(JAVASCRIPT[name], message), f"{name}: {message}"
