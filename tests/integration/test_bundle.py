"""A bundle takes templates to another store as they are: files, rights, links, whiteouts; by the commands, without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.linux.treelocks import try_lock
from cloister.model.template import Template
from cloister.template.agenttree import agent_tree
from cloister.template.layers import LayerStore
from framework.bundles import import_file
from framework.small_store import contents_of, make_small_store

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def small_store(stock_templates: None, tmp_path: Path) -> LayerStore:
    """A store with the templates' real keys and records, and trees of a few odd files."""
    return make_small_store(tmp_path / "small")


def _bundle(*words: str, store: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a network namespace of its own, which has no interface that is up."""
    command = ["unshare", "--net", sys.executable, "-m", "cloister.cli.main", "bundle", *words, "--store-dir", str(store)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def bundle(small_store: LayerStore, tmp_path: Path) -> Path:
    """A bundle of the small store."""
    done = _bundle("export", str(tmp_path / "one.bundle"), store=small_store.root)
    assert done.returncode == 0, done.stderr
    return tmp_path / "one.bundle"


def test_a_store_gets_the_same_trees(small_store: LayerStore, bundle: Path, tmp_path: Path) -> None:
    """An empty store has the templates after one command, and their trees do not differ; a second import finds all of them."""
    digest = subprocess.run(["sha256sum", bundle], capture_output=True, text=True, check=True).stdout.split()[0]
    done = _bundle("import", str(bundle), "--expect-digest", f"sha256:{digest}", store=tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert "base: imported" in done.stdout
    assert "note:" not in done.stdout
    other = LayerStore(tmp_path / "other", create=False)
    template = small_store.template("base")
    assert other.template("base").layers == template.layers
    for key in template.layers:
        assert contents_of(other.rootfs(key)) == contents_of(small_store.rootfs(key))
        assert other.layer(key).parent == small_store.layer(key).parent
    assert contents_of(agent_tree(other.root, template)) == contents_of(agent_tree(small_store.root, template))
    assert not list((other.root / "tmp").iterdir())
    again = _bundle("import", str(bundle), "--trust", store=tmp_path / "other")
    assert "0 trees were new" in again.stdout, again.stderr


def test_an_import_holds_the_trees_that_are_there(
    small_store: LayerStore, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that runs meanwhile takes none of them: the records that name them come last."""
    template = small_store.template("base")
    trees = [*map(small_store.rootfs, template.layers), agent_tree(small_store.root, template)]
    held: list[bool] = []

    def look(*_: object) -> None:
        held.extend(try_lock(tree) is None for tree in trees)

    monkeypatch.setattr(small_store, "write_template", look)
    import_file(bundle, small_store)
    assert held == [True] * len(trees)


def test_an_import_makes_a_stock_template(bundle: Path, tmp_path: Path) -> None:
    """Whoever the record names as its authors."""
    assert _bundle("import", str(bundle), "--trust", store=tmp_path / "other").returncode == 0
    record = Template.from_json(json.loads((tmp_path / "other" / "templates" / "base.json").read_text()))
    assert record.authors == ()
    assert record.created_at > 0


def test_bundles_of_one_store_are_equal(small_store: LayerStore, bundle: Path, tmp_path: Path) -> None:
    """So a digest can be compared with that of a bundle of one's own."""
    assert _bundle("export", str(tmp_path / "two.bundle"), "--templates", "base", store=small_store.root).returncode == 0
    assert (tmp_path / "two.bundle").read_bytes() == bundle.read_bytes()


def test_a_bundle_shows_its_digest_and_parts(bundle: Path, tmp_path: Path) -> None:
    """Without root's store."""
    digest = subprocess.run(["sha256sum", bundle], capture_output=True, text=True, check=True).stdout.split()[0]
    said = _bundle("show", str(bundle), store=tmp_path / "none").stdout
    assert f"sha256:{digest}" in said
    assert "base/system" in said


def test_wheels_come_out_before_anything_is_installed(small_store: LayerStore, tmp_path: Path) -> None:
    """With the system's Python and the source tree alone, as the set-up of a host without a network does it."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "thing-1.0-py3-none-any.whl").write_bytes(b"a wheel")
    target = tmp_path / "w.bundle"
    assert _bundle("export", str(target), "--wheels", str(wheels), store=small_store.root).returncode == 0
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-S", "-m", "cloister.template.bundle.reading", str(target), str(tmp_path / "out")]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")})
    assert (tmp_path / "out" / "thing-1.0-py3-none-any.whl").read_bytes() == b"a wheel"


def test_an_existing_file_is_not_overwritten(small_store: LayerStore, bundle: Path) -> None:
    """It may be the only copy of another bundle."""
    done = _bundle("export", str(bundle), store=small_store.root)
    assert done.returncode == 1
    assert "exists" in done.stderr
