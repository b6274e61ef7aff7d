"""A client of the server of header values, as the egress process is one."""

from __future__ import annotations

import socket
from typing import Any

from cloister.egresswire.values import MAX_LINE_BYTES, VALUES_SOCKET, AskValues, parse_answer, render_request
from framework.control_plane import ControlPlane

__all__ = ["ask_values", "exchange", "secret_rule"]


def exchange(plane: ControlPlane, *lines: bytes) -> list[bytes]:
    """The answers to these lines, sent over one connection; fewer if it was closed."""
    found = []
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(plane.settings.data_dir / VALUES_SOCKET))
        with client.makefile("rwb") as stream:
            for line in lines:
                stream.write(line)
                stream.flush()
                answer = stream.readline(MAX_LINE_BYTES)
                if not answer:
                    break
                found.append(answer)
    return found


def ask_values(plane: ControlPlane, sandbox_id: str, host: str, *texts: str) -> tuple[str, ...]:
    """The filled texts. Raises: InvalidRequestError with the server's message."""
    (answer,) = exchange(plane, render_request(AskValues(sandbox_id, host, texts)))
    return parse_answer(answer)


def secret_rule(text: str, host: str = "api.example.com", **more: str) -> dict[str, Any]:
    """A network with a rule whose header ``Authorization`` is ``text``."""
    return {"rules": {host: [{"transform": {"headers": {"Authorization": text, **more}}}]}}
