"""The event loop of a node reads nothing of the template store: a slow disk delays one creation, not every answer."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloister.ids import new_build_id
from cloister.model.resources import Limits
from cloister.model.sandbox import SandboxRequest
from cloister.model.template import Template
from cloister.node import catalog as catalog_module
from cloister.node.catalog import Catalog
from cloister.node.creation.pool import PoolSize
from cloister.node.creation.steps import CreationSteps
from cloister.node.journal import Journal
from cloister.node.limits import NodeLimits
from cloister.node.memory_reserve import HostReserve, MemoryReserve
from cloister.nodewire.requests import Kill, Reserve
from cloister.runtime.base import RuntimeCapabilities
from cloister.runtime.registry import Runtimes
from cloister.template.hostlayer import HostLayer
from cloister.template.layers import LayerStore
from framework.node_parts import NodeParts

BUILD = new_build_id()
NO_RESERVE = HostReserve(0, MemoryReserve(0))


class Watch:
    """Notes who reads what below a directory. Audit hooks cannot be removed, so there is one for all tests."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.reads: list[tuple[int, str]] = []
        """Thread and path."""

    def note(self, path: object) -> None:
        """A path is opened, listed or looked at."""
        if self.root is not None and isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(self.root):
            self.reads.append((threading.get_ident(), os.fsdecode(path)))

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See :func:`sys.addaudithook`."""
        if self.root is not None and event in ("open", "os.listdir", "os.scandir"):
            self.note(arguments[0])


WATCH = Watch()
sys.addaudithook(WATCH.on_event)


class PipeSandbox:
    """A sandbox that is a pipe."""

    cold: tuple[str, ...] = ()
    starting: int | None = None

    def __init__(self) -> None:
        self.pidfd, self._writer = os.pipe()

    def state(self) -> dict[str, Any]:
        """Nothing to adopt."""
        return {}

    def usage(self) -> None:
        """It has none."""
        raise OSError

    def kill(self) -> None:
        """Its processes end at once."""
        os.close(self._writer)

    def release(self) -> None:
        """Give everything back."""
        os.close(self.pidfd)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LayerStore]:
    """A store with the base template, a stock template and a client's build, under watch from the first request on."""
    store = LayerStore(tmp_path / "store")
    base = Template(template_id="base", name="base", build_id=new_build_id(), layers=("a",), authors=())
    for key in ("a", "b"):
        store.rootfs(key).mkdir(parents=True)
        (store.rootfs(key).parent / "layer.json").write_text(
            f'{{"key": "{key}", "name": "{key}", "parent": null, "size_bytes": 1, "created_at": 0, "build_s": 0}}'
        )
    (store.root / "agent" / "tree").mkdir(parents=True)
    store.write_template(base)
    store.write_template(replace(base, template_id="s1", name="stock", build_id=new_build_id()))
    store.write_build(replace(base, template_id="c1", name="custom", build_id=BUILD, layers=("a", "b"), authors=("one",)))
    monkeypatch.setattr(catalog_module, "interpreter_layers", lambda found: found.layers)
    monkeypatch.setattr(catalog_module, "agent_tree", lambda root, _base: root / "agent" / "tree")
    stat = os.stat

    def watched_stat(path: Any, *args: Any, **more: Any) -> os.stat_result:
        WATCH.note(path)
        return stat(path, *args, **more)

    monkeypatch.setattr(os, "stat", watched_stat)
    yield store
    WATCH.root = None


def node_on(store: LayerStore, directory: Path) -> NodeParts:
    """A node with a real catalog and journal, whose sandboxes are pipes; it keeps one stock sandbox ready."""
    catalog = Catalog(store, HostLayer(path=directory / "host", envs={}, notes=()), Limits(), 5.0)
    runtime = SimpleNamespace(
        name="pipes",
        capabilities=RuntimeCapabilities(hand_over=True),
        create=lambda _spec, _started: PipeSandbox(),
        prepare=lambda _spec: None,
        has_room=lambda _key: True,
    )

    def make_steps(journal: Journal) -> CreationSteps:
        return CreationSteps(Runtimes([cast("Any", runtime)], "pipes"), catalog, journal, NO_RESERVE, cast("Any", None))

    limits = NodeLimits(cpu_count=8, mem_mib=1 << 20, disk_mib=1 << 20, team_disk_mib=1 << 20)
    return NodeParts(directory, make_steps, pool_size=PoolSize(1, ("s1",)), limits=limits, catalog=catalog)


@pytest.mark.parametrize("template", ["stock", BUILD])
async def test_event_loop_reads_no_template(store: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    """Reservations, creations, the pool, a team's disk bound and the list of templates: every read is in a thread."""
    monkeypatch.setattr(HostLayer, "over", lambda layer, _lowest: layer.path)
    node = node_on(store, tmp_path)
    WATCH.root, WATCH.reads = str(store.root), []
    node.creator.run()
    for _ in range(3):
        sandbox_id = await node.handlers.reserve(Reserve(template, "one"))
        request = SandboxRequest(sandbox_id=sandbox_id, template=template, end_at=time.time() + 60, team_id="one")
        await node.handlers.create(request)
    await node.creator.warm(template)
    assert await node.handlers.templates()
    for record in node.handlers.live.running():
        assert await node.handlers.kill(Kill(record.sandbox_id))
    await node.supervisor.stop(keep_sandboxes=False)
    paths = {path for _, path in WATCH.reads}
    assert any("/templates/" in path or "/builds/" in path for path in paths), "the watch saw no read at all"
    assert [path for thread, path in WATCH.reads if thread == threading.get_ident()] == []


async def test_watch_sees_a_read_on_the_loop(store: LayerStore) -> None:
    """The watch itself works."""
    await asyncio.sleep(0)
    WATCH.root, WATCH.reads = str(store.root), []
    store.template("stock")
    assert [path for thread, path in WATCH.reads if thread == threading.get_ident()] != []
