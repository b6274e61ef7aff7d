"""A server with a public domain and TLS of its own: both SDKs by E2B_DOMAIN alone, the local authority, and an operator's certificate."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloister.config.client_env import read_client_env
from cloister.tls.authority import ServerNames, create_authority
from framework.pretend_domain import PretendDomain, pretend_domain
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]
NAME = "sbx.test"
JS = Path(__file__).parent / "js"
CLIENT = Path(__file__).parents[1] / "framework" / "programs" / "domain_client.py"


@dataclass(frozen=True)
class Site:
    """A server with a domain, and the domain."""

    server: Server
    domain: PretendDomain
    port: int

    @property
    def environ(self) -> dict[str, str]:
        """What ``cloister env`` exports."""
        return {name: value for name, value in read_client_env(self.server.data_dir).public().items() if value is not None}


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def site(stock_templates: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a certificate of its local authority."""
    port = free_port()
    with (
        pretend_domain(NAME, tmp_path_factory.mktemp("domain")) as domain,
        running_server("--listen-tls", f"127.0.0.1:{port}", "--domain", f"{NAME}:{port}") as server,
    ):
        yield Site(server, domain, port)


def test_python_sdk(site: Site) -> None:
    """By E2B_DOMAIN, key and trust alone, the Python SDK creates and runs; get_host opens in HTTP and WebSocket clients."""
    environ = {name: value for name, value in site.environ.items() if name != "E2B_API_URL"}
    done = site.domain.run(sys.executable, str(CLIENT), env=environ)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("host").endswith(f".{NAME}:{site.port}")
    assert seen.pop("url").startswith("https://49983-")
    assert seen == {
        "running": True,
        "text": "2",
        "domain": f"{NAME}:{site.port}",
        "status": 200,
        "echo": "HELLO",
        "listed": True,
        "urls": ["E2B_ACCESS_TOKEN", "E2B_API_KEY", "E2B_DOMAIN"],
    }


def test_mcp_url(site: Site) -> None:
    """An MCP client needs only the result of ``get_mcp_url``, and the token."""
    environ = {name: value for name, value in site.environ.items() if name != "E2B_API_URL"}
    done = site.domain.run(sys.executable, str(CLIENT.with_name("domain_mcp.py")), env=environ)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["url"].startswith("https://50005-")
    assert seen["url"].endswith(f".{NAME}:{site.port}/mcp")
    assert "get_current_time" in seen["tools"]


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_javascript_sdk(site: Site) -> None:
    """The same for the JavaScript SDK, by NODE_EXTRA_CA_CERTS, with all that ``cloister env`` exports."""
    done = site.domain.run("node", "domain.mjs", env=site.environ, cwd=JS)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["running"], seen["text"], seen["status"]) == (True, "2", 200)
    assert seen["host"].endswith(f".{NAME}:{site.port}")


def test_untrusting_client_is_not_served(site: Site) -> None:
    """A client that does not trust the authority refuses the server."""
    done = site.domain.run("curl", "-sS", f"https://api.{NAME}:{site.port}/health", env={})
    assert done.returncode == 60, done.stderr


@pytest.mark.parametrize("host", [f"api.{NAME}", NAME, f"8000-abc.{NAME}", "localhost", "127.0.0.1"])
def test_names_of_the_certificate(site: Site, host: str) -> None:
    """The certificate is good for the domain, the API, every sandbox, localhost and the listener's address."""
    ca = site.server.data_dir / "ca" / "ca.crt"
    answer = site.domain.run("curl", "-sS", "--cacert", str(ca), f"https://{host}:{site.port}/health", env={})
    assert answer.returncode == 0, answer.stderr


def test_env(site: Site) -> None:
    """``cloister env`` names the domain, unsets what would count before it, and names the trusted files; --local the clear listener."""
    public = site.server.cli("env").stdout.splitlines()
    assert f"export E2B_DOMAIN={NAME}:{site.port}" in public
    assert f"export E2B_API_URL=https://api.{NAME}:{site.port}" in public
    assert "unset E2B_SANDBOX_URL" in public
    assert f"export NODE_EXTRA_CA_CERTS={site.server.data_dir}/ca/ca.crt" in public
    assert f"export E2B_SANDBOX_URL={site.server.url}" in site.server.cli("env", "--local").stdout.splitlines()


