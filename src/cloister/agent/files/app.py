"""The routes /files and /files/compose. Parse, check, call, render; the work is in the other modules.

These routes check access themselves, since a signature in the URL opens /files as the token in the header does.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cloister.agent.accounts import Account
from cloister.agent.files.access import check_access
from cloister.agent.files.compose import compose, parse_compose
from cloister.agent.files.download import send_file
from cloister.agent.files.metadata import metadata_of
from cloister.agent.files.upload import Upload
from cloister.agent.filesystem.paths import resolve_path
from cloister.agent.filesystem.users import Workers
from cloister.agent.init import SandboxState
from cloister.errors import (
    AuthenticationError,
    CloisterError,
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    LimitError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cloister.protocol.filesystem import FileType

__all__ = ["FilesApi", "status_of"]

_STATUS: tuple[tuple[type[CloisterError], int], ...] = (
    (InvalidRequestError, 400),
    (AuthenticationError, 401),
    (PermissionDeniedError, 403),
    (NotFoundError, 404),
    (DeadlineError, 408),
    (ConflictError, 409),
    (UnavailableError, 503),
    (LimitError, 507),
)
_CLIENT_GONE = 499
_TYPE_NAMES = {FileType.FILE_TYPE_FILE: "file", FileType.FILE_TYPE_DIRECTORY: "dir", FileType.FILE_TYPE_SYMLINK: "symlink"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status_of(error: CloisterError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


class FilesApi:
    """File transfer of one sandbox."""

    def __init__(self, state: SandboxState, workers: Workers) -> None:
        self._state = state
        self._workers = workers

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [
            web.get("/files", self._guarded(self._download), allow_head=True),
            web.post("/files", self._guarded(self._upload)),
            web.post("/files/compose", self._compose),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                check_access(request.method, request.query, request.headers.get("X-Access-Token"), self._state.access_token)
                return await handler(request)
            except CloisterError as error:
                return _error(error)
            except ConnectionError:  # the client went away, or was cut off because the file ended too early: nobody is there to be told
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=_CLIENT_GONE)

        return guarded

    async def _download(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request, None)
        path = resolve_path(request.query.get("path", ""), user.home, self._state.document.workdir)
        return await send_file(request, self._workers, user, path)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        metadata = metadata_of(request.headers.items())
        user = await self._user(request, None)
        upload = Upload(self._workers, user, self._state.document.workdir, metadata)
        return web.json_response(await upload.receive(request, request.query.get("path")))

    async def _compose(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = parse_compose(await request.read())
            user = await self._user(request, asked.username)
            workdir = self._state.document.workdir
            sources = [resolve_path(path, user.home, workdir) for path in asked.sources]
            destination = resolve_path(asked.destination, user.home, workdir)
            entry = await self._workers.run(user, compose, user, sources, destination)
        except CloisterError as error:
            return _error(error)
        told: dict[str, Any] = {"name": entry.name, "type": _TYPE_NAMES.get(entry.type, "file"), "path": entry.path}
        return web.json_response(told | ({"metadata": entry.metadata} if entry.metadata else {}))

    async def _user(self, request: web.Request, named: str | None) -> Account:
        """Who acts: the user of the query, of the body, or of basic auth; when there is none, the template's with root's power."""
        name = request.query.get("username") or named or _basic_user(request.headers.get("Authorization"))
        return await self._workers.find_user(name, self._state.document.user)


def _basic_user(header: str | None) -> str | None:
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[0] or None
    except (binascii.Error, ValueError):
        raise AuthenticationError("the header Authorization is not valid basic authentication") from None


def _error(error: CloisterError) -> web.Response:
    status = status_of(error)
    return web.json_response({"code": status, "message": str(error)}, status=status)
