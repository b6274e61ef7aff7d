"""MCP servers in sandboxes, as the official SDKs start them, asked by the official MCP client through the server's address."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import CommandExitException, Sandbox, SandboxException, Template
from e2b.exceptions import BuildException
from mcp.client import Client
from mcp.shared.exceptions import MCPError

from framework.http import call
from framework.mcp import address, ask, tool_names, tool_text
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

JS = Path(__file__).parent / "js"
PROGRAMS = Path(__file__).parents[1] / "framework" / "programs"
TOKEN = "a token"
DEAD = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "NPM_CONFIG_REGISTRY": "http://127.0.0.1:9/", "PIP_RETRIES": "0"}
"""Package registries at addresses without a server."""


@pytest.fixture(scope="module")
def ready(server: Server) -> Iterator[Sandbox]:
    """A sandbox with two servers, made by the SDK."""
    made = Sandbox.create(mcp={"time": {}, "memory": {}}, timeout=900, **server.sdk)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def plain(server: Server) -> Iterator[Sandbox]:
    """A sandbox of the template, whose servers the tests start themselves; with repositories of a small server."""
    made = Sandbox.create("mcp-gateway", timeout=600, **server.sdk)
    made.files.write("/srv/git/one/server.py", (PROGRAMS / "mcp_server.py").read_text(), user="root")
    made.commands.run(
        "cd /srv/git/one && git init -q && git add . && git -c user.name=a -c user.email=a@b commit -qm first"
        " && mkdir -p acme && cd .. && mkdir acme && cp -a one acme/one && cp -a one acme/two && chown -R user: /srv/git",
        user="root",
    )
    yield made
    made.kill()


def start(sandbox: Sandbox, config: dict[str, Any], **envs: str) -> None:
    """Start the gateway as the SDK does."""
    sandbox.files.write("/tmp/config.json", json.dumps(config))
    every = {"GATEWAY_ACCESS_TOKEN": TOKEN, "MCP_GATEWAY_GIT": "file:///srv/git", **envs}
    sandbox.commands.run('mcp-gateway --config "$(cat /tmp/config.json)"', user="root", envs=every, timeout=120)


async def said(client: Client, tool: str = "whoami") -> dict[str, Any]:
    """What the small server says of itself."""
    told: dict[str, Any] = json.loads(await tool_text(client, tool))
    return told


def test_tools_of_all_servers_are_there_and_work(server: Server, ready: Sandbox) -> None:
    """A client lists the tools of both servers under their own names, and calls one of each."""
    token = ready.get_mcp_token()
    assert token is not None

    async def tour(client: Client) -> tuple[set[str], str, str]:
        names = await tool_names(client)
        now = await tool_text(client, "convert_time", source_timezone="UTC", time="12:00", target_timezone="Asia/Tokyo")
        await tool_text(client, "create_entities", entities=[{"name": "Ada", "entityType": "person", "observations": ["counts"]}])
        return names, now, await tool_text(client, "read_graph")

    names, now, graph = ask(server, ready.sandbox_id, token, tour)
    assert {"get_current_time", "convert_time", "create_entities", "read_graph"} <= names
    assert "21:00" in now
    assert "Ada" in graph


def test_state_is_kept_between_clients(server: Server, ready: Sandbox) -> None:
    """A second client meets the same servers, and ``connect`` finds the token in the sandbox."""
    token = Sandbox.connect(ready.sandbox_id, **server.sdk).get_mcp_token()
    assert token == ready.get_mcp_token()
    assert token is not None
    made = {"entities": [{"name": "Bob", "entityType": "person", "observations": []}]}
    ask(server, ready.sandbox_id, token, lambda client: tool_text(client, "create_entities", **made))
    assert "Bob" in ask(server, ready.sandbox_id, token, lambda client: tool_text(client, "read_graph"))


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", "Basic x"])
def test_without_the_token_nobody_is_let_in(server: Server, ready: Sandbox, given: str | None) -> None:
    """401 from outside, and from inside for another user of the sandbox, who cannot read the token either."""
    headers = address(server, ready.sandbox_id)[1] | ({"Authorization": given} if given is not None else {})
    assert call(server.url, "POST", "/mcp", body={}, headers=headers).status == 401
    told = ready.commands.run("curl -s -o /dev/null -w '%{http_code}' -X POST http://localhost:50005/mcp; cat /etc/mcp-gateway/.token || true")
    assert told.stdout == "401"
    assert "Permission denied" in told.stderr


def test_an_unknown_server_is_named_and_leaves_no_sandbox(server: Server) -> None:
    """The SDK raises what the gateway says, and kills the sandbox."""
    with pytest.raises(SandboxException, match=r"no MCP server 'nothere'; there are: .*time"):
        Sandbox.create(mcp={"nothere": {}}, metadata={"who": "mcp-unknown"}, timeout=60, **server.sdk)
    listed = Sandbox.list(api_key=server.api_key, api_url=server.url).next_items()
    assert [one for one in listed if one.metadata.get("who") == "mcp-unknown"] == []


def test_a_template_without_the_gateway_fails_at_once(server: Server) -> None:
    """Of ``base`` the SDK says that the program is not there."""
    with pytest.raises(SandboxException, match=r"Failed to start MCP gateway: .*not found"):
        Sandbox.create("base", mcp={"time": {}}, timeout=60, **server.sdk)


def test_servers_run_as_the_ordinary_user_and_do_not_see_the_token(server: Server, plain: Sandbox) -> None:
    """A server out of a repository runs there, after its installation, with its variables, as ``user``."""
    run = {"run_cmd": "python3 server.py", "install_cmd": "touch installed", "envs": {"MARK": "m"}}
    start(plain, {"github/acme/one": run})
    told = ask(server, plain.sandbox_id, TOKEN, said)
    told.pop("pid")
    directory = "/opt/mcp-gateway/repositories/acme/one"
    assert told == {"user": "user", "uid": 1000, "cwd": directory, "mark": "m", "token": "none"}
    assert plain.commands.run(f"stat -c %U {directory}/installed").stdout.strip() == "user"


def test_names_that_two_servers_share_get_the_servers_before_them(server: Server, plain: Sandbox) -> None:
    """Each server's tool is reached; a name that is not shared stays."""
    run = {"runCmd": "python3 server.py"}
    start(plain, {"github/acme/one": {**run, "envs": {"MARK": "1"}}, "github/acme/two": {**run, "envs": {"MARK": "2"}}, "time": {}})

    async def tour(client: Client) -> tuple[set[str], list[str]]:
        names = await tool_names(client)
        return names, [(await said(client, f"acme_{which}__whoami"))["mark"] for which in ("one", "two")]

    names, marks = ask(server, plain.sandbox_id, TOKEN, tour)
    assert {"acme_one__whoami", "acme_two__whoami", "get_current_time"} <= names
    assert "whoami" not in names
    assert marks == ["1", "2"]


