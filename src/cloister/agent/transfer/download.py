"""GET and HEAD /files: sends a file that its user has opened, by sendfile where possible, with ranges and conditions.

A small file is read as a whole before its length is promised, so that one that is being rewritten has the content of one moment.
Invariant: if a file has become shorter than its answer promised, the connection is aborted, never ended as if the file were complete.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import urllib.parse
import zlib
from typing import IO

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from cloister.agent.accounts import Account
from cloister.agent.filesystem.faults import faults
from cloister.agent.filesystem.users import ROOT, Workers
from cloister.agent.transfer.encoding import choose_encoding
from cloister.errors import PermissionDeniedError

__all__ = ["OpenedFile", "send_file"]

_READ_BYTES = 512 << 10
_GZIP = 31
_FASTEST = 1
_MAX_VIRTUAL_BYTES = 64 << 20
_SMALL_BYTES = 64 << 10
"""Up to this size one read takes a whole file, and is as fast as sendfile."""
_PARTIAL_HEADERS = ("Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range")


class OpenedFile:
    """A file for reading. ``open`` and the reading methods block; ``close`` may come at any time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.is_virtual = False
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._is_closed = False

    @property
    def fd_path(self) -> str:
        """A path to exactly this file."""
        return f"/proc/self/fd/{self._fd}"

    def open(self) -> None:
        """Open it. Raises: CloisterError."""
        with self._lock, faults(self.path):
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                self._check(fd)
            except BaseException:
                os.close(fd)
                raise
            if self._is_closed:
                os.close(fd)
                raise ConnectionResetError("nobody waits for the file")
            self._fd = fd

    def _check(self, fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if os.readlink(f"/proc/self/fd/{fd}").startswith(f"/proc/{os.getpid()}/"):
            raise PermissionDeniedError(f"permission denied: '{self.path}' tells of the agent, not of the sandbox")
        self.size = status.st_size
        self.is_virtual = status.st_size == 0 and status.st_blocks == 0

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end."""
        with self._lock, faults(self.path):
            return b"" if self._fd is None else os.read(self._fd, size)

    def read_all(self) -> bytes:
        """The whole content of a file whose size the kernel does not report, as in /proc."""
        parts: list[bytes] = []
        while part := self.read(_READ_BYTES):
            parts.append(part)
            if len(parts) * _READ_BYTES > _MAX_VIRTUAL_BYTES:
                break
        return b"".join(parts)

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._is_closed = True
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


async def send_file(request: web.Request, workers: Workers, user: Account, path: str) -> web.StreamResponse:
    """Answer the request with the file. Raises: CloisterError."""
    opened = OpenedFile(path)
    try:
        await workers.run(user, opened.open)
        encoding = choose_encoding(request.headers.get("Accept-Encoding"))
        if encoding is None:
            raise web.HTTPNotAcceptable(reason="no acceptable encoding: this server sends identity and gzip")
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": "inline; filename*=UTF-8''" + urllib.parse.quote(path.rpartition("/")[2], errors="replace"),
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        if opened.is_virtual:
            return await _finished(request, web.Response(body=await workers.run(user, opened.read_all), headers=headers))
        if encoding == "gzip" and not any(name in request.headers for name in _PARTIAL_HEADERS):
            return await _send_gzip(request, workers, user, opened, headers)
        return await _finished(request, _SentFile(opened.fd_path, headers=headers))
    finally:
        workers.submit(ROOT, opened.close)


async def _finished(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send the response here, while the file is open."""
    await response.prepare(request)
    await response.write_eof()
    return response


async def _send_gzip(
    request: web.Request, workers: Workers, user: Account, opened: OpenedFile, headers: dict[str, str]
) -> web.StreamResponse:
    """Send it compressed; worker threads compress one piece at a time."""
    response = web.StreamResponse(headers=headers | {"Content-Encoding": "gzip"})
    await response.prepare(request)
    packer = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)

    def step() -> tuple[bytes, bool]:
        data = opened.read(_READ_BYTES)
        return (packer.compress(data), True) if data else (packer.flush(), False)

    more = request.method != "HEAD"
    while more:
        data, more = await workers.run(user, step)
        if data:
            await response.write(data)
    await response.write_eof()
    return response


class _SentFile(web.FileResponse):
    """aiohttp's response of a file, which also notices that the file became shorter during sending."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it once: the server calls this again for a response that the handler has sent already."""
        return None if self.prepared else await super().prepare(request)

    async def _sendfile(self, request: web.BaseRequest, fobj: IO[bytes], offset: int, count: int) -> AbstractStreamWriter:
        """Send the bytes; a small file that is asked for as a whole with the length that it has now."""
        if self.status == web.HTTPOk.status_code and count <= _SMALL_BYTES:
            data = await asyncio.get_running_loop().run_in_executor(None, os.pread, fobj.fileno(), _SMALL_BYTES + 1, offset)
            if len(data) <= _SMALL_BYTES:
                return await self._send_whole(request, data)
        writer = await web.StreamResponse.prepare(self, request)
        assert writer is not None
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        sent = await asyncio.get_running_loop().sendfile(transport, fobj, offset, count)
        if sent != count:
            transport.abort()
            raise ConnectionResetError(f"the file ended after {sent} of {count} bytes")
        await web.StreamResponse.write_eof(self)
        return writer

    async def _send_whole(self, request: web.BaseRequest, data: bytes) -> AbstractStreamWriter:
        self.content_length = len(data)
        writer = await web.StreamResponse.prepare(self, request)
        assert writer is not None
        await web.StreamResponse.write_eof(self, data)
        return writer
