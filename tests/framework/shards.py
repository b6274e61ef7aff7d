"""Shards: the parts of the suite. ``scripts/test`` runs ``bare`` first, then two side by side, then ``alone``.

========= =========================================================================================================================
``bare``  what needs no templates: it runs while they are built
``sdk``   the product through the SDKs and under crashes, and what needs the one pretend internet of this host
``host``  its parts on a real host, attacks on them, and its languages beside the programs that people know
``alone`` tests marked ``alone``: they use up what the whole host shares, or compare speeds, so nothing may run beside them
========= =========================================================================================================================

A test's shard follows from its directory, fixtures and marks, so a new test needs no entry anywhere.
"""

from __future__ import annotations

import pytest

__all__ = ["SHARDS", "keep_shard", "shard_of"]

SHARDS = ("bare", "sdk", "host", "alone")
_SDK = {"chaos", "conformance"}
_BARE = {"style", "unit"}


def shard_of(item: pytest.Item) -> str:
    """The one shard that runs ``item``."""
    if item.get_closest_marker("alone") is not None:
        return "alone"
    directories = set(item.path.relative_to(item.config.rootpath).parts)
    if "internet" in getattr(item, "fixturenames", ()) or _SDK & directories:
        return "sdk"
    return "bare" if _BARE & directories and item.get_closest_marker("templates") is None else "host"


def keep_shard(config: pytest.Config, items: list[pytest.Item], shard: str) -> None:
    """Deselect every item of another shard, in place."""
    others = [item for item in items if shard_of(item) != shard]
    items[:] = [item for item in items if shard_of(item) == shard]
    config.hook.pytest_deselected(items=others)
