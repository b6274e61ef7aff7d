"""What ``tests/security/prove.py`` takes away: one hardening step."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DRIVERS", "NATIVE", "Step", "all_steps"]

NATIVE = "src/cloister/runtime/namespace/native"
DRIVERS = "src/cloister/agent/drivers"


@dataclass(frozen=True)
class Step:
    """One step: what removes it (in ``file``, ``old`` becomes ``new``) and the attacks, a pytest -k expression, of which one must fail.

    ``also``: further edits, where a second layer would hold the attack off by itself. ``needs``: a file of the host without which there is
    nothing to remove, since this kernel does not have what the step hides.
    """

    name: str
    file: str
    old: str
    new: str
    attacks: str
    also: tuple[tuple[str, str, str], ...] = ()
    needs: str | None = None


def all_steps() -> list[Step]:
    """The steps of every module ``proved_*`` beside this one: its tuples whose names end in ``_STEPS``."""
    found: list[Step] = []
    for path in sorted(Path(__file__).parent.glob("proved_*.py")):
        module = importlib.import_module(f"framework.{path.stem}")
        found += [step for name, steps in vars(module).items() if name.endswith("_STEPS") for step in steps]
    return found
