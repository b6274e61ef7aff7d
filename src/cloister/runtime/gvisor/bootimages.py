"""Images of booted templates: a sandbox that was started once, saved with its memory, from which others begin in a fraction of the time.

    <data>/node/gvisor/<key>/memory/     the image (manifest.py)
    <data>/node/gvisor/<key>/disk.img    its disk, closed; each sandbox begins on a copy

An image has no client's data: it was booted without variables of a request, without a token and under an id that no sandbox has. Its key
is made of all that must be equal. The directory has its name only when it is whole. The least recently used go when there are too many, and
those of templates that are gone.
Runs in: supervisor and builds, any thread. Needs: root. Invariants: I5, I8.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.errors import InvalidRequestError, UnavailableError
from cloister.linux.files import make_directory
from cloister.protocol.init_document import InitDocument
from cloister.runtime.gvisor.manifest import Manifest
from cloister.runtime.spec import SandboxSpec

__all__ = ["MEMORY", "BootImages", "booted_spec", "can_be_booted", "key_of"]

MEMORY = "memory"
"""The name of the part of an image that was saved by gVisor's kernel, with the manifest."""
_MOST = 6
_PARTIAL = ".partial"
_FORMAT = 4


class BootImages:
    """The images of one node, in ``directory``. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Images that an earlier supervisor did not finish are removed."""
        self._directory = directory
        self._lock = threading.Lock()
        self._making: set[str] = set()
        make_directory(directory)
        for path in directory.glob(f"*{_PARTIAL}"):
            shutil.rmtree(path)

    def find(self, key: str) -> Path | None:
        """The directory of the image; None if there is none. It counts as used now."""
        path = self._directory / key
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def make(self, key: str, work: Callable[[Path], None]) -> None:
        """Make the image by ``work``, which fills a new directory, unless it is there or is being made. Raises: as ``work``."""
        with self._lock:
            if key in self._making or (self._directory / key).is_dir():
                return
            self._making.add(key)
        partial = self._directory / f"{key}{_PARTIAL}"
        try:
            make_directory(partial)
            work(partial)
            with self._lock:
                self._make_room()
                partial.rename(self._directory / key)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with self._lock:
                self._making.discard(key)

    def drop(self, key: str) -> None:
        """Remove an image. A sandbox that is just being made of it fails, and begins cold."""
        with self._lock:
            shutil.rmtree(self._directory / key, ignore_errors=True)

    def drop_stale(self) -> list[str]:
        """Remove images that stand on a directory that is gone, as after the end of their template; gives their keys."""
        with self._lock:
            stale = [path for path in self._whole() if not _stands(path)]
            for path in stale:
                shutil.rmtree(path, ignore_errors=True)
        return [path.name for path in stale]

    def _whole(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.suffix != _PARTIAL]

    def _make_room(self) -> None:
        whole = self._whole()
        for path in sorted(whole, key=lambda path: path.stat().st_mtime)[: max(0, len(whole) - _MOST + 1)]:
            shutil.rmtree(path)


def _stands(path: Path) -> bool:
    """Whether all directories of an image are there. One that cannot be read is of no use either."""
    try:
        manifest = Manifest.read(path / MEMORY)
    except UnavailableError:
        return False
    return all(Path(tree).is_dir() for tree in (*manifest.layers, *manifest.interpreter, manifest.agent))


def can_be_booted(spec: SandboxSpec) -> bool:
    """Whether sandboxes like this may begin from an image: nothing runs in them before their client comes but agent and kernels."""
    return spec.agent is not None and not spec.has_disk and not spec.mounts and not spec.volumes and spec.start_timeout_s is None


def key_of(spec: SandboxSpec, version: str, first_id: int, kernels: tuple[str, ...] = ()) -> str:
    """The name of the image for such sandboxes. ``version`` is that of runsc, whose images other versions cannot read.

    ``kernels`` are the languages whose kernels it has, beside Python's.
    """
    document = json.loads(_neutral(spec).to_json())
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "version": version,
        "first_id": first_id,
        "kernels": kernels,
        "trees": [str(tree) for tree in spec.trees],
        "limits": vars(spec.limits),
        "envs": spec.envs,
        "log": spec.agent_log,
        "document": document,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def booted_spec(spec: SandboxSpec, sandbox_id: str, directory: Path) -> SandboxSpec:
    """The sandbox to boot for the image of sandboxes like ``spec``."""
    document = replace(_neutral(spec), sandbox_id=sandbox_id).to_json()
    return replace(spec, sandbox_id=sandbox_id, hostname=sandbox_id, directory=directory, init_document=document)


def _neutral(spec: SandboxSpec) -> InitDocument:
    """The init document without what is one sandbox's own. Raises: InvalidRequestError."""
    document = InitDocument.from_json(spec.init_document)
    if document.start is not None:
        raise InvalidRequestError("a template with a start command cannot be booted ahead")
    return replace(document, sandbox_id="", envs={}, access_token=None, ca_bundle="")
