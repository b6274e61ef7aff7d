"""POST /files: the body, as one file or as a form of several, into staged files. Memory stays flat whatever the size.

A body that ends early, a client that goes away or falls silent, and a malformed form leave the file that they were about as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.http import HttpProcessingError

from cloister.agent.accounts import Account
from cloister.agent.files.disposition import parse_disposition
from cloister.agent.files.encoding import Inflater
from cloister.agent.filesystem.paths import resolve_path
from cloister.agent.filesystem.staging import StagedFile
from cloister.agent.filesystem.users import ROOT, Workers
from cloister.errors import DeadlineError, InvalidRequestError

__all__ = ["Upload"]

_IDLE_S = 120.0
_PART_BYTES = 256 << 10
_MAX_FIELD_BYTES = 64 << 10
_FIELD = "file"


@dataclass(frozen=True)
class Upload:
    """One request: who writes, where relative paths begin, and the metadata of all its files."""

    workers: Workers
    user: Account
    workdir: str
    metadata: Mapping[str, str]

    async def receive(self, request: web.Request, path: str | None) -> list[dict[str, Any]]:
        """Write what the request holds; what was written, in order, as the API tells it.

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
        """Each file takes its place when the boundary behind it has come: only then is it known to be whole."""
        written: list[dict[str, Any]] = []
        seen: set[str] = set()
        staged: StagedFile | None = None
        try:
            reader = aiohttp.MultipartReader(request.headers, request.content, max_field_size=_MAX_FIELD_BYTES)
            while True:
                part = await reader.next()
                if staged is not None:
                    ended, staged = staged, None
                    written.append(await self._commit(ended))
                if part is None:
                    break
                if not isinstance(part, aiohttp.BodyPartReader):
                    raise InvalidRequestError("a form within a form is not supported")
                disposition = parse_disposition(part.headers.get("Content-Disposition", ""))
                if disposition.name == _FIELD:
                    target = self._resolve(path or _name(disposition.filename))
                    if target in seen:
                        raise InvalidRequestError(f"you cannot upload multiple files to the same path '{target}' in one upload request")
                    seen.add(target)
                    staged = await self._stage(target, _part(part))
        except (ValueError, AssertionError, HttpProcessingError) as error:  # aiohttp's answers to a malformed form
            raise InvalidRequestError(f"the form is malformed: {error}") from None
        finally:
            if staged is not None:
                self.workers.submit(ROOT, staged.close)
        if not written:
            raise InvalidRequestError(f"the form has no file: its field must be named '{_FIELD}'")
        return written

    def _resolve(self, path: str) -> str:
        return resolve_path(path, self.user.home, self.workdir)

    async def _stage(self, path: str, chunks: AsyncIterator[bytes]) -> StagedFile:
        """All of a file, not yet in its place."""
        staged = StagedFile(self.user, path)
        try:
            await self.workers.run(self.user, staged.open)
            async for chunk in chunks:
                await self.workers.run(self.user, staged.write, chunk)
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


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """The body in pieces as they come."""
    while True:
        try:
            async with asyncio.timeout(_IDLE_S):
                chunk = await request.content.readany()
        except TimeoutError:
            raise _silent() from None
        if not chunk:
            return
        yield chunk


async def _part(part: aiohttp.BodyPartReader) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(_IDLE_S):
                chunk = await part.read_chunk(_PART_BYTES)
        except TimeoutError:
            raise _silent() from None
        if not chunk:
            return
        yield bytes(chunk)


async def _inflate(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    inflater = Inflater()
    async for chunk in chunks:
        for piece in inflater.feed(chunk):
            yield piece
    for piece in inflater.finish():
        yield piece


def _silent() -> DeadlineError:
    return DeadlineError(f"the upload was silent for {_IDLE_S:g} s")
