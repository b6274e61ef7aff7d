"""Rehearses in a Python zygote what its children do until the end of their first cell.

CPython writes into the code of a function while that runs for the first few times. In a child each such write copies a page of the
zygote, and the code is slow until it is done. Code that was rehearsed runs fast in every child, and writes nothing. Invariant: nothing
else of a rehearsal is left. Descriptors, signal handlers and variables are as before, or are set anew by each child.
"""

from __future__ import annotations

import json
import os
import socket as sockets
import sys
from collections.abc import Callable
from typing import Any

from cloister_kernel.channel import Channel
from cloister_kernel.streams import forget_descriptors, renew_streams

from cloister_zygote import birth

__all__ = ["rehearse_birth", "rehearse_run"]

_ROUNDS = 4
"""After the third all bytecode that can be specialised is."""


def rehearse_run(execute: Callable[[Channel, Any, dict[str, Any]], None], shell: Any) -> None:
    """Receive cells from a channel, run them in a shell that no child gets, and answer."""
    agent, kernel = sockets.socketpair()
    with agent:
        channel = Channel(kernel.detach())
        shell_class = type(shell)
        shell_class.channel, before = channel, shell_class.channel
        try:
            for number in range(_ROUNDS):
                renew_streams()
                agent.send(json.dumps({"op": "execute", "id": number + 1, "code": "1 + 1", "envs": {"A": "1"}}).encode() + b"\n")
                message = channel.receive()
                assert message is not None
                execute(channel, shell, message)
                channel.send({"op": "ready"})
                agent.recv(1 << 16)
                forget_descriptors()
        finally:
            shell_class.channel = before
            channel.close()


def rehearse_birth(renew: Callable[[], None], is_stale: Callable[[], bool]) -> None:
    """Take the agent's message, and variables, as a child does that is told to change nothing."""
    variables = dict(os.environ)
    for _ in range(_ROUNDS):
        agent, kernel = sockets.socketpair()
        with agent, kernel:
            line = json.dumps({"op": "adopt", "env": variables, "cwd": "/", "uid": 0, "gid": 0, "groups": []}).encode("ascii") + b"\n"
            sockets.send_fds(agent, [line], [1, 2])
            document = birth.receive(kernel)
            assert document is not None
        birth.needs_cold_start(document["env"])
        birth.take_signals()
        birth.take_environment(document["env"])
        renew()
        is_stale()
    sys.dont_write_bytecode = False
    os.environ.clear()
    os.environ.update(variables)
