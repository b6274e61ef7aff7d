"""The control group of the egress process, which bounds its memory: what hostile sandboxes make it hold costs the host no more (I6).

Runs in: supervisor, any thread. Needs: root.
"""

from __future__ import annotations

from cloister.model.resources import Limits
from cloister.runtime.groups import Groups

__all__ = ["EGRESS_GROUP", "EgressGroup"]

EGRESS_GROUP = "egress"
"""Its name beside those of sandboxes, whose ids are longer."""
_PIDS = 64


class EgressGroup:
    """Holds one process after another."""

    def __init__(self, groups: Groups, mem_mib: int) -> None:
        self._groups = groups.of(EGRESS_GROUP)
        self._groups.claim(EGRESS_GROUP, is_helper=True)  # an earlier supervisor may have left it, and a sweep would end it
        self._limits = Limits(mem_mib=mem_mib, pids=_PIDS)

    def take(self, pid: int) -> None:
        """Put a new process into the group. It is not to be used after an error. Raises: IsolationError."""
        self._groups.create(EGRESS_GROUP, self._limits, is_helper=True)
        self._groups.tree.attach(EGRESS_GROUP, pid)

    def memory_ends(self) -> int:
        """How many processes the kernel has ended because of their memory. Raises: OSError."""
        return self._groups.tree.usage(EGRESS_GROUP).oom_kills
