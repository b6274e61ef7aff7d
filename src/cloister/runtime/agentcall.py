"""One HTTP call to the agent of a sandbox, over a socket in the sandbox's network. Blocking.

What an agent answers is a sandbox's word: whoever reads it bounds it and does not believe it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator, Mapping

from cloister.errors import AgentUnreachableError
from cloister.runtime.spec import AGENT_PORT

__all__ = ["post"]

_CONNECT_TIMEOUT_S = 10.0


@contextlib.contextmanager
def post(
    sock: socket.socket, path: str, body: str | bytes, headers: Mapping[str, str], timeout_s: float
) -> Iterator[http.client.HTTPResponse]:
    """The answer, good while the context is open. ``sock`` is unconnected and is closed; ``timeout_s`` is for each read and write.

    Raises: AgentUnreachableError, also for what goes wrong in the block.
    """
    connection = http.client.HTTPConnection("127.0.0.1", AGENT_PORT)
    try:
        with sock:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            # An IPv6 socket reaches the agent's IPv4 address in its mapped form (RFC 4291, 2.5.5.2).
            sock.connect(("::ffff:127.0.0.1" if sock.family == socket.AF_INET6 else "127.0.0.1", AGENT_PORT))
            sock.settimeout(timeout_s)
            connection.sock = sock
            connection.request("POST", path, body, {**headers, "Connection": "close"})
            with connection.getresponse() as response:  # it holds the socket, too
                yield response
    except (OSError, http.client.HTTPException) as error:
        raise AgentUnreachableError(f"the sandbox's agent does not answer: {error}") from error
