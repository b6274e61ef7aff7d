"""The manifest of a bundle: every part of the file with its SHA-256 and its bounds, and the records of the templates.

A bundle is a plain tar file. Its first member is ``manifest.json``; the other members are the parts, in the manifest's order::

    layers/<key>.tar.gz   the tree of a layer
    agent/<key>.tar.gz    the agent's tree
    criu.tar.gz, runsc    programs that root runs on the host
    wheels/<name>.whl     packages of the server's environment

This module must not read a file. Everything in a manifest is a claim of whoever made it, checked here for its form alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cloister.errors import InvalidRequestError
from cloister.model.template import Template

__all__ = ["MANIFEST", "MAX_MANIFEST_BYTES", "LayerPart", "Manifest", "Part", "part_from_json", "refuse"]

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
_FORMAT = 1
_MOST_PARTS = 4096
_MOST_ENTRIES = 4_000_000
_MOST_BYTES = 1 << 44
_LONGEST_WORD = 200
_NAME = re.compile(r"(?:layers|agent)/[0-9a-f]{64}\.tar\.gz|criu\.tar\.gz|runsc|wheels/[A-Za-z0-9_.+-]{1,200}\.whl")
_TEMPLATE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def refuse(cause: str) -> InvalidRequestError:
    """The error for a bundle, or an archive of one, that cannot be trusted to be whole."""
    return InvalidRequestError(f"the archive is refused: {cause}", hint="get it again from where it was made; nothing was imported")


@dataclass(frozen=True, kw_only=True)
class LayerPart:
    """The record of a layer (``layer.json``)."""

    name: str
    parent: str | None
    size_bytes: int
    build_s: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """One member. ``entries``, ``content_bytes`` and ``stream_bytes`` bound what an archive unpacks to; 0 for plain files."""

    name: str
    sha256: str
    size_bytes: int
    entries: int = 0
    """Files, directories and links."""
    content_bytes: int = 0
    """Sum of the sizes of its files."""
    stream_bytes: int = 0
    """Size of the tar file before compression."""
    layer: LayerPart | None = None

    @property
    def key(self) -> str:
        """The key of the layer or the agent's tree."""
        return self.name.rpartition("/")[2].partition(".")[0]

    @property
    def kind(self) -> str:
        """``layers``, ``agent``, ``wheels``, ``criu`` or ``runsc``."""
        return re.split(r"[/.]", self.name, maxsplit=1)[0]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All parts of a bundle, in their order, and the templates that they make."""

    version: str
    """Of the Cloister that made it."""
    machine: str
    """Such as ``x86_64``."""
    templates: tuple[Template, ...]
    parts: tuple[Part, ...]

    def to_json(self) -> bytes:
        """The member ``manifest.json``."""
        templates = [one.to_json() for one in self.templates]
        document = {"format": _FORMAT, "version": self.version, "machine": self.machine, "templates": templates}
        return json.dumps({**document, "parts": [asdict(part) for part in self.parts]}, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """The inverse of :meth:`to_json`. Raises: InvalidRequestError."""
        try:
            document = json.loads(text)
            if document["format"] != _FORMAT:
                raise refuse(f"its format is {document['format']!r}, and this version reads {_FORMAT}")
            parts = tuple(part_from_json(entry) for entry in document["parts"])
            templates = tuple(Template.from_json(entry) for entry in document["templates"])
            manifest = cls(version=_word(document["version"]), machine=_word(document["machine"]), templates=templates, parts=parts)
            manifest._check()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise refuse(f"its manifest is malformed: {error!r}"[:300]) from error
        return manifest

    def _check(self) -> None:
        names = [part.name for part in self.parts]
        if len(names) > _MOST_PARTS or len(set(names)) != len(names):
            raise refuse("its manifest names a part twice, or too many parts")
        has_layers = {part.key for part in self.parts if part.kind == "layers"}
        for part in self.parts:
            if (part.kind == "layers") != (part.layer is not None):
                raise refuse(f"the manifest's record of {part.name} is incomplete")
        for template in self.templates:
            if not _TEMPLATE.fullmatch(template.name) or not has_layers.issuperset(template.layers):
                raise refuse(f"it lacks a layer of the template {template.name!r}, or the name is not a stock template's")
            if template.has_memory or template.for_copies:
                raise refuse(f"the template {template.name!r} is a capture of a sandbox")


def _word(text: object) -> str:
    """A text of the manifest, which a terminal and the store can take. Raises: TypeError, ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    if not text.isprintable() or len(text) > _LONGEST_WORD:
        raise ValueError(f"{text!r} is no name")
    return text


def part_from_json(entry: Mapping[str, Any]) -> Part:
    """One row of a manifest. Raises: InvalidRequestError; ValueError, TypeError, KeyError, AttributeError: it has another form."""
    layer = entry.get("layer")
    part = Part(**{**entry, "layer": None if layer is None else LayerPart(**layer)})
    counts = (part.size_bytes, part.content_bytes, part.stream_bytes, part.entries)
    if not all(isinstance(count, int) and 0 <= count <= _MOST_BYTES for count in counts) or part.entries > _MOST_ENTRIES:
        raise refuse(f"the manifest's sizes of {part.name!r} are out of range")
    if not _NAME.fullmatch(part.name) or not _SHA256.fullmatch(part.sha256):
        raise refuse(f"the manifest names {part.name!r}, which is no part of a bundle, or a malformed digest")
    if part.layer is not None:
        _check_layer(part.key, part.layer)
    return part


def _check_layer(key: str, layer: LayerPart) -> None:
    _word(layer.name)
    if not (layer.parent is None or _SHA256.fullmatch(layer.parent)):
        raise refuse(f"the layer {key[:12]} has a malformed parent")
    if not isinstance(layer.size_bytes, int) or not 0 <= layer.size_bytes <= _MOST_BYTES or not isinstance(layer.build_s, int | float):
        raise refuse(f"the layer {key[:12]} has a size or a time that is out of range")
