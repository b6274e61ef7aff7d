"""A creation that fails at any of its steps leaves no kernel object, descriptor or file behind (I7, I8)."""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.config.load import load
from cloister.config.settings import Settings
from cloister.disks import images
from cloister.disks.ready import Disks
from cloister.errors import CloisterError, IsolationError
from cloister.linux.treelocks import TreeLocks
from cloister.model.resources import Limits
from cloister.network.dns_relay import host_nameservers
from cloister.node.catalog import Catalog
from cloister.node.host import NodeHost, build_host
from cloister.runtime import start
from cloister.runtime.namespace import rootfs, slots, wire, zone, zones
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.spec import SandboxSpec, Sharing
from cloister.template.layers import LayerStore

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def host(tmp_path: Path, stock_templates: None) -> Iterator[NodeHost]:
    """A node of its own, with one slot maker and its zygote running already."""
    with build_host(Settings(data_dir=tmp_path / "data"), host_nameservers()) as made:
        made.runtime.prepare(spec(made, tmp_path, "warm"))
        sandbox = made.runtime.create(spec(made, tmp_path, "warm"), lambda _state: None)
        sandbox.kill()
        sandbox.release()
        yield made


def spec(host: NodeHost, tmp_path: Path, name: str) -> SandboxSpec:
    """A sandbox of the base template."""
    store = LayerStore(load(None, os.environ).store_dir)
    template = store.template("base")
    directory = tmp_path / name
    directory.mkdir(exist_ok=True)
    return SandboxSpec(
        sandbox_id=name,
        sharing=Sharing(key="base"),
        directory=directory,
        layers=(*(store.rootfs(key) for key in template.layers), host.host_layer.path),
        agent=Catalog(store, host.host_layer, Limits()).agent_tree(),
        limits=Limits(),
        init_document=b'{"sandbox_id": "x", "template_id": "t", "template": "base", "envs": {}, "access_token": null, "user": "user",'
        b' "workdir": "/home/user", "kernel_user": "root", "languages": [], "limits": {"output_mib": 1}, "agent_env": {}}',
    )


def look(host: NodeHost, directory: Path) -> tuple[list[str], int, list[str], list[str]]:
    """All that a failed creation could leave."""
    gc.collect()  # what earlier tests left to the collector would be closed at some moment in between
    files = sorted(str(path) for path in directory.rglob("*"))
    loops = subprocess.run(["losetup", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True, check=True).stdout
    mine = [line for line in loops.splitlines() if str(directory) in line]
    return host.survey(), len(list(Path("/proc/self/fd").iterdir())), files, mine


def survey(host: NodeHost, directory: Path) -> tuple[list[str], int, list[str], list[str]]:
    """The same, once it no longer changes: what an earlier sandbox held is given back behind."""
    seen = look(host, directory)
    for _ in range(20):
        time.sleep(0.4)
        before, seen = seen, look(host, directory)
        if before == seen:
            break
    return seen


def check_nothing_more(after: tuple[list[str], int, list[str], list[str]], before: tuple[list[str], int, list[str], list[str]]) -> None:
    """The same objects and files, and no more descriptors; fewer, when an earlier test's were closed meanwhile."""
    assert (after[0], after[2], after[3]) == (before[0], before[2], before[3])
    assert after[1] <= before[1]


STEPS = {
    "disk": (Disks, "take"),
    "wait for the agent": (start, "wait_serving"),
    "map the disk": (images, "map_disk"),
    "mount the layers": (rootfs, "layer_mounts"),
    "mount the agent": (rootfs, "common_mounts"),
    "set up": (wire, "send_setup"),
    "strings": (slots, "setup_strings"),
    "hold the layers": (TreeLocks, "lock"),
    "state": (slots, "state_of"),
}


@pytest.mark.parametrize("step", STEPS)
def test_failure_of_a_step_leaves_nothing(host: NodeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The error reaches the caller, and the survey is as before."""
    directory = tmp_path / "failing"
    directory.mkdir()
    before = survey(host, directory)
    module, name = STEPS[step]

    def fail(*_args: object, **_kwargs: object) -> None:
        raise IsolationError("injected", step=step)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(IsolationError, match="injected"):
            host.runtime.create(spec(host, tmp_path, "failing"), lambda _state: None)
    check_nothing_more(survey(host, directory), before)


@pytest.mark.parametrize(("part", "method"), [("network", "attach"), ("groups", "open_joining")])
def test_failure_of_the_host_leaves_nothing(
    host: NodeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, method: str
) -> None:
    """The same when the network or the control groups refuse."""
    directory = tmp_path / "failing"
    directory.mkdir()
    before = survey(host, directory)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise IsolationError("injected")

    with monkeypatch.context() as patch:
        owner = host.resources.network if part == "network" else host.resources.groups.tree
        patch.setattr(owner, method, fail)
        with pytest.raises(IsolationError, match="injected"):
            host.runtime.create(spec(host, tmp_path, "failing"), lambda _state: None)
    check_nothing_more(survey(host, directory), before)


@pytest.mark.parametrize(
    ("seccomp_filter", "word"), [(b"\x00" * 7, "filter"), (b"\xff" * 8, "seccomp")], ids=["not a filter", "refused by the kernel"]
)
def test_step_inside_the_sandbox_that_fails_stops_it(host: NodeHost, tmp_path: Path, seccomp_filter: bytes, word: str) -> None:
    """A filter that cannot be installed gives an error that names the step, and no sandbox (fail closed)."""
    directory = tmp_path / "failing"
    directory.mkdir()
    before = survey(host, directory)
    runtime = host.runtime
    assert isinstance(runtime, NamespaceRuntime)
    right = runtime._starter
    runtime._starter = replace(right, filter=seccomp_filter)
    try:
        with pytest.raises(CloisterError, match=word):
            runtime.create(spec(host, tmp_path, "failing"), lambda _state: None)
    finally:
        runtime._starter = right
    check_nothing_more(survey(host, directory), before)


def test_next_zone_is_ready_before_the_last_one_is_full(host: NodeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When few slots are left another slot maker is started, with its zygote, and no second one beside it."""
    monkeypatch.setattr(zones, "SPARE_SLOTS", zone.SLOTS_PER_ZONE)
    made = [host.runtime.create(spec(host, tmp_path, name), lambda _state: None) for name in ("one", "two")]
    deadline = time.monotonic() + 20
    while host.runtime.prepared()["agent"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    made.append(host.runtime.create(spec(host, tmp_path, "three"), lambda _state: None))
    assert sum(line.startswith("slot maker") for line in host.survey()) == 2
    for sandbox in made:
        assert not sandbox.cold
        sandbox.kill()
        sandbox.release()
