"""A saved sandbox on gVisor is restored only by what can restore it; else the reason is told before anything is made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import UnavailableError
from cloister.model.resources import Limits
from cloister.runtime.gvisor.manifest import Manifest
from cloister.runtime.spec import AgentTree, SandboxSpec, Sharing

_SPEC = SandboxSpec(
    sandbox_id="one",
    sharing=Sharing(key="k"),
    directory=Path("/d"),
    layers=(Path("/l/1"),),
    agent=AgentTree((Path("/l/1"),), Path("/agent")),
    limits=Limits(),
)


def test_it_goes_on_where_it_stood(tmp_path: Path) -> None:
    """On the directories that it was saved on, whatever the template has by now; its name and memory may differ."""
    Manifest.of(_SPEC, "v1", 7).write(tmp_path)
    now = replace(_SPEC, sandbox_id="two", hostname="two", layers=(Path("/l/2"),), limits=Limits(mem_mib=2048))
    applied = Manifest.read(tmp_path).applied_to(now, "v1", 7)
    assert (applied.sandbox_id, applied.layers) == ("two", (Path("/l/1"),))


@pytest.mark.parametrize(
    ("version", "first_id", "limits", "message"),
    [
        ("v2", 7, Limits(), "saved by runsc v1, and this server has v2"),
        ("v1", 8, Limits(), "host ids that are not free"),
        ("v1", 7, Limits(pids=100), "other limits or capabilities"),
        ("v1", 7, Limits(open_files=100), "other limits or capabilities"),
    ],
)
def test_what_must_be_equal_is_compared(tmp_path: Path, version: str, first_id: int, limits: Limits, message: str) -> None:
    """Each difference has its own reason."""
    Manifest.of(_SPEC, "v1", 7).write(tmp_path)
    with pytest.raises(UnavailableError, match=message):
        Manifest.read(tmp_path).applied_to(replace(_SPEC, limits=limits), version, first_id)


def test_an_image_of_a_release_that_noted_no_limits_is_refused(tmp_path: Path) -> None:
    """Its processes had other limits than they would have now, and runsc would refuse it in words of its own."""
    Manifest.of(_SPEC, "v1", 7).write(tmp_path)
    (note,) = tmp_path.iterdir()
    old = json.loads(note.read_text())
    del old["shape"]
    note.write_text(json.dumps(old))
    with pytest.raises(UnavailableError, match="as by an earlier release"):
        Manifest.read(tmp_path).applied_to(_SPEC, "v1", 7)
