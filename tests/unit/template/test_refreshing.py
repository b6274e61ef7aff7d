"""Updates of the distribution for stock templates: what a check finds, and a refresh that changes all templates or none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloister.errors import BuildError
from cloister.model.template import Template
from cloister.runtime.spec import StepSpec
from cloister.template.agenttree import interpreter_layers
from cloister.template.freshness import Freshness, find_updates, read_freshness, write_freshness
from cloister.template.layers import LayerStore
from cloister.template.refreshing import check_templates, refresh_templates
from cloister.template.stock import StockStep, definition_of, load_stock, shared_layers
from cloister.template.stockbuilder import StockBuildContext, build_layers, layer_keys, stock_record

SIMULATED = b"""Reading package lists...
Inst libc6 [2.41-1] (2.41-2 Debian-Security:13/stable-security, Debian:13.1/stable [amd64]) []
Inst libssl3t64 [3.5.1-1] (3.5.1-2 Debian:13.1/stable [amd64])
Inst new-one (1.0 Debian:13.1/stable [amd64])
Inst ../../evil [1] (2 x [amd64])
Conf libc6 (2.41-2 Debian-Security:13/stable-security [amd64])
"""


@dataclass
class FakeSandbox:
    """Writes a file into each layer, prints ``output``, and fails in the step whose script has ``broken``."""

    output: bytes = SIMULATED
    code: int = 0
    broken: str = "nothing is broken"
    specs: list[StepSpec] = field(default_factory=list)

    def __call__(self, spec: StepSpec, log: Callable[[bytes], None]) -> int:
        """See RunStep."""
        assert spec.upper is not None
        self.specs.append(spec)
        script = spec.upper / spec.argv[-1].removeprefix("/") if spec.argv[-1].startswith("/.build") else None
        log(self.output)
        return 1 if script is not None and self.broken in script.read_text() else self.code


class Silent:
    """A display that shows nothing."""

    def step_started(self, template: str, index: int, total: int, step: StockStep) -> None:
        """See StockBuildProgress."""

    def step_waiting(self) -> None:
        """See StockBuildProgress."""

    def step_output(self, line: str) -> None:
        """See StockBuildProgress."""

    def step_done(self, elapsed_s: float, size_bytes: int | None, *, cached: bool) -> None:
        """See StockBuildProgress."""

    def step_failed(self) -> None:
        """See StockBuildProgress."""


@pytest.fixture
def sandbox() -> FakeSandbox:
    """The stand-in for the sandbox of steps."""
    return FakeSandbox()


@pytest.fixture
def context(tmp_path: Path, sandbox: FakeSandbox) -> StockBuildContext:
    """A context over an empty store."""
    return StockBuildContext(store=LayerStore(tmp_path / "store"), run_step=sandbox, progress=Silent())


def _publish(store: LayerStore, keys: tuple[str, ...]) -> None:
    for key in keys:
        with store.workspace(key) as workspace:
            store.publish(workspace, key, "step", None, 1.0, size_bytes=1)


@pytest.fixture
def templates(context: StockBuildContext) -> list[Template]:
    """The stock templates base and mcp-gateway, with empty layers."""
    found: list[Template] = []
    for name in ("base", "mcp-gateway"):
        below = shared_layers(load_stock("base"), found[0].layers) if found else ()
        keys = layer_keys(load_stock(name), below)
        _publish(context.store, keys)
        found.append(stock_record(load_stock(name), keys, ""))
        context.store.write_template(found[-1])
    return found


def test_a_check_finds_packages_with_updates(context: StockBuildContext, templates: list[Template], sandbox: FakeSandbox) -> None:
    """By the lines of apt's simulation; nothing is built, and the sandbox has the template's layers."""
    found = find_updates(templates[0], context, 5.0)
    assert found.packages == ("libc6 2.41-1 2.41-2", "libssl3t64 3.5.1-1 3.5.1-2", "new-one - 1.0")
    assert (found.security, found.is_stale, found.checked_at) == (1, True, 5.0)
    assert sandbox.specs[0].layers == tuple(context.store.rootfs(key) for key in templates[0].layers)
    assert not list((context.store.root / "tmp").iterdir())
    sandbox.output = b"Reading package lists...\n"
    assert not find_updates(templates[0], context, 5.0).is_stale


def test_a_check_without_the_distribution_is_an_error(context: StockBuildContext, templates: list[Template], sandbox: FakeSandbox) -> None:
    """It does not count as up to date."""
    sandbox.code = 100
    with pytest.raises(BuildError, match="cannot be asked for updates"):
        check_templates(templates, context, 1.0)


def test_a_refresh_adds_one_layer_of_updates(context: StockBuildContext, templates: list[Template]) -> None:
    """The layers that the agent and other templates stand on stay, the former ones stay in the store, and a build finds all there."""
    found = check_templates(templates, context, 1.0)
    done = refresh_templates(templates, found, context, 7.0)
    assert [one.after.name for one in done] == ["base", "mcp-gateway"]
    for before in templates:
        after = context.store.template(before.name)
        assert after.edition
        assert after.created_at == 7.0
        assert after.build_id != before.build_id
        assert len(after.layers) == len(before.layers) + 1
        shared = shared_layers(load_stock(before.name), before.layers)
        assert shared_layers(definition_of(after), after.layers) == shared
        assert all(context.store.has(key) for key in (*before.layers, *after.layers))
        assert after.layers == layer_keys(definition_of(after), after.layers[: -len(definition_of(after).steps)])
    assert interpreter_layers(context.store.template("base")) == interpreter_layers(templates[0])


def test_an_interrupted_refresh_goes_on_with_its_layers(
    context: StockBuildContext, templates: list[Template], sandbox: FakeSandbox
) -> None:
    """The first failure changes no record, and the next attempt builds only what is missing."""
    found = check_templates(templates, context, 1.0)
    sandbox.broken = load_stock("mcp-gateway").steps[-2].script
    with pytest.raises(BuildError):
        refresh_templates(templates, found, context, 2.0)
    assert [context.store.template(one.name).build_id for one in templates] == [one.build_id for one in templates]
    sandbox.broken, ran = "nothing is broken", len(sandbox.specs)
    refresh_templates(templates, found, context, 3.0)
    assert not [spec for spec in sandbox.specs[ran:] if spec.layers == tuple(map(context.store.rootfs, interpreter_layers(templates[0])))]
    assert context.store.template("base").edition


def test_a_template_of_another_release_is_not_refreshed(context: StockBuildContext, templates: list[Template]) -> None:
    """A build brings it to the present definition first."""
    odd = stock_record(load_stock("base"), templates[0].layers[1:], "")
    stale = Freshness(build_id=odd.build_id, checked_at=1.0, packages=("a 1 2",))
    with pytest.raises(BuildError, match="another version"):
        refresh_templates([odd], {"base": stale}, context, 1.0)


def test_the_record_is_of_the_build_that_was_checked(context: StockBuildContext, templates: list[Template]) -> None:
    """A check of an earlier build says nothing; a damaged record counts as none."""
    root = context.store.root
    assert read_freshness(root, templates) == {}
    one = Freshness(build_id=templates[0].build_id, checked_at=1.0, packages=("a 1 2",), security=1)
    write_freshness(root, {"base": one, "mcp-gateway": one})
    assert read_freshness(root, templates) == {"base": one}
    for text in ("{", "[]", '{"base": 1}', '{"base": {"build_id": 1}}'):
        (root / "freshness.json").write_text(text)
        assert read_freshness(root, templates) == {}


def test_layers_of_an_edition_are_others(context: StockBuildContext, templates: list[Template]) -> None:
    """Two editions share no layer of updates."""
    below = interpreter_layers(templates[0])
    keys = set()
    for edition in ("one", "two"):
        template = Template(template_id="t", name="base", build_id="b", layers=(), edition=edition)
        keys.add(build_layers(definition_of(template), (), context)[len(below)])
    assert len(keys) == 2
