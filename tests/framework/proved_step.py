"""What ``tests/security/prove.py`` takes away: one hardening step."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DRIVERS", "NATIVE", "Step"]

NATIVE = "src/cloister/runtime/namespace/native"
DRIVERS = "src/cloister/agent/drivers"


@dataclass(frozen=True)
class Step:
    """One step: what removes it (in ``file``, ``old`` becomes ``new``) and the attacks, a pytest -k expression, of which one must fail.

    ``also``: further edits, where a second layer would hold the attack off by itself.
    """

    name: str
    file: str
    old: str
    new: str
    attacks: str
    also: tuple[tuple[str, str, str], ...] = ()
