"""The hardening steps of imported bundles, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["BUNDLE_STEPS"]

_TREES = "src/cloister/template/bundle/trees.py"
_READING = "src/cloister/template/bundle/reading.py"
_TAKING = "src/cloister/template/bundle/taking.py"
_IMPORTING = "src/cloister/template/bundle/importing.py"

BUNDLE_STEPS = (
    Step("bundles: entries stay in their tree", _TREES, "if not is_inside or", "if False or", "write_outside"),
    Step("bundles: hard links", _TREES, "and entry.target not in made.files:", "and False:", "write_outside"),
    Step("bundles: devices", _TREES, "(header.devmajor, header.devminor) != (0, 0):", "False:", "bring_devices"),
    Step("bundles: owners", _TREES, "if not (0 <= header.uid <= _MOST_ID and", "if not (True or", "bring_devices"),
    Step("bundles: attributes", _TREES, "if set(entry.xattrs) - {_OPAQUE} or", "if False or", "bring_devices"),
    Step("bundles: modes of programs", _TREES, "header.mode & ~_NO_SPECIAL_BITS:", "False:", "others_can_change"),
    Step("bundles: links of programs", _TREES, 'if is_link and (entry.target.startswith("/")', 'if False and ("/"', "others_can_change"),
    Step("bundles: entries and content", _TREES, "if made.count > part.entries or", "if False and", "more_than_it_says"),
    Step("bundles: length of a stream", _TREES, "if self._bytes > self._part.stream_bytes:", "if False:", "more_than_it_says"),
    Step("bundles: end of a stream", _TREES, "if len(self._ready) > _END_OF_ARCHIVE_BYTES:", "if False:", "bomb_cannot_hide"),
    Step("bundles: room", _TAKING, "if needed > free:", "if False:", "more_than_it_says"),
    Step("bundles: headers", "src/cloister/template/bundle/tarstream.py", "if header.size > _MAX_PAX_BYTES:", "if False:", "bring_devices"),
    Step("bundles: expected digest", _READING, "if expected is not None and", "if False and", "pass_for_the_expected_one"),
    Step(
        "bundles: digests of parts",
        _READING,
        "if reader.digest_of(part.size_bytes) != part.sha256:",
        "if not reader.digest_of(part.size_bytes):",
        "take_the_place",
        ((_TREES, "or self._digest.hexdigest() != self._part.sha256", ""),),
    ),
    Step("bundles: templates of strangers", _IMPORTING, "if not (is_expected or is_trusted):", "if False:", "be_imported_unknown"),
    Step("bundles: programs of strangers", _IMPORTING, "if programs and not is_expected:", "if False:", "programs_unknown"),
)
