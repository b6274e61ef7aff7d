"""Template names of the published API: ``[namespace/]name[:tag]``, where the tag may be a build id. Pure.

Names and tags are compared in lower case. A namespace is a team's name, reduced to the characters of names.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from cloister.errors import InvalidRequestError
from cloister.model.team import Team

__all__ = ["DEFAULT_TAG", "Reference", "clean_tags", "namespace_of", "parse_new_name", "parse_reference"]

DEFAULT_TAG = "default"
_NAME = re.compile(r"[a-z0-9_-]+\Z")
_TAG = re.compile(r"[a-z0-9_.-]+\Z")
_MAX_LENGTH = 128
_MAX_TAGS = 100


@dataclass(frozen=True)
class Reference:
    """A client's reference to a template. ``tag`` is None if the client gave none."""

    namespace: str | None
    name: str
    tag: str | None

    @property
    def build_id(self) -> str | None:
        """The build id in ``tag``, if it is one. A tag of a build never has the form of a build id."""
        return str(uuid.UUID(self.tag)) if self.tag is not None and _is_uuid(self.tag) else None

    def __str__(self) -> str:
        name = self.name if self.namespace is None else f"{self.namespace}/{self.name}"
        return name if self.tag is None else f"{name}:{self.tag}"


def parse_reference(text: str) -> Reference | None:
    """Parse a reference; None: ``text`` is malformed, so no template has this name."""
    whole, colon, tag = text.strip().lower().partition(":")
    namespace, slash, name = (part.strip() for part in whole.rpartition("/"))
    tag = tag.strip()
    if not _is_name(name) or (slash and not _is_name(namespace)) or (colon and not (_TAG.match(tag) and len(tag) <= _MAX_LENGTH)):
        return None
    return Reference(namespace if slash else None, name, tag if colon else None)


def parse_new_name(text: str) -> Reference:
    """Parse the name of a new template or snapshot.

    Raises:
        InvalidRequestError: it is malformed.
    """
    reference = parse_reference(text)
    if reference is None:
        raise InvalidRequestError(
            f"Invalid name: '{text[:200]}'",
            hint="name or name:tag, with a-z, 0-9, '-' and '_' in a name, '.' too in a tag, at most 128 characters each",
        )
    if reference.tag is not None:
        clean_tags([reference.tag])
    return reference


def clean_tags(tags: Sequence[str]) -> list[str]:
    """The tags in lower case, without duplicates, in order.

    Raises:
        InvalidRequestError: a tag is malformed.
    """
    found = dict.fromkeys(tag.strip().lower() for tag in tags)
    if len(found) > _MAX_TAGS:
        raise InvalidRequestError(f"more than {_MAX_TAGS} tags")
    for tag in found:
        if not _TAG.match(tag) or len(tag) > _MAX_LENGTH:
            raise InvalidRequestError(f"Invalid tag: '{tag[:200]}'", hint="a-z, 0-9, '-', '_' and '.', at most 128 characters")
        if _is_uuid(tag):
            raise InvalidRequestError(f"Invalid tag: '{tag}': a tag cannot be a UUID")
    return list(found)


def namespace_of(team: Team, teams: Sequence[Team]) -> str:
    """The team's namespace: its name, reduced to the characters of names; its id if that is empty or taken by an older team."""
    wanted = _slug(team.name)
    first = next((one for one in teams if _slug(one.name) == wanted), team)
    return wanted if wanted and first.team_id == team.team_id else team.team_id.lower()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:_MAX_LENGTH]


def _is_name(text: str) -> bool:
    return _NAME.match(text) is not None and len(text) <= _MAX_LENGTH


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
