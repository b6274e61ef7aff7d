"""Driving a build, with a stand-in for the sandbox that records what it is asked to run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cloister.errors import BuildError, DeadlineError
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.runtime.spec import StepSpec
from cloister.template.hostlayer import HostLayer
from cloister.template.layers import LayerStore
from cloister.template.stock import StockDefinition, StockStep
from cloister.template.stockbuilder import StockBuildContext, build_stock_template, layer_keys


@dataclass
class FakeSandbox:
    """Runs nothing: notes the step, writes a file into its upper directory, prints, and returns ``code``."""

    code: int = 0
    error: Exception | None = None
    output: bytes = b"working\n"
    specs: list[StepSpec] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def __call__(self, spec: StepSpec, log: Callable[[bytes], None]) -> int:
        """See RunStep."""
        assert spec.upper is not None
        self.specs.append(spec)
        self.scripts.append((spec.upper / spec.argv[-1].removeprefix("/")).read_text())
        (spec.upper / f"made{len(self.specs)}").touch()
        log(self.output)
        if self.error:
            raise self.error
        return self.code


@dataclass
class FakeProgress:
    """Keeps what it is told."""

    events: list[str] = field(default_factory=list)

    def step_started(self, template: str, index: int, total: int, step: StockStep) -> None:
        """See StockBuildProgress."""
        self.events.append(f"{template} {index}/{total} {step.name}")

    def step_waiting(self) -> None:
        """See StockBuildProgress."""
        self.events.append("waiting")

    def step_output(self, line: str) -> None:
        """See StockBuildProgress."""
        self.events.append(f"> {line}")

    def step_done(self, elapsed_s: float, size_bytes: int | None, *, cached: bool) -> None:
        """See StockBuildProgress."""
        self.events.append("cached" if cached else "built")

    def step_failed(self) -> None:
        """See StockBuildProgress."""
        self.events.append("failed")


RUN = StockStep(name="one", kind="run", title="One", script="echo one\n", files={"a/b.txt": "text"}, online=True)
APT = StockStep(name="two", kind="apt", title="Two", packages=("jq", "curl"), script="echo two\n")
DEFINITION = StockDefinition(name="t", parent=None, steps=(RUN, APT))


@pytest.fixture
def sandbox() -> FakeSandbox:
    """The stand-in for the sandbox."""
    return FakeSandbox()


@pytest.fixture
def progress() -> FakeProgress:
    """The stand-in for the display."""
    return FakeProgress()


@pytest.fixture
def host_layer(tmp_path: Path) -> HostLayer:
    """A host layer with one variable."""
    return HostLayer(path=tmp_path / "host", envs={"SSL_CERT_FILE": "/bundle"})


@pytest.fixture
def context(tmp_path: Path, sandbox: FakeSandbox, progress: FakeProgress, host_layer: HostLayer) -> StockBuildContext:
    """A context over an empty store."""
    return StockBuildContext(store=LayerStore(tmp_path / "store"), run_step=sandbox, progress=progress, host_layer=host_layer)


def test_host_configuration_is_there_online_only(context: StockBuildContext, sandbox: FakeSandbox, host_layer: HostLayer) -> None:
    """Packages are downloaded with the host layer and the network, and installed with neither."""
    build_stock_template(DEFINITION, (), context)
    run, fetch, install = sandbox.specs
    assert (run.egress, fetch.egress, install.egress) == (PUBLIC_EGRESS, PUBLIC_EGRESS, NO_EGRESS)
    assert (run.host_layer, fetch.host_layer, install.host_layer) == (host_layer.path, host_layer.path, None)
    assert "SSL_CERT_FILE" in fetch.envs
    assert "SSL_CERT_FILE" not in install.envs
    assert fetch.upper == install.upper
    assert "--download-only" in sandbox.scripts[1]
    assert "--no-download" in sandbox.scripts[2]
    assert "echo two" in sandbox.scripts[2]


def test_each_step_stands_on_the_layers_before_it(context: StockBuildContext, sandbox: FakeSandbox) -> None:
    """Layers are given lowest first, and the first step gets an empty one."""
    template = build_stock_template(DEFINITION, (), context)
    assert template.layers == layer_keys(DEFINITION, ())
    assert [path.name for path in sandbox.specs[0].layers] == ["empty"]
    assert sandbox.specs[1].layers == (context.store.rootfs(template.layers[0]),)


def test_built_layers_are_not_built_again(context: StockBuildContext, sandbox: FakeSandbox) -> None:
    """A second build runs nothing; a changed last step runs that one alone."""
    build_stock_template(DEFINITION, (), context)
    count = len(sandbox.specs)
    build_stock_template(DEFINITION, (), context)
    assert len(sandbox.specs) == count
    build_stock_template(replace(DEFINITION, steps=(RUN, replace(APT, script="echo changed\n"))), (), context)
    assert len(sandbox.specs) == count + 2


def test_the_time_of_a_build_is_that_of_its_making(context: StockBuildContext, sandbox: FakeSandbox) -> None:
    """A template carries when it was built; finding everything built keeps that time, a change renews it."""
    first = build_stock_template(DEFINITION, (), context)
    assert abs(first.created_at - time.time()) < 60
    assert build_stock_template(DEFINITION, (), context).created_at == first.created_at
    assert context.store.template(DEFINITION.name) == first
    assert build_stock_template(replace(DEFINITION, steps=(RUN,)), (), context).created_at > first.created_at


@pytest.mark.parametrize(
    "changed",
    [
        replace(RUN, script="echo other\n"),
        replace(RUN, files={"a/b.txt": "other"}),
        replace(RUN, online=False),
        replace(RUN, packages=("x",)),
        replace(RUN, kind="apt"),
    ],
)
def test_the_key_changes_with_all_that_decides_the_outcome(changed: StockStep) -> None:
    """Each part of a step that its outcome depends on is in its layer's key."""
    assert layer_keys(StockDefinition(name="t", parent=None, steps=(changed,)), ()) != layer_keys(replace(DEFINITION, steps=(RUN,)), ())