def test_a_server_that_ended_is_started_again(server: Server, plain: Sandbox) -> None:
    """The call that ended it fails, the next one is answered by a new process."""
    start(plain, {"github/acme/one": {"runCmd": "python3 server.py"}})
    before = ask(server, plain.sandbox_id, TOKEN, said)["pid"]
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the client makes of it
        ask(server, plain.sandbox_id, TOKEN, lambda client: tool_text(client, "end"))
    assert ask(server, plain.sandbox_id, TOKEN, said)["pid"] != before


def test_a_server_that_stays_away_does_not_take_the_others_with_it(server: Server, plain: Sandbox) -> None:
    """It is missing in the lists, its tools say why, and the other server's work; the log names it."""
    once = "test -e /tmp/once && { echo gone for good >&2; exit 1; }; touch /tmp/once; exec python3 server.py"
    start(plain, {"github/acme/one": {"runCmd": once}, "time": {}})
    assert "whoami" in ask(server, plain.sandbox_id, TOKEN, tool_names)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the client makes of it
        ask(server, plain.sandbox_id, TOKEN, lambda client: tool_text(client, "end"))
    names = ask(server, plain.sandbox_id, TOKEN, tool_names)
    assert "get_current_time" in names
    assert "whoami" not in names
    assert "gone for good" in plain.commands.run("grep -A3 'is missing in the list' /var/log/mcp-gateway/gateway.log", user="root").stdout


@pytest.mark.parametrize("account", ["nobody-here", "root"])
def test_servers_run_as_the_account_that_is_named(server: Server, plain: Sandbox, account: str) -> None:
    """The variable names another account; one that is not there is refused."""
    config = {"github/acme/two": {"runCmd": "python3 server.py"}}
    if account == "root":
        start(plain, config, MCP_GATEWAY_USER=account)
        assert ask(server, plain.sandbox_id, TOKEN, said)["uid"] == 0
        return
    with pytest.raises(CommandExitException) as caught:
        start(plain, config, MCP_GATEWAY_USER=account)
    assert f"'{account}', which is no account of this sandbox" in caught.value.stderr


def test_a_server_that_cannot_start_is_told_with_its_words(plain: Sandbox) -> None:
    """The exit code is not 0, the message ends with what the server wrote, and no gateway is left."""
    with pytest.raises(CommandExitException) as caught:
        start(plain, {"time": {}, "github/acme/one": {"runCmd": "echo my last words >&2; exit 3"}})
    assert caught.value.exit_code == 1
    assert "'github/acme/one' did not start" in caught.value.stderr
    assert "my last words" in caught.value.stderr
    left = plain.commands.run("pgrep -f '[m]cp_gateway.serve'; curl -s -m 5 http://localhost:50005/mcp; echo $?")
    assert left.stdout.strip() == "7"


def test_an_installation_that_fails_is_told(plain: Sandbox) -> None:
    """The command and the end of its output are in the message."""
    with pytest.raises(CommandExitException) as caught:
        start(plain, {"github/acme/nothere": {"runCmd": "true"}})
    assert "github/acme/nothere could not be installed" in caught.value.stderr
    assert "does not" in caught.value.stderr


