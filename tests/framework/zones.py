"""A sandbox's zone, looked at from the host: the processes in it that are outside of sandboxes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2b_code_interpreter import Sandbox

from framework.server import Server

__all__ = ["Outsider", "entry_of", "outsiders_of"]


@dataclass(frozen=True)
class Outsider:
    """A process of a zone that is in no sandbox. ``pid`` is its number on the host."""

    pid: int
    command: str
    number: int
    """In the zone's own pid namespace."""

    @property
    def kind(self) -> str:
        """Ours, ``slot maker`` or ``agent zygote``, or one in which a template's code runs."""
        if self.command.startswith("cloister-init"):
            return "slot maker"
        return "agent zygote" if "/cloister/agent/main.py --zygote" in self.command else "template"


def entry_of(server: Server, sandbox_id: str) -> dict[str, Any]:
    """The sandbox's entry in the journal: its ``record``, and as ``runtime`` its ``pid``, ``zone`` and ``slot``."""
    entry: dict[str, Any] = json.loads((server.data_dir / "node" / "sandboxes" / sandbox_id / "record.json").read_text())
    return entry


def outsiders_of(server: Server, sandbox: Sandbox) -> list[Outsider]:
    """Every process of the sandbox's zone that is in no sandbox."""
    first = entry_of(server, sandbox.sandbox_id)["runtime"]["pid"]
    maker = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    namespace = Path(f"/proc/{maker}/ns/pid").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/pid").readlink() == namespace:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                numbers = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:"))
                found.append(Outsider(int(entry.name), command, int(numbers.split()[-1])))
    return found
