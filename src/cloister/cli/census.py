"""``cloister census``: lists every kernel object and file of a server on this host, and leftovers that belong to no live sandbox.

Reads the kernel and changes nothing. Works while the server runs, after a crash and after a stop. Exit code 1 if there are leftovers (I8).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from cloister.config.load import add_arguments, load
from cloister.config.settings import Settings
from cloister.errors import PermissionDeniedError
from cloister.ids import is_sandbox_id
from cloister.linux.cgroup import CgroupTree, find_tree
from cloister.linux.process import start_ticks
from cloister.model.sandbox import SandboxState
from cloister.network.slots import NetworkConfig, NetworkNode
from cloister.node.egress_group import EGRESS_GROUP
from cloister.node.instance import Instance, instance_of
from cloister.node.journal import Journal
from cloister.node.runtimes import runtime_kinds

__all__ = ["Census", "add_options", "run", "take_census"]

_LOOKS = 6
_LOOK_AGAIN_S = 0.5


@dataclass
class Census:
    """The findings. ``leftovers`` belong to no live sandbox and no live server."""

    live: list[str] = field(default_factory=list)
    """Those that have processes; ``frozen`` of them stand still."""
    frozen: int = 0
    on_disk: list[str] = field(default_factory=list)
    """Paused sandboxes without a process. They hold files alone, also while the server is stopped."""
    made_ahead: int = 0
    held: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_arguments(parser, "data_dir", "run_dir")


def run(args: argparse.Namespace) -> int:
    """Print the census."""
    settings = load(args, os.environ)
    if os.geteuid() != 0:
        raise PermissionDeniedError("the census reads processes of other users", hint="run it with sudo")
    census = take_census(settings)
    for _ in range(_LOOKS):  # the server frees the objects of a killed sandbox after it answers, within about a second
        if not census.leftovers:
            break
        time.sleep(_LOOK_AGAIN_S)
        census = take_census(settings)
    if args.json:
        print(json.dumps(vars(census)))
        return int(bool(census.leftovers))
    notes = {"made ahead or being made": census.made_ahead, "frozen": census.frozen}
    noted = ", ".join(f"{count} of them {note}" for note, count in notes.items() if count)
    live = f"{len(census.live)} live sandboxes{f' ({noted})' if noted else ''}"
    print(f"{live}, {len(census.held)} objects held, {len(census.leftovers)} left over")
    if census.on_disk:
        print(f"{len(census.on_disk)} paused sandboxes on disk")
    for line in census.held:
        print(f"  held      {line}")
    for line in census.leftovers:
        print(f"  LEFT OVER {line}")
    return int(bool(census.leftovers))


def take_census(settings: Settings) -> Census:
    """The census of the server of ``settings.data_dir``."""
    census = Census()
    number = instance_of(settings.data_dir, settings.run_dir)
    sandboxes = settings.data_dir / "node" / "sandboxes"
    copies = settings.run_dir / ("none" if number is None else str(number)) / "records"
    _read_journal(Journal(sandboxes, copies), census)
    if number is None:
        census.leftovers += [f"directory of a build's sandbox {name}" for name in sorted(_boxes(settings.data_dir))]
        census.leftovers += [f"loop device {line}" for line in _loops(settings.data_dir)]
        return census
    served = (settings.run_dir / str(number)).is_dir()
    helpers = {name for kind in runtime_kinds(settings) for name in kind.helper_groups(settings.run_dir / str(number))}
    boxes = _boxes(settings.data_dir)
    tree = find_tree(number)
    for name in sorted(tree.names()):
        of_build = served and (name in boxes or (name.startswith("copy-") and _has_processes(tree, name)))
        of_egress = served and name == EGRESS_GROUP
        _sort(census, name in census.live or name in helpers or of_build or of_egress, f"control group {name}")
    _count_processes(census, number, served)
    network = NetworkNode(NetworkConfig(number, settings.run_dir / str(number), None, (), (), relay_uid=0, egress_uid=0))
    for line in network.survey():
        _sort(census, served, line)
    network.close()
    for line in _loops(settings.data_dir):
        is_ours = served and ("/node/disks/" in line or any(f"/node/boxes/{name}/" in line for name in boxes))
        _sort(census, is_ours or any(sandbox_id in line for sandbox_id in census.live), f"loop device {line}")
    return census


def _sort(census: Census, wanted: bool, line: str) -> None:
    (census.held if wanted else census.leftovers).append(line)


def _read_journal(journal: Journal, census: Census) -> None:
    found = journal.entries()
    census.leftovers += [f"journal directory {name} without a record" for name in (*found.begun, *found.damaged)]
    for entry in found.entries:
        state, sandbox_id = entry.runtime_state, entry.record.sandbox_id
        if state is not None and "pid" in state and start_ticks(state["pid"]) == state["start_ticks"]:
            census.live.append(sandbox_id)
            census.made_ahead += entry.record.state is SandboxState.CREATING
            census.frozen += entry.record.is_frozen
        elif entry.record.pause is not None:  # also a frozen one whose host was restarted: the next start keeps its files
            census.on_disk.append(sandbox_id)
        else:
            census.leftovers.append(f"journal entry {sandbox_id} of a sandbox that is gone")


def _boxes(data_dir: Path) -> set[str]:
    """Ids of the sandboxes of builds: each has a directory while it lives."""
    directory = data_dir / "node" / "boxes"
    return {path.name for path in directory.iterdir() if is_sandbox_id(path.name)} if directory.is_dir() else set()


def _has_processes(tree: CgroupTree, name: str) -> bool:
    """Whether a control group has processes."""
    for directory in tree.directories(name).values():
        with contextlib.suppress(OSError):
            if (directory / "cgroup.procs").read_text():
                return True
    return False


def _count_processes(census: Census, number: int, served: bool) -> None:
    """Processes with host ids of the instance: each is in a control group of a live sandbox or zone, or is the server's own."""
    instance = Instance(number, Path(), -1, Path())
    first, last = instance.uid_base, instance.uid_base + (1 << 29)
    count = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            uid = path.stat().st_uid
        except OSError:
            continue
        if first <= uid < last:
            count += 1
            if not served:
                census.leftovers.append(f"process {path.name} of uid {uid}")
    if served and count:
        census.held.append(f"{count} processes of the instance's users")


def _loops(data_dir: Path) -> list[str]:
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = path.read_text().strip()
        except OSError:
            continue
        if backing.startswith(f"{data_dir.resolve()}/node/"):
            found.append(f"{path.parent.parent.name}: {backing}")
    return found