def test_a_server_elsewhere_is_asked_with_its_headers(server: Server, plain: Sandbox) -> None:
    """A table of the sandbox's own adds a server with an address; its key goes into the header."""
    table = '[far]\nurl = "http://127.0.0.1:{port}/mcp"\nheaders = { X-Key = "{key}" }\nfields = ["key", "port"]\n'
    plain.files.write("/etc/mcp-gateway/servers.toml", table, user="root")
    plain.files.write("/tmp/remote.py", (PROGRAMS / "mcp_remote.py").read_text())
    plain.commands.run("/opt/mcp-gateway/venv/bin/python3 /tmp/remote.py", background=True, timeout=900)
    plain.commands.run("curl -s --retry-connrefused --retry 20 --retry-delay 1 -o /dev/null http://127.0.0.1:3001/")
    start(plain, {"far": {"key": "secret", "port": 3001}})
    assert ask(server, plain.sandbox_id, TOKEN, lambda client: tool_text(client, "far")) == "secret"


async def other_than_tools(client: Client) -> None:
    """Prompts, resources with and without a list, and progress of the server ``everything`` come through."""
    prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
    assert "simple-prompt" in prompts
    assert (await client.get_prompt("simple-prompt")).messages
    listed = (await client.list_resources()).resources
    assert (await client.read_resource(str(listed[0].uri))).contents
    (template, *_) = (await client.list_resource_templates()).resource_templates
    assert (await client.read_resource(re.sub(r"{\w+}", "1", template.uri_template))).contents
    with pytest.raises(MCPError):
        await client.read_resource("nothing://here")
    steps: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    await client.call_tool("trigger-long-running-operation", {"duration": 1, "steps": 3}, progress_callback=note)
    assert steps == [1, 2, 3]


@pytest.mark.slow
def test_what_was_pulled_needs_no_registry(server: Server, plain: Sandbox) -> None:
    """A server that was installed ahead starts when no registry is reached; one that was not says so."""
    plain.commands.run("mcp-gateway pull everything sqlite", user="root", timeout=240)
    start(plain, {"everything": {}, "sqlite": {}}, **DEAD)

    async def tour(client: Client) -> tuple[str, str]:
        return await tool_text(client, "echo", message="hello"), await tool_text(client, "list_tables")

    assert ask(server, plain.sandbox_id, TOKEN, tour) == ("Echo: hello", "[]")
    ask(server, plain.sandbox_id, TOKEN, other_than_tools)
    with pytest.raises(CommandExitException) as caught:
        start(plain, {"duckduckgo": {}}, **DEAD)
    assert "duckduckgo could not be installed" in caught.value.stderr


def test_without_internet(server: Server) -> None:
    """Servers that are in the template work in a sandbox that reaches nothing."""
    made = Sandbox.create(mcp={"filesystem": {"paths": ["/srv"]}}, allow_internet_access=False, timeout=120, **server.sdk)
    try:
        made.files.write("/srv/note.txt", "a note", user="root")
        token = made.get_mcp_token()
        assert token is not None
        assert "a note" in ask(server, made.sandbox_id, token, lambda client: tool_text(client, "read_text_file", path="/srv/note.txt"))
    finally:
        made.kill()


@pytest.mark.slow
def test_a_template_with_servers_installed_ahead(server: Server) -> None:
    """A sandbox without a network has the servers that ``add_mcp_server`` installed in the build. An unknown name fails the build."""
    connection: Any = {"api_key": server.api_key, "api_url": server.url}
    base = Template().from_template("mcp-gateway")
    with pytest.raises(BuildException, match="mcp-gateway pull nothere"):
        Template.build(base.add_mcp_server("nothere"), "mcp-unknown", **connection)
    built = Template.build(Template().from_template("mcp-gateway").add_mcp_server(["everything"]), "mcp-ahead", **connection)
    try:
        made = Sandbox.create("mcp-ahead", mcp={"everything": {}}, allow_internet_access=False, timeout=120, **server.sdk)
        try:
            token = made.get_mcp_token()
            assert token is not None
            assert "hello" in ask(server, made.sandbox_id, token, lambda client: tool_text(client, "echo", message="hello"))
        finally:
            made.kill()
    finally:
        for name in (built.template_id, "mcp-unknown"):
            assert call(server.url, "DELETE", f"/templates/{name}", headers={"X-API-Key": server.api_key}).status == 204


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_javascript_sdk(server: Server) -> None:
    """The same by the JavaScript SDK, and a client of an older revision of the protocol."""
    environ = {"PATH": os.environ["PATH"], **server.environ}
    done = subprocess.run(["node", "mcp.mjs"], cwd=JS, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen["url"].startswith("https://50005-")
    assert seen["tools"] == ["get_current_time", "convert_time"]
    assert seen["token"] is True
    assert seen["unknown"].startswith("Failed to start MCP gateway: there is no MCP server 'nothere'")
