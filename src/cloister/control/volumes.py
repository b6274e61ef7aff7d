"""Volumes of teams: made, found, copied, deleted, and named by the sandboxes that mount them. This module has the rules; it knows no HTTP.

The row is there before the image and goes after it::

    create:  row "not ready" ──> image ──> row "ready"          delete:  row "not ready" ──> image is removed ──> no row

So a crash leaves no image without a row, and :meth:`Volumes.settle` removes what is not ready. Invariants: every call is checked against
the caller's team, and another team's volume looks like none. A volume that a sandbox holds is not deleted.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from cloister.cluster.base import Fleet, Need
from cloister.errors import (
    AlreadyExistsError,
    CloisterError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from cloister.ids import is_build_id, new_build_id
from cloister.model.volume import MAX_MOUNTS, MIN_VOLUME_MIB, Volume, VolumeMount, VolumeUse, inodes_of, is_mount_path, is_volume_name
from cloister.nodewire.requests import CopyVolume, DialVolume, MakeVolume, VolumeRef
from cloister.store.volume_tokens import VolumeTokens
from cloister.store.volumes import VolumeStore

__all__ = ["NewMount", "VolumePolicy", "Volumes"]

_log = structlog.get_logger("cloister.control")
_YOUNG_S = 7200.0
"""Another process may still make a volume that is younger: longer than any call of the node takes, a copy too."""
_READ_ONLY = ":ro"
"""The end of a name in a request for a mount that may not be written: SDKs send names as they are."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")


@dataclass(frozen=True, kw_only=True)
class VolumePolicy:
    """The bounds that a server sets."""

    default_mib: int
    max_mib: int
    most_per_team: int


@dataclass(frozen=True, kw_only=True)
class NewMount:
    """A client's request to mount a volume; nothing of it is checked."""

    name: str
    path: str
    is_read_only: bool = False


