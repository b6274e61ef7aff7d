"""Sandboxes of a node without a server that are paused to their files and started again, and a node that dies in the middle of that.

``python -m framework.kept_disk DIRECTORY POINT`` is the node that dies: at the call of a function of :data:`POINTS`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cloister.disks import kept
from cloister.errors import CloisterError
from cloister.ids import new_access_token, new_sandbox_id
from cloister.runtime.namespace.sandbox import NamespaceSandbox
from cloister.runtime.spec import SandboxSpec
from cloister.template.building.buildsandboxes import NodeBuildSandbox
from cloister.template.building.copier import Copier
from cloister.template.interfaces import BuildSandboxSpec, ShellCommand
from framework.build_node import LIMITS, BuildNode, node_at

__all__ = ["POINTS", "Box", "box", "check_image", "dying_node", "make_box"]

_TOKEN = new_access_token()
_WORK = 'python3 -c \'import os; open("/opt/random", "wb").write(os.urandom(8 << 20))\'; sha256sum /opt/random > /opt/sum; sync'


@dataclass
class Box:
    """One sandbox, whose disk outlives its processes."""

    node: BuildNode
    spec: SandboxSpec
    sandbox: NamespaceSandbox

    @property
    def image(self) -> Path:
        """Its disk."""
        return self.spec.directory / "disk.img"

    def run(self, text: str) -> str:
        """Run a shell command as root and return its output; it must succeed."""
        parts: list[bytes] = []
        copier, layers = Copier(self.node.place), self.node.base.layers
        build = NodeBuildSandbox(self.sandbox, copier, layers, BuildSandboxSpec(limits=LIMITS), _TOKEN)
        code = build.run(ShellCommand(text=text, user="root"), lambda _kind, data: parts.append(data))
        assert code == 0, b"".join(parts)
        return b"".join(parts).decode()

    def pause(self) -> None:
        """Keep its disk only."""
        self.sandbox.kill()
        self.sandbox.keep_disk()
        self.sandbox.release()

    def resume(self) -> None:
        """Start it again."""
        self.sandbox = start(self.node, replace(self.spec, has_disk=True))


def start(node: BuildNode, spec: SandboxSpec) -> NamespaceSandbox:
    """A sandbox of the namespace runtime."""
    made = node.host.runtime.create(spec, lambda _state: None)
    assert isinstance(made, NamespaceSandbox)
    return made


def make_box(node: BuildNode, directory: Path) -> Box:
    """A new sandbox in a directory of its own below ``directory``; the caller ends it."""
    sandbox_id = new_sandbox_id()
    own = directory / sandbox_id
    own.mkdir(mode=0o700, parents=True)
    made = node.build_sandboxes._sandbox_spec(sandbox_id, own, node.base.layers, BuildSandboxSpec(limits=LIMITS), _TOKEN)
    spec = replace(made, hostname=sandbox_id, agent_log="/var/log/cloister-agent.log")
    return Box(node, spec, start(node, spec))


@contextmanager
def box(node: BuildNode) -> Iterator[Box]:
    """A new sandbox, of which nothing is left."""
    made = make_box(node, node.build_sandboxes.directory)
    try:
        yield made
    finally:
        with suppress(CloisterError):
            made.sandbox.kill()
        made.sandbox.release()


def check_image(image: Path) -> None:
    """Raises AssertionError unless the file system in it is sound."""
    done = subprocess.run(["e2fsck", "-f", "-n", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- a node that dies ----

POINTS = {
    "before anything is kept": (NamespaceSandbox, "keep_disk"),
    "before the disk is written": (kept, "sync"),
    "before it is trimmed": (kept, "trim"),
    "before it is unmounted": (kept, "close_disk"),
    "before it is stored for good": (kept, "sync_path"),
    "before it is marked": (kept, "open_private"),
    "when all is kept": (NamespaceSandbox, "release"),
}
"""Where a node may die in a pause: the function that it does not enter any more."""


def dying_node(directory: Path, point: str) -> tuple[str, str]:
    """Let a node with the data directory ``directory`` make a box, and die when it pauses it; gives the box's id, and a checksum."""
    command = [sys.executable, "-m", "framework.kept_disk", str(directory), point]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (directory / "errors").open("w+") as errors:  # no pipe: its slot makers live on, and hold it open
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
        assert process.returncode == -signal.SIGKILL, (directory / "errors").read_text()
    found = re.search(r"^box (\w+) (\w+)$", printed, re.MULTILINE)  # beside the node's log
    assert found is not None, printed
    return found[1], found[2]


def _die(*_arguments: object, **_more: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _main(directory: Path, point: str) -> None:
    made = make_box(node_at(directory), directory / "node" / "sandboxes")
    made.run(_WORK)
    print("box", made.spec.sandbox_id, made.run("cut -d ' ' -f 1 /opt/sum").strip(), flush=True)
    owner, name = POINTS[point]
    setattr(owner, name, _die)
    made.pause()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
