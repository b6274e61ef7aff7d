"""Takes a template from another store: fetches the archives that are missing here, checks them, and unpacks them.

Owns ``<store>/incoming/``: one file for each archive that is being fetched, named by its digest. A transfer that was cut off goes on at its
end. The sender may be hostile: no byte is unpacked before its archive has the digest of the offer, whose digest the caller knew; a file
never grows beyond the size in the offer; and :mod:`cloister.template.bundle.trees` unpacks. The template is recorded when all its trees are
in the store. Needs: root.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cloister.errors import InvalidRequestError, UnavailableError
from cloister.linux.files import make_directory
from cloister.template.bundle.manifest import Part, refuse
from cloister.template.bundle.taking import check_room, has_tree, hold_tree, publish_tree
from cloister.template.bundle.trees import ArchiveStream, unpack_tree
from cloister.template.layers import LayerStore, Workspace
from cloister.template.transfer.offer import Offer, read_offer

__all__ = ["Readable", "Reception", "Source", "pull"]

_CHUNK_BYTES = 1 << 18
_LEAST_PROGRESS_BYTES = 1 << 20
"""Of a transfer that was cut off and goes on by itself. A sender could otherwise keep a receiver busy with a byte at a time."""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at its end. Raises: OSError."""
        ...


class Source(Protocol):
    """Another store."""

    def offer(self, name: str) -> bytes:
        """The offer of a template; may be longer than an offer is. Raises: CloisterError."""
        ...

    def open(self, sha256: str, offset: int) -> AbstractContextManager[Readable]:
        """The archive with this digest, from the byte ``offset`` on. Raises: CloisterError."""
        ...


@dataclass(frozen=True)
class _Fetched:
    part: Part
    path: Path

    @property
    def size_bytes(self) -> int:
        """How much of it is there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


class Reception:
    """One template that comes into ``store``. Every method blocks."""

    def __init__(self, store: LayerStore, document: bytes, name: str, expected: str) -> None:
        """``expected``: the digest that the offer ``document`` of the template ``name`` must have.

        Raises: InvalidRequestError: it is another one, or malformed, or for another kind of machine. NoCapacityError.
        """
        self._store = store
        self._root = store.root / "incoming"
        make_directory(self._root)
        self.offer: Offer = read_offer(document, name, expected)
        if self.offer.machine != platform.machine():
            raise InvalidRequestError(f"the template is for {self.offer.machine}, and this machine is {platform.machine()}")
        missing = self._missing()
        more_bytes = sum(one.part.size_bytes - one.size_bytes for one in missing)
        check_room([one.part for one in missing], store, more_bytes)

    def wanted(self) -> Sequence[tuple[Part, int]]:
        """The archives that are not here as a whole, each with the byte from which on it is missing."""
        return [(one.part, one.size_bytes) for one in self._missing() if one.size_bytes < one.part.size_bytes]

    def take(self, part: Part, offset: int, stream: Readable) -> None:
        """Add the bytes of ``stream`` to the archive of ``part``, from ``offset`` on, to its end.

        Raises: UnavailableError: the stream ended early; what came is kept. InvalidRequestError: it is another archive, and is dropped.
        """
        path = self._root / part.sha256
        with self._store.lock(f"incoming.{part.sha256}"):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(file).st_size != offset:
                    raise UnavailableError(f"another transfer of {part.name} was faster", hint="try again")
                _append(file, part, offset, stream)
                if _digest(file) != part.sha256:
                    path.unlink()
                    raise refuse(f"{part.name} does not have the offer's digest")
            finally:
                os.close(file)

    def finish(self) -> int:
        """Unpack the archives, publish their trees and record the template. Returns the number of trees that were new here.

        Raises: InvalidRequestError: an archive is not what the offer says, and the archives are dropped. UnavailableError: one is missing.
        """
        offer, store = self.offer, self._store
        with ExitStack() as stack:
            missing = [self._fetched(part) for part in offer.parts if not hold_tree(part, store, stack)]
            if any(one.size_bytes != one.part.size_bytes for one in missing):
                raise UnavailableError("an archive of the template is not here as a whole", hint="try again")
            check_room([one.part for one in missing], store)
            workspaces = [stack.enter_context(store.workspace(one.part.key)) for one in missing]
            try:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    list(pool.map(_unpack, missing, workspaces))
            except InvalidRequestError:
                self._drop()
                raise
            for one, workspace in zip(missing, workspaces, strict=True):
                publish_tree(one.part, workspace, store)
            self._record()
        self._drop()
        return len(missing)

    def _record(self) -> None:
        template = replace(self.offer.template, created_at=time.time())
        if self.offer.is_build:
            self._store.write_build(template)
        else:
            self._store.write_template(replace(template, authors=()))

    def _missing(self) -> list[_Fetched]:
        return [self._fetched(part) for part in self.offer.parts if not has_tree(part, self._store)]

    def _fetched(self, part: Part) -> _Fetched:
        return _Fetched(part, self._root / part.sha256)

    def _drop(self) -> None:
        for part in self.offer.parts:
            (self._root / part.sha256).unlink(missing_ok=True)


def pull(
    source: Source, name: str, store: LayerStore, expected: str, document: bytes, on_part: Callable[[Part, int], None] | None = None
) -> int:
    """Fetch the template whose offer is ``document``. An archive whose transfer is cut off goes on, as long as something comes.

    ``expected``: as for :class:`Reception`. ``on_part`` is told each archive and where its transfer begins. Returns the number of trees
    that were new here. Raises: CloisterError, OSError.
    """
    reception = Reception(store, document, name, expected)
    while wanted := reception.wanted():
        part, offset = wanted[0]
        if on_part is not None:
            on_part(part, offset)
        try:
            with source.open(part.sha256, offset) as stream:
                reception.take(part, offset, stream)
        except UnavailableError:
            came = {one.sha256: at for one, at in reception.wanted()}.get(part.sha256, 0) - offset
            if came < _LEAST_PROGRESS_BYTES:
                raise
    return reception.finish()


def _append(file: int, part: Part, offset: int, stream: Readable) -> None:
    while offset < part.size_bytes:
        chunk = stream.read(min(_CHUNK_BYTES, part.size_bytes - offset))
        if not chunk:
            raise UnavailableError(f"the transfer of {part.name} was cut off at {offset} of {part.size_bytes} bytes", hint="try again")
        view = memoryview(chunk)[: part.size_bytes - offset]
        while view:
            written = os.pwrite(file, view, offset)
            view, offset = view[written:], offset + written


def _digest(file: int) -> str:
    with os.fdopen(os.dup(file), "rb") as whole:
        whole.seek(0)
        return hashlib.file_digest(whole, "sha256").hexdigest()


def _unpack(one: _Fetched, workspace: Workspace) -> None:
    with one.path.open("rb") as file:
        unpack_tree(ArchiveStream(file, 0, one.part), one.part, workspace.upper)
