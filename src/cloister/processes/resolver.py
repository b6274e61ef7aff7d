"""The resolver process of a template build, which has no api process to resolve names. Unprivileged: it becomes the instance's own uid.

Usage: ``python -m cloister.processes.resolver UID UDP_FD TCP_FD UPSTREAM...``. It ends with its parent (``cloister.node.resolver``).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence

from cloister.linux.identity import become_unprivileged
from cloister.network.dns_relay import DnsRelay


async def _serve(udp: int, tcp: int, upstreams: Sequence[str]) -> None:
    relay = DnsRelay(socket.socket(fileno=udp), socket.socket(fileno=tcp), upstreams)
    await relay.start()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)  # end of file: the parent has ended
    await stop.wait()
    await relay.stop()


if __name__ == "__main__":
    become_unprivileged(int(sys.argv[1]))
    asyncio.run(_serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
