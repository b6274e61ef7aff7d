"""A freeze that lasts: of real sandboxes and real groups, over a new supervisor, against processes that resist, and to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloister.errors import RuntimeFailedError
from cloister.linux.cgroup import CgroupTree, _TreeV2, find_tree, is_writable
from cloister.runtime.namespace.sandbox import NamespaceSandbox
from cloister.runtime.stillness import Stillness
from cloister.template.building.buildsandboxes import NodeBuildSandbox
from cloister.template.interfaces import BuildSandboxSpec, ShellCommand
from framework.build_node import LIMITS, BuildNode, NoCancellation, build_node
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.skipif(not is_writable(), reason="no control groups here")]

_UNIFIED = next((path for path in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if (path / "cgroup.controllers").exists()), None)
_FORKING = """
import os
for n in range(3): os.fork()
while True:
    child = os.fork()
    if not child: os._exit(0)
    os.waitpid(child, 0)
    open({!r}, "ab").write(b"x")
"""
"""Eight processes, each of which always has a child that has just begun or is about to end."""


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """One node for all tests of this file."""
    with build_node() as made:
        yield made


@contextmanager
def live(node: BuildNode) -> Iterator[tuple[NodeBuildSandbox, NamespaceSandbox]]:
    """A sandbox, and what the supervisor has of it."""
    with node.build_sandboxes.open(node.base.layers, BuildSandboxSpec(limits=LIMITS), NoCancellation()) as sandbox:
        assert isinstance(sandbox.sandbox, NamespaceSandbox)
        yield sandbox, sandbox.sandbox


def run(sandbox: NodeBuildSandbox, text: str) -> str:
    """What ``text`` writes; it must succeed."""
    parts: list[bytes] = []
    assert sandbox.run(ShellCommand(text=text, user="root"), lambda _kind, data: parts.append(data)) == 0, b"".join(parts)
    return b"".join(parts).decode()


class TreeV2(_TreeV2):
    """Groups of version 2 without its controllers, which a host with version 1 has beside them."""

    def enable_controllers(self) -> None:
        """There are none."""


@pytest.fixture(params=["own", "v2"])
def tree(request: pytest.FixtureRequest) -> Iterator[CgroupTree]:
    """The groups of this host as servers use them, and those of version 2."""
    instance = 10_000 + os.getpid()
    if request.param == "own":
        made: CgroupTree = find_tree(instance)
    else:
        if _UNIFIED is None:
            pytest.skip("no control groups of version 2 here")
        made = TreeV2(instance, _UNIFIED)
    made.create("s", None)
    yield made
    made.end("s")
    made.remove_all()


@contextmanager
def member(tree: CgroupTree, code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the group that runs ``code``."""
    with subprocess.Popen([sys.executable, "-c", f"import sys; sys.stdin.read(); exec({code!r})"], stdin=subprocess.PIPE) as process:
        tree.attach("s", process.pid)
        assert process.stdin is not None
        process.stdin.close()
        yield process
        tree.kill_all("s")
        process.wait(10)


def changes(look: Callable[[], object]) -> bool:
    """Whether what ``look`` gives changes while it is watched."""
    before, deadline = look(), time.monotonic() + 0.3
    while time.monotonic() < deadline:
        if look() != before:
            return True
    return False


def counts(path: Path) -> bool:
    """Whether the process that writes to ``path`` runs."""
    return changes(lambda: path.stat().st_size)


def test_a_frozen_sandbox_does_nothing_and_goes_on(node: BuildNode) -> None:
    """Its processor time stands still, its use can be read, it keeps a boot id, and its programs go on where they were."""
    with live(node) as (sandbox, inner):
        run(sandbox, "(while :; do date +%s%N >> /opt/clock; sleep 0.01; done) > /dev/null 2>&1 & sleep 0.2")
        boot = run(sandbox, "cat /proc/sys/kernel/random/boot_id; cat /proc/self/stat > /dev/null")
        inner.freeze()
        inner.freeze()
        used = inner.usage()
        assert not changes(inner.cpu_used_s)
        assert used.pids > 1
        assert used.mem_used_bytes > 0
        with inner.frozen():
            pass
        assert node.host.resources.groups.tree.is_frozen(inner._spec.sandbox_id)
        inner.thaw()
        assert run(sandbox, "cat /proc/sys/kernel/random/boot_id") == boot
        lines = int(run(sandbox, "wc -l < /opt/clock"))
        eventually(lambda: int(run(sandbox, "wc -l < /opt/clock")) > lines)


