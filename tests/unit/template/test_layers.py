"""The layer store: keys, publishing, locks, sweeping, template records."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cloister.errors import NoCapacityError, StoreError, TemplateNotFoundError
from cloister.linux.treelocks import try_lock
from cloister.model.template import Template
from cloister.template.layers import LayerStore, layer_key


def _publish(store: LayerStore, key: str, text: str = "content") -> None:
    with store.workspace(key) as workspace:
        (workspace.upper / "file").write_text(text)
        store.publish(workspace, key, "t/step", None, 1.0)


def test_the_key_follows_the_definition_and_the_parent() -> None:
    """Equal definitions on equal parents have one key, and a change of either gives another."""
    first = layer_key(None, {"script": "a", "files": {"x": "1", "y": "2"}})
    assert first == layer_key(None, {"files": {"y": "2", "x": "1"}, "script": "a"})
    assert len({first, layer_key("p", {"script": "a", "files": {"x": "1", "y": "2"}}), layer_key(None, {"script": "b"})}) == 3


def test_a_published_layer_is_whole_and_its_workspace_gone(tmp_path: Path) -> None:
    """Publishing moves the upper directory to its key and leaves nothing in tmp."""
    store = LayerStore(tmp_path)
    _publish(store, "a" * 64)
    assert (store.rootfs("a" * 64) / "file").read_text() == "content"
    assert store.layer("a" * 64).name == "t/step"
    assert store.layer("a" * 64).size_bytes > 0
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_build_that_fails_publishes_nothing(tmp_path: Path) -> None:
    """An exception in a workspace removes it and leaves no layer."""
    store = LayerStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.workspace("b" * 64):
        raise ZeroDivisionError
    assert not store.has("b" * 64)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_first_of_two_publishers_wins(tmp_path: Path) -> None:
    """Publishing a layer that is there keeps the one that is there."""
    store = LayerStore(tmp_path)
    _publish(store, "c" * 64, "first")
    _publish(store, "c" * 64, "second")
    assert (store.rootfs("c" * 64) / "file").read_text() == "first"


def test_sweep_takes_dead_workspaces_and_leaves_live_ones(tmp_path: Path) -> None:
    """A workspace whose process is gone is removed; one that is held is not."""
    store = LayerStore(tmp_path)
    dead = tmp_path / "tmp" / "dead"
    (dead / "layer/rootfs/dir").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (dead / "layer/rootfs/link").symlink_to(tmp_path / "outside")
    with store.workspace("d" * 64) as live:
        assert store.sweep() == 1
        assert live.upper.is_dir()
    assert not dead.exists()
    assert (tmp_path / "outside").is_dir()


def test_a_lock_is_waited_for_and_said_so(tmp_path: Path) -> None:
    """The second holder of a lock is told that it waits and gets it when the first is done."""
    store, waited, got = LayerStore(tmp_path), threading.Event(), threading.Event()

    def second() -> None:
        with LayerStore(tmp_path).lock("k", on_wait=waited.set):
            got.set()

    with store.lock("k"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(5)
        assert not got.is_set()
    assert got.wait(5)
    thread.join()


def test_builds_have_directories_of_their_own_up_to_a_bound(tmp_path: Path) -> None:
    """Concurrent builds never share a node directory, the one after the last is refused, and a freed one is used again."""
    store = LayerStore(tmp_path)
    with store.builder_directory() as first, store.builder_directory() as second, store.builder_directory(), store.builder_directory():
        assert first != second
        with pytest.raises(NoCapacityError), store.builder_directory():
            pass
    with store.builder_directory() as again:
        assert again == first


def test_who_wrote_a_template_is_known_or_unknown(tmp_path: Path) -> None:
    """A record from before authors were kept: a stock template has none, a client's build unknown ones."""
    store = LayerStore(tmp_path)
    old = Template(template_id="i", name="base", build_id="b", layers=())
    store.write_template(old)
    store.write_build(old)
    assert (store.template("base").authors, store.records()[0].authors) == ((), ())
    assert (store.build("b").authors, store.builds()[0].authors) == (None, None)
    store.write_build(Template(template_id="i", name="base", build_id="b", layers=(), authors=("one", "two")))
    assert store.build("b").authors == ("one", "two")


def test_a_template_without_its_layers_is_not_found(tmp_path: Path) -> None:
    """A record counts only while all of its layers are there; the error names the command to build it."""
    store = LayerStore(tmp_path)
    template = Template(template_id="i", name="base", build_id="b", layers=("e" * 64,), authors=())
    store.write_template(template)
    with pytest.raises(TemplateNotFoundError, match="cloister template build base"):
        store.template("base")
    assert store.templates() == []
    _publish(store, "e" * 64)
    assert store.template("base") == template
    with pytest.raises(TemplateNotFoundError, match="not built"):
        store.template("other")


def test_what_a_build_made_is_found_by_its_id(tmp_path: Path) -> None:
    """A record of a build is read back, dropped, and no name leads out of its directory."""
    store = LayerStore(tmp_path)
    _publish(store, "e" * 64)
    made = Template(template_id="t", name="n", build_id="11111111-2222-3333-4444-555555555555", layers=("e" * 64,), start_cmd="run")
    store.write_build(made)
    assert store.build(made.build_id) == made
    assert store.builds() == [made]
    assert store.templates() == []
    store.drop_build(made.build_id)
    store.drop_build(made.build_id)
    for build_id in (made.build_id, "../templates/n", "", "x/y", "x" * 65):
        store.drop_build(build_id)
        with pytest.raises(TemplateNotFoundError):
            store.build(build_id)
    assert store.builds() == []


def test_a_build_without_its_layers_is_not_found(tmp_path: Path) -> None:
    """The error says what is missing; the record itself is still listed."""
    store = LayerStore(tmp_path)
    made = Template(template_id="t", name="n", build_id="b", layers=("f" * 64,))
    store.write_build(made)
    with pytest.raises(TemplateNotFoundError, match="lacks its layers ffffffffffff"):
        store.build("b")
    assert store.builds() == [made]


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    """It is not taken for none: its layers would be removed."""
    store = LayerStore(tmp_path)
    (tmp_path / "builds" / "b.json").write_text("{}")
    with pytest.raises(StoreError, match="damaged"):
        store.build("b")
    with pytest.raises(StoreError, match="damaged"):
        store.builds()


def test_a_layer_that_is_gone_cannot_be_held(tmp_path: Path) -> None:
    """Holding several fails as a whole; and what is held is marked as used."""
    store = LayerStore(tmp_path)
    _publish(store, "a" * 64)
    directory = tmp_path / "layers" / ("a" * 64)
    os.utime(directory, (1, 1))
    with store.hold(["a" * 64, "a" * 64]):
        assert try_lock(store.rootfs("a" * 64)) is None
        assert directory.stat().st_mtime > 1
    with pytest.raises(StoreError, match="gone"), store.hold(["a" * 64, "b" * 64]):
        pass
    claim = try_lock(store.rootfs("a" * 64))
    assert claim is not None
    os.close(claim)


def test_a_workspace_of_any_depth_is_removed(tmp_path: Path) -> None:
    """Code of a template may have made more levels than Python's own removal can follow."""
    store = LayerStore(tmp_path)
    with store.workspace("a" * 64) as workspace:
        here = os.open(workspace.upper, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    assert list((tmp_path / "tmp").iterdir()) == []
