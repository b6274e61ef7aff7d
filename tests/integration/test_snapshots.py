"""Snapshots of a live sandbox's files: what is in them, that the sandbox goes on, and that it goes on after errors too."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from cloister.errors import DeadlineError, InvalidRequestError, NoCapacityError, SandboxNotFoundError, TemplateNotFoundError
from cloister.model.sandbox import SandboxRecord, SandboxState
from cloister.model.template import Template
from cloister.node.snapshots import SnapshotName, Snapshots
from cloister.runtime.namespace.sandbox import NamespaceSandbox
from cloister.template.building.buildsandboxes import NodeBuildSandbox
from cloister.template.interfaces import BuildSandboxSpec, ShellCommand
from framework.build_node import LIMITS, BuildNode, NoCancellation, build_node

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """One node for all tests of this file."""
    with build_node() as made:
        yield made


@contextmanager
def live(node: BuildNode, *above: str) -> Iterator[NodeBuildSandbox]:
    """A sandbox, of which a snapshot can be taken like of a client's."""
    with node.build_sandboxes.open((*node.base.layers, *above), BuildSandboxSpec(limits=LIMITS), NoCancellation()) as sandbox:
        yield sandbox


def runtime_of(sandbox: NodeBuildSandbox) -> NamespaceSandbox:
    """What the supervisor has of it."""
    assert isinstance(sandbox.sandbox, NamespaceSandbox)
    return sandbox.sandbox


def run(sandbox: NodeBuildSandbox, text: str) -> str:
    """What ``text`` writes; it must succeed."""
    parts: list[bytes] = []
    assert sandbox.run(ShellCommand(text=text, user="root"), lambda _kind, data: parts.append(data)) == 0, b"".join(parts)
    return b"".join(parts).decode()


def named() -> Template:
    """The name of a snapshot, with layers that the node must not trust."""
    return Template(template_id="t", name="of-mine", build_id=secrets.token_hex(8), layers=("f" * 64,), envs={"A": "b"}, aliases=("x",))


def is_frozen(node: BuildNode, sandbox: NodeBuildSandbox) -> bool:
    """What the kernel says."""
    return node.host.resources.groups.tree.is_frozen(runtime_of(sandbox)._spec.sandbox_id)


def test_a_snapshot_has_the_files_and_the_sandbox_goes_on(node: BuildNode) -> None:
    """Files of a moment, in a template that can be started; the processes run on, and the log says how long they stood still."""
    snapshots = Snapshots(node.place, node.catalog.find)
    with live(node) as sandbox:
        run(sandbox, "echo before > /opt/x; rm /etc/issue")
        run(sandbox, "(while :; do date +%s%N >> /opt/clock; sleep 0.01; done) > /dev/null 2>&1 & sleep 0.3")
        with capture_logs() as logs:
            template = snapshots.take(runtime_of(sandbox), named())
        run(sandbox, "echo after > /opt/x")
        lines = int(run(sandbox, "sleep 0.2; wc -l < /opt/clock"))
        again = snapshots.take(runtime_of(sandbox), named())
    assert node.store.build(template.build_id) == template
    assert (template.envs, template.aliases, template.limits) == ({"A": "b"}, (), LIMITS)
    assert template.layers[:-1] == node.base.layers == again.layers[:-1]
    taken = [entry for entry in logs if entry["event"] == "snapshot.taken"]
    assert 0 < taken[0]["frozen_s"] < taken[0]["seconds"]
    assert taken[0]["bytes"] > 0
    with live(node, template.layers[-1]) as sandbox:
        assert run(sandbox, "cat /opt/x; ls /etc/issue 2> /dev/null; true").split() == ["before"]
        assert 0 < int(run(sandbox, "wc -l < /opt/clock")) < lines
    with live(node, again.layers[-1]) as sandbox:
        assert run(sandbox, "cat /opt/x").split() == ["after"]


def test_a_snapshot_of_nothing_has_the_layers_of_the_sandbox(node: BuildNode) -> None:
    """Where nothing was written there is no layer to add."""
    with live(node) as sandbox:
        assert Snapshots(node.place, node.catalog.find).take(runtime_of(sandbox), named()).layers == node.base.layers


_LOCKSTEP = """
import itertools, mmap, os
files = [os.open(f"/opt/{name}", os.O_RDWR | os.O_CREAT) for name in "ab"]
for file in files: os.truncate(file, 4096)
maps = [mmap.mmap(file, 4096) for file in files]
for number in itertools.count():
    for one in maps: one[:16] = b"%016d" % number
"""


def test_a_snapshot_is_of_one_moment(node: BuildNode) -> None:
    """Two files that are written in turn, through memory, differ by one step at most."""
    with live(node) as sandbox:
        run(sandbox, f"cat > /opt/lockstep.py <<'P'\n{_LOCKSTEP}\nP\npython3 /opt/lockstep.py > /dev/null 2>&1 & sleep 1")
        for _ in range(3):
            template = Snapshots(node.place, node.catalog.find).take(runtime_of(sandbox), named())
            tree = node.store.rootfs(template.layers[-1]) / "opt"
            first, second = (int((tree / name).read_bytes()[:16]) for name in "ab")
            assert first > 0
            assert first - second in (0, 1)


