"""Volumes by the REST API, with the key of their team, and their content with the token of each."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any, BinaryIO

from cloister.client.api import ApiClient
from cloister.errors import CloisterError, NotFoundError

__all__ = ["VolumeClient"]

_COPY_S = 3600.0


class VolumeClient:
    """The volumes of the team of ``api``. Answers are as the API publishes them."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def all(self) -> list[dict[str, Any]]:
        """Every volume, oldest first."""
        return list(await self._api.ask("GET", "/volumes"))

    async def find(self, name: str) -> dict[str, Any]:
        """The volume of that name or id. Raises: NotFoundError."""
        for one in await self.all():
            if name in (one["name"], one["volumeID"]):
                return one
        raise NotFoundError(f"there is no volume {name}", hint="cloister volume list")

    async def token(self, volume: Mapping[str, Any]) -> str:
        """A new token for the content of a volume. Raises: NotFoundError."""
        return str((await self._api.ask("GET", f"/volumes/{volume['volumeID']}"))["token"])

    async def create(self, name: str, size_mib: int | None = None) -> dict[str, Any]:
        """A new volume. Raises: InvalidRequestError, PermissionDeniedError: the team has too many."""
        return _without_token(await self._api.ask("POST", "/volumes", {"name": name, **({} if size_mib is None else {"sizeMB": size_mib})}))

    async def copy(self, volume: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A new volume with the data that another one has now. Raises: as :meth:`create`, NotFoundError."""
        return _without_token(await self._api.ask("POST", f"/volumes/{volume['volumeID']}/copy", {"name": name}, timeout_s=_COPY_S))

    async def delete(self, volume: Mapping[str, Any]) -> None:
        """Delete a volume. Raises: NotFoundError, ConflictError: a sandbox has it."""
        await self._api.ask("DELETE", f"/volumes/{volume['volumeID']}")

    async def save(self, volume: Mapping[str, Any], file: BinaryIO) -> int:
        """Write the files that a volume has now, as a tar archive; gives its bytes. It is of a copy, so nothing changes meanwhile."""
        async with self._copied(volume) as copied:
            return await self._api.receive(_archive(copied), await self.token(copied), file)

    async def load(self, volume: Mapping[str, Any], file: BinaryIO) -> int:
        """Put the files of a tar archive into a volume; gives how many."""
        return int((await self._api.send(f"{_archive(volume)}&force=true", await self.token(volume), file))["entries"])

    @contextlib.asynccontextmanager
    async def _copied(self, volume: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A copy for the block. It is removed afterwards, also when the task is cancelled while it is being made."""
        making = asyncio.ensure_future(self.copy(volume, f"backup-{uuid.uuid4().hex}"))
        try:
            yield await asyncio.shield(making)
        finally:
            with contextlib.suppress(CloisterError):  # it was not made: the block's own error says why
                await self.delete(await making)


def _without_token(volume: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in volume.items() if name != "token"}


def _archive(volume: Mapping[str, Any]) -> str:
    return f"/volumecontent/{volume['volumeID']}/archive?path=/"
