"""The namespace runtime as the registry knows it before a node opens it: :class:`cloister.runtime.registry.RuntimeKind`.

Runs in: supervisor, builds, ``cloister doctor`` and ``cloister census``. Needs: root to open it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloister.linux.process import start_ticks
from cloister.linux.seccomp import compile_bpf, skipped_names
from cloister.runtime.namespace.checkpoint.criu import find_criu
from cloister.runtime.namespace.profile import default_profile
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.namespace.zone import slot_maker_binary
from cloister.runtime.namespace.zones import RUNTIME, groups_of_zone
from cloister.runtime.resources import NodeResources

__all__ = ["NamespaceKind"]


@dataclass(frozen=True)
class NamespaceKind:
    """See :class:`RuntimeKind`. Without zygotes every sandbox starts its processes cold. ``checkpoint`` is the setting of that name."""

    has_zygotes: bool = True
    checkpoint: str | None = None
    store_dir: Path = Path("/var/lib/cloister/store")
    name = RUNTIME

    def open(self, resources: NodeResources) -> NamespaceRuntime:
        """See :class:`RuntimeKind`."""
        return NamespaceRuntime(resources, has_zygotes=self.has_zygotes, checkpoint=self.checkpoint)

    def try_out(self, run_root: Path) -> None:
        """See :class:`RuntimeKind`. A start of the server needs it, so that faults show there."""

    def checks(self) -> dict[str, Callable[[], str]]:
        """See :class:`RuntimeKind`."""
        return {"slot maker": lambda: str(slot_maker_binary()), "seccomp": _check_seccomp}

    def options(self) -> dict[str, Callable[[], str]]:
        """See :class:`RuntimeKind`."""
        return {"memory on disk": self._check_checkpoints}

    def _check_checkpoints(self) -> str:
        if self.checkpoint is None:
            return "off: paused sandboxes stay in memory, or lose it (setting: checkpoint)"
        return f"CRIU {find_criu(self.checkpoint, self.store_dir).version}; the server tries it when it starts"

    def helper_groups(self, run_dir: Path) -> set[str]:
        """See :class:`RuntimeKind`."""
        found = set()
        for note in (run_dir / "zones").glob("*/zone.json"):
            try:
                data = json.loads(note.read_text())
            except (OSError, ValueError):  # the next start of the supervisor finds the zone by its control group
                continue
            if start_ticks(data["pid"]) == data["start_ticks"]:
                found.update(groups_of_zone(int(note.parent.name)))
        return found


def _check_seccomp() -> str:
    profile = default_profile()
    skipped = skipped_names(profile)
    return f"{len(compile_bpf(profile)) // 8} instructions" + (f"; unknown here: {', '.join(skipped)}" if skipped else "")
