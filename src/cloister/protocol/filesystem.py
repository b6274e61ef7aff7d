"""Messages of the service filesystem.Filesystem, as the official SDKs generate them. Schemas only.

This server leaves ``EntryInfo.is_symlink`` (field 12) unset. ``type`` then names the kind of a link's target, which every SDK understands.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from cloister.protocol.message import Kind, wire, wire_list, wire_map

__all__ = [
    "SERVICE",
    "CreateWatcherRequest",
    "CreateWatcherResponse",
    "Empty",
    "EntryInfo",
    "EntryResponse",
    "EventType",
    "FileType",
    "FilesystemEvent",
    "GetWatcherEventsResponse",
    "ListDirRequest",
    "ListDirResponse",
    "MoveRequest",
    "PathRequest",
    "WatchDirResponse",
    "WatcherRequest",
]

SERVICE = "/filesystem.Filesystem/"


class FileType(enum.IntEnum):
    """The kind of an entry; devices, sockets and pipes are unspecified."""

    FILE_TYPE_UNSPECIFIED = 0
    FILE_TYPE_FILE = 1
    FILE_TYPE_DIRECTORY = 2
    FILE_TYPE_SYMLINK = 3


class EventType(enum.IntEnum):
    """The kind of an event."""

    EVENT_TYPE_UNSPECIFIED = 0
    EVENT_TYPE_CREATE = 1
    EVENT_TYPE_WRITE = 2
    EVENT_TYPE_REMOVE = 3
    EVENT_TYPE_RENAME = 4
    EVENT_TYPE_CHMOD = 5


@dataclass(frozen=True, slots=True)
class Empty:
    """A message without fields: RemoveResponse, RemoveWatcherResponse, and the start and keepalive events."""


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """One entry of a directory. ``mode`` is permission bits; ``modified_time`` is nanoseconds since 1970."""

    name: str = wire(1, Kind.STRING)
    type: FileType = wire(2, FileType)
    path: str = wire(3, Kind.STRING)
    size: int = wire(4, Kind.INT64)
    mode: int = wire(5, Kind.UINT32)
    permissions: str = wire(6, Kind.STRING)
    owner: str = wire(7, Kind.STRING)
    group: str = wire(8, Kind.STRING)
    modified_time: int | None = wire(9, Kind.TIMESTAMP)
    symlink_target: str | None = wire(10, Kind.STRING, optional=True)
    metadata: dict[str, str] = wire_map(11)


@dataclass(frozen=True, slots=True)
class EntryResponse:
    """StatResponse, MakeDirResponse and MoveResponse."""

    entry: EntryInfo | None = wire(1, EntryInfo)


@dataclass(frozen=True, slots=True)
class PathRequest:
    """StatRequest, MakeDirRequest and RemoveRequest."""

    path: str = wire(1, Kind.STRING)


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """Move an entry."""

    source: str = wire(1, Kind.STRING)
    destination: str = wire(2, Kind.STRING)


@dataclass(frozen=True, slots=True)
class ListDirRequest:
    """List a directory, ``depth`` levels deep (0 means 1)."""

    path: str = wire(1, Kind.STRING)
    depth: int = wire(2, Kind.UINT32)


@dataclass(frozen=True, slots=True)
class ListDirResponse:
    """The entries, each directory before its contents."""

    entries: tuple[EntryInfo, ...] = wire_list(1, EntryInfo)


@dataclass(frozen=True, slots=True)
class CreateWatcherRequest:
    """CreateWatcherRequest and WatchDirRequest."""

    path: str = wire(1, Kind.STRING)
    recursive: bool = wire(2, Kind.BOOL)
    include_entry: bool = wire(3, Kind.BOOL)
    allow_network_mounts: bool = wire(4, Kind.BOOL)


@dataclass(frozen=True, slots=True)
class FilesystemEvent:
    """One event; ``name`` is relative to the watched directory."""

    name: str = wire(1, Kind.STRING)
    type: EventType = wire(2, EventType)
    entry: EntryInfo | None = wire(3, EntryInfo)


@dataclass(frozen=True, slots=True)
class WatchDirResponse:
    """One message of a watch."""

    start: Empty | None = wire(1, Empty, oneof="event")
    filesystem: FilesystemEvent | None = wire(2, FilesystemEvent, oneof="event")
    keepalive: Empty | None = wire(3, Empty, oneof="event")


@dataclass(frozen=True, slots=True)
class CreateWatcherResponse:
    """The new watcher."""

    watcher_id: str = wire(1, Kind.STRING)


@dataclass(frozen=True, slots=True)
class WatcherRequest:
    """GetWatcherEventsRequest and RemoveWatcherRequest."""

    watcher_id: str = wire(1, Kind.STRING)


@dataclass(frozen=True, slots=True)
class GetWatcherEventsResponse:
    """The events since the last call."""

    events: tuple[FilesystemEvent, ...] = wire_list(1, FilesystemEvent)
