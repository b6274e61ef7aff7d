"""The content API of one volume over HTTP: the paths, queries, answers and codes of the published contract, and more beside it.

::

    GET|PATCH|DELETE  /path?path                        an entry
    GET|POST          /dir?path&depth                   a directory
    GET|PUT           /file?path&uid&gid&mode&force     a file; GET takes one Range
    GET|PUT           /archive?path&force               a directory as a tar archive
    GET|PATCH|PUT|DELETE  /upload?path&offset&size&sha256   a file in parts (uploads.py)

The server has checked the token and passes everything else on as it is. Bodies stream both ways, in bounded memory. A handler is never
cancelled, as a thread may be writing for it: it learns from its body or its answer that the client has gone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiohttp import web

from cloister.agent.volume import archive, uploads
from cloister.agent.volume.faults import ContentFault, fault_of
from cloister.agent.volume.tree import Owner, Tree, clamp

__all__ = ["make_app"]

_CHUNK = 1 << 20
_BATCH = 500
_MAX_DEPTH = 10
_MAX_ID, _MAX_MODE = 65_535, 0o7777
_MAX_SIZE = 1 << 62
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_WHERE = web.RequestKey("where", str)


class ContentApp:
    """The handlers, on one tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    async def get_entry(self, request: web.Request) -> web.Response:
        """``GET /path``."""
        return _json(await asyncio.to_thread(self._tree.entry, _path(request)))

    async def change(self, request: web.Request) -> web.Response:
        """``PATCH /path``."""
        try:
            body = json.loads(await request.read() or b"{}")
        except ValueError as error:
            raise ContentFault(400, "INVALID_REQUEST", "the body is not JSON") from error
        if not isinstance(body, dict):
            raise ContentFault(400, "INVALID_REQUEST", "the body must be a JSON object")
        given = {name: body[name] for name in ("uid", "gid", "mode") if body.get(name) is not None}
        return _json(await asyncio.to_thread(self._tree.change, _path(request), _owner(given)))

    async def remove(self, request: web.Request) -> web.Response:
        """``DELETE /path``."""
        await asyncio.to_thread(self._tree.remove, _path(request))
        return web.Response(status=204)

    async def list_directory(self, request: web.Request) -> web.StreamResponse:
        """``GET /dir``: as it is read, so that a large directory takes no memory here."""
        depth = _number(request, "depth", -(1 << 30), 1 << 30) or 1
        if not 1 <= depth <= _MAX_DEPTH:
            raise ContentFault(400, "DEPTH_OUT_OF_RANGE", f"depth must be 0 to {_MAX_DEPTH}")
        entries = self._tree.listing(_path(request), depth)
        batch = await asyncio.to_thread(_take, entries)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        separator = b"["
        while batch:
            await response.write(separator + json.dumps(batch)[1:-1].encode())
            separator = b","
            batch = await asyncio.to_thread(_take, entries)
        await response.write_eof(b"[]" if separator == b"[" else b"]")
        return response

    async def make_directory(self, request: web.Request) -> web.Response:
        """``POST /dir``."""
        make = self._tree.make_directory
        return _json(await asyncio.to_thread(make, _path(request), _query_owner(request), force=_flag(request, "force")), 201)

    async def read_file(self, request: web.Request) -> web.StreamResponse:
        """``GET /file``."""
        fd, found = await asyncio.to_thread(self._tree.open_file, _path(request))
        try:
            start, end, is_part = _range(request, found.st_size)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - start), "Accept-Ranges": "bytes"}
            if is_part:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.st_size}"
            response = web.StreamResponse(status=206 if is_part else 200, headers=headers)
            await response.prepare(request)
            while start < end:
                data = await asyncio.to_thread(os.pread, fd, min(_CHUNK, end - start), start)
                if not data:
                    raise ConnectionResetError("the file became shorter while it was read")  # the client sees that it is not whole
                await response.write(data)
                start += len(data)
            await response.write_eof()
        finally:
            os.close(fd)
        return response

    async def write_file(self, request: web.Request) -> web.Response:
        """``PUT /file``: the file is there, whole and stored, when this answers; or nothing has changed."""
        path = _path(request)
        place = self._tree.new_file(path, _query_owner(request), force=_flag(request, "force"))
        fd = await asyncio.to_thread(place.__enter__)
        try:
            await _receive(request, lambda data: _write(fd, data))
        except BaseException as error:
            await asyncio.to_thread(place.__exit__, type(error), error, error.__traceback__)
            raise
        await asyncio.to_thread(place.__exit__, None, None, None)
        return _json(await asyncio.to_thread(self._tree.entry, path), 201)

    async def pack(self, request: web.Request) -> web.StreamResponse:
        """``GET /archive``."""
        path, loop = _path(request), asyncio.get_running_loop()
        with self._tree.opened(path, os.O_RDONLY | os.O_DIRECTORY):
            response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
            await response.prepare(request)

        def write(data: bytes) -> None:
            asyncio.run_coroutine_threadsafe(response.write(data), loop).result()

        await asyncio.to_thread(archive.pack, self._tree, path, write)
        await response.write_eof()
        return response

    async def unpack(self, request: web.Request) -> web.Response:
        """``PUT /archive``."""
        loop = asyncio.get_running_loop()

        def read(size: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(request.content.read(size), loop).result()

        count = await asyncio.to_thread(archive.unpack, self._tree, _path(request), read, force=_flag(request, "force"))
        return _json({"entries": count}, 201)

    async def upload_offset(self, request: web.Request) -> web.Response:
        """``GET /upload``."""
        return _json({"offset": await asyncio.to_thread(uploads.offset_of, self._tree, _path(request))})

    async def upload_part(self, request: web.Request) -> web.Response:
        """``PATCH /upload``."""
        offset = _number(request, "offset", 0, _MAX_SIZE)
        if offset is None:
            raise ContentFault(400, "INVALID_REQUEST", "offset is missing")
        part = await asyncio.to_thread(
            lambda: uploads.Part(self._tree, _path(request), offset, _sha256(request), force=_flag(request, "force"))
        )
        await asyncio.to_thread(part.begin)
        is_whole = False
        try:
            await _receive(request, part.write)
            reached = await asyncio.to_thread(part.end)
            is_whole = True
        finally:
            await asyncio.to_thread(part.close, keep=is_whole)
        return _json({"offset": reached})

    async def finish_upload(self, request: web.Request) -> web.Response:
        """``PUT /upload``."""
        size = _number(request, "size", 0, _MAX_SIZE)
        if size is None:
            raise ContentFault(400, "INVALID_REQUEST", "size is missing")
        arguments = (self._tree, _path(request), _query_owner(request), size, _sha256(request))
        force = _flag(request, "force")
        return _json(await asyncio.to_thread(lambda: uploads.finish(*arguments, force=force)), 201)

    async def abandon_upload(self, request: web.Request) -> web.Response:
        """``DELETE /upload``."""
        await asyncio.to_thread(uploads.abandon, self._tree, _path(request))
        return web.Response(status=204)


def make_app(tree: Tree) -> web.Application:
    """The application."""
    content = ContentApp(tree)
    app = web.Application(middlewares=[_faults])
    app.router.add_routes(
        [
            web.get("/path", content.get_entry),
            web.patch("/path", content.change),
            web.delete("/path", content.remove),
            web.get("/dir", content.list_directory),
            web.post("/dir", content.make_directory),
            web.get("/file", content.read_file),
            web.put("/file", content.write_file),
            web.get("/archive", content.pack),
            web.put("/archive", content.unpack),
            web.get("/upload", content.upload_offset),
            web.patch("/upload", content.upload_part),
            web.put("/upload", content.finish_upload),
            web.delete("/upload", content.abandon_upload),
        ]
    )
    return app


@web.middleware
async def _faults(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    """Render errors, each as ``{"code": text, "message": text}``."""
    try:
        return await handler(request)
    except ContentFault as error:
        fault = error
    except ConnectionError:
        raise
    except OSError as error:
        fault = fault_of(error, request.get(_WHERE, ""))
    return _json({"code": fault.code, "message": fault.message}, fault.status)


async def _receive(request: web.Request, write: Callable[[bytes], None]) -> None:
    """Hand the body on in large chunks, in a thread."""
    gathered = bytearray()
    async for data in request.content.iter_any():
        gathered += data
        if len(gathered) >= _CHUNK:
            await asyncio.to_thread(write, bytes(gathered))
            gathered.clear()
    if gathered:
        await asyncio.to_thread(write, bytes(gathered))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _take(entries: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(itertools.islice(entries, _BATCH))


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json")


def _path(request: web.Request) -> str:
    """The path of the request, clamped."""
    given = request.query.get("path")
    if given is None:
        raise ContentFault(400, "INVALID_REQUEST", "path is missing")
    request[_WHERE] = path = clamp(given)
    return path


def _number(request: web.Request, name: str, least: int, most: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ContentFault(400, "INVALID_REQUEST", f"{name} must be a whole number from {least} to {most}")
    return value


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise ContentFault(400, "INVALID_REQUEST", f"{name} must be true or false")
    return text in ("true", "1")


def _sha256(request: web.Request) -> str | None:
    text = request.query.get("sha256")
    if text is not None and not _SHA256.match(text.lower()):
        raise ContentFault(400, "INVALID_REQUEST", "sha256 must be 64 hex digits")
    return None if text is None else text.lower()


def _query_owner(request: web.Request) -> Owner:
    bounds = {"uid": _MAX_ID, "gid": _MAX_ID, "mode": _MAX_MODE}
    return Owner(**{name: _number(request, name, 0, most) for name, most in bounds.items()})


def _owner(given: dict[str, Any]) -> Owner:
    """Of a JSON body."""
    bounds = {"uid": _MAX_ID, "gid": _MAX_ID, "mode": _MAX_MODE}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= bounds[name]:
            raise ContentFault(400, "INVALID_REQUEST", f"{name} must be a whole number from 0 to {bounds[name]}")
    return Owner(**given)


def _range(request: web.Request, size: int) -> tuple[int, int, bool]:
    """First byte, end, and whether that is a part. A range of another form than one of bytes counts as none (RFC 9110 section 14.2)."""
    match = _RANGE.match(request.headers.get("Range", ""))
    if match is None or match.groups() == ("", ""):
        return 0, size, False
    first, last = match.groups()
    start, end = (max(0, size - int(last)), size) if not first else (int(first), size if not last else min(size, int(last) + 1))
    if start >= end:
        raise ContentFault(416, "RANGE_NOT_SATISFIABLE", f"the file has {size} bytes")
    return start, end, True
