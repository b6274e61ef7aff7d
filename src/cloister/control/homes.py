"""The nodes of sandboxes, builds and volumes, as registry and store have them."""

from __future__ import annotations

from cloister.control.registry import Registry
from cloister.store.base import Store

__all__ = ["StoredHomes"]


class StoredHomes:
    """See :class:`~cloister.cluster.fleet.Homes`."""

    def __init__(self, registry: Registry, store: Store) -> None:
        self._registry = registry
        self._store = store

    def of_sandbox(self, sandbox_id: str) -> str | None:
        """See the protocol; likewise below."""
        row = self._registry.peek(sandbox_id) or self._registry.ended(sandbox_id)
        return None if row is None else row.node_id

    async def of_build(self, build_id: str) -> str | None:
        """See the protocol."""
        build = await self._store.templates.find_build(build_id)
        return None if build is None else build.node_id

    async def of_volume(self, volume_id: str) -> str | None:
        """See the protocol."""
        volume = await self._store.volumes.find_volume(volume_id)
        return None if volume is None else volume.node_id

    async def move(self, sandbox_id: str, node_id: str) -> None:
        """See the protocol."""
        await self._registry.set_node(sandbox_id, node_id)
