"""What ``cloister template list`` tells an operator."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.model.template import Template
from cloister.template.layers import LayerStore

pytestmark = pytest.mark.root


def add_layer(store: LayerStore, key: str, size_bytes: int) -> str:
    """A published layer that claims a size."""
    with store.workspace(key) as workspace:
        store.publish(workspace, key, f"step {key}", None, 1.0, size_bytes=size_bytes)
    return key


def test_what_clients_have_built_is_listed_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By build id, with what it has on top of the stock templates, and with what it lacks."""
    store = LayerStore(tmp_path / "store")
    below, own = add_layer(store, "a", 3 << 20), add_layer(store, "b", 5 << 20)
    store.write_template(Template(template_id="base-id", name="base", build_id="stock", layers=(below,)))
    store.write_build(Template(template_id="t-1", name="mine", build_id="build-1", layers=(below, own), created_at=2.0))
    store.write_build(Template(template_id="t-2", name="torn", build_id="build-2", layers=(below, "gone"), created_at=1.0))
    words = ["template", "list", "--store-dir", str(store.root)]
    assert main(words) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["base"]
    assert main([*words, "--all"]) == 0
    base, mine, torn = capsys.readouterr().out.splitlines()
    assert base.split()[:2] == ["base", "3"]
    assert mine.split()[:2] == ["mine", "5"]
    assert mine.endswith("t-1 build-1")
    assert torn.endswith("lacks 1 layers: build it again")
