"""The store's collector: what goes, and above all what stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloister.errors import StoreError
from cloister.linux.treelocks import try_lock
from cloister.linux.trees import remove_tree
from cloister.model.template import Template
from cloister.template.garbage import GarbageCollector, TreesInUse
from cloister.template.layers import LayerStore

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
WEEK_S = 7 * 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    """An empty store."""
    return LayerStore(tmp_path / "store")


def publish(store: LayerStore, key: str, parent: str | None = None, *, age_s: float = 30 * 86_400.0, name: str = "t/step") -> Path:
    """A layer that was used last ``age_s`` ago."""
    with store.workspace(key) as workspace:
        (workspace.upper / "file").write_text("x" * 100)
        store.publish(workspace, key, name, parent, 0.0)
    directory = store.root / "layers" / key
    os.utime(directory, (0, time.time() - age_s))
    return directory


def collect(store: LayerStore, live: TreesInUse | None = None, *, retention_s: float = WEEK_S, is_rehearsal: bool = False) -> list[str]:
    """The removed items; layers by the first letter of their key."""
    found = GarbageCollector(store, lambda: live or TreesInUse(frozenset())).collect(retention_s, is_rehearsal=is_rehearsal)
    return [one.name[0] for one in found if one.kind == "layer"]


def layers(store: LayerStore) -> str:
    """The layers that are there, by the first letters of their keys."""
    return "".join(sorted(path.name[0] for path in (store.root / "layers").iterdir()))


def template(*keys: str, build_id: str = "build") -> Template:
    """A template of these layers."""
    return Template(template_id="t", name="named", build_id=build_id, layers=keys)


def test_what_nothing_uses_goes(store: LayerStore) -> None:
    """With its name and size, and nothing of it is left; a rehearsal only tells."""
    publish(store, A)
    assert collect(store, is_rehearsal=True) == ["a"]
    assert layers(store) == "a"
    removed = GarbageCollector(store, lambda: TreesInUse(frozenset())).collect(WEEK_S)
    assert [(one.kind, one.name) for one in removed] == [("layer", f"{A[:12]} t/step")]
    assert removed[0].size_bytes > 0
    assert layers(store) == ""
    assert list((store.root / "tmp").iterdir()) == []


def test_what_records_name_stays(store: LayerStore) -> None:
    """Layers of stock templates and of builds, also when another layer of them is gone; those of a dropped build go."""
    for key in (A, B, C):
        publish(store, key)
    store.write_template(template(A, D))
    store.write_build(template(B, build_id="one"))
    store.write_build(template(C, D, build_id="two"))
    assert collect(store) == []
    store.drop_build("one")
    assert collect(store) == ["b"]


def test_what_was_used_lately_stays(store: LayerStore) -> None:
    """A used layer stays for the retention, and holding it is a use. A layer used just now stays whatever the retention."""
    publish(store, A, age_s=WEEK_S - 100)
    publish(store, B, age_s=WEEK_S + 100)
    publish(store, C, age_s=WEEK_S + 100)
    publish(store, D, age_s=60)
    with store.hold([C]):
        pass
    assert collect(store) == ["b"]
    assert sorted(collect(store, retention_s=0)) == ["a"]
    assert layers(store) == "cd"


def test_what_a_snapshot_or_fork_wrote_goes_soon(store: LayerStore) -> None:
    """No build finds its layer, so the retention is not for it; one that was used just now, is named or has a child stays."""
    publish(store, A, age_s=1000, name="t/snapshot")
    publish(store, B, age_s=800, name="t/snapshot")
    publish(store, C, age_s=1000, name="t/snapshot")
    publish(store, D, C, age_s=1000)
    assert collect(store) == ["a"]
    store.write_build(template(B))
    os.utime(store.root / "layers" / B, (0, time.time() - 1000))
    assert collect(store) == []
    store.drop_build("build")
    assert collect(store) == ["b"]


def test_a_child_keeps_its_parents(store: LayerStore) -> None:
    """Whatever keeps the child: a record, a late use, a lock, a live sandbox. Without it all go, the child first."""
    publish(store, A)
    publish(store, B, A)
    child = publish(store, C, B)
    os.utime(child)
    assert collect(store) == []
    os.utime(child, (0, 0))
    with store.hold([C]):
        os.utime(child, (0, 0))
        assert collect(store) == []
    os.utime(child, (0, 0))
    assert collect(store, TreesInUse(frozenset({store.rootfs(C)}))) == []
    store.write_build(template(C))
    assert collect(store) == []
    store.drop_build("build")
    assert collect(store, TreesInUse(frozenset({store.rootfs(A)}))) == ["c", "b"]
    publish(store, B, A)
    publish(store, C, B)
    assert collect(store) == ["c", "b", "a"]


@contextmanager
def holder(store: LayerStore, key: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a layer until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from cloister.template.layers import LayerStore\n"
        f"with LayerStore(Path({str(store.root)!r})).hold([{key!r}]): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_what_another_process_holds_stays_until_it_dies(store: LayerStore) -> None:
    """A lock ends with its process, however it ends."""
    directory = publish(store, A)
    with holder(store, A) as process:
        os.utime(directory, (0, 0))
        assert collect(store, retention_s=0) == []
        process.kill()
        process.wait()
        assert collect(store, retention_s=0) == ["a"]


def test_nothing_goes_while_a_sandbox_does_not_tell_what_it_stands_on(store: LayerStore) -> None:
    """One that an older version made; what no sandbox stands on goes all the same."""
    publish(store, A)
    log = store.root / "logs" / "old.log"
    log.touch()
    os.utime(log, (0, 0))
    assert collect(store, TreesInUse(frozenset(), is_whole=False)) == []
    assert layers(store) == "a"
    assert not log.exists()


def test_a_record_that_cannot_be_read_stops_everything(store: LayerStore) -> None:
    """Its layers are not known, so none may go."""
    publish(store, A)
    (store.root / "builds" / "x.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        collect(store)
    assert layers(store) == "a"


def test_a_layer_that_is_taken_meanwhile_stays_or_cannot_be_taken(store: LayerStore) -> None:
    """Users and a collector run at once: a held layer is complete, and no user gets hold of a removed one."""
    keys = [f"{number:x}" * 64 for number in range(1, 16)]
    for key in keys:
        publish(store, key)
    failures: list[str] = []
    stop = threading.Event()

    def use() -> None:
        mine = LayerStore(store.root)
        while not stop.is_set():
            for key in keys:
                try:
                    with mine.hold([key]):
                        os.utime(mine.root / "layers" / key, (0, 0))
                        if not (mine.rootfs(key) / "file").exists():
                            failures.append(key)
                except (StoreError, FileNotFoundError):
                    continue

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    for _ in range(10):
        collect(LayerStore(store.root), retention_s=0)
    stop.set()
    for user in users:
        user.join()
    assert failures == []


def test_two_collectors_at_once(store: LayerStore) -> None:
    """Each layer is removed once, and neither fails."""
    for number in range(1, 16):
        publish(store, f"{number:x}" * 64, f"{number - 1:x}" * 64 if number > 1 else None)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(collect(LayerStore(store.root)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"{number:x}" for number in range(1, 16))
    assert layers(store) == ""


def test_a_collector_that_dies_leaves_a_store_that_is_whole(store: LayerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child is gone before its parent; what was set aside is gone after the next round."""
    for key, parent in ((A, None), (B, A), (C, B)):
        publish(store, key, parent)
    left = iter([True])

    def dying(path: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        remove_tree(path)

    monkeypatch.setattr("cloister.template.garbage.remove_tree", dying)
    with pytest.raises(KeyboardInterrupt):
        collect(store)
    monkeypatch.undo()
    assert layers(store) == "a"
    assert len(list((store.root / "tmp").iterdir())) == 1
    assert collect(store) == ["a"]
    assert list((store.root / "tmp").iterdir()) == []


def test_agent_trees_and_host_layers_go_too(store: LayerStore, tmp_path: Path) -> None:
    """Old and unused ones are removed; held, live and new ones stay."""
    for name in ("old", "held", "live", "new"):
        for directory in (store.root / "agent" / name, tmp_path / "hostlayer" / name):
            directory.mkdir(parents=True)
            (directory / "file").touch()
            if name != "new":
                os.utime(directory, (0, 0))
    trees = [store.root / "agent", tmp_path / "hostlayer"]
    claims = [os.open(directory / "held", os.O_RDONLY) for directory in trees]
    keeper = LayerStore(store.root)
    keeper.keep([directory / "held" for directory in trees])
    for directory in trees:
        os.utime(directory / "held", (0, 0))
    live = TreesInUse(frozenset(directory / "live" for directory in trees))
    removed = GarbageCollector(store, lambda: live, [tmp_path / "hostlayer", tmp_path / "none"]).collect(WEEK_S)
    assert [(one.kind, one.name) for one in removed] == [("agent tree", "old"), ("host layer", "old")]
    assert [sorted(path.name for path in directory.iterdir()) for directory in trees] == [["held", "live", "new"]] * 2
    for claim in claims:
        os.close(claim)
    assert try_lock(trees[0] / "held") is None


def test_records_of_a_cache_go_with_their_layers(store: LayerStore) -> None:
    """A step whose layers are there keeps its record for them, one without goes when it is old; logs and locks too."""
    publish(store, A)
    publish(store, B)
    store.write_build(template(A))
    (store.root / "images" / "made").mkdir(parents=True)
    records = {
        "steps/kept": {"layers": [A]},
        "steps/gone": {"layers": [A, B]},
        "steps/without": {"layers": []},
        "images/made/kept": {"layer": A, "result": {}},
        "images/made/gone": {"layer": B},
        "images/made/without": {"layer": None},
    }
    for name, data in records.items():
        path = store.root / f"{name}.json"
        path.write_text(json.dumps(data))
        os.utime(path, (0, 0))
    (store.root / "steps" / "fresh.json").write_text('{"layers": []}')
    collect(store)
    assert sorted(path.stem for path in (store.root / "steps").iterdir()) == ["fresh", "kept"]
    assert [path.stem for path in (store.root / "images" / "made").iterdir()] == ["kept"]


def test_a_layer_whose_record_is_damaged_goes_as_well(store: LayerStore) -> None:
    """No build can use it."""
    directory = publish(store, A)
    (directory / "layer.json").write_text("")
    os.utime(directory, (0, 0))
    assert collect(store) == ["a"]
    shutil.rmtree(store.root)
