"""How a creation's template is found: clients' builds by their ids only, stock templates by every name they have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import TemplateNotFoundError
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.node import catalog as catalog_module
from cloister.node.catalog import Catalog
from cloister.runtime.spec import AgentTree
from cloister.template.hostlayer import HostLayer
from cloister.template.layers import LayerStore

STOCK = Template(
    template_id="s1", name="stock", build_id="00000000-0000-4000-8000-000000000001", layers=("a",), aliases=("other",), authors=()
)
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


def key_of(template: Template, team_id: str) -> str:
    """The zone of a team's sandboxes of a template."""
    return catalog_module.zone_key(template, AgentTree(interpreter=(), agent=Path("agent")), team_id)


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


def test_templates_are_offered_with_the_limits_that_hold(store: LayerStore) -> None:
    """Clients are told the node's defaults of a stock template's sandboxes, where the template has no limits of its own."""
    store.write_template(replace(STOCK, limits=Limits(mem_mib=2048)))
    found = Catalog(store, HostLayer(path=store.root, envs={}, notes=()), Limits(cpu_count=1, mem_mib=512, disk_mib=777), 50.0)
    (told,) = found.offered()
    assert told.limits == found.limits(found.find("stock")) == Limits(cpu_count=1, mem_mib=2048, disk_mib=777)


def test_limits_of_a_clients_build_hold_whatever_the_node_has_by_default(store: LayerStore) -> None:
    """A client who asked for 1,024 MiB gets 1,024 MiB, also on a node that gives stock templates another size."""
    found = Catalog(store, HostLayer(path=store.root, envs={}, notes=()), Limits(cpu_count=1, mem_mib=512, disk_mib=777), 50.0)
    assert BUILT.limits == Limits()
    assert found.limits(found.find(BUILT.build_id)) == Limits()
    snapshot = replace(BUILT, limits=Limits(mem_mib=4096), authors=None)
    assert found.limits(snapshot) == Limits(mem_mib=4096)


def test_limits_that_no_client_chooses_follow_the_node(store: LayerStore) -> None:
    """An operator who raises ``default_pids`` raises it for the templates that clients have built before, too."""
    found = Catalog(store, HostLayer(path=store.root, envs={}, notes=()), Limits(mem_mib=512, pids=2048, output_mib=64), 50.0)
    assert found.limits(found.find(BUILT.build_id)) == Limits(pids=2048, output_mib=64)


@pytest.mark.parametrize(
    ("authors", "team", "zone_team", "is_others"),
    [
        ((), "one", "", False),
        (("one",), "one", "one", False),
        (("one",), "two", "", True),
        (("one",), "", "", True),
        (("one", "two"), "two", "", True),
        (None, "one", "", True),
        (None, "", "", True),
    ],
)
def test_code_of_another_team_has_no_zone_of_its_own(
    authors: tuple[str, ...] | None, team: str, zone_team: str, *, is_others: bool
) -> None:
    """A template without another team's code has a zone by its layers and team. All others, also of unknown authors, share one zone."""
    template = replace(BUILT, authors=authors)
    others = key_of(replace(BUILT, layers=("z",), authors=("three", "four")), "five")
    assert (key_of(template, team) == others) == is_others
    assert (key_of(template, team) == key_of(replace(template, layers=("a",)), team)) == is_others
    assert catalog_module.zone_team(template, team) == zone_team


def test_teams_with_the_same_layers_have_zones_of_their_own() -> None:
    """Each team's own build of one image is prepared apart; a stock template is prepared once for all."""
    assert len({key_of(replace(BUILT, authors=(team,)), team) for team in ("one", "two")}) == 2
    assert len({key_of(STOCK, team) for team in ("one", "two", "")}) == 1


def test_without_the_agent_nothing_can_be_created(store: LayerStore) -> None:
    """The reason comes with the remedy."""
    assert catalog(store).why_unusable() == "template 'base' is not built (run: cloister template build all)"
