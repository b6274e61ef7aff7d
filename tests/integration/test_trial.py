"""The end of a build in real sandboxes: what a template starts is tried, and its languages are found."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from cloister.errors import BuildError
from cloister.model.network import NO_EGRESS
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.node.builds.trial import TemplateTrial
from cloister.template.interfaces import BuildSandboxSpec, ShellCommand
from cloister.template.layers import LayerStore
from framework.build_node import BuildNode, NoCancellation, build_node
from framework.fake_build_sandboxes import RecordedLog
from framework.template_store import real_store
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

LIMITS = Limits(cpu_count=2.0, mem_mib=1024, disk_mib=1024)
ALL = ("python", "javascript", "typescript", "r", "java", "bash")


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """A node that has the layers of the code interpreter too."""
    with build_node() as made:
        for key in interpreter().layers:
            link = made.store.root / "layers" / key
            if not link.exists():
                link.symlink_to(real_store() / "layers" / key)
        yield made


def interpreter() -> Template:
    """The stock code interpreter, whose languages are still to be found."""
    return dataclasses.replace(LayerStore(real_store()).template("code-interpreter-v1"), languages=())


def with_layer(node: BuildNode, script: str) -> Template:
    """The code interpreter after ``script``."""
    template = interpreter()
    spec = BuildSandboxSpec(limits=LIMITS, egress=NO_EGRESS)
    with node.build_sandboxes.open(template.layers, spec, NoCancellation()) as box:
        said: list[bytes] = []
        assert box.run(ShellCommand(text=script, user="root"), lambda _kind, data: said.append(data)) == 0, said
        layer = box.publish(secrets.token_hex(32), "test")
    assert layer is not None
    return dataclasses.replace(template, layers=(*template.layers, layer.key))


def try_it(node: BuildNode, template: Template, timeout_s: float = 20.0) -> tuple[Template, RecordedLog]:
    """What a trial finds, and what it says."""
    log = RecordedLog()
    return trial(node, timeout_s).run(template, log, NoCancellation(), force=True), log


def trial(node: BuildNode, timeout_s: float) -> TemplateTrial:
    """Trials on the node."""
    return TemplateTrial(node.build_sandboxes, lambda _template: LIMITS, timeout_s)


def starting(start_cmd: str, ready_cmd: str = "") -> Template:
    """The base template with these."""
    base = LayerStore(real_store()).template("base")
    return dataclasses.replace(base, start_cmd=start_cmd, ready_cmd=ready_cmd)


def test_languages_are_those_that_start(node: BuildNode) -> None:
    """All six of the stock code interpreter, python first, each by its usual program."""
    found, log = try_it(node, interpreter())
    assert (found.languages, found.programs) == (ALL, {})
    assert log.lines() == [f"Languages of run_code: {', '.join(ALL)}"]


def test_without_ipython_there_is_no_python(node: BuildNode) -> None:
    """The base template has a Python, and the log says what it lacks."""
    found, log = try_it(node, node.base)
    assert "python" not in found.languages
    assert found.languages[-1] == "bash"
    assert any("needs IPython" in line for line in log.lines())


def test_python_of_a_virtual_environment_on_the_path_is_taken(node: BuildNode) -> None:
    """As in a shell, the first that works; one that hangs, fails or is no program is passed over."""
    script = "python3 -m venv --system-site-packages /opt/venv; mkdir -p /opt/bad /opt/dir/python3; "
    script += "printf '#!/bin/sh\\nexit 1\\n' > /opt/bad/python3; chmod +x /opt/bad/python3"
    template = dataclasses.replace(with_layer(node, script), envs={"PATH": "/opt/dir:/opt/bad:relative:/opt/venv/bin:/usr/bin:/bin"})
    found, _ = try_it(node, template)
    assert (found.languages[0], found.programs) == ("python", {"python": "/opt/venv/bin/python3"})


def _of_sandboxes(survey: Sequence[str]) -> list[str]:
    """Without the zones, which stay."""
    return [line for line in survey if "slot maker" not in line and "zone-" not in line]


def test_a_start_that_succeeds_is_in_the_log(node: BuildNode) -> None:
    """Output of the start command as it comes, the step's name with each entry, and nothing of the sandbox afterwards."""
    before = node.host.survey()
    template = starting("id -un; pwd; echo half; echo err >&2; touch up; exec sleep infinity", "test -e up")
    found, log = try_it(node, template)
    assert (found.start_cmd, found.ready_cmd) == (template.start_cmd, template.ready_cmd)
    lines = [line for message in log.lines() for line in message.splitlines()]
    assert {"user", "/home/user", "half", "err", "The template is ready"} <= set(lines)
    assert {step for _level, _message, step in log.entries} == {"finalize"}
    eventually(lambda: _of_sandboxes(node.host.survey()) == _of_sandboxes(before))


@pytest.mark.parametrize(
    ("start_cmd", "ready_cmd", "message"),
    [
        ("echo out of cheese; exit 3", "false", "start command .* ended before the sandbox was ready: exit status 3; .*\nout of cheese"),
        ("no-such-program", "", "start command 'no-such-program' ended .* exit status 127; .*command not found"),
        ("sleep infinity", "echo not yet; exit 7", r"within 3 s: it was run \d+ times, the last one: exit status 7; .*\nnot yet"),
        ("", "sleep infinity", "did not succeed within 3 s: it did not end"),
        ("true", "false", "did not succeed within 3 s; the start command has ended with status 0: it was run"),
    ],
)
def test_a_start_that_fails_names_its_cause(node: BuildNode, start_cmd: str, ready_cmd: str, message: str) -> None:
    """Which command, how, what it said; the fault is of the step finalize, and comes in time."""
    began = time.monotonic()
    with pytest.raises(BuildError, match=f"(?s){message}") as caught:
        try_it(node, starting(start_cmd, ready_cmd), timeout_s=3.0)
    assert caught.value.step == "finalize"
    assert time.monotonic() - began < 20


def test_a_start_command_may_end_well(node: BuildNode) -> None:
    """Status 0 is no fault, before the ready command passes or without one."""
    try_it(node, starting("touch up", "sleep 0.5; test -e up"))
    try_it(node, starting("true"))


class Cancelled(RecordedLog):
    """A build, and its log, that is cancelled a moment after the ready command was begun."""

    def __init__(self) -> None:
        super().__init__()
        self.was = threading.Event()
        self._stops: list[Callable[[], None]] = []

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See :class:`BuildLog`."""
        super().add(level, message, step)
        if message.startswith("Waiting for"):
            threading.Timer(1.0, self._cancel).start()

    def _cancel(self) -> None:
        self.was.set()
        for stop in self._stops:
            stop()

    def check(self) -> None:
        """See :class:`Cancellation`."""
        if self.was.is_set():
            raise BuildError("the build was cancelled")

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """See :class:`Cancellation`."""
        self._stops.append(stop)
        yield
        self._stops.remove(stop)


@pytest.mark.parametrize("ready_cmd", ["false", "sleep infinity"])
def test_a_cancellation_ends_it(node: BuildNode, ready_cmd: str) -> None:
    """Between two runs of the ready command and during one, and says so."""
    build = Cancelled()
    began = time.monotonic()
    with pytest.raises(BuildError, match="the build was cancelled"):
        trial(node, 600.0).run(starting("sleep infinity", ready_cmd), build, build, force=True)
    assert time.monotonic() - began < 60
