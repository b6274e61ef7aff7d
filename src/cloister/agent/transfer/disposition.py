"""The ``Content-Disposition`` of a form's part, read as browsers, undici and httpx write it. Pure.

Parsers made for downloads strip directories from the file name; this one keeps the whole path. Clients write ``"`` as %22, and control
characters as %0A and so on. A backslash is an escape only before ``"`` and another backslash.
Source: RFC 7578, HTML "multipart form data" encoding.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

__all__ = ["Disposition", "parse_disposition"]

_PARAMETER = re.compile(r';\s*([\w*]+)\s*=\s*(?:"((?:\\["\\]|[^"])*)"|([^;"]*))')
_ESCAPED = re.compile(r'\\(["\\])')
_PERCENT = re.compile("%(0[0-9a-f]|1[0-9a-f]|22)", re.IGNORECASE)


@dataclass(frozen=True)
class Disposition:
    """The field's name, and the file name if the part is a file."""

    name: str | None
    filename: str | None


def parse_disposition(header: str) -> Disposition:
    """Read the header's value; a part that cannot be read is None."""
    values: dict[str, str] = {}
    for key, quoted, plain in _PARAMETER.findall(header):
        value = _PERCENT.sub(lambda found: chr(int(found[1], 16)), _ESCAPED.sub(r"\1", quoted)) if quoted else plain.strip()
        values.setdefault(key.lower(), value)
    extended = values.get("filename*", "")
    if extended.lower().startswith("utf-8'"):
        values["filename"] = urllib.parse.unquote(extended.rpartition("'")[2])
    return Disposition(values.get("name"), values.get("filename"))
