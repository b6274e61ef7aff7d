"""How a creation's template is found: clients' builds by their ids only, stock templates by every name they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.errors import TemplateNotFoundError
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.node.catalog import Catalog
from cloister.template.hostlayer import HostLayer
from cloister.template.layers import LayerStore

STOCK = Template(template_id="s1", name="stock", build_id="00000000-0000-4000-8000-000000000001", layers=("a",), aliases=("other",))
BUILT = Template(template_id="c1", name="custom", build_id="00000000-0000-4000-8000-000000000002", layers=("a", "b"), aliases=("mine",))


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    """A store with one template of each kind."""
    store = LayerStore(tmp_path)
    for key in ("a", "b"):
        store.rootfs(key).mkdir(parents=True)
    store.write_template(STOCK)
    store.write_build(BUILT)
    return store


def catalog(store: LayerStore) -> Catalog:
    """The catalog of a store."""
    return Catalog(store, HostLayer(path=store.root, envs={}, notes=()), Limits(), 50.0)


def test_what_is_found_by_which_name(store: LayerStore) -> None:
    """A client's build has no name here: two teams may call theirs the same, which the control plane keeps apart."""
    found = catalog(store)
    assert {found.find(name).build_id for name in ("stock", "s1", "other", "stock:default", STOCK.build_id)} == {STOCK.build_id}
    assert found.find(BUILT.build_id) == BUILT
    assert found.templates() == [STOCK]
    for name in ("custom", "c1", "mine", "stock:v2", "00000000-0000-4000-8000-000000000003", "../builds/x", ""):
        with pytest.raises(TemplateNotFoundError):
            found.find(name)


def test_a_build_without_its_layer_is_not_found(store: LayerStore) -> None:
    """A creation from a build whose layer is gone is told so, rather than made of the rest."""
    store.rootfs("b").rmdir()
    with pytest.raises(TemplateNotFoundError, match="lacks"):
        catalog(store).find(BUILT.build_id)


def test_without_the_agent_nothing_can_be_created(store: LayerStore) -> None:
    """The reason comes with the remedy."""
    assert catalog(store).why_unusable() == "template 'base' is not built (run: cloister template build all)"