def test_a_frozen_sandbox_can_be_killed(node: BuildNode) -> None:
    """At once, also when it was copied at the time."""
    with live(node) as (_sandbox, inner):
        inner.freeze()
        inner.kill()
        assert inner.has_ended()
    with live(node) as (_sandbox, inner), inner.frozen():
        inner.kill()
        assert inner.has_ended()


def test_a_fork_bomb_is_frozen_with_all_its_children(node: BuildNode) -> None:
    """No process runs afterwards, and those that were being created do not start."""
    with live(node) as (sandbox, inner):
        groups, name = node.host.resources.groups.tree, inner._spec.sandbox_id
        run(sandbox, "printf '%s' 'x() { x | x & }; x' > /opt/bomb; (setsid bash /opt/bomb > /dev/null 2>&1 &)")
        eventually(lambda: groups.usage(name).pids_refused > 0)
        inner.freeze()
        assert groups.is_frozen(name)
        assert not changes(lambda: (groups.pids(name), inner.cpu_used_s()))
        inner.kill()
        assert inner.has_ended()


def test_bombs_of_both_versions_freeze_and_die(tree: CgroupTree, tmp_path: Path) -> None:
    """A group that forks as fast as it can stands still, and a frozen one is ended for good."""
    count = tmp_path / "count"
    count.write_bytes(b"")
    code = _FORKING.format(str(count))
    with member(tree, code) as process:
        eventually(lambda: count.stat().st_size > 10)
        tree.freeze("s", 10)
        assert not counts(count)
        assert tree.is_to_freeze("s")
        tree.kill_all("s")
        assert process.wait(10) == -9


def test_the_freeze_lasts_until_someone_thaws(tree: CgroupTree, tmp_path: Path) -> None:
    """An object of a later supervisor finds the group frozen, copies do not thaw it, and a start that is told of it leaves it."""
    count = tmp_path / "count"
    count.write_bytes(b"")
    with member(tree, f"while True: open({str(count)!r}, 'ab').write(b'x')"):
        eventually(lambda: count.stat().st_size > 10)
        Stillness(tree, "s").keep()
        tree.thaw_all(but={"s"})
        later = Stillness(tree, "s")
        with later.hold():
            assert not counts(count)
        assert not counts(count)
        later.leave()
        assert counts(count)
        later.keep()
        tree.thaw_all()
        assert counts(count)


@pytest.fixture
def swap(node: BuildNode) -> Iterator[None]:
    """The host has swap."""
    file = node.host.resources.data_dir / "swap"
    subprocess.run(["dd", "if=/dev/zero", f"of={file}", "bs=1M", "count=300", "status=none"], check=True)
    file.chmod(0o600)
    subprocess.run(["mkswap", "-q", file], check=True)
    subprocess.run(["swapon", file], check=True)
    yield
    subprocess.run(["swapoff", file], check=True)
    file.unlink()


@pytest.mark.alone
def test_the_memory_of_a_frozen_sandbox_goes_to_swap(node: BuildNode, swap: None) -> None:
    """It leaves the memory of the host, and the program finds all of it when it goes on; a running sandbox is not touched."""
    held = "import os, hashlib, time\nd = os.urandom(64 << 20)\nopen('/opt/a', 'w').write(hashlib.sha256(d).hexdigest())\n"
    asked = "while not os.path.exists('/opt/go'): time.sleep(0.01)\nopen('/opt/b', 'w').write(hashlib.sha256(d).hexdigest())\n"
    with live(node) as (sandbox, inner):
        run(sandbox, f"cat > /opt/hold.py <<'END'\n{held}{asked}END\n(setsid python3 /opt/hold.py > /dev/null 2>&1 &)")
        eventually(lambda: run(sandbox, "cat /opt/a 2> /dev/null || true"))
        with pytest.raises(RuntimeFailedError, match="not frozen"):
            inner.page_out()
        inner.freeze()
        before = inner.usage().mem_used_bytes
        assert inner.page_out() > 60 << 20
        assert inner.swapped_bytes() > 60 << 20
        assert inner.usage().mem_used_bytes < before - (60 << 20)
        inner.thaw()
        run(sandbox, "touch /opt/go")
        eventually(lambda: run(sandbox, "cat /opt/b 2> /dev/null || true"))
        assert run(sandbox, "cmp /opt/a /opt/b") == ""
