"""Metadata of files, from ``X-Metadata-*`` headers. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cloister.errors import InvalidRequestError

__all__ = ["metadata_of"]

_HEADER = "x-metadata-"
_MAX_BYTES = 4096
_MAX_KEY_BYTES = 255 - len("user.e2b.")


def metadata_of(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Keys, in lower case, and values.

    Raises: InvalidRequestError: too much metadata, or not printable ASCII.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if not name.lower().startswith(_HEADER):
            continue
        key = name.lower()[len(_HEADER) :]
        if not key or len(key) > _MAX_KEY_BYTES:
            raise InvalidRequestError(f"a metadata key must have 1 to {_MAX_KEY_BYTES} characters")
        if not value.isascii() or not value.isprintable():
            raise InvalidRequestError(f"the value of the metadata key '{key}' must be printable ASCII")
        found[key] = value
    if sum(len(key) + len(value) for key, value in found.items()) > _MAX_BYTES:
        raise InvalidRequestError(f"the metadata is larger than {_MAX_BYTES} bytes")
    return found