def test_a_sandbox_goes_on_when_its_snapshot_fails(node: BuildNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has no room: the error says so, and nothing stands still or is left."""
    before = {path.name for path in (node.store.root / "layers").iterdir()}
    snapshots = Snapshots(node.place, node.catalog.find)
    with live(node) as sandbox:
        run(sandbox, "echo x > /opt/x")
        for report in ({"error": "No space left on device: x", "errno": 28}, None):
            monkeypatch.setattr(snapshots._copier, "_copy", lambda *args, report=report: (args[-1](), report or 1 // 0)[1])
            with pytest.raises((NoCapacityError, ZeroDivisionError)):
                snapshots.take(runtime_of(sandbox), named())
            assert not is_frozen(node, sandbox)
            assert run(sandbox, "cat /opt/x") == "x\n"
    assert {path.name for path in (node.store.root / "layers").iterdir()} == before
    assert list((node.store.root / "tmp").iterdir()) == []


def test_a_sandbox_that_cannot_be_frozen_goes_on(node: BuildNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel does not stop it in time, it is let go again."""
    with live(node) as sandbox:
        cgroups = node.host.resources.groups.tree
        monkeypatch.setattr(cgroups, "is_frozen", lambda _name: False)
        monkeypatch.setattr("cloister.runtime.stillness._FREEZE_TIMEOUT_S", 0.2)
        with pytest.raises(DeadlineError, match="did not freeze"):
            Snapshots(node.place, node.catalog.find).take(runtime_of(sandbox), named())
        monkeypatch.undo()
        assert run(sandbox, "echo on") == "on\n"


def test_a_frozen_sandbox_is_killed(node: BuildNode) -> None:
    """A kill ends it although it stands still."""
    with live(node) as sandbox, runtime_of(sandbox).frozen():
        assert is_frozen(node, sandbox)
        began = time.monotonic()
        sandbox.kill()
        assert time.monotonic() - began < 5


def test_snapshots_of_one_sandbox_wait_for_each_other(node: BuildNode) -> None:
    """Several at a time all succeed."""
    made: list[Template] = []
    snapshots = Snapshots(node.place, node.catalog.find)
    with live(node) as sandbox:
        run(sandbox, "echo x > /opt/x")
        takers = [threading.Thread(target=lambda: made.append(snapshots.take(runtime_of(sandbox), named()))) for _ in range(4)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(60)
        assert len({template.layers for template in made}) == 4
        assert run(sandbox, "cat /opt/x") == "x\n"


def test_a_sandbox_of_as_many_layers_as_can_be_has_no_snapshot(node: BuildNode) -> None:
    """It is refused before the sandbox is stopped, with the bound."""
    tree = node.store.rootfs(node.base.layers[0])

    class Tall:
        trees = (tree,) * 128

    with pytest.raises(InvalidRequestError, match="at most 128"):
        Snapshots(node.place, node.catalog.find).take(Tall(), named())  # type: ignore[arg-type]  # a sandbox that only has a size


def record_of(node: BuildNode, *, build_id: str = "", template: str = "base") -> SandboxRecord:
    """What the supervisor knows of a sandbox."""
    return SandboxRecord(
        sandbox_id="x", template=template, build_id=build_id or node.base.build_id, runtime="namespace", state=SandboxState.RUNNING,
        started_at=0.0, end_at=0.0, limits=LIMITS,
    )  # fmt: skip


def test_a_snapshot_says_what_the_sandboxs_template_says(node: BuildNode) -> None:
    """User, variables and start command are those of the build that the sandbox was made of, also when a newer one is there."""
    made = replace(node.base, template_id="mine", name="mine", build_id=str(uuid.uuid4()), aliases=())
    made = replace(made, envs={"A": "b"}, user="root", start_cmd="serve")
    node.store.write_build(made)
    snapshots, name = Snapshots(node.place, node.catalog.find), SnapshotName(build_id=str(uuid.uuid4()), template_id="s", name="snap")
    with live(node) as sandbox:
        run(sandbox, "echo x > /opt/x")
        taken = snapshots.of(record_of(node, build_id=made.build_id), runtime_of(sandbox), name)
        assert (taken.name, taken.template_id, taken.user, taken.envs, taken.start_cmd) == ("snap", "s", "root", {"A": "b"}, "serve")
        run(sandbox, "echo more > /opt/y")
        assert snapshots.of(record_of(node), runtime_of(sandbox), name) == taken  # asked again: the same
        rebuilt = SnapshotName(build_id=str(uuid.uuid4()), template_id="s", name="snap")
        assert snapshots.of(record_of(node, build_id=str(uuid.uuid4())), runtime_of(sandbox), rebuilt).user == node.base.user
        gone = record_of(node, build_id=str(uuid.uuid4()), template="mine")
        with pytest.raises(TemplateNotFoundError):
            snapshots.of(gone, runtime_of(sandbox), SnapshotName(build_id=str(uuid.uuid4()), template_id="s", name="snap"))


def test_a_snapshot_of_a_sandbox_that_ends_says_so(node: BuildNode) -> None:
    """The error is that there is no such sandbox, and nothing is recorded."""
    name = SnapshotName(build_id=str(uuid.uuid4()), template_id="s", name="snap")
    with live(node) as sandbox:
        run(sandbox, "echo x > /opt/x")
        ended = runtime_of(sandbox)
    with pytest.raises(SandboxNotFoundError, match="ended while"):
        Snapshots(node.place, node.catalog.find).of(record_of(node), ended, name)
    with pytest.raises(TemplateNotFoundError):
        node.store.build(name.build_id)
