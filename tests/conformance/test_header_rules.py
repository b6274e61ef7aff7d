"""Header rules end to end: programs in a sandbox call an API over TLS, and the API sees the header of the rule."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from e2b import CommandExitException
from e2b_code_interpreter import Sandbox

from framework.pretend_internet import OTHER_HOST, SHARED_HOST, PretendInternet
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

HOST = "api.example.net"
OWN = "/usr/local/share/ca-certificates/e2b-ca.crt"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def rules(*hosts: str) -> Any:
    """The rule for each of the hosts."""
    return {"rules": {host: [{"transform": {"headers": {"X-Key": "sk-1234"}}}] for host in hosts}}


RULES = rules(HOST, "untrusted.example", "git.example.com", "www.example.net")
URL = f"https://{HOST}/headers"
PYTHON = f"import urllib.request; print(urllib.request.urlopen('{URL}').read().decode())"
WEBSOCKET = f"""
import socket, ssl
raw = socket.create_connection(("{HOST}", 443))
s = ssl.create_default_context().wrap_socket(raw, server_hostname="{HOST}")
head = ["GET / HTTP/1.1", "Host: {HOST}", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
s.sendall("\\r\\n".join([*head, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]).encode())
data = b""
while not data.endswith(b"}}"):
    data += s.recv(65536)
print(data[data.index(b"{{"):].decode())
"""
JAVA = f"""
import java.net.URI;
import java.net.http.*;
public class Main {{
    public static void main(String[] args) throws Exception {{
        var request = HttpRequest.newBuilder(URI.create("{URL}")).build();
        System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    }}
}}
"""
PROGRAMS = {
    "curl": f"curl -sS --fail-with-body {URL}",
    "curl with HTTP/1.1": f"curl -sS --http1.1 --fail-with-body {URL}",
    "curl without TLS": f"curl -sS --fail-with-body http://{HOST}/headers",
    "urllib": f'python3 -c "{PYTHON}"',
    "requests": f"python3 -c \"import requests; print(requests.get('{URL}').text)\"",
    "httpx": f"python3 -c \"import httpx; print(httpx.get('{URL}').text)\"",
    "fetch of Node": f"node -e \"fetch('{URL}').then(r => r.text()).then(console.log)\"",
    "https of Node": f"node -e \"require('https').get('{URL}', r => r.pipe(process.stdout))\"",
    "WebSocket": f"cat > /tmp/ws.py << 'END'\n{WEBSOCKET}\nEND\npython3 /tmp/ws.py",
    "HttpClient of Java": f"cat > /tmp/Main.java << 'END'\n{JAVA}\nEND\njava /tmp/Main.java",
}


@pytest.fixture(scope="module")
def sandbox(online_server: Server, internet: PretendInternet) -> Iterator[Sandbox]:
    """A sandbox with a rule."""
    assert internet.hosts
    with Sandbox.create(**online_server.sdk, network=RULES, timeout=600) as made:
        yield made


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_needs_no_setting(sandbox: Sandbox, program: str) -> None:
    """It trusts the sandbox's authority as it comes."""
    done = sandbox.commands.run(PROGRAMS[program], timeout=60)
    assert ["x-key", "sk-1234"] in json.loads(done.stdout)["headers"], done


def shown(sandbox: Sandbox, command: str) -> dict[str, str]:
    """The headers that the API saw."""
    return dict(json.loads(sandbox.commands.run(command, timeout=60).stdout)["headers"])


def test_git_and_pip_trust_the_authority(sandbox: Sandbox) -> None:
    """A repository can be read, and pip gets an answer of a server that is no package index."""
    sandbox.commands.run("git ls-remote https://git.example.com/public/project.git", timeout=60)
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run(f"pip download --retries 0 --no-cache-dir --index-url https://{HOST}/headers nothing", timeout=60)
    assert "No matching distribution" in caught.value.stderr
    assert "SSL" not in caught.value.stderr + caught.value.stdout


def test_update_ca_certificates_keeps_the_authority(sandbox: Sandbox) -> None:
    """It makes the bundle anew, with the authority, the host's certificates and the operator's."""
    sandbox.commands.run("update-ca-certificates", user="root", timeout=120)
    done = sandbox.commands.run(f"grep -c BEGIN {BUNDLE}; grep -F -x -f {BUNDLE} -c {OWN}; wc -l < {OWN}")
    count, found, lines = map(int, done.stdout.split())
    assert count > 100
    assert found == lines
    assert shown(sandbox, f"curl -sS {URL}")["x-key"] == "sk-1234"
    sandbox.commands.run("curl -sS --fail https://example.com/ -o /dev/null")  # of the operator's authority, and not intercepted


def test_an_upstream_without_a_valid_certificate_is_a_clear_502(sandbox: Sandbox, internet: PretendInternet) -> None:
    """The upstream sees no request."""
    before = len(internet.hosts.requests())
    done = sandbox.commands.run("curl -sS -w '%{http_code}' https://untrusted.example/headers")
    assert "the certificate of untrusted.example could not be verified" in done.stdout
    assert done.stdout.endswith("502")
    assert len(internet.hosts.requests()) == before


def test_the_address_that_a_program_wants_does_not_count(sandbox: Sandbox) -> None:
    """The server resolves the name of the rule by itself."""
    done = sandbox.commands.run(f"curl -sS --connect-to {HOST}:443:{OTHER_HOST}:443 {URL}")
    assert json.loads(done.stdout)["server"][0] == SHARED_HOST


def test_a_server_that_stands_still_for_a_moment_refuses_no_request(online_server: Server, sandbox: Sandbox) -> None:
    """The egress process asks the api process's resolver for a name; on a busy machine the answer may take seconds."""
    request = f"sleep 1; curl -sS -w '%{{http_code}}' --resolve www.example.net:443:{SHARED_HOST} https://www.example.net/headers"
    command = sandbox.commands.run(request, background=True)
    api = online_server.child("api")
    os.kill(api, signal.SIGSTOP)
    try:
        time.sleep(3.5)  # from its second on, the request waits
    finally:
        os.kill(api, signal.SIGCONT)
    assert command.wait().stdout.endswith("}200")


def test_a_large_body_passes_in_both_directions(sandbox: Sandbox) -> None:
    """With HTTP/1.1 and HTTP/2."""
    for version in ("--http1.1", "--http2"):
        done = sandbox.commands.run(f"head -c 64M /dev/zero | curl -sS {version} -T - https://{HOST}/count", timeout=120)
        assert json.loads(done.stdout)["length"] == 64 << 20, done.stdout
        done = sandbox.commands.run(f"curl -sS {version} 'https://{HOST}/stream?n=1024&size=65536&wait=0' | wc -c", timeout=120)
        assert int(done.stdout) == 64 << 20


def test_rules_come_and_go_while_a_kernel_runs(online_server: Server, internet: PretendInternet) -> None:
    """Its own process trusts the authority from the change on, and the bundle is as before when the rules are gone."""
    assert internet.hosts
    code = f"import requests; print(requests.get('{URL}').json()['headers'])"
    with Sandbox.create(**online_server.sdk, timeout=600) as sandbox:
        before = sandbox.commands.run(f"sha256sum < {BUNDLE}; ls {OWN} || true").stdout
        assert "sk-1234" not in "".join(sandbox.run_code(code).logs.stdout)
        sandbox.update_network(rules(HOST))
        ran = sandbox.run_code(code)
        assert "sk-1234" in "".join(ran.logs.stdout), ran
        sandbox.update_network({})
        ran = sandbox.run_code(code)
        assert "sk-1234" not in "".join(ran.logs.stdout)
        assert ran.logs.stdout
        assert sandbox.commands.run(f"sha256sum < {BUNDLE}; ls {OWN} || true").stdout == before


def test_a_copy_trusts_its_own_authority(online_server: Server, internet: PretendInternet) -> None:
    """A fork has another authority than its original, a resumed sandbox its own; both get the header."""
    assert internet.hosts
    with Sandbox.create(**online_server.sdk, network=rules(HOST), timeout=600) as sandbox:
        own = sandbox.files.read(OWN)
        sandbox.pause()
        sandbox.connect()
        assert sandbox.files.read(OWN) == own
        assert shown(sandbox, f"curl -sS {URL}")["x-key"] == "sk-1234"
        (copy,) = sandbox.fork(api_headers={"X-Fork-Memory": "false"})
        assert isinstance(copy, Sandbox)
        with copy:
            assert copy.files.read(OWN) != own
            assert copy.commands.run(f"grep -c BEGIN {BUNDLE}").stdout == sandbox.commands.run(f"grep -c BEGIN {BUNDLE}").stdout
            assert shown(copy, f"curl -sS {URL}")["x-key"] == "sk-1234"
