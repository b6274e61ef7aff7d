"""Resources of one of our servers, seen from the host: processor time by group, and all objects that a leak would leave.

Finds the server by its data directory; reads /proc, /sys and the control groups, and sends no request to the server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import process_cpu_s, rss_mib

from cloister.linux.cgroup import CgroupTree, find_tree
from framework.server import Server

_UID_BASE, _UIDS = 0x10000000, 1 << 29
"""docs/architecture.md, host layout."""


def instance_of(server: Server) -> int:
    """The instance number that the server has claimed."""
    owner = str(server.data_dir.resolve())
    for claim in Path("/run/cloister/instances").iterdir():
        if claim.read_text() == owner:
            return int(claim.name)
    raise LookupError(f"no instance is served from {owner}")


def cpu_by_group(server: Server, tree: CgroupTree) -> dict[str, float]:
    """Processor seconds of the supervisor, the api process, the slot makers with their children, and all live sandboxes."""
    used = {"supervisor": process_cpu_s(server.child("node")), "api": process_cpu_s(server.child("api")), "zones": 0.0, "sandboxes": 0.0}
    for name in tree.names():
        used["zones" if name.startswith("zone-") else "sandboxes"] += tree.cpu_used_s(name)
    return used


def charged_mib(tree: CgroupTree) -> tuple[float, int]:
    """Memory charged to the control groups of sandboxes, without the cache, and their number. A zygote's memory is charged to its zone."""
    used = [tree.usage(name).mem_used_bytes for name in tree.names() if not name.startswith("zone-")]
    return sum(used) / (1 << 20), len(used)


def charged_mib_each(tree: CgroupTree) -> float:
    """The average of a sandbox."""
    used_mib, count = charged_mib(tree)
    return used_mib / max(1, count)


@dataclass(frozen=True)
class Holdings:
    """Objects of a server. The last five are kernel objects of the host, counted for this server alone."""

    supervisor_fds: int
    supervisor_threads: int
    supervisor_rss_mib: float
    api_fds: int
    api_threads: int
    api_rss_mib: float
    mounts: int
    network_namespaces: int
    loop_devices: int
    control_groups: int
    processes: int

    def as_dict(self) -> dict[str, float]:
        """As a dictionary."""
        return asdict(self)


def holdings(server: Server) -> Holdings:
    """The server's objects now."""
    number = instance_of(server)
    supervisor, api = server.child("node"), server.child("api")
    pids = list(_processes(number))
    return Holdings(
        supervisor_fds=_fds(supervisor),
        supervisor_threads=_threads(supervisor),
        supervisor_rss_mib=round(rss_mib(supervisor), 1),
        api_fds=_fds(api),
        api_threads=_threads(api),
        api_rss_mib=round(rss_mib(api), 1),
        mounts=_mounts(supervisor, (str(server.data_dir.resolve()), f"/run/cloister/{number}/")),
        network_namespaces=len(_network_namespaces([*pids, supervisor, api])),
        loop_devices=_loops(server.data_dir),
        control_groups=len(find_tree(number).names()),
        processes=len(pids),
    )


def _fds(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def _processes(number: int) -> Iterator[int]:
    """Processes with host ids of the instance: api, slot makers, sandboxes."""
    first = _UID_BASE + number * _UIDS
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                uid = entry.stat().st_uid
            except OSError:
                continue  # it has ended
            if first <= uid < first + _UIDS:
                yield int(entry.name)


def _mounts(supervisor: int, places: tuple[str, ...]) -> int:
    """Mounts that the supervisor sees and that name one of the server's directories."""
    lines = Path(f"/proc/{supervisor}/mountinfo").read_text().splitlines()
    return sum(any(place in line for place in places) for line in lines)


def _network_namespaces(pids: list[int]) -> set[str]:
    """Namespaces that the processes are in or have open."""
    found: set[str] = set()
    for pid in pids:
        links = [Path(f"/proc/{pid}/ns/net")]
        try:
            links += Path(f"/proc/{pid}/fd").iterdir()
        except OSError:
            continue  # it has ended
        for link in links:
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if re.fullmatch(r"net:\[\d+\]", target):
                found.add(target)
    return found


def _loops(data_dir: Path) -> int:
    found = 0
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += path.read_text().startswith(f"{data_dir.resolve()}/")
        except OSError:
            continue  # just detached
    return found
