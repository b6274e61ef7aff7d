"""Shards: the parts of the suite that ``scripts/test`` runs side by side, and the one that it runs alone.

========= =========================================================================================================================
``outer`` the product through the SDKs and under crashes, and what needs the one pretend internet of this host
``inner`` its parts and attacks on them
``alone`` tests marked ``alone``: they use up what the whole host shares, or compare speeds, so nothing may run beside them
========= =========================================================================================================================

A test's shard follows from its directory, fixtures and marks, so a new test needs no entry anywhere.
"""

from __future__ import annotations

import pytest

__all__ = ["SHARDS", "keep_shard", "shard_of"]

SHARDS = ("outer", "inner", "alone")
_OUTER = {"chaos", "conformance", "differential"}


def shard_of(item: pytest.Item) -> str:
    """The one shard that runs ``item``."""
    if item.get_closest_marker("alone") is not None:
        return "alone"
    directories = item.path.relative_to(item.config.rootpath).parts
    is_outer = "internet" in getattr(item, "fixturenames", ()) or not _OUTER.isdisjoint(directories)
    return "outer" if is_outer else "inner"


def keep_shard(config: pytest.Config, items: list[pytest.Item], shard: str) -> None:
    """Deselect every item of another shard, in place."""
    others = [item for item in items if shard_of(item) != shard]
    items[:] = [item for item in items if shard_of(item) == shard]
    config.hook.pytest_deselected(items=others)
