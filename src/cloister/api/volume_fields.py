"""Parses the volumes that a new sandbox mounts."""

from __future__ import annotations

from cloister.api.fields import Fields
from cloister.control.volumes import NewMount

__all__ = ["parse_mounts"]


def parse_mounts(fields: Fields) -> tuple[NewMount, ...]:
    """The field ``volumeMounts`` of a new sandbox."""
    mounts = []
    for number, item in enumerate(fields.take_items("volumeMounts"), 1):
        one = Fields(item, f"volumeMounts[{number}].", is_strict=True)
        mounts.append(NewMount(name=one.take("name", str), path=one.take("path", str), is_read_only=one.take("readOnly", bool, False)))
        one.end()
    return tuple(mounts)
