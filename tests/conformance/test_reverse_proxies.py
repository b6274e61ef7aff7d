"""The files in ``deploy/`` for reverse proxies, each with the real program: the SDK by E2B_DOMAIN, ports, WebSockets, streams, uploads."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from framework.pretend_certificates import write_certificates
from framework.pretend_domain import PretendDomain, pretend_domain
from framework.server import Server, free_port, running_server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

ROOT = Path(__file__).parents[2]
DEPLOY, PROGRAMS = ROOT / "deploy", ROOT / ".proxies" / "usr"
CLIENTS = Path(__file__).parents[1] / "framework" / "programs"
NAME = "sbx.test"
FILES = "/etc/letsencrypt/live/sbx.example.com"
NGINX = """
daemon off; worker_processes 1; pid {0}/nginx.pid; error_log stderr;
events {{}}
http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d;
scgi_temp_path {0}/e; include {0}/site; }}
"""
"""Around the file for conf.d: what a distribution's nginx.conf has."""


@dataclass(frozen=True)
class Site:
    """A server with a public domain, whose proxy is to listen at ``port``; ``directory`` has its certificate."""

    server: Server
    domain: PretendDomain
    port: int
    directory: Path

    def adapted(self, name: str) -> str:
        """The file of ``deploy/``, with the names of this site."""
        text = (DEPLOY / name).read_text().replace(f"{FILES}/fullchain.pem", f"{self.directory}/server.pem")
        text = text.replace(f"{FILES}/privkey.pem", f"{self.directory}/server.pem")
        return text.replace("127.0.0.1:3000", self.server.url.removeprefix("http://"))


@pytest.fixture(scope="module")
def site(stock_templates: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all proxies, which use its port one after another."""
    port, directory = free_port(), tmp_path_factory.mktemp("proxy")
    write_certificates(directory / "ca.pem", directory / "server.pem", [NAME, f"*.{NAME}"], ["127.0.0.1"])
    with pretend_domain(NAME, directory) as domain, running_server("--domain", f"{NAME}:{port}") as server:
        yield Site(server, domain, port, directory)


def _nginx(site: Site) -> list[str]:
    text = site.adapted("nginx/cloister.conf").replace("sbx.example.com", NAME)
    text = text.replace("listen 443 ", f"listen 127.0.0.1:{site.port} ").replace("listen [::]:443 ssl http2;", "")
    (site.directory / "site").write_text(text)
    (site.directory / "nginx.conf").write_text(NGINX.format(site.directory))
    return [f"{PROGRAMS}/sbin/nginx", "-e", "stderr", "-p", str(site.directory), "-c", f"{site.directory}/nginx.conf"]


def _caddy(site: Site) -> list[str]:
    text = site.adapted("caddy/Caddyfile").replace("sbx.example.com", f"{NAME}:{site.port}")
    (site.directory / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text)
    return [f"{PROGRAMS}/bin/caddy", "run", "--adapter", "caddyfile", "--config", f"{site.directory}/Caddyfile"]


@contextlib.contextmanager
def _running(command: list[str], site: Site) -> Iterator[None]:
    log = site.directory / "proxy.log"
    with log.open("wb") as output:
        environ = {**os.environ, "HOME": str(site.directory)}
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environ)

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", site.port), timeout=5).close()
            return True
        return False

    try:
        eventually(is_up)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _cookie(site: Site) -> str:
    """The console's cookie by the proxy. The login has no origin, so only the proxy says that it came by TLS."""
    context = ssl.create_default_context(cafile=f"{site.directory}/ca.pem")
    connection = http.client.HTTPConnection(f"api.{NAME}", site.port)
    with contextlib.closing(connection):
        plain = socket.create_connection(("127.0.0.1", site.port), timeout=30)
        connection.sock = context.wrap_socket(plain, server_hostname=f"api.{NAME}")
        connection.request("POST", "/console/session", json.dumps({"key": site.server.api_key}))
        answer = connection.getresponse()
        answer.read()
        return str(answer.headers["Set-Cookie"])


@pytest.mark.parametrize("command", [_nginx, _caddy], ids=["nginx", "caddy"])
def test_clients_work_through_the_proxy(site: Site, command: object) -> None:
    """By the domain alone: creation, code, a port, a WebSocket; output comes while a command runs, and 24 MiB arrive whole."""
    assert callable(command)
    with _running(command(site), site):
        environ = {"E2B_DOMAIN": f"{NAME}:{site.port}", "E2B_API_KEY": site.server.api_key, "SSL_CERT_FILE": f"{site.directory}/ca.pem"}
        done = site.domain.run(sys.executable, str(CLIENTS / "domain_client.py"), env=environ)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert (seen["text"], seen["status"], seen["echo"], seen["listed"]) == ("2", 200, "HELLO", True)
        assert _cookie(site).startswith("__Host-cloister-console="), "the server does not know that the browser came by TLS"
        done = site.domain.run(sys.executable, str(CLIENTS / "proxied_client.py"), env=environ)
        assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_the_files_for_traefik_are_whole() -> None:
    """The router, which serves the domain and each name below it, leads to the server; the entry point that it names ends no long upload."""
    static, dynamic = (yaml.safe_load((DEPLOY / "traefik" / name).read_text()) for name in ("traefik.yml", "cloister.yml"))
    router = dynamic["http"]["routers"]["cloister"]
    balancer = dynamic["http"]["services"][router["service"]]["loadBalancer"]
    assert balancer["passHostHeader"]
    assert balancer["servers"] == [{"url": "http://127.0.0.1:3000"}]
    assert r"HostRegexp(`^[^.]+\.sbx\.example\.com$`)" in router["rule"]
    (entry,) = router["entryPoints"]
    assert static["entryPoints"][entry]["transport"]["respondingTimeouts"]["readTimeout"] == 0
