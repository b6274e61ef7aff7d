"""What live sandboxes of all servers stand on, read from their journals."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloister.errors import StoreError
from cloister.linux.process import start_ticks
from cloister.node.housekeeping import keep_house
from cloister.node.livetrees import live_trees
from cloister.template.garbage import Collector, LiveTrees, Removed
from cloister.template.layers import LayerStore


def server(run_root: Path, number: int, data_dir: Path, **states: object) -> None:
    """A server that holds ``number``, and what its journal says of each sandbox."""
    (run_root / "instances").mkdir(exist_ok=True)
    (run_root / "instances" / str(number)).write_text(str(data_dir))
    for sandbox_id, state in states.items():
        directory = data_dir / "node" / "sandboxes" / sandbox_id
        directory.mkdir(parents=True)
        (directory / "record.json").write_text(json.dumps({"runtime": state}))


def test_every_server_is_asked(tmp_path: Path) -> None:
    """Sandboxes of all servers count; one whose creation has only begun has nothing yet."""
    server(tmp_path, 0, tmp_path / "one", a={"trees": ["/l/1", "/l/2"]}, b=None)
    server(tmp_path, 6, tmp_path / "two", c={"trees": ["/l/2", "/l/3"]})
    server(tmp_path, 3, tmp_path / "without-a-journal")
    (tmp_path / "instances" / "4").touch()
    assert live_trees(tmp_path) == LiveTrees(frozenset(map(Path, ("/l/1", "/l/2", "/l/3"))))


def test_a_sandbox_that_does_not_tell_makes_it_incomplete(tmp_path: Path) -> None:
    """While it lives: an entry of an older version, or one that cannot be read."""
    pid = os.getpid()
    server(tmp_path, 0, tmp_path / "dead", a={"pid": pid, "start_ticks": 1})
    assert live_trees(tmp_path).is_whole
    server(tmp_path, 1, tmp_path / "live", a={"pid": pid, "start_ticks": start_ticks(pid)})
    assert not live_trees(tmp_path).is_whole
    (tmp_path / "live" / "node" / "sandboxes" / "a" / "record.json").write_text("{")
    assert not live_trees(tmp_path).is_whole


def test_no_server_has_no_sandboxes(tmp_path: Path) -> None:
    """Where none ever ran there is nothing to read."""
    assert live_trees(tmp_path / "none") == LiveTrees(frozenset())


def test_the_store_is_collected_again_and_again(tmp_path: Path) -> None:
    """Also after a round that failed; what went is in the log."""
    rounds: list[float] = []

    class Fake(Collector):
        def sweep(self) -> None:
            raise StoreError("no room for a lock")

        def collect(self, retention_s: float, *, is_rehearsal: bool = False) -> list[Removed]:
            rounds.append(retention_s)
            if len(rounds) == 1:
                raise StoreError("a record is damaged")
            return [Removed("layer", "abc", 3 << 20)]

    async def keep() -> None:
        fake = Fake(LayerStore(tmp_path), lambda: LiveTrees(frozenset()))
        task = asyncio.create_task(keep_house(fake, 5.0, interval_s=0.01))
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
    """Not only by the first collection, an hour later."""
    store = LayerStore(tmp_path)
    (store.root / "tmp" / "0123.abcd" / "layer" / "rootfs").mkdir(parents=True)

    async def keep() -> None:
        task = asyncio.create_task(keep_house(Collector(store, lambda: LiveTrees(frozenset())), 5.0))
        while list((store.root / "tmp").iterdir()):  # noqa: ASYNC110 - nothing tells of a directory that goes
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(keep(), 10))
