"""References of OCI images, parsed and completed as Docker does it, and the image map.

Pure functions on text; no I/O. Source: github.com/distribution/reference (grammar and defaults).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cloister.errors import BuildError, InvalidRequestError

__all__ = ["DEFAULT_MAP", "DOCKER_HUB", "ImageMap", "ImageReference", "parse_reference"]

DOCKER_HUB = "docker.io"
DEFAULT_MAP = (
    "docker.io/e2bdev/base=template:base",
    "docker.io/e2bdev/code-interpreter=template:code-interpreter-v1",
    "docker.io/e2bdev/desktop=template:desktop",
)
_WORD = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_WORD}(?:\.{_WORD})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?\Z")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_NAME = 255
_TEMPLATE = "template:"


@dataclass(frozen=True)
class ImageReference:
    """An image: ``host`` (perhaps with a port), ``path``, and a tag or a digest. A digest takes precedence."""

    host: str
    path: str
    tag: str = "latest"
    digest: str = ""

    @property
    def name(self) -> str:
        """Without tag and digest."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        """The full reference. The digest, if there is one, replaces the tag."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_reference(text: str) -> ImageReference:
    """Complete a reference: ``python`` becomes docker.io/library/python:latest.

    Raises: BuildError.
    """
    rest = text.strip().removeprefix("docker://")
    if rest == "scratch":
        raise BuildError("a template needs an image, and 'scratch' is not one", hint="start from another, such as debian:stable or alpine")
    rest, at, digest = rest.partition("@")
    if at and not _DIGEST.match(digest):
        raise _wrong(text, "a digest is sha256: and 64 hexadecimal digits")
    head, slash, tail = rest.rpartition("/")
    tail, colon, tag = tail.partition(":")
    if colon and not _TAG.match(tag):
        raise _wrong(text, "a tag has letters, digits, '_', '.' and '-', at most 128")
    host, path = _split_host(head + slash + tail)
    if not _HOST.match(host) or not path or not all(_PART.match(part) for part in path.split("/")) or len(path) > _MAX_NAME:
        raise _wrong(text, "an image is named like python:3.12, team/image:tag or registry.example.com:5000/team/image:tag, in lower case")
    return ImageReference(host, path, tag or "latest", digest)


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        host, path = DOCKER_HUB, name
    else:
        host, path = first, rest
    if host in ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"):
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return host, path


def _wrong(text: str, hint: str) -> BuildError:
    return BuildError(f"'{text}' is not a valid image reference", hint=hint)


class ImageMap:
    """The setting ``image_map``, which replaces images. The first matching entry wins; those of the setting come first."""

    def __init__(self, entries: tuple[str, ...] = ()) -> None:
        """An entry is REFERENCE=template:NAME or REFERENCE=OTHER, each perhaps with a last ``*``. Raises: InvalidRequestError."""
        self._entries = [_entry(text) for text in (*entries, *DEFAULT_MAP)]

    def find(self, reference: ImageReference) -> ImageReference | str:
        """The replacement: a reference, perhaps the same, or the name of a template. Raises: BuildError."""
        for pattern, target in self._entries:
            rest = _match(pattern, reference)
            if rest is None:
                continue
            if target.startswith(_TEMPLATE):
                return target.removeprefix(_TEMPLATE)
            if target.endswith("*"):
                return parse_reference(target[:-1] + rest)
            mapped = parse_reference(target)
            return mapped if _is_exact(target) else replace(mapped, tag=reference.tag, digest=reference.digest)
        return reference


def _entry(text: str) -> tuple[str, str]:
    pattern, equals, target = (part.strip() for part in text.partition("="))
    star = pattern.endswith("*")
    if not equals or not pattern or not target or (target.endswith("*") and not star):
        raise InvalidRequestError(f"image_map: '{text}' is not of the form REFERENCE=template:NAME or REFERENCE=OTHER-REFERENCE")
    if not target.startswith(_TEMPLATE) and star and not target.endswith("*"):
        raise InvalidRequestError(f"image_map: '{text}': a reference that ends with '*' needs a target that ends with '*'")
    try:
        if not star:
            parsed = parse_reference(pattern)
            pattern = str(parsed) if _is_exact(pattern) else parsed.name
        if not target.endswith("*") and not target.startswith(_TEMPLATE):
            parse_reference(target)
    except BuildError as error:
        raise InvalidRequestError(f"image_map: {error.message}", hint=error.hint) from None
    return pattern, target


def _is_exact(text: str) -> bool:
    return ":" in text.rsplit("/", 1)[-1] or "@" in text


def _match(pattern: str, reference: ImageReference) -> str | None:
    """The text that matches the ``*`` of ``pattern`` ("" without a ``*``). None: no match. A pattern without a tag matches every tag."""
    if pattern.endswith("*"):
        full = str(reference)
        return full.removeprefix(pattern[:-1]) if full.startswith(pattern[:-1]) else None
    return "" if pattern in (reference.name, str(reference)) else None
