"""More templates than a node has zones, used one after another: each creation works, and what idle ones hold comes back."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cloister.model.sandbox import SandboxRequest
from cloister.node import catalog as catalog_module
from cloister.node.creation.steps import CreationSteps
from cloister.node.journal import Journal
from cloister.node.memory_reserve import HostReserve, MemoryReserve
from cloister.runtime.blocks import BLOCKS
from framework.build_node import BuildNode, build_node

pytestmark = [pytest.mark.root, pytest.mark.templates]

TEMPLATES = 17
NO_RESERVE = HostReserve(0, MemoryReserve(0))


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """A node whose templates are the base template by other programs, so that each has a zone of its own."""
    with build_node() as made:
        yield made


def keys_of(node: BuildNode) -> list[str]:
    """The templates of live zones, in the order of their numbers."""
    return [line.rpartition(" ")[2] for line in node.host.runtime.survey() if line.startswith("slot maker")]


def held_mib(node: BuildNode) -> float:
    """What the control groups of the zones hold."""
    tree = node.host.resources.groups.tree
    return float(sum(tree.usage(name).mem_used_bytes for name in tree.names() if name.startswith("zone-"))) / (1 << 20)


def test_more_templates_than_zones(node: BuildNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is created from; the least recently used idle zone makes room, never one with a live sandbox; all comes back."""
    journal = Journal(node.place.store.root / "journal", node.place.store.root / "copies")
    journal.open()
    steps = CreationSteps(node.host.runtimes, node.catalog, journal, NO_RESERVE, cast("Any", None))
    monkeypatch.setattr(catalog_module, "zone_key", lambda template, _agent, _team_id: template.name)
    base = node.base
    templates = {f"t{number}": dataclasses.replace(base, name=f"t{number}") for number in range(TEMPLATES)}
    monkeypatch.setattr(node.catalog, "find", templates.__getitem__)

    def create(name: str) -> tuple[float, Any]:
        request = SandboxRequest(sandbox_id=f"many{name}x{time.monotonic_ns()}", template=name, end_at=time.time() + 600)
        began = time.monotonic()
        sandbox = steps.make(request, steps.resolve(name, "")).sandbox
        return time.monotonic() - began, (request.sandbox_id, sandbox)

    def prepare(name: str) -> None:
        example = SandboxRequest(sandbox_id="example", template=name, end_at=0.0)
        steps.prepare(example, steps.resolve(name, ""))

    seconds = []
    _, (kept_id, kept) = create("t0")
    for name in list(templates)[1:]:
        took, (sandbox_id, sandbox) = create(name)
        seconds.append(round(took, 3))
        steps.discard(sandbox_id, sandbox)
    assert keys_of(node)[0] == "t0"
    assert sorted(keys_of(node)) == sorted(["t0", *list(templates)[-(BLOCKS - 1) :]])
    prepare("t16")
    ready_s, (sandbox_id, sandbox) = create("t16")
    steps.discard(sandbox_id, sandbox)
    again_s, (sandbox_id, sandbox) = create("t1")  # its zone was given to another
    steps.discard(sandbox_id, sandbox)
    for name in keys_of(node):
        prepare(name)
    full_mib = held_mib(node)
    print({"first_s": seconds, "ready_s": round(ready_s, 3), "zone_again_s": round(again_s, 3), "held_mib": full_mib})
    given_back: list[str] = []
    deadline = time.monotonic() + 20
    while len(given_back) < BLOCKS - 1:  # the last sandbox's slot is given back behind its end
        assert time.monotonic() < deadline, given_back
        given_back += node.host.runtime.let_go(-1.0)
        time.sleep(0.05)
    assert keys_of(node) == ["t0"]
    assert held_mib(node) < full_mib / 5
    assert kept.usage().mem_limit_bytes
    steps.discard(kept_id, kept)
    deadline = time.monotonic() + 20
    while not node.host.runtime.let_go(-1.0):  # its slot is given back behind its end
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not [name for name in node.host.resources.groups.tree.names() if name.startswith("zone-")]
