"""The contents of a backup: its first entry, the header, and the files of the data directory.

::

    header.json                       Header
    data/<path>                       DATA_FILES, the database first
    config.toml                       the file of settings
    builds/<build id>.json            the record of a client's template or snapshot (model/template.py)
    layers/<key>/layer.json           the record of a layer
    layers/<key>/rootfs/...           its tree
    sha256                            backup/stream.py

Sandboxes, their logs, captures with memory, uploads and stock templates are not in it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cloister.errors import InvalidArchiveError
from cloister.model.text import printable

__all__ = ["CONFIG", "DATABASE", "DATA_FILES", "HEADER", "KEY_FILES", "Header"]

HEADER = "header.json"
CONFIG = "config.toml"
DATABASE = "api/cloister.db"
_CLUSTER = tuple(f"api/cluster/{name}" for name in ("ca.pem", "ca.key", "api.pem", "node.pem", "join.key"))
KEY_FILES = ("api/secrets.key", "api/identity.json", "api/client.env", "node/authority.secret", "ca/ca.key", *_CLUSTER)
"""Files that give power over the server or its secrets."""
DATA_FILES = (DATABASE, "node/node_id", "ca/ca.crt", *KEY_FILES)
"""Paths below the data directory."""
_FORMAT = 1
_LAST_TIME = 1 << 36


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the backup is of."""

    release: str
    schema: int
    made_at: float
    """Seconds since the epoch."""
    has_keys: bool
    has_layers: bool
    layer_bytes: int
    """Disk space of the layers in it."""

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data; :meth:`from_json` reads it back."""
        return {"cloister_backup": _FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: object) -> Header:
        """Raises: InvalidArchiveError: it is none, or of a newer release."""
        if not isinstance(data, dict) or not isinstance(data.get("cloister_backup"), int):
            raise InvalidArchiveError("this is no backup of Cloister")
        if data["cloister_backup"] != _FORMAT:
            raise InvalidArchiveError(
                f"the backup has format {data['cloister_backup']}, this release knows {_FORMAT}", hint="use a newer release"
            )
        try:
            if not 0 <= data["made_at"] <= _LAST_TIME:
                raise ValueError("its time cannot be")
            return cls(
                release=printable(str(data["release"])[:64]),
                schema=int(data["schema"]),
                made_at=float(data["made_at"]),
                has_keys=bool(data["has_keys"]),
                has_layers=bool(data["has_layers"]),
                layer_bytes=int(data["layer_bytes"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidArchiveError("the header of the backup cannot be read") from error
