"""The files of a cluster in a data directory: of an api process, or of a node. Each has mode 0600 and belongs to the directory's owner.

An api process has the authority with its key, its own certificate, and the key from which the secrets of join tokens follow. A node has its
own key and certificate, and the authority's certificate alone.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import NotFoundError, UnusableStateError

__all__ = ["ApiKeys", "NodeKeys", "cluster_dir", "has_api_keys", "read_api_keys", "read_node_keys", "write_api_keys", "write_node_keys"]

_JOIN_BYTES = 32


@dataclass(frozen=True)
class ApiKeys:
    """Of an api process; certificates and keys as PEM."""

    authority: bytes
    authority_key: bytes
    own: bytes
    join_key: bytes


@dataclass(frozen=True)
class NodeKeys:
    """Of a node; certificates and keys as PEM."""

    authority: bytes
    own: bytes


def cluster_dir(data_dir: Path) -> Path:
    """The directory of the files."""
    return data_dir / "api" / "cluster"


def has_api_keys(data_dir: Path) -> bool:
    """Whether a cluster was made in the data directory."""
    return (cluster_dir(data_dir) / "ca.key").exists()


def write_api_keys(data_dir: Path, authority: bytes, authority_key: bytes, own: bytes) -> None:
    """Write the files of a new cluster. Raises: OSError."""
    directory = _make(data_dir)
    _write(directory / "join.key", secrets.token_bytes(_JOIN_BYTES))
    _write(directory / "ca.pem", authority)
    _write(directory / "api.pem", own)
    _write(directory / "ca.key", authority_key)


def read_api_keys(data_dir: Path) -> ApiKeys:
    """Raises: NotFoundError: there is no cluster. UnusableStateError: a file is missing or unreadable."""
    if not has_api_keys(data_dir):
        raise NotFoundError(f"there is no cluster in {data_dir}", hint="cloister cluster init")
    names = ("ca.pem", "ca.key", "api.pem", "join.key")
    return ApiKeys(*(_read(cluster_dir(data_dir) / name) for name in names))


def write_node_keys(data_dir: Path, authority: bytes, own: bytes) -> None:
    """Write the files of a node that has joined. Raises: OSError."""
    directory = _make(data_dir)
    _write(directory / "ca.pem", authority)
    _write(directory / "node.pem", own)


def read_node_keys(data_dir: Path) -> NodeKeys:
    """Raises: NotFoundError: the node has not joined. UnusableStateError: a file is missing or unreadable."""
    directory = cluster_dir(data_dir)
    if not (directory / "node.pem").exists():
        raise NotFoundError(f"the node of {data_dir} has joined no cluster", hint="cloister node join")
    return NodeKeys(_read(directory / "ca.pem"), _read(directory / "node.pem"))


def _make(data_dir: Path) -> Path:
    directory = cluster_dir(data_dir)
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    _give(directory)
    return directory


def _give(path: Path) -> None:
    """Give a new file to the owner of the api process's directory, as the launcher does with the directory as a whole."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.tmp")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    _give(partial)
    partial.rename(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableStateError(f"{path} cannot be read: {error.strerror}", hint="restore the directory from a backup") from error
