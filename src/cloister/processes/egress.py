"""The egress process. Unprivileged: it enters the router's network namespace, then becomes the instance's egress uid.

Usage: ``python -m cloister.processes.egress UID LINK_FD NETNS_FD PARENT LOG_LEVEL LOG_FORMAT``. The supervisor starts it
(``node/egress_process.py``), and the end of the link ends it. Before it reads any input it has no capability and no way to one, and no
descriptor but the link and standard error. It opens its sockets afterwards: the router's rules know them by their maker's uid.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - imported late otherwise, when this process may no longer read the interpreter's files
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from cloister.egress.connection import Interceptor
from cloister.egress.intercept.interceptor import open_interceptor
from cloister.egress.process import run
from cloister.egresswire.link import Begin
from cloister.linux.identity import become_unprivileged, die_with_parent
from cloister.linux.netns import enter_netns
from cloister.telemetry.logging import configure_logging

__all__ = ["prepare"]


def prepare(words: Sequence[str]) -> socket.socket:
    """Give up all rights, as the words of the command line say; returns the link. Raises: IsolationError, OSError."""
    uid, link, netns, parent = (int(word) for word in words[:4])
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its memory holds secrets
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection needs two
    enter_netns(netns)
    os.close(netns)
    become_unprivileged(uid)
    die_with_parent(signal.SIGKILL, parent)
    return socket.socket(fileno=link)


def main() -> None:
    """Prepare the process and serve."""
    link = prepare(sys.argv[1:])
    configure_logging(*sys.argv[5:7], process="egress")
    asyncio.run(run(link, _interceptor))


def _interceptor(begin: Begin) -> Interceptor:
    return open_interceptor(bytes.fromhex(begin.secret.revealed), begin.certificates, Path(begin.values))


if __name__ == "__main__":
    main()