def test_the_key_does_not_change_with_what_is_only_shown() -> None:
    """A new title or time limit builds nothing again."""
    changed = replace(RUN, title="Other", timeout_s=1.0)
    assert layer_keys(replace(DEFINITION, steps=(changed,)), ()) == layer_keys(replace(DEFINITION, steps=(RUN,)), ())


def test_a_failed_step_stops_the_build_with_its_log(context: StockBuildContext, sandbox: FakeSandbox, progress: FakeProgress) -> None:
    """The error names the step, ends with the last output and says where all of it is; no layer and no record appear."""
    sandbox.code, sandbox.output = 7, b"".join(b"line %d\n" % number for number in range(100)) + b"no newline"
    with pytest.raises(BuildError, match="exit code 7") as caught:
        build_stock_template(DEFINITION, (), context)
    assert caught.value.step == "one"
    assert caught.value.log_tail.endswith("line 99\nno newline")
    assert "line 5\n" not in caught.value.log_tail
    log = Path(str(caught.value.hint).removeprefix("the whole log: "))
    assert log.read_bytes() == sandbox.output
    assert len(sandbox.specs) == 1
    assert context.store.templates() == []
    assert list((context.store.root / "layers").iterdir()) == []
    assert progress.events[-1] == "failed"


def test_a_step_that_takes_too_long_is_a_failed_build(context: StockBuildContext, sandbox: FakeSandbox) -> None:
    """The sandbox's deadline becomes a build error of the step."""
    sandbox.error = DeadlineError("the step took longer than 5 s")
    with pytest.raises(BuildError, match="longer than 5 s"):
        build_stock_template(DEFINITION, (), context)


def test_inputs_are_readable_inside_and_scripts_clean_up(context: StockBuildContext, sandbox: FakeSandbox) -> None:
    """Files are below /.build, readable by every user, and every last script removes that directory."""
    modes: list[int] = []
    sandbox_call = sandbox.__call__

    def look(spec: StepSpec, log: Callable[[bytes], None]) -> int:
        assert spec.upper is not None
        modes.extend(path.stat().st_mode & 0o777 for path in (spec.upper / ".build", *(spec.upper / ".build").rglob("*")))
        return sandbox_call(spec, log)

    build_stock_template(DEFINITION, (), replace(context, run_step=look))
    assert set(modes) == {0o755, 0o644}
    assert "rm -rf /.build" in sandbox.scripts[0]
    assert "rm -rf /.build" in sandbox.scripts[2]


def test_the_status_lines_of_apt_are_shown_but_not_kept(context: StockBuildContext, sandbox: FakeSandbox, progress: FakeProgress) -> None:
    """Progress lines go to the display, and not into the tail that explains a failure."""
    sandbox.code, sandbox.output = 1, b"pmstatus:jq:50.0:Installing jq\nE: broken\n"
    with pytest.raises(BuildError) as caught:
        build_stock_template(DEFINITION, (), context)
    assert caught.value.log_tail == "E: broken"
    assert "> pmstatus:jq:50.0:Installing jq" in progress.events
