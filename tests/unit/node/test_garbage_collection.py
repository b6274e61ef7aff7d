"""The trees that live sandboxes of all servers use, read from their journals, and the task that collects the others."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloister.errors import StoreError
from cloister.linux.process import start_ticks
from cloister.node.garbage_collection import collect_garbage
from cloister.node.trees_in_use import forget_server, note_server, trees_in_use
from cloister.template.garbage import GarbageCollector, RemovedItem, TreesInUse
from cloister.template.layers import LayerStore


def server(run_root: Path, number: int, data_dir: Path, **states: object) -> None:
    """A server that holds ``number``, and what its journal says of each sandbox."""
    (run_root / "instances").mkdir(exist_ok=True)
    (run_root / "instances" / str(number)).write_text(str(data_dir))
    for sandbox_id, state in states.items():
        directory = data_dir / "node" / "sandboxes" / sandbox_id
        directory.mkdir(parents=True)
        record = {"state": "creating" if state is None else "running"}
        (directory / "record.json").write_text(json.dumps({"record": record, "runtime": state}))


def test_every_server_is_asked(tmp_path: Path) -> None:
    """Sandboxes of all servers count; one whose creation has only begun has nothing yet."""
    server(tmp_path, 0, tmp_path / "one", a={"trees": ["/l/1", "/l/2"]}, b=None)
    server(tmp_path, 6, tmp_path / "two", c={"trees": ["/l/2", "/l/3"]})
    server(tmp_path, 3, tmp_path / "without-a-journal")
    (tmp_path / "instances" / "4").touch()
    assert trees_in_use(tmp_path, tmp_path / "store") == TreesInUse(frozenset(map(Path, ("/l/1", "/l/2", "/l/3"))))


def test_a_sandbox_that_does_not_tell_makes_it_incomplete(tmp_path: Path) -> None:
    """While it lives: an entry of an older version, or one that cannot be read."""
    pid = os.getpid()
    server(tmp_path, 0, tmp_path / "dead", a={"pid": pid, "start_ticks": 1})
    assert trees_in_use(tmp_path, tmp_path / "store").is_whole
    server(tmp_path, 1, tmp_path / "live", a={"pid": pid, "start_ticks": start_ticks(pid)})
    assert not trees_in_use(tmp_path, tmp_path / "store").is_whole
    (tmp_path / "live" / "node" / "sandboxes" / "a" / "record.json").write_text("{")
    assert not trees_in_use(tmp_path, tmp_path / "store").is_whole


def test_a_server_that_does_not_run_counts(tmp_path: Path) -> None:
    """After a restart of the host no server holds a number, and the paused sandboxes of each still need their layers."""
    store, data_dir = tmp_path / "store", tmp_path / "data"
    server(tmp_path, 0, data_dir, a={"trees": ["/l/1"]})
    note_server(store, data_dir)
    note_server(store, data_dir)
    (tmp_path / "instances" / "0").unlink()
    assert trees_in_use(tmp_path, store) == TreesInUse(frozenset({Path("/l/1")}))
    shutil.rmtree(data_dir)
    assert trees_in_use(tmp_path, store) == TreesInUse(frozenset())
    assert not list((store / "servers").iterdir())


def test_a_server_that_ends_is_forgotten(tmp_path: Path) -> None:
    """Its data directory may go then; one that keeps a sandbox is not forgotten."""
    store, data_dir = tmp_path / "store", tmp_path / "data"
    server(tmp_path, 0, data_dir, a={"trees": ["/l/1"]})
    note_server(store, data_dir)
    forget_server(store, data_dir)
    assert list((store / "servers").iterdir())
    shutil.rmtree(data_dir / "node/sandboxes/a")
    forget_server(store, data_dir)
    forget_server(store, data_dir)
    assert not list((store / "servers").iterdir())


def test_a_capture_with_memory_needs_its_trees(tmp_path: Path) -> None:
    """Also after the stop of its server; an image that cannot be read cannot be restored, and needs none."""
    store, data_dir = tmp_path / "store", tmp_path / "data"
    image = data_dir / "node/captures/one/memory"
    image.mkdir(parents=True)
    (image / "manifest.json").write_text(json.dumps({"trees": ["/l/1", "/agent"]}))
    note_server(store, data_dir)
    forget_server(store, data_dir)
    assert trees_in_use(tmp_path, store) == TreesInUse(frozenset({Path("/l/1"), Path("/agent")}))
    (image / "manifest.json").write_text("{")
    assert trees_in_use(tmp_path, store) == TreesInUse(frozenset())
    shutil.rmtree(image.parent)
    forget_server(store, data_dir)
    assert not list((store / "servers").iterdir())


def test_a_data_directory_that_is_not_mounted_is_an_error(tmp_path: Path) -> None:
    """It may have paused sandboxes; so is a note that cannot be read."""
    store, data_dir = tmp_path / "store", tmp_path / "data"
    data_dir.mkdir()
    note_server(store, data_dir)
    (note,) = (store / "servers").iterdir()
    found = json.loads(note.read_text())
    note.write_text(json.dumps({**found, "filesystem": found["filesystem"] + 1}))
    with pytest.raises(StoreError, match=r"data directory .* is not there") as caught:
        trees_in_use(tmp_path, store)
    assert str(note) in str(caught.value.hint)
    note.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        trees_in_use(tmp_path, store)


def test_a_paused_sandbox_without_trees_makes_it_incomplete(tmp_path: Path) -> None:
    """An entry that is not being created names them, or nothing is collected."""
    server(tmp_path, 0, tmp_path / "data", a=None)
    record = tmp_path / "data/node/sandboxes/a/record.json"
    record.write_text(json.dumps({"record": {"state": "paused"}, "runtime": None}))
    assert not trees_in_use(tmp_path, tmp_path / "store").is_whole


def test_no_server_has_no_sandboxes(tmp_path: Path) -> None:
    """Where none ever ran there is nothing to read."""
    assert trees_in_use(tmp_path / "none", tmp_path / "store") == TreesInUse(frozenset())


def test_the_store_is_collected_again_and_again(tmp_path: Path) -> None:
    """Also after a round that failed; what went is in the log."""
    rounds: list[float] = []

    class Fake(GarbageCollector):
        def sweep(self) -> None:
            raise StoreError("no room for a lock")

        def collect(self, retention_s: float, *, is_rehearsal: bool = False) -> list[RemovedItem]:
            rounds.append(retention_s)
            if len(rounds) == 1:
                raise StoreError("a record is damaged")
            return [RemovedItem("layer", "abc", 3 << 20)]

    async def keep() -> None:
        fake = Fake(LayerStore(tmp_path), lambda: TreesInUse(frozenset()))
        task = asyncio.create_task(collect_garbage(fake, 5.0, interval_s=0.01))
        await asyncio.wait([task], timeout=0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with capture_logs() as logs:
        asyncio.run(keep())
    assert set(rounds) == {5.0}
    assert [entry["event"] for entry in logs[:3]] == ["store.not_swept", "store.not_collected", "store.collected"]
    assert (logs[2]["removed"], logs[2]["mib"]) == (["layer abc"], 3)


def test_what_a_death_left_is_swept_at_the_start(tmp_path: Path) -> None:
    """Not only by the first collection, ten minutes later."""
    store = LayerStore(tmp_path)
    (store.root / "tmp" / "0123.abcd" / "layer" / "rootfs").mkdir(parents=True)

    async def keep() -> None:
        task = asyncio.create_task(collect_garbage(GarbageCollector(store, lambda: TreesInUse(frozenset())), 5.0))
        while list((store.root / "tmp").iterdir()):  # noqa: ASYNC110 - nothing tells of a directory that goes
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(keep(), 10))
