"""A creation that the host has no memory for is refused, and leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from cloister.errors import NoCapacityError
from cloister.linux.meminfo import HostMemory
from cloister.model.sandbox import SandboxRequest
from cloister.node.creation.admission import Admission
from cloister.node.drain import Drain
from cloister.node.limits import NodeLimits
from cloister.node.memory_reserve import MemoryReserve

REQUEST = SandboxRequest(sandbox_id="i1", template="base", end_at=1.0)


class NothingLives:
    """No sandbox is live."""

    def counted(self) -> list[Any]:
        """None counts."""
        return []

    def is_taken(self, _sandbox_id: str) -> bool:
        """Every id is free."""
        return False


def test_a_host_without_memory_refuses(tmp_path: Path) -> None:
    """The refused id does not count, and is admitted when there is memory again."""
    available = 1
    reserve = MemoryReserve(2, lambda: HostMemory(total=9 << 20, available=available << 20, swap_total=0, swap_free=0))
    drain = Drain(tmp_path / "drain.json")
    admission = Admission(NodeLimits(cpu_count=1, mem_mib=1, disk_mib=1), cast("Any", NothingLives()), reserve, drain)
    with pytest.raises(NoCapacityError, match="memory"):
        admission.admit(REQUEST, 1)
    assert admission.ids() == set()
    available = 2
    admission.admit(REQUEST, 1)
    assert admission.ids() == {"i1"}
