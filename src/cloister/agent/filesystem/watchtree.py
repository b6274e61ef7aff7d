"""The watched directories, and the meaning of the kernel's events for each watch. Runs in one thread; no asyncio.

One inotify queue serves all watches: instances are scarce and shared with the programs in the sandbox. A directory that appears below a
recursive watch is watched first and read afterwards. Its entries are reported as created, unless the kernel's own event reports them::

    mkdir d, write d/a          kernel: CREATE d            here: add watch(d), scan d -> CREATE d/a, WRITE d/a
    write d/b during the scan   kernel: CREATE d/b          here: reported once, by whichever comes first
    mv d e (both below)         kernel: FROM d, TO e        here: RENAME d, CREATE e; the watches below stay, under new names

Invariant: an event is delivered, or its watch is marked as having lost some.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from dataclasses import dataclass, field

from cloister.agent.accounts import Account
from cloister.agent.filesystem import inotify
from cloister.agent.filesystem.entries import Describer
from cloister.agent.filesystem.faults import faults
from cloister.agent.filesystem.inotify import Inotify, RawEvent
from cloister.agent.filesystem.markers import SWAP_PREFIX, is_marker, is_unnamed
from cloister.agent.filesystem.users import become
from cloister.errors import LimitError
from cloister.protocol.filesystem import EntryInfo, EventType, FilesystemEvent

__all__ = ["Watch", "WatchTree"]

_MAX_EVENTS, _MAX_EVENTS_OF_ALL = 65_536, 262_144
"""Most events that wait for a client, for one watch and for all; an entry counts as four events."""
_ENTRY_WEIGHT = 4
_PLAIN = (
    (inotify.DELETE, EventType.EVENT_TYPE_REMOVE),
    (inotify.MODIFY, EventType.EVENT_TYPE_WRITE),
    (inotify.ATTRIB, EventType.EVENT_TYPE_CHMOD),
)
_SELF = (
    (inotify.DELETE_SELF, EventType.EVENT_TYPE_REMOVE),
    (inotify.MOVE_SELF, EventType.EVENT_TYPE_RENAME),
    (inotify.ATTRIB, EventType.EVENT_TYPE_CHMOD),
)


@dataclass(eq=False)
class Watch:
    """One watch of a client. ``directories`` are its descriptors and their paths relative to ``root`` ('' is the root itself)."""

    watcher_id: str
    user: Account
    root: str
    is_recursive: bool
    has_entries: bool
    events: deque[FilesystemEvent] = field(default_factory=deque)
    has_lost: bool = False
    directories: dict[int, str] = field(default_factory=dict)

    def path(self, relative: str) -> str:
        """The absolute path."""
        return os.path.join(self.root, relative) if relative else self.root


class WatchTree:
    """All watches and the queue. Every method runs in the same thread."""

    def __init__(self) -> None:
        self.queue = Inotify()
        self._watches: dict[int, dict[Watch, None]] = {}
        self._open: set[Watch] = set()
        self._moved: dict[int, RawEvent] = {}
        self._left: dict[tuple[Watch, int], str] = {}
        self._told: set[tuple[Watch, str]] = set()
        self._touched: set[Watch] = set()
        self._describer: Describer | None = None

    def open(self, watch: Watch) -> None:
        """Begin to watch. Raises: CloisterError."""
        become(watch.user)
        self._open.add(watch)
        try:
            with faults(watch.root):
                self._enter(watch, "")
            if watch.is_recursive:
                self._enter_below(watch, "", tell=False)
        except BaseException:
            self.close(watch)
            raise

    def close(self, watch: Watch) -> None:
        """Stop watching."""
        for wd in list(watch.directories):
            self._leave(watch, wd)
        self._open.discard(watch)
        watch.events.clear()

    def drain(self) -> set[Watch]:
        """Read all events so far. Gives the watches that have new ones."""
        self._describer = None
        while events := self.queue.read():
            for event in events:
                self._handle(event)
        for (watch, _), relative in self._left.items():  # moved away, to no place below the root
            self._leave_below(watch, relative)
        self._left.clear()
        self._moved.clear()
        self._told.clear()
        touched, self._touched = self._touched, set()
        return touched

    # ---- directories ----

    def _enter(self, watch: Watch, relative: str) -> None:
        """Watch one directory. Raises: OSError, LimitError."""
        try:
            wd = self.queue.add(watch.path(relative), follow=not relative)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise LimitError("no more directories can be watched: the bound of inotify watches is reached") from error
            raise
        self._watches.setdefault(wd, {})[watch] = None
        watch.directories[wd] = relative

    def _enter_below(self, watch: Watch, relative: str, *, tell: bool) -> None:
        """Watch all directories below a watched one; with ``tell``, report everything found as created."""
        pending = [relative]
        while pending:
            above = pending.pop()
            with contextlib.suppress(OSError), os.scandir(watch.path(above)) as entries:
                for entry in entries:
                    if is_marker(entry.name):
                        continue
                    child = os.path.join(above, entry.name)
                    is_directory = entry.is_dir(follow_symlinks=False)
                    if tell:
                        self._tell_found(watch, child, entry, is_directory=is_directory)
                    if is_directory:
                        with contextlib.suppress(OSError):  # gone, or this user may not read it
                            self._enter(watch, child)
                            pending.append(child)

    def _tell_found(self, watch: Watch, child: str, entry: os.DirEntry[str], *, is_directory: bool) -> None:
        self._told.add((watch, child))
        self._tell(watch, child, EventType.EVENT_TYPE_CREATE)
        with contextlib.suppress(OSError):
            if not is_directory and entry.stat(follow_symlinks=False).st_size:
                self._tell(watch, child, EventType.EVENT_TYPE_WRITE)

    def _leave(self, watch: Watch, wd: int) -> None:
        watch.directories.pop(wd, None)
        watches = self._watches.get(wd, {})
        watches.pop(watch, None)
        if not watches and self._watches.pop(wd, None) is not None:
            self.queue.remove(wd)

    def _leave_below(self, watch: Watch, relative: str) -> None:
        for wd, path in list(watch.directories.items()):
            if path == relative or path.startswith(relative + "/"):
                self._leave(watch, wd)

    # ---- events ----

    def _handle(self, event: RawEvent) -> None:
        if event.mask & inotify.OVERFLOW:
            self._recover()
        elif event.mask & inotify.IGNORED:  # the directory is gone
            for watch in self._watches.pop(event.wd, {}):
                watch.directories.pop(event.wd, None)
        else:
            if event.mask & inotify.MOVED_FROM and is_marker(event.name):
                self._moved[event.cookie] = event
            for watch in list(self._watches.get(event.wd, {})):
                relative = watch.directories.get(event.wd)
                if relative is not None:
                    become(watch.user)
                    self._handle_for(watch, relative, event)

    def _handle_for(self, watch: Watch, relative: str, event: RawEvent) -> None:
        if not event.name:
            if not relative:
                self._tell_first(watch, ".", event.mask, _SELF)
            return
        if is_marker(event.name):
            return
        child = os.path.join(relative, event.name)
        if event.mask & (inotify.CREATE | inotify.MOVED_TO):
            self._appeared(watch, child, event)
        elif event.mask & inotify.MOVED_FROM:
            self._tell(watch, child, EventType.EVENT_TYPE_RENAME)
            if event.mask & inotify.IS_DIRECTORY and watch.is_recursive:
                self._left[watch, event.cookie] = child
        elif not (event.mask & (inotify.MODIFY | inotify.ATTRIB) and is_unnamed(event.name) and not os.path.lexists(watch.path(child))):
            if event.mask & inotify.DELETE:
                self._told.discard((watch, child))
            self._tell_first(watch, child, event.mask, _PLAIN)

    def _appeared(self, watch: Watch, child: str, event: RawEvent) -> None:
        marker = self._moved.get(event.cookie) if event.cookie else None
        if marker is not None and marker.name.startswith(SWAP_PREFIX):
            self._tell(watch, child, EventType.EVENT_TYPE_WRITE)
            return
        if (watch, child) in self._told:
            self._told.discard((watch, child))
            return
        self._tell(watch, child, EventType.EVENT_TYPE_CREATE)
        if marker is not None and not event.mask & inotify.IS_DIRECTORY:
            self._tell(watch, child, EventType.EVENT_TYPE_CHMOD)
            self._tell(watch, child, EventType.EVENT_TYPE_WRITE)
        if not (event.mask & inotify.IS_DIRECTORY and watch.is_recursive):
            return
        was = self._left.pop((watch, event.cookie), None) if event.cookie else None
        if was is not None:
            self._rename_below(watch, was, child)
            return
        try:
            self._enter(watch, child)
            self._enter_below(watch, child, tell=True)
        except LimitError:
            self._lose(watch)
        except OSError:  # gone already, or this user may not read it
            return

    def _rename_below(self, watch: Watch, was: str, child: str) -> None:
        for wd, path in watch.directories.items():
            if path == was or path.startswith(was + "/"):
                watch.directories[wd] = child + path[len(was) :]

    def _recover(self) -> None:
        """The kernel dropped events: mark all watches, and watch directories that it did not report."""
        for watch in self._open:
            self._lose(watch)
            become(watch.user)
            if watch.is_recursive:
                with contextlib.suppress(LimitError):
                    self._enter_below(watch, "", tell=False)

    def _lose(self, watch: Watch) -> None:
        watch.has_lost = True
        self._touched.add(watch)

    def _tell_first(self, watch: Watch, name: str, mask: int, meanings: tuple[tuple[int, EventType], ...]) -> None:
        for bit, type_ in meanings:
            if mask & bit:
                self._tell(watch, name, type_)
                return

    def _tell(self, watch: Watch, name: str, type_: EventType) -> None:
        bound = min(_MAX_EVENTS, _MAX_EVENTS_OF_ALL // max(1, len(self._open)))
        if len(watch.events) >= (bound // _ENTRY_WEIGHT if watch.has_entries else bound):
            self._lose(watch)
            return
        watch.events.append(FilesystemEvent(name, type_, self._entry(watch, name) if watch.has_entries else None))
        self._touched.add(watch)

    def _entry(self, watch: Watch, name: str) -> EntryInfo | None:
        self._describer = self._describer or Describer()
        try:
            return self._describer.describe(watch.root if name == "." else watch.path(name))
        except OSError:
            return None
