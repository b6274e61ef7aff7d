"""Volumes of a real server, for tests."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from e2b import Volume

from framework.server import Server

__all__ = ["api_of", "fresh_volume", "volume_of_size"]


def api_of(server: Server) -> dict[str, Any]:
    """Arguments that point the SDK's calls on volumes at the server."""
    return {"api_key": server.api_key, "api_url": server.url}


class LocalVolume(Volume):
    """A volume whose content is at the server's own address, whatever the environment says."""

    server_url = ""

    def _get_volume_config(self, **opts: Any) -> Any:
        return super()._get_volume_config(**{"api_url": self.server_url, **opts})


def _kind(server: Server) -> type[LocalVolume]:
    return type("LocalVolume", (LocalVolume,), {"server_url": server.url})


@contextlib.contextmanager
def fresh_volume(server: Server) -> Iterator[Volume]:
    """A volume of its own, for the time of the block."""
    kind = _kind(server)
    made = kind.create(f"v{uuid.uuid4().hex}", **api_of(server))
    try:
        yield made
    finally:
        kind.destroy(made.volume_id, **api_of(server))


@contextlib.contextmanager
def volume_of_size(server: Server, size_mib: int) -> Iterator[Volume]:
    """The same, of a size."""
    import httpx

    name = f"v{uuid.uuid4().hex}"
    made = httpx.post(f"{server.url}/volumes", headers={"X-API-KEY": server.api_key}, json={"name": name, "sizeMB": size_mib}).json()
    kind = _kind(server)
    try:
        yield kind(made["volumeID"], name, token=made["token"])
    finally:
        kind.destroy(made["volumeID"], **api_of(server))
