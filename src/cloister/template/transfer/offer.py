"""An offer: the record of one template and the archives of its trees, with digests and bounds. Its own digest is the template's identity.

Everything in an offer is a claim of the sender, checked here for its form alone. A receiver that knows the digest knows all of it. This
module must not read a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace

from cloister.errors import InvalidRequestError
from cloister.model.template import Template
from cloister.template.bundle.manifest import MAX_MANIFEST_BYTES, Part, part_from_json, refuse

__all__ = ["MAX_OFFER_BYTES", "Offer", "digest_of", "read_offer"]

MAX_OFFER_BYTES = MAX_MANIFEST_BYTES
_FORMAT = 1
_MOST_PARTS = 256
_KINDS = ("layers", "agent")
_BASE = "base"
_STOCK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_WORD = re.compile(r"[A-Za-z0-9._+-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A template, and its trees that it needs: the layers, and with the base template the agent's tree."""

    version: str
    """Of the Cloister that made it."""
    machine: str
    """Such as ``x86_64``."""
    template: Template
    is_build: bool
    """A client's build or snapshot made it; otherwise it is a stock template."""
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The stock template's name, or the build's id."""
        return self.template.build_id if self.is_build else self.template.name

    def to_json(self) -> bytes:
        """The document that :func:`read_offer` reads. Two offers of the same trees are equal."""
        record = replace(self.template, created_at=0.0).to_json()
        document = {"format": _FORMAT, "version": self.version, "machine": self.machine, "is_build": self.is_build, "template": record}
        return json.dumps({**document, "parts": [asdict(part) for part in self.parts]}, indent=1, sort_keys=True).encode()


def digest_of(document: bytes) -> str:
    """``sha256:`` and the digest of an offer."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def read_offer(document: bytes, name: str, expected: str) -> Offer:
    """The offer of the template ``name`` in a document of a sender.

    Raises: InvalidRequestError: it is another one than ``expected`` (as :func:`digest_of`), another template's, or malformed.
    """
    if len(document) > MAX_OFFER_BYTES:
        raise refuse("the offer is too long")
    if digest_of(document) != expected:
        raise refuse(f"the offer's digest is {digest_of(document)}, and {expected} was expected")
    try:
        found = json.loads(document)
        if found["format"] != _FORMAT:
            raise refuse(f"the offer's format is {found['format']!r}, and this version reads {_FORMAT}")
        offer = Offer(
            version=_word(found["version"]),
            machine=_word(found["machine"]),
            template=Template.from_json(found["template"]),
            is_build=found["is_build"] is True,
            parts=tuple(part_from_json(entry) for entry in found["parts"]),
        )
        _check(offer, name)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refuse(f"the offer is malformed: {error!r}"[:300]) from error
    return offer


def _check(offer: Offer, name: str) -> None:
    template, names = offer.template, [part.name for part in offer.parts]
    if offer.name != name:
        raise refuse(f"the offer is of {offer.name!r}, and not of {name!r}")
    if not (_ID if offer.is_build else _STOCK_NAME).fullmatch(name):
        raise refuse(f"{name!r} is neither a stock template's name nor a build's id")
    if offer.is_build and template.authors == ():
        raise refuse(f"the build {name!r} claims to have no code of any team")
    if template.has_memory:
        raise refuse(f"the template {name!r} has the memory of a sandbox, which stays on its node")
    if len(names) > _MOST_PARTS or len(set(names)) != len(names) or not {part.kind for part in offer.parts} <= set(_KINDS):
        raise refuse("the offer names a tree twice, too many of them, or programs")
    if any(part.kind == "agent" for part in offer.parts) and (offer.is_build or name != _BASE):
        raise refuse("the offer has an agent's tree, which comes with the base template alone")
    if {part.key for part in offer.parts if part.layer is not None} != set(template.layers):
        raise refuse("the offer has other layers than its template")
    if any((part.kind == "layers") != (part.layer is not None) for part in offer.parts):
        raise refuse("the offer's record of a layer is incomplete")


def _word(text: object) -> str:
    if not isinstance(text, str) or not _WORD.fullmatch(text):
        raise InvalidRequestError(f"{text!r} is no word of an offer"[:300])
    return text
