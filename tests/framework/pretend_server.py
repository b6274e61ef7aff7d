"""The servers of the pretend internet, one process in its namespace: DNS (UDP and TCP), and by HTTP and HTTPS httpbin and, under names
of their own, git and Amazon's registry service.

The orders ``name`` and ``questions`` of its standard input are those of :class:`~framework.pretend_internet.PretendInternet`.
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

from httpbin import app as httpbin
from werkzeug.serving import make_server

sys.path.insert(0, str(Path(__file__).parents[1]))  # started by path and with -P

from framework import amazon
from framework.git_backend import GitBackend
from framework.pretend_control import obey
from framework.pretend_names import Zone, serve_names

_Application = Callable[[dict[str, Any], Any], Iterable[bytes]]
_GIT_NAME = "git.example.com"


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
    zone = Zone(dict(pair.split("=", 1) for pair in options.name))
    serve_names(zone, options.dns)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)
    web_app = _by_name(GitBackend(options.git))
    for port, tls in ((80, None), (443, context)):
        web = make_server(options.web, port, web_app, threaded=True, ssl_context=tls)
        threading.Thread(target=web.serve_forever, daemon=True).start()
    obey({"name": zone.put, "questions": zone.questions})


if __name__ == "__main__":
    main()
