"""The most that may be asked of a host, whoever asks."""

from __future__ import annotations

import os

import pytest

from cloister.errors import InvalidRequestError
from cloister.model.build import BuildRequest
from cloister.model.resources import Limits
from cloister.node.limits import NodeLimits, host_limits

LIMITS = NodeLimits(cpu_count=2, mem_mib=4096, disk_mib=10_000)


def test_what_fits_is_allowed() -> None:
    """Exactly the most, the defaults, and what says nothing."""
    LIMITS.check(Limits(cpu_count=2, mem_mib=4096, disk_mib=10_000))
    LIMITS.check(Limits())
    LIMITS.check(BuildRequest(build_id="b", template_id="t", team_id="t", name="n", parent="base"))


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(cpu_count=2.5), "2.5 processors are more than the 2"),
        (Limits(mem_mib=4097), "4097 MiB of memory are more than the 4096"),
        (Limits(disk_mib=10_001), "10001 MiB of disk"),
        (Limits(pids=1_000_000), "1000000 pids"),
        (Limits(inodes=10**12), "inodes"),
        (Limits(open_files=10**9), "open files"),
        (Limits(output_mib=10**9), "output mib"),
    ],
)
def test_what_is_too_much_is_named(limits: Limits, told: str) -> None:
    """The answer says what was asked for, what there is, and which setting to change."""
    with pytest.raises(InvalidRequestError, match=told):
        LIMITS.check(limits)


def test_builds_have_the_same_bounds() -> None:
    """A template that no sandbox could be made of is not built."""
    with pytest.raises(InvalidRequestError, match="max_mem_mib"):
        LIMITS.check(BuildRequest(build_id="b", template_id="t", team_id="t", name="n", parent="base", mem_mib=5000))


def test_the_host_is_the_ceiling_unless_settings_say() -> None:
    """Without settings the host's own size, and never less than what a sandbox gets anyway."""
    assert host_limits(Limits(), 1.5, 100, 8000) == NodeLimits(cpu_count=1.5, mem_mib=100, disk_mib=8000)
    host = host_limits(Limits(cpu_count=512), None, None, 65_536)
    assert host.cpu_count == 512
    assert host.mem_mib == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert host_limits(Limits(), None, None, 1).disk_mib == Limits().disk_mib