class Volumes:
    """The use cases about volumes."""

    def __init__(self, fleet: Fleet, store: VolumeStore, tokens: VolumeTokens, policy: VolumePolicy, *, is_shared: bool = False) -> None:
        """``is_shared``: other processes make and remove volumes too."""
        self._fleet = fleet
        self._node = fleet.calls
        self._store = store
        self._tokens = tokens
        self._policy = policy
        self._young_s = _YOUNG_S if is_shared else 0.0
        self._busy: set[str] = set()
        """Volumes that a call of this process makes or removes now."""
        self._copying: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By team: each has one copy at a time, so that its copies leave the node time for those of others."""

    async def create(self, team_id: str, name: str, size_mib: int | None = None) -> Volume:
        """Make an empty volume. Raises: InvalidRequestError (its name or size), PermissionDeniedError (the team has too many)."""
        size_mib = self._policy.default_mib if size_mib is None else size_mib
        if not MIN_VOLUME_MIB <= size_mib <= self._policy.max_mib:
            raise InvalidRequestError(f"a volume has {MIN_VOLUME_MIB} to {self._policy.max_mib} MiB", hint="setting max_volume_mib")
        ask = MakeVolume(volume_id := new_build_id(), size_mib=size_mib, inodes=inodes_of(size_mib))
        node_id = await self._fleet.find_place(Need(disk_mib=size_mib)) if self._fleet.is_cluster else None
        return await self._make(_new(volume_id, team_id, name, size_mib, node_id), lambda: self._node.make_volume(ask))

    async def copy(self, team_id: str, volume_id: str, name: str) -> Volume:
        """Copy a volume as it is at one instant, also while sandboxes write to it. Raises: as :meth:`create`, NotFoundError."""
        original = await self.get(team_id, volume_id)
        ask = CopyVolume(original.volume_id, target_id=(target_id := new_build_id()))

        async def copy() -> None:
            async with self._copying[team_id]:
                await self._node.copy_volume(ask)

        return await self._make(_new(target_id, team_id, name, original.size_mib, original.node_id), copy)

    async def _make(self, row: Volume, make: Callable[[], Awaitable[None]]) -> Volume:
        if not is_volume_name(row.name):
            raise InvalidRequestError("Invalid volume name: it has 1 to 128 letters, digits, '_' and '-'")
        self._busy.add(row.volume_id)
        try:
            if not await self._store.add_volume(row, most=self._policy.most_per_team):
                raise PermissionDeniedError(
                    f"a team may have at most {self._policy.most_per_team} volumes", hint="delete one, or raise max_volumes_per_team"
                )
            await make()
            if not await self._store.set_volume_ready(row.volume_id, is_ready=True):
                raise NotFoundError("the team was removed")
        except AlreadyExistsError as error:
            raise InvalidRequestError(f"Volume with name '{row.name}' already exists") from error
        except CloisterError as error:
            if not isinstance(error, PermissionDeniedError):
                await self._undo(row)
            raise
        finally:
            self._busy.discard(row.volume_id)
        _log.info("volume.created", team_id=row.team_id, volume_id=row.volume_id, size_mib=row.size_mib)
        return row

    async def _undo(self, row: Volume) -> None:
        try:
            await self._remove(row)
        except CloisterError as error:  # the node or the disk fails: the next start removes it
            _log.warning("volume.not_undone", volume_id=row.volume_id, error=str(error))

    async def get(self, team_id: str, volume_id: str) -> Volume:
        """A volume of the team. Raises: InvalidRequestError (no UUID), NotFoundError."""
        if not _UUID.match(volume_id):
            raise InvalidRequestError("Invalid volume ID: it is no UUID")
        found = await self._store.find_volume(str(uuid.UUID(volume_id)))
        if found is None or found.team_id != team_id or not found.is_ready:
            raise NotFoundError(f"Volume {volume_id} not found")
        return found

    async def list(self, team_id: str) -> Sequence[Volume]:
        """The team's volumes, oldest first."""
        return [row for row in await self._store.list_volumes(team_id) if row.is_ready]

    async def all(self) -> Sequence[Volume]:
        """The volumes of all teams, oldest first."""
        return [row for row in await self._store.list_volumes() if row.is_ready]

    async def uses(self) -> Mapping[str, VolumeUse]:
        """Size and use of all volumes, by id; empty while the node is away."""
        try:
            return {use.volume_id: use for use in await self._node.volumes()}
        except UnavailableError:
            return {}

    async def delete(self, team_id: str, volume_id: str) -> None:
        """Delete a volume and its data. Raises: as :meth:`get`; ConflictError: a sandbox has it, perhaps a paused one."""
        row = await self.get(team_id, volume_id)
        if row.volume_id in self._busy:
            raise ConflictError("the volume is being deleted")
        self._busy.add(row.volume_id)
        try:
            await self._store.set_volume_ready(row.volume_id, is_ready=False)
            try:
                await self._remove(row)
            except ConflictError:
                await self._store.set_volume_ready(row.volume_id, is_ready=True)
                raise
        finally:
            self._busy.discard(row.volume_id)
        _log.info("volume.deleted", team_id=team_id, volume_id=row.volume_id)

    async def delete_of_removed(self, team_id: str) -> None:
        """Delete all volumes of a team that was removed; :meth:`settle` removes those that a dying sandbox still holds."""
        rows = await self._store.list_volumes(team_id)
        for row in rows:
            await self._store.set_volume_ready(row.volume_id, is_ready=False)
        await self._remove_all(rows)

    async def settle(self) -> None:
        """Remove what is not ready, because a creation or a deletion was cut off."""
        before = time.time() - self._young_s
        await self._remove_all([row for row in await self._store.list_volumes() if not row.is_ready and row.created_at <= before])

    async def _remove_all(self, rows: Sequence[Volume]) -> None:
        for row in rows:
            if row.volume_id in self._busy:
                continue
            try:
                await self._remove(row)
            except CloisterError as error:  # it is in use, or the node is away: once more later
                _log.warning("volume.not_removed", volume_id=row.volume_id, error=str(error))

    async def _remove(self, row: Volume) -> None:
        await self._node.delete_volume(VolumeRef(row.volume_id))
        await self._store.delete_volume(row.volume_id)

    async def find_mounts(self, team_id: str, mounts: Sequence[NewMount]) -> tuple[VolumeMount, ...]:
        """The team's volumes for a sandbox, by name. A name that ends with ``:ro`` asks for one that it cannot write.

        Raises: InvalidRequestError, with a line for each mount that is wrong, in the published form.
        """
        if not mounts:
            return ()
        named = {row.name: row for row in await self.list(team_id)}
        wrong, found, paths = [], [], set[str]()
        for mount in mounts:
            name = mount.name.removesuffix(_READ_ONLY)
            row = named.get(name)
            if row is None:
                wrong.append(f"volume '{name[:128]}' not found")
            elif not is_mount_path(mount.path):
                wrong.append(
                    f"path '{mount.path[:200]}' of volume '{name}' is not an absolute path in its shortest form that may be mounted"
                )
            elif mount.path in paths:
                wrong.append(f"path '{mount.path}' is used twice")
            else:
                is_read_only = mount.is_read_only or name != mount.name
                found.append(VolumeMount(volume_id=row.volume_id, name=name, path=mount.path, is_read_only=is_read_only))
            paths.add(mount.path)
        if len(mounts) > MAX_MOUNTS:
            wrong.append(f"a sandbox can have at most {MAX_MOUNTS} of them")
        if wrong:
            raise InvalidRequestError("\n".join(["invalid mounts:", *wrong]))
        return tuple(sorted(found, key=lambda one: one.path))  # a mount below another one comes after it

    async def find_node(self, mounts: Sequence[VolumeMount]) -> str | None:
        """The node that has the volumes of a sandbox; None: any, or the only one. Raises: InvalidRequestError: they are on several."""
        found = [await self._store.find_volume(mount.volume_id) for mount in mounts]
        nodes = sorted({row.node_id for row in found if row is not None and row.node_id is not None})
        if len(nodes) > 1:
            raise InvalidRequestError("invalid mounts: the volumes are on several nodes", hint="copy one of them to the others' node")
        return nodes[0] if nodes else None

    # ---- content ----

    def token(self, volume: Volume) -> str:
        """A token that opens the content of a volume for a day."""
        return self._tokens.make(volume.volume_id, time.time())

    async def dial(self, volume_id: str) -> socket.socket:
        """A connection that serves the content of a volume. Raises: NotFoundError, NoCapacityError, UnavailableError."""
        return await self._node.dial_volume(DialVolume(volume_id, team_id=(await self._opened(volume_id)).team_id))

    async def check_token(self, volume_id: str, token: str | None) -> Volume:
        """The volume that a token opens. Raises: AuthenticationError, NotFoundError: it was deleted."""
        self._tokens.check(token, volume_id)
        return await self._opened(volume_id)

    async def _opened(self, volume_id: str) -> Volume:
        found = await self._store.find_volume(volume_id) if is_build_id(volume_id) else None
        if found is None or not found.is_ready:
            raise NotFoundError(f"Volume {volume_id} not found")
        return found


def _new(volume_id: str, team_id: str, name: str, size_mib: int, node_id: str | None) -> Volume:
    return Volume(volume_id=volume_id, team_id=team_id, name=name, size_mib=size_mib, created_at=time.time(), node_id=node_id)
