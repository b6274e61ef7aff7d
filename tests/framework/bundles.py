"""Bundles as an attacker would write them: any archive, any manifest, with digests that fit unless a test says otherwise."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloister.template.bundle.importing import ImportedBundle, import_bundle
from cloister.template.bundle.reading import open_bundle
from cloister.template.layers import LayerStore

__all__ = ["KEY", "LAYER", "Entry", "archive", "described", "entry", "import_file", "write_bundle"]

KEY = "ab" * 32
LAYER = f"layers/{KEY}.tar.gz"
Entry = tuple[tarfile.TarInfo, bytes]
_MANIFEST = "manifest.json"


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "", **fields: Any) -> Entry:
    """An entry of an archive; ``fields`` are those of TarInfo."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, target, len(content)
    header.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(header, field, value)
    return header, content


def archive(*entries: Entry) -> bytes:
    """A tar file of the directory ``.`` and ``entries``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for header, content in (entry(".", kind=tarfile.DIRTYPE), *entries):
            tar.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def described(name: str, stream: bytes, count: int, size: int, **claims: Any) -> tuple[dict[str, Any], bytes]:
    """The manifest's row of an archive with ``count`` entries and ``size`` bytes in files, and the part. ``claims`` replace fields."""
    packed = gzip.compress(stream, mtime=0)
    layer = {"name": "base/test", "parent": None, "size_bytes": 4096, "build_s": 1.0} if name.startswith("layers/") else None
    row = {"name": name, "sha256": hashlib.sha256(packed).hexdigest(), "size_bytes": len(packed), "layer": layer}
    return {**row, "entries": count, "content_bytes": size, "stream_bytes": len(stream), **claims}, packed


def write_bundle(path: Path, *parts: tuple[dict[str, Any], bytes], change: Callable[[dict[str, Any]], object] = bool) -> str:
    """Write a bundle of ``parts``; ``change`` edits the manifest. Returns its SHA-256."""
    document: dict[str, Any] = {"format": 1, "version": "0", "machine": "x86_64", "templates": [], "parts": [row for row, _ in parts]}
    change(document)
    members = [(_MANIFEST, json.dumps(document).encode()), *((row["name"], packed) for row, packed in parts)]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def import_file(path: Path, store: LayerStore, expected: str | None = None, *, is_trusted: bool = True) -> ImportedBundle:
    """Import a bundle as the command does, with ``--trust`` unless ``is_trusted`` is False. No program of it is run."""
    with path.open("rb") as file:
        bundle = open_bundle(file, expected)
        return import_bundle(bundle, store, lambda _name, _program, _work: None, is_expected=expected is not None, is_trusted=is_trusted)