def test_key_of_the_authority_stays_with_root(site: Site) -> None:
    """Only root can read the authority's key. No file that the api process or another user can read has a key."""
    key = site.server.data_dir / "ca" / "ca.key"
    assert (key.stat().st_mode & 0o777, key.stat().st_uid) == (0o600, 0)
    holders = [path for path in site.server.data_dir.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20 and path != key]
    assert not [path for path in holders if b"PRIVATE KEY" in path.read_bytes()]
    pid = site.server.child("api")
    for process in (pid, site.server.process.pid):
        for part in ("cmdline", "environ"):
            assert b"PRIVATE KEY" not in Path(f"/proc/{process}/{part}").read_bytes()


def test_authority_commands(site: Site) -> None:
    """``cloister ca`` shows the certificate and how to trust it, and replaces an authority only when told to."""
    shown = site.server.cli("ca", "show").stdout
    assert "BEGIN CERTIFICATE" in shown
    assert f"may certify: {NAME}, localhost" in shown
    explained = site.server.cli("ca", "trust-help", "--domain", NAME).stdout
    for word in ("update-ca-certificates", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "Firefox", str(site.server.data_dir / "ca" / "ca.crt")):
        assert word in explained
    refused = site.server.cli("ca", "init", "--domain", NAME, check=False)
    assert refused.returncode == 1
    assert "--replace" in refused.stderr


def _subject(port: int, ca: Path) -> str:
    context = ssl.create_default_context(cafile=str(ca))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, context.wrap_socket(sock, server_hostname=f"api.{NAME}") as tls:
        certificate = tls.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def test_operators_certificate_is_reloaded(stock_templates: None, tmp_path: Path) -> None:
    """The operator's files are served; new ones are taken on SIGHUP and by themselves, wrong ones are not, and connections live on."""
    authority = create_authority(tmp_path, ServerNames(NAME, "127.0.0.1"))
    cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca" / "ca.crt"

    def renew() -> None:
        pem = authority.issue(ServerNames(NAME, "127.0.0.1"))
        at = pem.index(b"-----BEGIN CERTIFICATE")
        key.write_bytes(pem[:at])
        cert.write_bytes(pem[at:])

    def wait_for_change(before: str) -> str:
        deadline = time.monotonic() + 10
        while (now := _subject(port, ca)) == before:
            assert time.monotonic() < deadline, "the certificate was not replaced"
            time.sleep(0.05)
        return now

    renew()
    key.chmod(0o600)
    port = free_port()
    files = ("--tls-cert-file", str(cert), "--tls-key-file", str(key))
    with running_server("--listen-tls", f"127.0.0.1:{port}", "--domain", NAME, *files) as server:
        assert not (server.data_dir / "ca").exists()
        client = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context(), timeout=10)
        client.request("GET", "/health")
        assert client.getresponse().read() == b"OK\n"
        sock, first = client.sock, _subject(port, ca)
        renew()
        server.process.send_signal(signal.SIGHUP)
        second = wait_for_change(first)
        renew()
        third = wait_for_change(second)
        key.write_bytes(b"not a key")
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while "certificate.not_replaced" not in server.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert _subject(port, ca) == third
        client.request("GET", "/health")
        assert client.getresponse().read() == b"OK\n"
        assert client.sock is sock, "the connection was dropped"
        client.close()
        assert "PRIVATE KEY" not in server.log.read_text()


def test_api_process_gets_the_certificate_again(site: Site) -> None:
    """An api process that dies is followed by one that serves TLS as before."""
    ca = site.server.data_dir / "ca" / "ca.crt"
    before, pid = _subject(site.port, ca), site.server.child("api")
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        try:
            assert _subject(site.port, ca) == before
        except (OSError, ssl.SSLError):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tls-cert-file", "/x"), "tls_cert_file and tls_key_file must be given together"),
        (("--tls-cert-file", "/x", "--tls-key-file", "/y"), "no listener uses it"),
        (("--tls-cert-file", "/x", "--tls-key-file", "/y", "--listen-tls", "127.0.0.1:0"), "/y cannot be read"),
        (("--listen-tls", "elsewhere:1"), "does not begin with an IP address"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """The server does not start with TLS settings that are incomplete or wrong, and says which."""
    server = Server("", "", tmp_path, None, tmp_path / "log")  # type: ignore[arg-type]  # the test needs no process
    refused = server.cli("serve", "--listen", "127.0.0.1:0", *options, check=False)
    assert refused.returncode == 2
    assert said in refused.stderr
