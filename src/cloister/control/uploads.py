"""Archives for ``COPY``: links to upload them by, receiving, digests, and their end.

Owns who may upload what, and for how long it is kept. A client's hash is a name within its team and nothing more: builds get the digest
that we make of the content (protocol/archive.py). Invariant: a link is for one team, one hash and an hour, and needs no key besides.
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
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog

from cloister.errors import AuthenticationError, InvalidArchiveError, InvalidRequestError, StorageFullError, TooLargeError
from cloister.model.build import BuildFiles
from cloister.protocol.archive_claim import Claim, check_claim
from cloister.store.templates import TemplateStore, Upload
from cloister.store.uploads import Incoming, UploadFiles

__all__ = ["LINK_S", "UploadPolicy", "Uploads"]

_log = structlog.get_logger("cloister.control")
_T = TypeVar("_T")
LINK_S = 3600.0
_RECEIVE_S = 3600.0
_UNUSED_S = 7 * 86_400.0
_CHUNK = 1 << 20
_MIN_ROOM = 1 << 20
"""What the smallest archive counts for: it has a row, two directories and a file."""
_READERS = 4
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class UploadPolicy:
    """The bounds that a server sets, in bytes."""

    max_bytes: int
    """Of one archive."""
    total_bytes: int
    reserve_bytes: int
    """Free disk that uploads leave."""


class Uploads:
    """The archives of all teams. ``in_use`` says which (team, hash) builds that have not ended need."""

    def __init__(self, files: UploadFiles, store: TemplateStore, policy: UploadPolicy) -> None:
        self._files = files
        self._store = store
        self._policy = policy
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="archives")
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)
        """Of one team an archive is read at a time."""
        self._incoming_bytes = Counter[str]()
        """By team."""
        self.in_use: Callable[[], Collection[tuple[str, str]]] = tuple

    async def open(self) -> None:
        """Read what is there."""
        await asyncio.to_thread(self._files.open)

    async def close(self) -> None:
        """Wait for work under way."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def offer(self, team_id: str, upload_hash: str) -> tuple[bool, str]:
        """Whether the team's archive of that hash is here, and a token to upload it by.

        Raises:
            InvalidRequestError: that is no hash.
        """
        if not _HASH.match(upload_hash):
            raise InvalidRequestError("the hash must be 64 hexadecimal digits in lower case")
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
        """Take in an archive of ``size`` bytes.

        Raises:
            AuthenticationError, InvalidRequestError (no length, or the body is shorter), TooLargeError, StorageFullError.
        """
        team_id, upload_hash = self._read_token(token)
        if size is None:
            raise InvalidRequestError("an upload needs a Content-Length")
        if size > self._policy.max_bytes:
            raise TooLargeError(f"the archive has {size} bytes, and this server takes {self._policy.max_bytes} (max_upload_mib)")
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
        if self._incoming_bytes[team_id] + size > max(self._policy.total_bytes // 2, _room(self._policy.max_bytes)):
            raise StorageFullError("the team's uploads under way take half of the room that all teams have (upload_total_mib)")
        if await asyncio.to_thread(self._files.free_bytes) - size < self._policy.reserve_bytes:
            raise StorageFullError("the server's disk is nearly full (disk_reserve_mib)")
        uploads = await self._store.list_uploads()
        used = sum(_room(upload.size_bytes) for upload in uploads) + self._incoming_bytes.total()
        needed = set(self.in_use())
        for upload in uploads:
            if used + size <= self._policy.total_bytes:
                return
            if (upload.team_id, upload.hash) not in needed and await self._remove(upload):
                used -= _room(upload.size_bytes)
        if used + size > self._policy.total_bytes:
            raise StorageFullError("the archives of builds that have not ended take all the room there is for uploads (upload_total_mib)")

    async def _remove(self, upload: Upload) -> bool:
        if not await self._store.remove_upload(upload):
            return False
        await asyncio.to_thread(self._files.remove, upload.team_id, upload.hash)
        return True

    async def files(self, team_id: str, upload_hash: str, source: str, destination: str) -> BuildFiles:
        """What a build needs of an archive for ``COPY source destination``; the first time, it is read from front to end.

        Raises:
            InvalidArchiveError: it is none, not here, or not what the client's hash is of.
        """
        while True:
            upload = await self._find(team_id, upload_hash)
            if upload is None:
                raise InvalidArchiveError(f"the files of '{source}' were not uploaded")
            await self._store.use_upload(team_id, upload_hash, time.time())
            digest = upload.digest or await self._digest(upload, source, destination)
            if digest is not None:
                return BuildFiles(path=f"{team_id}/{upload_hash}", digest=digest)

    async def _digest(self, upload: Upload, source: str, destination: str) -> str | None:
        """The digest, or None when the archive was replaced meanwhile."""
        try:
            digest, claim = await self._run(
                upload.team_id,
                lambda: check_claim(lambda: self._files.open_archive(upload.team_id, upload.hash), source, destination, upload.hash),
            )
        except InvalidArchiveError:
            await self._discard(upload)
            raise
        except FileNotFoundError:
            return None
        if claim is Claim.FALSE:
            await self._discard(upload)
            raise InvalidArchiveError(
                f"the uploaded archive of '{source}' does not hold the files that the client hashed",
                hint="if they changed meanwhile, build again",
            )
        return digest if await self._store.note_digest(upload, digest) else None

    async def _discard(self, upload: Upload) -> None:
        """Have the client upload it anew."""
        present = await self._store.find_upload(upload.team_id, upload.hash)
        if present is not None and present.created_at == upload.created_at:
            await self._remove(present)

    async def _run(self, team_id: str, work: Callable[[], _T]) -> _T:
        async with self._turns[team_id]:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def prune(self) -> None:
        """Remove what was of no use for a week."""
        oldest = time.time() - _UNUSED_S
        needed = set(self.in_use())
        for upload in await self._store.list_uploads():
            if upload.used_at < oldest and (upload.team_id, upload.hash) not in needed:
                await self._remove(upload)


def _room(size: int) -> int:
    return max(size, _MIN_ROOM)
