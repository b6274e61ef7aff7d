"""Renews the random state of the agent itself, in a fork of its zygote and in a copy of a sandbox: neither may repeat another's numbers."""

from __future__ import annotations

import random
import tempfile
import uuid

__all__ = ["renew_randomness"]


def renew_randomness() -> None:
    """Renew random state and ids. The pid may be the same as before, so libraries cannot notice by it."""
    random.seed()
    tempfile._name_sequence = None  # type: ignore[attr-defined]  # noqa: SLF001 - it is made again at its next use
    uuid._last_timestamp = uuid._node = None  # type: ignore[attr-defined]  # noqa: SLF001 - of uuid1
