"""A trial of ``runsc`` leaves nothing on the host, whenever it is cut off."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from cloister.config.load import load
from cloister.errors import UnavailableError
from cloister.runtime.gvisor import probe
from cloister.runtime.gvisor.probe import probe_runsc
from cloister.runtime.gvisor.program import find_runsc

pytestmark = [pytest.mark.root]

_HANGS = """#!/bin/sh
own=${TMPDIR:-/tmp}/runsc-do-trial
mkdir "$own"
touch "$own/null-netns"
mount --bind /proc/self/ns/net "$own/null-netns"
setsid sh -c 'while :; do sleep 1; done' kernel --root="$own" &
echo "$own $!" > SAID
wait
"""
"""As ``runsc do``: a mount and a process outside its session, which it removes when it ends by itself."""


def test_a_trial_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mount, no process and no directory."""
    monkeypatch.setattr(probe, "_TIMEOUT_S", 2.0)
    said, program = tmp_path / "said", tmp_path / "runsc"
    program.write_text(_HANGS.replace("SAID", str(said)))
    program.chmod(0o755)
    with pytest.raises(UnavailableError, match="did not run a program within 2 s"):
        probe_runsc(program)
    directory, pid = said.read_text().split()
    assert f" {directory}/" not in Path("/proc/self/mountinfo").read_text()
    assert not Path(directory).exists()
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or ") Z " in stat.read_text()


@pytest.mark.usefixtures("runsc")
def test_a_trial_that_works_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real program, with a directory for temporary files that only it uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    probe_runsc(find_runsc(None, load(None, os.environ).store_dir).path)
    assert not list(tmp_path.iterdir())
    assert f" {tmp_path}/" not in Path("/proc/self/mountinfo").read_text()
