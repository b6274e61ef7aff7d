"""Uploaded archives for ``COPY`` steps: upload links, receiving, digests and removal.

Owns the rules: which team may upload what, and how long an archive is kept. A client's hash is only a name within its team; builds get the
digest that this server computes of the content (protocol/archive.py). Invariant: a link is valid for one team, one hash and one hour, and
needs no API key.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import hmac
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog

from cloister.errors import AuthenticationError, InvalidArchiveError, InvalidRequestError, StorageFullError, TooLargeError
from cloister.model.build import UploadedArchive
from cloister.model.upload import Upload
from cloister.protocol.archive import archive_digest
from cloister.store.templates import TemplateStore
from cloister.store.uploads import Incoming, UploadFiles

__all__ = ["LINK_S", "NeededUploads", "UploadLimits", "Uploads"]

_log = structlog.get_logger("cloister.control")
_T = TypeVar("_T")
LINK_S = 3600.0
_RECEIVE_S = 3600.0
_UNUSED_S = 7 * 86_400.0
_CHUNK = 1 << 20
_MIN_ROOM = 1 << 20
"""The smallest size that an archive counts for, since it has a row, two directories and a file."""
_READERS = 4
_HASH = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}\Z")
"""The SDKs make 64 hexadecimal digits; other clients have hashes of their own. The hash also names a directory."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """The server's limits, in bytes."""

    max_bytes: int
    """Of one archive."""
    total_bytes: int
    reserve_bytes: int
    """Disk space that uploads must leave free."""


class NeededUploads:
    """The archives that unfinished builds need."""

    def __init__(self) -> None:
        self._of_build: dict[str, frozenset[tuple[str, str]]] = {}

    def add(self, build_id: str, team_id: str, hashes: Iterable[str]) -> None:
        """Keep the archives of these hashes for the build."""
        self._of_build[build_id] = frozenset((team_id, one) for one in hashes)

    def forget(self, build_id: str) -> None:
        """The build has ended."""
        self._of_build.pop(build_id, None)

    def all(self) -> set[tuple[str, str]]:
        """Team id and hash of each needed archive."""
        return {pair for pairs in self._of_build.values() for pair in pairs}


