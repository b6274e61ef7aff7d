"""Builds against the processes of the server: their memory, their time, and the turns of other teams (I6). Sandboxes are played."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import BuildError
from cloister.model.build import BuildStatus
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.node.builds.trial import TemplateTrial
from cloister.template.building.expansion import MAX_VALUE, expand
from cloister.template.images.imagerecords import read_facts
from cloister.template.layers import LayerStore
from framework.fake_build_sandboxes import FakeBuildSandboxes, FakeCancellation
from framework.fake_builds import Node, build_id, request
from framework.waiting import eventually

_ALLOWED_BYTES = 8 << 20
_ENDLESS = "tr '\\0' x < /dev/zero"


class _Deaf:
    """A log that keeps nothing, so that what grows is the server's."""

    def add(self, level: str, message: str, step: str | None = None) -> None:
        """See BuildLog."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A queue of builds of which two run at a time."""
    made = Node(tmp_path / "builds")
    yield made
    made.stages.gate.set()
    made.builds.stop()


@pytest.mark.parametrize("piece", ["${a", "${a:-", "$ {", "\\x", "${a:-$", "}${", "{${a+"])
def test_client_cannot_hold_the_server_up_by_a_value(piece: str) -> None:
    """Variables are put in by the supervisor, where nothing can stop it: in a time that grows as the text does."""
    text = piece * (MAX_VALUE // 3 // len(piece))
    began = time.process_time()
    with contextlib.suppress(BuildError):
        expand(text, {})
    assert time.process_time() - began < 2.0


def test_start_command_cannot_fill_the_servers_memory(tmp_path: Path) -> None:
    """A line without an end, which a start command may write for ten minutes, is not kept until it ends."""
    outputs = {_ENDLESS: [("stdout", b"x" * 65_536)] * 1000}
    build_sandboxes = FakeBuildSandboxes(LayerStore(tmp_path / "store"), outputs=outputs, may_be_killed=True)
    template = Template(template_id="t", name="t", build_id="b", layers=(), start_cmd=_ENDLESS)
    tracemalloc.start()
    try:
        TemplateTrial(build_sandboxes, lambda _template: Limits(), 1.0).run(template, _Deaf(), FakeCancellation(), force=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert _ENDLESS in build_sandboxes.commands
    assert peak < _ALLOWED_BYTES


def test_image_cannot_have_variables_without_bound() -> None:
    """They are kept in memory of the host for each sandbox."""
    facts = {"digest": "sha256:" + "0" * 64, "diff_ids": [], "user": "", "workdir": "", "starts": []}
    assert read_facts({**facts, "envs": {"A": "x" * 30_000}}).envs
    with pytest.raises(BuildError):
        read_facts({**facts, "envs": {f"A{number}": "x" * 30_000 for number in range(100)}})
    with pytest.raises(BuildError):
        read_facts({**facts, "envs": {}, "starts": ["x" * 1_000_000] * 10})


def test_team_cannot_keep_others_from_building(node: Node) -> None:
    """Builds that take two hours in every place do not make a team wait that has none; and there is an end to the places, too."""
    for number in range(1, 9):
        node.builds.enqueue(request(number, "greedy"))
    node.wait_begun(1, 2)
    node.builds.enqueue(request(10, "modest"))
    node.wait_begun(1, 2, 10)
    for number in (11, 12, 13):
        node.builds.enqueue(request(number, f"team-{number}"))
    node.wait_begun(1, 2, 10, 11)
    assert node.builds.counts()["building"] == 4
    for number in (10, 11):
        node.builds.cancel(build_id(number))
    eventually(lambda: build_id(13) in node.stages.begun)
    assert node.report(3).status is BuildStatus.WAITING
