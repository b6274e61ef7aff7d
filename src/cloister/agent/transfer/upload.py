"""POST /files: writes the body, one file or a form of several, into staged files. Memory use does not depend on the size.

A body that ends early, a client that disconnects or stops sending, and a malformed form leave the existing file as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from cloister.agent.accounts import Account
from cloister.agent.filesystem.paths import resolve_path
from cloister.agent.filesystem.staging import StagedFile
from cloister.agent.filesystem.users import ROOT, Workers
from cloister.agent.transfer.disposition import parse_disposition
from cloister.agent.transfer.encoding import Inflater
from cloister.agent.transfer.form import FormReader, boundary_of
from cloister.errors import CloisterError, DeadlineError, InvalidRequestError

__all__ = ["Upload"]

_IDLE_S = 120.0
_BATCH_BYTES = 1 << 20
_BATCH_CHUNKS = 256
_FIELD = "file"


@dataclass(frozen=True)
class Upload:
    """One request: the writing user, the base of relative paths, and the metadata of all its files."""

    workers: Workers
    user: Account
    workdir: str
    metadata: Mapping[str, str]

    async def receive(self, request: web.Request, path: str | None) -> list[dict[str, Any]]:
        """Write the files of the request. Gives the written ones, in order, as the API reports them.

        Raises: CloisterError.
        """
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if request.content_type == "multipart/form-data":
            if encoding != "identity":
                raise InvalidRequestError("a form must not be compressed; send one file as application/octet-stream")
            return await self._receive_form(request, path)
        if request.content_type != "application/octet-stream":
            raise InvalidRequestError(f"the body must be multipart/form-data or application/octet-stream, not {request.content_type}")
        if not path:
            raise InvalidRequestError("the query parameter 'path' is required for application/octet-stream")
        if encoding not in ("identity", "gzip"):
            raise InvalidRequestError(f"the content encoding '{encoding}' is not supported; supported: gzip, identity")
        chunks = _body(request)
        staged = await self._stage(self._resolve(path), _inflate(chunks) if encoding == "gzip" else chunks)
        return [await self._commit(staged)]

    async def _receive_form(self, request: web.Request, path: str | None) -> list[dict[str, Any]]:
        """Each file takes its place after the boundary behind it: only then is it known to be complete."""
        form = FormReader(lambda: _next(request), boundary_of(request.headers["Content-Type"]))
        written: list[dict[str, Any]] = []
        seen: set[str] = set()
        while (headers := await form.next()) is not None:
            if headers.get("content-type", "").lower().startswith("multipart/"):
                raise InvalidRequestError("a form within a form is not supported")
            disposition = parse_disposition(headers.get("content-disposition", ""))
            if disposition.name != _FIELD:
                continue
            target = self._resolve(path or _name(disposition.filename))
            if target in seen:
                raise InvalidRequestError(f"you cannot upload multiple files to the same path '{target}' in one upload request")
            seen.add(target)
            written.append(await self._commit(await self._stage(target, form.pieces())))
        if not written:
            raise InvalidRequestError(f"the form has no file: its field must be named '{_FIELD}'")
        return written

    def _resolve(self, path: str) -> str:
        return resolve_path(path, self.user.home, self.workdir)

    async def _stage(self, path: str, chunks: AsyncIterator[bytes | memoryview]) -> StagedFile:
        """Receive a whole file, not yet in its place. While a thread writes one batch, the next one is received."""
        staged = StagedFile(self.user, path)
        try:
            await self.workers.run(self.user, staged.open)
            writing: Future[None] | None = None
            async for batch in _batches(chunks):
                if writing is not None:
                    await asyncio.wrap_future(writing)
                writing = self.workers.submit(self.user, staged.write, batch)
            if writing is not None:
                await asyncio.wrap_future(writing)
        except CloisterError:
            await self.workers.run(ROOT, staged.close)  # so that its space is free when the client gets the answer
            raise
        except BaseException:
            self.workers.submit(ROOT, staged.close)
            raise
        return staged

    async def _commit(self, staged: StagedFile) -> dict[str, Any]:
        try:
            await self.workers.run(self.user, staged.commit, self.metadata)
        finally:
            self.workers.submit(ROOT, staged.close)
        told: dict[str, Any] = {"name": staged.path.rpartition("/")[2], "type": "file", "path": staged.path}
        return told | ({"metadata": dict(self.metadata)} if self.metadata else {})


def _name(filename: str | None) -> str:
    if not filename:
        raise InvalidRequestError("a file of the form has no name, and the query has no 'path'")
    return filename


async def _next(request: web.Request) -> bytes:
    """The next bytes of the body; none at its end."""
    try:
        async with asyncio.timeout(_IDLE_S):
            return await request.content.readany()
    except TimeoutError:
        raise DeadlineError(f"the upload was silent for {_IDLE_S:g} s") from None


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """The body in pieces as they arrive."""
    while chunk := await _next(request):
        yield chunk


async def _batches(chunks: AsyncIterator[bytes | memoryview]) -> AsyncIterator[list[bytes | memoryview]]:
    """Several chunks together: handing a chunk to a thread costs about as much as writing it."""
    batch: list[bytes | memoryview] = []
    size = 0
    async for chunk in chunks:
        batch.append(chunk)
        size += len(chunk)
        if size >= _BATCH_BYTES or len(batch) == _BATCH_CHUNKS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _inflate(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    inflater = Inflater()
    async for chunk in chunks:
        for piece in inflater.feed(chunk):
            yield piece
    for piece in inflater.finish():
        yield piece
