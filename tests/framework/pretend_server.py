"""The servers of the pretend internet, one process in its namespace: DNS (UDP and TCP), and by HTTP and HTTPS httpbin and, under names
of their own, git and Amazon's registry service.

Answers ``ready`` on standard output when everything listens, and ends when its standard input does, so that it never outlives its test.
"""

from __future__ import annotations

import argparse
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dnslib import QTYPE, RCODE, RR, A
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSRecord, DNSServer
from httpbin import app as httpbin
from werkzeug.serving import make_server

sys.path.insert(0, str(Path(__file__).parents[1]))  # started by path and with -P

from framework import amazon
from framework.git_backend import GitBackend

_TTL_S = 5
_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
_GIT_NAME = "git.example.com"


class _Names(BaseResolver):  # type: ignore[misc] # dnslib has no types
    """Answers A questions for the given names; other types of them are empty, other names do not exist."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        answer = request.reply()
        address = self._names.get(str(request.q.qname).rstrip(".").lower())
        if address is None:
            answer.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype == QTYPE.A:
            answer.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=_TTL_S))
        return answer


def _by_name(git: GitBackend) -> _Application:
    """Requests for git's name and Amazon's go to them, all others to httpbin."""
    others: dict[str, _Application] = {_GIT_NAME: git, amazon.API_NAME: amazon.answer}
    all_else: _Application = httpbin

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        return others.get(environ.get("HTTP_HOST", "").partition(":")[0], all_else)(environ, start)

    return answer


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dns", required=True, help="address of the resolver")
    parser.add_argument("--web", required=True, help="address of the web servers")
    parser.add_argument("--certificate", required=True, help="PEM file with the chain and the key")
    parser.add_argument("--git", required=True, type=Path, help="directory of git repositories")
    parser.add_argument("--name", action="append", default=[], help="name=address")
    options = parser.parse_args()
    socket.getfqdn = lambda name="": name  # http.server looks its own name up when it binds, and no resolver is there yet
    resolver = _Names(dict(pair.split("=", 1) for pair in options.name))
    for tcp in (False, True):
        server = DNSServer(resolver, address=options.dns, port=53, tcp=tcp, logger=DNSLogger("-send,-recv,-request,-reply"))
        server.start_thread()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    web_app = _by_name(GitBackend(options.git))
    for port, tls in ((80, None), (443, context)):
        web = make_server(options.web, port, web_app, threaded=True, ssl_context=tls)
        threading.Thread(target=web.serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
