"""The kernel's limits against what the sandboxes of a server may use, on a directory that plays /proc/sys."""

from __future__ import annotations

from pathlib import Path

from cloister.node.shared_limits import low_limits


def test_a_low_limit_is_named_with_its_remedy(tmp_path: Path) -> None:
    """Limits that a hundred sandboxes could use up are found; sufficient or missing ones are not."""
    for name, value in (("kernel/pid_max", 32_768), ("kernel/pty/max", 100_000), ("net/netfilter/nf_conntrack_max", 262_144)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    found = low_limits(100, 512, 1024, tmp_path)
    assert [limit.assignment for limit in found] == ["kernel.pid_max=59392", "net.netfilter.nf_conntrack_max=409600"]
    assert low_limits(10, 512, 1024, tmp_path) == []
