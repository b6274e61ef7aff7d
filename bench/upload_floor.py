"""A server that only writes uploads to a file: the minimal cost of an upload. ``bench/files.py`` runs it.

``socket`` writes all bytes of the connection, with framing; ``aiohttp`` reads forms with the library that Cloister uses.
"""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

from aiohttp import web

_CHUNK_BYTES = 256 << 10
_END = b"0\r\n\r\n"


def serve_socket(listener: socket.socket, path: Path) -> None:
    """One connection after the other."""
    print(listener.getsockname()[1], flush=True)
    buffer = bytearray(_CHUNK_BYTES)
    while True:
        connection, _ = listener.accept()
        with connection, path.open("wb", buffering=0) as file:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(_CHUNK_BYTES)
            head, _, body = head.partition(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            left = int(found[1]) - len(body) if found else None
            last = body[-5:]
            while left if left is not None else last != _END:
                view = memoryview(buffer)[: connection.recv_into(buffer)]
                file.write(view)
                last = (last + bytes(view[-5:]))[-5:]
                left = None if left is None else left - len(view)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def serve_aiohttp(listener: socket.socket, path: Path) -> None:
    """Each file of a form, by the event loop's own thread."""

    async def receive(request: web.Request) -> web.Response:
        form = await request.multipart()
        while part := await form.next():
            with path.open("wb", buffering=0) as file:
                while chunk := await part.read_chunk(_CHUNK_BYTES):  # type: ignore[union-attr]  # every part is a body part
                    file.write(chunk)
        return web.Response()

    app = web.Application()
    app.router.add_post("/files", receive)
    print(listener.getsockname()[1], flush=True)
    web.run_app(app, sock=listener, print=None, access_log=None, read_bufsize=_CHUNK_BYTES)


if __name__ == "__main__":
    {"socket": serve_socket, "aiohttp": serve_aiohttp}[sys.argv[1]](socket.create_server(("127.0.0.1", 0)), Path(sys.argv[2]))
