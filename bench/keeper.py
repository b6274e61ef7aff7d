"""Keeps bytes in memory and in a file, and changes them turn by turn: inside a sandbox, and as a twin outside that notices a lost byte.

``/turn/N/M`` takes the file to turn N and the memory to turn M, and answers the turns and both digests. A request may be repeated.
The memory begins anew with the process. The file goes on from its last turn.
"""

from __future__ import annotations

import hashlib
import os
import random
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

MEMORY_BYTES, FILE_BYTES, HEAD = 8 << 20, 4 << 20, 16
PORT = 8000


def change(data: bytearray, turn: int) -> tuple[int, bytes]:
    """Overwrite a stretch of the data; where, and the bytes. Both follow from the number of the turn."""
    chance = random.Random(turn)
    piece = chance.randbytes(chance.randrange(1, 300_000))
    at = chance.randrange(len(data) - len(piece))
    data[at : at + len(piece)] = piece
    return at, piece


class Keeper:
    """The bytes and their turns. Without a path there is no file, only its bytes: the twin."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.memory = bytearray(random.Random(1).randbytes(MEMORY_BYTES))
        self.file = bytearray(random.Random(2).randbytes(FILE_BYTES))
        self.memory_turn = self.file_turn = 0
        if path is not None and path.exists():
            whole = path.read_bytes()
            self.file_turn, self.file = int(whole[:HEAD]), bytearray(whole[HEAD:])
        elif path is not None:
            path.write_bytes(b"%016d" % 0 + self.file)

    def restart(self) -> None:
        """Forget the memory, as the end of a process does."""
        self.memory = bytearray(random.Random(1).randbytes(MEMORY_BYTES))
        self.memory_turn = 0

    def take(self, file_turn: int, memory_turn: int) -> str:
        """Go to these turns, each at most one ahead; the answer."""
        if memory_turn == self.memory_turn + 1:
            change(self.memory, memory_turn)
            self.memory_turn = memory_turn
        if file_turn == self.file_turn + 1:
            at, piece = change(self.file, file_turn)
            self.file_turn = file_turn
            if self.path is not None:
                with self.path.open("r+b") as file:
                    file.seek(HEAD + at)
                    file.write(piece)
                    file.seek(0)
                    file.write(b"%016d" % file_turn)
        whole = self.path.read_bytes() if self.path is not None else b"%016d" % self.file_turn + self.file
        digests = [hashlib.sha256(data).hexdigest()[:24] for data in (whole, self.memory)]
        return f"file {self.file_turn} {digests[0]} memory {self.memory_turn} {digests[1]}"


def serve() -> None:
    """Serve the turns on the port until the process is killed."""
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _, _, file_turn, memory_turn = self.path.split("/")
            with lock:
                body = keeper.take(int(file_turn), int(memory_turn)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: a request is no news."""

    server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)  # only one keeper gets the port, so only one has the file
    keeper = Keeper(Path.home() / "kept")
    server.serve_forever()


if __name__ == "__main__":
    os.umask(0o077)
    serve()
