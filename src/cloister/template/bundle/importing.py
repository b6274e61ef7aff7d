"""Takes the templates of a checked bundle into a store: unpacks every missing tree first, then publishes all, then records the templates.

Until the last tree is unpacked and checked, everything is in workspaces of the store, which an error removes. Trees that the store has are
not unpacked, and never replaced; they are held meanwhile, so that no collector takes them. Nothing of the network is needed.
Runs in: ``cloister bundle import``. Needs: root.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from cloister.errors import InvalidRequestError
from cloister.template.bundle.manifest import Part
from cloister.template.bundle.reading import Bundle
from cloister.template.bundle.taking import check_room, hold_tree, publish_tree
from cloister.template.bundle.trees import ArchiveStream, unpack_tree
from cloister.template.layers import LayerStore, Workspace

__all__ = ["ImportedBundle", "import_bundle"]

_TREES = ("layers", "agent")
_PROGRAMS = ("criu", "runsc")

InstallProgram = Callable[[str, Path, Path], None]
"""Installs ``criu`` (a directory) or ``runsc`` (a file), by its name, the unpacked one, and an empty directory to work in."""


@dataclass(frozen=True)
class ImportedBundle:
    """The names of the templates, the number of trees that were new to the store, and the programs."""

    templates: tuple[str, ...]
    new_trees: int
    programs: tuple[str, ...]


def import_bundle(
    bundle: Bundle, store: LayerStore, install: InstallProgram, *, is_expected: bool, is_trusted: bool = False
) -> ImportedBundle:
    """Import all of ``bundle``, or nothing. ``is_expected``: the caller knew the bundle's digest. ``is_trusted``: without it, the caller
    answers for the bundle's templates.

    Raises: InvalidRequestError: it is not what its manifest says, or may not be used here. NoCapacityError: there is too little room.
    """
    manifest = bundle.manifest
    if manifest.machine != platform.machine():
        raise InvalidRequestError(f"the bundle is for {manifest.machine}, and this machine is {platform.machine()}")
    programs = [part for part in manifest.parts if part.kind in _PROGRAMS]
    if programs and not is_expected:
        names = ", ".join(part.kind for part in programs)
        message = f"the bundle is refused: root runs its programs ({names}), so it must be one that you know"
        raise InvalidRequestError(message, hint=f"compare its digest, and give it: --expect-digest sha256:{bundle.digest}")
    if not (is_expected or is_trusted):
        message = "the bundle is refused: its templates and its agent would run in the sandboxes of all teams"
        raise InvalidRequestError(message, hint=f"compare its digest, and give it: --expect-digest sha256:{bundle.digest}; or --trust")
    with ExitStack() as stack:
        missing = [part for part in manifest.parts if part.kind in _TREES and not hold_tree(part, store, stack)]
        check_room(missing + programs, store)
        workspaces = [stack.enter_context(store.workspace(part.key)) for part in missing + programs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda pair: _unpack(bundle, *pair), zip(missing + programs, workspaces, strict=True)))
        for part, workspace in zip(missing, workspaces, strict=False):
            publish_tree(part, workspace, store)
        for template in manifest.templates:
            store.write_template(replace(template, created_at=time.time(), authors=()))
        for part, workspace in zip(programs, workspaces[len(missing) :], strict=True):
            install(part.kind, workspace.upper if part.kind == "criu" else _copied(workspace), workspace.work)
    return ImportedBundle(tuple(one.name for one in manifest.templates), len(missing), tuple(part.kind for part in programs))


def _unpack(bundle: Bundle, part: Part, workspace: Workspace) -> None:
    if part.kind == "runsc":
        bundle.copy_part(part, _copied(workspace))
    else:
        stream = ArchiveStream(bundle.file, bundle.offsets[part.name], part)
        unpack_tree(stream, part, workspace.upper, is_program=part.kind == "criu")


def _copied(workspace: Workspace) -> Path:
    return workspace.root / "program"
