"""Volumes of a real server, for tests."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from e2b import Sandbox, Volume

from framework.server import Server
from framework.starts import from_pool

__all__ = ["api_of", "fresh_volume", "mounted", "volume_of_size"]

_HAS_FILES = "/etc/skel"
"""A directory of the template with files: a sandbox that has a volume there is made for its client alone."""


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


def mounted(server: Server, mounts: dict[str, Volume | str], *, made_ahead: bool, template: str = "base") -> Sandbox:
    """A sandbox with volumes that was made ahead, or one whose own set-up has mounted them."""
    wanted = mounts if made_ahead else {_HAS_FILES: next(iter(mounts.values())), **mounts}
    return from_pool(lambda: Sandbox.create(template, timeout=300, volume_mounts=wanted, **server.sdk), server, made_ahead=made_ahead)
