"""The output of ``cloister template list``, and the refusals of ``rm``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.model.template import ON_DEMAND, Template
from cloister.template.freshness import Freshness, write_freshness
from cloister.template.layers import LayerStore
from cloister.template.stock import STOCK_NAMES

pytestmark = pytest.mark.root


def add_layer(store: LayerStore, key: str, size_bytes: int) -> str:
    """A published layer that claims a size."""
    with store.workspace(key) as workspace:
        store.publish(workspace, key, f"step {key}", None, 1.0, size_bytes=size_bytes)
    return key


def test_what_clients_have_built_is_listed_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By build id, with what it has on top of the stock templates, and with what it lacks; last comes what is not built yet."""
    store = LayerStore(tmp_path / "store")
    below, own = add_layer(store, "a", 3 << 20), add_layer(store, "b", 5 << 20)
    store.write_template(Template(template_id="base-id", name="base", build_id="stock", layers=(below,)))
    store.write_build(Template(template_id="t-1", name="mine", build_id="build-1", layers=(below, own), created_at=2.0))
    store.write_build(Template(template_id="t-2", name="torn", build_id="build-2", layers=(below, "gone"), created_at=1.0))
    words = ["template", "list", "--store-dir", str(store.root)]
    assert main(words) == 0
    missing = [name for name in (*STOCK_NAMES, *ON_DEMAND) if name != "base"]
    first, *others = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "base"
    assert [line.split(maxsplit=1) for line in others] == [[name, f"not built: cloister template build {name}"] for name in missing]
    assert main([*words, "--all"]) == 0
    base, mine, torn, *others = capsys.readouterr().out.splitlines()
    assert len(others) == len(missing)
    assert base.split()[:2] == ["base", "3"]
    assert mine.split()[:2] == ["mine", "5"]
    assert mine.endswith("t-1 build-1")
    assert torn.endswith("lacks 1 layers: build it again")


def test_a_stale_template_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the number of packages; one that is up to date, or was never checked, is not."""
    store = LayerStore(tmp_path / "store")
    layer = add_layer(store, "a", 1 << 20)
    for name in ("base", "desktop"):
        store.write_template(Template(template_id=name, name=name, build_id=f"build-{name}", layers=(layer,)))
    now = time.time()
    stale = Freshness(build_id="build-base", checked_at=now - 7200, packages=("a 1 2", "b 1 2"), security=1)
    write_freshness(store.root, {"base": stale, "desktop": Freshness(build_id="build-desktop", checked_at=now)})
    words = ["template", "list", "--store-dir", str(store.root)]
    assert main(words) == 0
    base, desktop, *_ = capsys.readouterr().out.splitlines()
    assert base.endswith("stale: 2 packages have updates, 1 of them for security; checked 2 h ago")
    assert "checked" not in desktop
    assert main([*words, "--json"]) == 0
    assert [row["freshness"]["security"] for row in json.loads(capsys.readouterr().out)] == [1, 0]


def test_a_stock_template_is_removed_unless_it_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Templates that stand on it are named; without them it is gone from the list, and cannot be removed again."""
    store = LayerStore(tmp_path / "store")
    layer = add_layer(store, "a", 1 << 20)
    for name in ("base", "code-interpreter-v1"):
        store.write_template(Template(template_id=f"{name}-id", name=name, build_id="stock", layers=(layer,)))
    places = ["--store-dir", str(store.root), "--run-dir", str(tmp_path / "run"), "--data-dir", str(tmp_path / "data")]
    assert main(["template", "rm", "base", *places]) == 1
    assert "in use by the template code-interpreter-v1 (remove these first)" in capsys.readouterr().err
    assert main(["template", "rm", "code-interpreter-v1", "base", *places]) == 0
    capsys.readouterr()
    assert main(["template", "list", "--json", *places]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["template", "rm", "base", *places]) == 1
    assert "is not built" in capsys.readouterr().err
    store.write_template(Template(template_id="base-id", name="base", build_id="stock", layers=(layer,)))
    store.write_build(Template(template_id="t-1", name="mine", build_id="build-1", layers=(layer,)))
    assert main(["template", "rm", "base", *places]) == 1
    assert "in use by the template mine of a team" in capsys.readouterr().err
