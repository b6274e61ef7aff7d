"""The manifest of a bundle: what the store and a terminal cannot take is refused, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.template import Template
from cloister.template.bundle.manifest import LayerPart, Manifest, Part
from cloister.template.bundle.tarstream import read_entries

KEY = "ab" * 32


def _document() -> dict[str, Any]:
    layer = LayerPart(name="base/system", parent=None, size_bytes=4096, build_s=1.0)
    part = Part(name=f"layers/{KEY}.tar.gz", sha256=KEY, size_bytes=1, layer=layer)
    template = Template(template_id="t", name="base", build_id="b", layers=(KEY,))
    manifest = Manifest(version="1.0", machine="x86_64", templates=(template,), parts=(part,))
    document: dict[str, Any] = json.loads(manifest.to_json())
    return document


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a version that steers a terminal": lambda document: document.update(version="\x1b]0;evil\x07"),
    "a version that is no text": lambda document: document.update(version={}),
    "a layer's name that steers a terminal": lambda document: document["parts"][0]["layer"].update(name="\x1b[2J"),
    "a layer's name that is no text": lambda document: document["parts"][0]["layer"].update(name=[]),
    "a layer's size that is no number": lambda document: document["parts"][0]["layer"].update(size_bytes="x"),
    "a layer's time that is no number": lambda document: document["parts"][0]["layer"].update(build_s="x"),
    "a template's name that is no text": lambda document: document["templates"][0].update(name=1),
    "layers that are no texts": lambda document: document["templates"][0].update(layers=[[]]),
    "a template with memory": lambda document: document["templates"][0].update(has_memory=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_manifest_of_wrong_types_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    """None of it reaches the store's records, or the terminal of an operator who looks at the bundle first."""
    document = _document()
    assert Manifest.from_json(json.dumps(document).encode()).parts
    change(document)
    with pytest.raises(InvalidRequestError, match="is refused"):
        Manifest.from_json(json.dumps(document).encode())


def test_a_size_in_other_digits_is_refused() -> None:
    """``²`` is a digit and no number."""
    record = "11 size=²\n".encode()
    header = bytearray(512)
    header[0:1], header[124:135], header[156:157], header[257:265] = b"x", f"{len(record):011o}".encode(), b"x", b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    stream = bytes(header) + record.ljust(512, b"\0")

    def read(size: int) -> bytes:
        nonlocal stream
        found, stream = stream[:size], stream[size:]
        return found

    with pytest.raises(InvalidRequestError, match="malformed"):
        next(read_entries(read))
