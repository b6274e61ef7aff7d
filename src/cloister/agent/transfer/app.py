"""The routes /files and /files/compose: parse, check, call, render. The other modules do the work.

These routes check access themselves, since a signature in the URL allows /files as the token in the header does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cloister.agent.accounts import Account
from cloister.agent.auth import basic_user
from cloister.agent.filesystem.paths import resolve_path
from cloister.agent.filesystem.users import Workers
from cloister.agent.state import AgentState
from cloister.agent.transfer.access import check_access
from cloister.agent.transfer.compose import compose, parse_compose
from cloister.agent.transfer.download import send_file
from cloister.agent.transfer.metadata import metadata_of
from cloister.agent.transfer.upload import Upload
from cloister.errors import (
    AuthenticationError,
    CloisterError,
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    LimitError,
    NotFoundError,
    PermissionDeniedError,
    StorageFullError,
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
    (StorageFullError, 507),
    (LimitError, 429),
)
_CLIENT_GONE = 499
_TYPE_NAMES = {FileType.FILE_TYPE_FILE: "file", FileType.FILE_TYPE_DIRECTORY: "dir", FileType.FILE_TYPE_SYMLINK: "symlink"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status_of(error: CloisterError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


class FilesApi:
    """File transfer of one sandbox."""

    def __init__(self, state: AgentState, workers: Workers) -> None:
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
            except ConnectionError:  # the client has disconnected, or was cut off because the file became shorter
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
        """The acting user: the one of the query, of the body, or of basic auth; else the template's user, with root's power over files."""
        name = request.query.get("username") or named or basic_user(request.headers.get("Authorization"))
        return await self._workers.find_user(name, self._state.document.user)



def _error(error: CloisterError) -> web.Response:
    status = status_of(error)
    return web.json_response({"code": status, "message": str(error)}, status=status)
