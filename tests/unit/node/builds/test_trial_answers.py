"""Which of a sandbox's answers about its languages a build accepts."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.node.builds.trial import TemplateTrial
from cloister.template.layers import LayerStore
from framework.fake_build_sandboxes import FakeBuildSandboxes, FakeCancellation, RecordedLog

TEMPLATE = Template(template_id="t", name="t", build_id="b", layers=(), envs={"PATH": "/opt/bin:/usr/bin", "A": "1"}, workdir="/srv")


def found_in(tmp_path: Path, answer: dict[str, Any]) -> Template:
    """The template after a trial in which the sandbox answers so."""
    build_sandboxes = FakeBuildSandboxes(LayerStore(tmp_path / "store"), results={"inspect": answer})
    trial = TemplateTrial(build_sandboxes, lambda _template: Limits(), 1.0)
    template = trial.run(TEMPLATE, RecordedLog(), FakeCancellation(), force=False)
    assert build_sandboxes.opened[0].done[0][1]["path"] == "/opt/bin:/usr/bin"
    return template


def test_languages_come_in_our_order(tmp_path: Path) -> None:
    """Python is the first, whatever is said first; a program is kept where it is not the usual one."""
    rows = [["bash", ""], ["javascript", "/usr/bin/node"], ["typescript", "/usr/bin/node"], ["python", "/opt/bin/python3"]]
    template = found_in(tmp_path, {"languages": rows})
    assert template.languages == ("python", "javascript", "typescript", "bash")
    assert template.programs == {"python": "/opt/bin/python3"}


@pytest.mark.parametrize(
    "rows",
    [
        None,
        "python",
        [["python"]],
        [["python", 1]],
        [["python", "relative/python3"]],
        [["python", "/a\nargv=/b"]],
        [["python", "/a\0b"]],
        [["python", "/" + "x" * 1000]],
        [["cobol", "/usr/bin/cobc"]],
        [{"python": "/usr/bin/python3"}],
    ],
)
def test_sandbox_cannot_name_what_is_no_program(tmp_path: Path, rows: Any) -> None:
    """Such a language is not there; the words would become those of a program's start."""
    template = found_in(tmp_path, {"languages": rows})
    assert (template.languages, template.programs) == ((), {})


EARLIER = dataclasses.replace(TEMPLATE, build_id="c", name="other", created_at=1.0, languages=("python", "bash"), programs={"python": "/a"})


@pytest.mark.parametrize(
    ("template", "force", "is_tried"),
    [
        (TEMPLATE, False, False),
        (TEMPLATE, True, True),
        (dataclasses.replace(TEMPLATE, workdir="/"), False, True),
        (dataclasses.replace(TEMPLATE, ready_cmd="true"), False, True),
        (dataclasses.replace(TEMPLATE, envs={}), False, True),
        (dataclasses.replace(TEMPLATE, user="root"), False, True),
        (dataclasses.replace(TEMPLATE, limits=Limits(mem_mib=64)), False, True),
    ],
)
def test_the_same_template_is_not_tried_again(tmp_path: Path, template: Template, force: bool, is_tried: bool) -> None:
    """Earlier results are reused, unless a relevant field differs or the build is forced."""
    build_sandboxes = FakeBuildSandboxes(LayerStore(tmp_path / "store"), results={"inspect": {"languages": []}})
    trial = TemplateTrial(build_sandboxes, lambda _template: Limits(), 1.0, lambda: [dataclasses.replace(EARLIER, user="nobody"), EARLIER])
    found = trial.run(template, log := RecordedLog(), FakeCancellation(), force=force)
    assert bool(build_sandboxes.opened) is is_tried
    assert found.languages == (() if is_tried else EARLIER.languages)
    assert (found.build_id, found.name) == (template.build_id, template.name)
    assert is_tried is not any("CACHED" in line for line in log.lines())


@pytest.mark.parametrize(("start_cmd", "is_ahead"), [("serve", True), ("", False)])
def test_sandboxes_are_made_ahead_while_what_starts_is_tried(tmp_path: Path, start_cmd: str, is_ahead: bool) -> None:
    """Not before its languages are known, on which a sandbox depends; of what starts nothing they are made after the trial."""
    seen: list[str] = []

    @contextlib.contextmanager
    def ahead(template: Template) -> Iterator[None]:
        seen.append(f"begin with {template.languages}")
        yield
        seen.append(f"end with {build_sandboxes.commands}")

    store = LayerStore(tmp_path / "store")
    build_sandboxes = FakeBuildSandboxes(store, results={"inspect": {"languages": [["bash", ""]]}}, may_be_killed=True)
    trial = TemplateTrial(build_sandboxes, lambda _template: Limits(), 1.0, meanwhile=ahead)
    trial.run(dataclasses.replace(TEMPLATE, start_cmd=start_cmd), RecordedLog(), FakeCancellation(), force=False)
    assert seen == (["begin with ('bash',)", "end with ['serve']"] if is_ahead else [])
