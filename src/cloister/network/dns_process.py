"""The DNS relay as a process of its own, for template builds, which have no api process. Unprivileged: started with the instance's own uid.

Usage: ``python -m cloister.network.dns_process UID UDP_FD TCP_FD UPSTREAM…``; ends with its parent.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cloister.linux.identity import become_unprivileged
from cloister.network.dns_relay import DnsRelay

__all__ = ["relay_process"]


@contextmanager
def relay_process(udp: socket.socket, tcp: socket.socket, upstreams: Sequence[str], uid: int) -> Iterator[None]:
    """Run the relay over the two sockets, as ``uid``, while the block lasts."""
    command = [sys.executable, "-m", "cloister.network.dns_process", str(uid), str(udp.fileno()), str(tcp.fileno()), *upstreams]
    process = subprocess.Popen(command, pass_fds=(udp.fileno(), tcp.fileno()), stdin=subprocess.PIPE, env={"PATH": "/usr/bin:/bin"})
    try:
        yield
    finally:
        process.terminate()
        process.communicate()


async def _serve(udp: int, tcp: int, upstreams: Sequence[str]) -> None:
    relay = DnsRelay(socket.socket(fileno=udp), socket.socket(fileno=tcp), upstreams)
    await relay.start()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)  # end of file: the parent is gone
    await stop.wait()
    await relay.stop()


if __name__ == "__main__":
    become_unprivileged(int(sys.argv[1]))
    asyncio.run(_serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
