"""A lifecycle log that records the calls, for the control plane's tests."""

from __future__ import annotations

from cloister.model.sandbox import Sandbox

__all__ = ["RecordedLifecycle"]


class RecordedLifecycle:
    """Implements :class:`cloister.control.sandboxes.LifecycleLog`."""

    def __init__(self) -> None:
        self.created_ids: list[str] = []
        self.looked_at: list[str] = []
        self.changes: list[tuple[str, str]] = []
        """Pauses and resumes, as "paused" or "resumed" with the cause."""

    def created(self, row: Sandbox) -> None:
        """See LifecycleLog."""
        self.created_ids.append(row.sandbox_id)

    def paused(self, row: Sandbox, cause: str) -> None:
        """See LifecycleLog."""
        assert row.pause is not None
        self.changes.append(("paused", cause))

    def resumed(self, row: Sandbox, cause: str) -> None:
        """See LifecycleLog."""
        assert row.pause is None
        self.changes.append(("resumed", cause))

    async def last_look(self, sandbox_id: str) -> None:
        """See LifecycleLog."""
        self.looked_at.append(sandbox_id)
