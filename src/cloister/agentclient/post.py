"""One HTTP request to the agent of a sandbox, over a socket in the sandbox's network. Blocking.

The caller reads the answer, bounds it and does not trust it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping

from cloister.errors import AgentUnreachableError
from cloister.protocol.agent import AGENT_PORT
from cloister.protocol.dialled import Dialled

__all__ = ["post"]

_CONNECT_TIMEOUT_S = 10.0


@contextlib.contextmanager
def post(
    dialled: Dialled, path: str, body: str | bytes, headers: Mapping[str, str], timeout_s: float, *, whole_s: float | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Send a POST and give its answer, which can be read within the context.

    This closes the socket. ``timeout_s`` bounds each read and write, and ``whole_s`` all of them together: an agent that
    is not ours any more could send a byte now and then. Raises: AgentUnreachableError, also for a failed
    read in the block.
    """
    connection = http.client.HTTPConnection("127.0.0.1", AGENT_PORT)
    try:
        with dialled.socket as sock, _cut_off(sock, whole_s):
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect((dialled.hosts[0], AGENT_PORT))
            sock.settimeout(timeout_s)
            connection.sock = sock
            connection.request("POST", path, body, {**headers, "Connection": "close"})
            with connection.getresponse() as response:  # it holds the socket, too
                yield response
    except (OSError, http.client.HTTPException) as error:
        raise AgentUnreachableError(f"the sandbox's agent does not answer: {error}") from error


@contextlib.contextmanager
def _cut_off(sock: socket.socket, after_s: float | None) -> Iterator[None]:
    """Make reads and writes fail once that time has passed."""
    if after_s is None:
        yield
        return

    def cut() -> None:
        with contextlib.suppress(OSError):  # it is closed, or was never connected
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(after_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