class Uploads:
    """The archives of all teams. Those in ``needed`` are kept."""

    def __init__(self, files: UploadFiles, store: TemplateStore, limits: UploadLimits, needed: NeededUploads) -> None:
        self._files = files
        self._store = store
        self._limits = limits
        self._needed = needed
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="archives")
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)
        """Of each team, one archive is read at a time."""
        self._incoming_bytes = Counter[str]()
        """Team id to the bytes of uploads under way."""

    async def open(self) -> None:
        """Read the archives on disk."""
        await asyncio.to_thread(self._files.open)

    async def close(self) -> None:
        """Wait for work under way."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def offer(self, team_id: str, upload_hash: str) -> tuple[bool, str]:
        """Whether the team's archive of that hash exists, and the token of a link to upload it.

        Raises:
            InvalidRequestError: not a hash.
        """
        if not _HASH.match(upload_hash):
            raise InvalidRequestError("the hash of files must have 1 to 128 letters, digits, '-' and '_'")
        upload = await self._find(team_id, upload_hash)
        if upload is not None:
            await self._store.use_upload(team_id, upload_hash, time.time())
        return upload is not None, self._token(team_id, upload_hash)

    async def _find(self, team_id: str, upload_hash: str) -> Upload | None:
        upload = await self._store.find_upload(team_id, upload_hash)
        if upload is None or not await asyncio.to_thread(self._files.is_there, team_id, upload_hash, upload.size_bytes):
            return None
        return upload

    def _token(self, team_id: str, upload_hash: str) -> str:
        claims = json.dumps([team_id, upload_hash, int(time.time() + LINK_S)]).encode()
        return f"{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.{self._sign(claims)}"

    def _sign(self, claims: bytes) -> str:
        return hmac.new(self._files.key, claims, hashlib.sha256).hexdigest()

    def _read_token(self, token: str) -> tuple[str, str]:
        encoded, _, signature = token.partition(".")
        try:
            claims = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except ValueError as error:
            raise AuthenticationError("the upload link is not valid") from error
        if not hmac.compare_digest(self._sign(claims).encode(), signature.encode("utf-8", "replace")):
            raise AuthenticationError("the upload link is not valid")
        team_id, upload_hash, expires = json.loads(claims)
        if expires < time.time():
            raise AuthenticationError("the upload link has expired", hint="start the build again")
        return team_id, upload_hash

    async def receive(self, token: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        """Receive an archive of ``size`` bytes.

        Raises:
            AuthenticationError, InvalidRequestError (no length, or the body is shorter), TooLargeError, StorageFullError.
        """
        team_id, upload_hash = self._read_token(token)
        if size is None:
            raise InvalidRequestError("an upload needs a Content-Length")
        if size > self._limits.max_bytes:
            raise TooLargeError(f"the archive has {size} bytes, and this server takes {self._limits.max_bytes} (max_upload_mib)")
        room = _room(size)
        await self._make_room(team_id, room)
        self._incoming_bytes[team_id] += room
        try:
            await self._take_in(team_id, upload_hash, size, chunks)
        except OSError as error:
            if error.errno in _FULL:
                raise StorageFullError("the server's disk is full") from error
            raise
        finally:
            self._incoming_bytes[team_id] -= room

    async def _take_in(self, team_id: str, upload_hash: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        incoming = await asyncio.to_thread(self._files.receive, size)
        try:
            received = await self._write(incoming, chunks)
            if received != size:
                raise InvalidRequestError(f"the body ended after {received} bytes of {size}")
            await asyncio.to_thread(self._files.keep, incoming, team_id, upload_hash)
        finally:
            incoming.drop()
        now = time.time()
        await self._store.put_upload(Upload(team_id=team_id, hash=upload_hash, size_bytes=size, created_at=now, used_at=now))
        _log.info("upload.received", team_id=team_id, size_bytes=size)

    async def _write(self, incoming: Incoming, chunks: AsyncIterator[bytes]) -> int:
        received, gathered = 0, bytearray()
        async with asyncio.timeout(_RECEIVE_S):
            async for chunk in chunks:
                received += len(chunk)
                gathered += chunk
                if len(gathered) >= _CHUNK:
                    await asyncio.to_thread(incoming.write, bytes(gathered))
                    gathered.clear()
            await asyncio.to_thread(incoming.write, bytes(gathered))
        return received

    async def _make_room(self, team_id: str, size: int) -> None:
        if self._incoming_bytes[team_id] + size > max(self._limits.total_bytes // 2, _room(self._limits.max_bytes)):
            raise StorageFullError("the team's uploads under way take half of the room that all teams have (upload_total_mib)")
        if await asyncio.to_thread(self._files.free_bytes) - size < self._limits.reserve_bytes:
            raise StorageFullError("the server's disk is nearly full (disk_reserve_mib)")
        uploads = await self._store.list_uploads()
        used = sum(_room(upload.size_bytes) for upload in uploads) + self._incoming_bytes.total()
        needed = self._needed.all()
        for upload in uploads:
            if used + size <= self._limits.total_bytes:
                return
            if (upload.team_id, upload.hash) not in needed and await self._remove(upload):
                used -= _room(upload.size_bytes)
        if used + size > self._limits.total_bytes:
            raise StorageFullError("the archives of unfinished builds take all the room for uploads (upload_total_mib)")

    async def _remove(self, upload: Upload) -> bool:
        if not await self._store.remove_upload(upload):
            return False
        await asyncio.to_thread(self._files.remove, upload.team_id, upload.hash)
        return True

    async def files(self, team_id: str, upload_hash: str, source: str) -> UploadedArchive:
        """The archive for a ``COPY`` of ``source``, with its digest. The first call reads the whole archive.

        Raises:
            InvalidArchiveError: it is not an archive, or it was not uploaded.
        """
        while True:
            upload = await self._find(team_id, upload_hash)
            if upload is None:
                raise InvalidArchiveError(f"the files of '{source}' were not uploaded")
            await self._store.use_upload(team_id, upload_hash, time.time())
            digest = upload.digest or await self._digest(upload)
            if digest is not None:
                return UploadedArchive(path=f"{team_id}/{upload_hash}", digest=digest)

    async def _digest(self, upload: Upload) -> str | None:
        """The digest. None: the archive was replaced meanwhile."""
        try:
            digest = await self._run(upload.team_id, lambda: self._read(upload))
        except InvalidArchiveError:
            await self._discard(upload)
            raise
        except FileNotFoundError:
            return None
        return digest if await self._store.note_digest(upload, digest) else None

    def _read(self, upload: Upload) -> str:
        with self._files.open_archive(upload.team_id, upload.hash) as stream:
            return archive_digest(stream)

    async def _discard(self, upload: Upload) -> None:
        """Remove a bad archive, so that the client uploads it again."""
        present = await self._store.find_upload(upload.team_id, upload.hash)
        if present is not None and present.created_at == upload.created_at:
            await self._remove(present)

    async def _run(self, team_id: str, work: Callable[[], _T]) -> _T:
        async with self._turns[team_id]:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def prune(self) -> None:
        """Remove archives that no build has used for a week."""
        oldest = time.time() - _UNUSED_S
        needed = self._needed.all()
        for upload in await self._store.list_uploads():
            if upload.used_at < oldest and (upload.team_id, upload.hash) not in needed:
                await self._remove(upload)


def _room(size: int) -> int:
    return max(size, _MIN_ROOM)
