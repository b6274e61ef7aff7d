"""The layer store: keys, publishing, locks, sweeping, template records."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cloister.errors import NoCapacityError, TemplateNotFoundError
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


def test_a_template_without_its_layers_is_not_found(tmp_path: Path) -> None:
    """A record counts only while all of its layers are there; the error names the command to build it."""
    store = LayerStore(tmp_path)
    template = Template(template_id="i", name="base", build_id="b", layers=("e" * 64,))
    store.write_template(template)
    with pytest.raises(TemplateNotFoundError, match="cloister template build base"):
        store.template("base")
    assert store.templates() == []
    _publish(store, "e" * 64)
    assert store.template("base") == template
    with pytest.raises(TemplateNotFoundError, match="not built"):
        store.template("other")
