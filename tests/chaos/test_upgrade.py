"""An upgrade with live sandboxes, and the way back: the commands of docs/howto/upgrade.md on whole servers of three releases.

The older release is a commit of this repository's history. A shallow clone lacks it: then the present release stands in for it. The newer
one is the present code with one more migration, so that its database is of no use to the present one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from cloister.store.migrate import newest_schema
from framework.inside import python
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
OLDER = "ed282b9f1982317c419feb4d506af9509d01a912"
"""The commit of the older release. Move it forward when the stock templates of this one have to be built anew, which takes minutes."""
NEWER_SCHEMA = newest_schema() + 1


@dataclass(frozen=True)
class Releases:
    """Source directories, which replace the present one when they are first in PYTHONPATH."""

    older: Path
    newer: Path


@pytest.fixture
def releases(stock_templates: None) -> Iterator[Releases]:
    """Both, with the agent of the older one built."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        older, newer = place / "older" / "src", place / "newer" / "src"
        for source in (older, newer):
            shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", OLDER, "src"], capture_output=True, check=False)
        if archive.returncode == 0:
            shutil.rmtree(older / "cloister")
            subprocess.run(["tar", "-x", "-C", str(older.parent)], input=archive.stdout, check=True)
            native = older / "cloister" / "runtime" / "namespace" / "native" / "build.sh"
            (older / "cloister" / "bin").mkdir(exist_ok=True)
            subprocess.run(["sh", str(native), str(older / "cloister" / "bin")], check=True, capture_output=True)
        migration = newer / "cloister" / "store" / "migrations" / f"{NEWER_SCHEMA:04d}_newer.sql"
        migration.write_text("CREATE TABLE of_the_newer_release (note TEXT);\n")
        yield Releases(older, newer)


def again(server: Server) -> AbstractContextManager[Server]:
    """Start a server on the same data directory and address, which keeps its sandboxes at a stop."""
    return running_server("--on-stop", "keep", "--listen", server.url.removeprefix("http://"), data_dir=server.data_dir)


def test_sandboxes_live_through_an_upgrade_and_the_way_back(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs and one that is paused keep their memory from release to release, and after the documented way back."""
    monkeypatch.setenv("PYTHONPATH", str(releases.older))
    with running_server("--on-stop", "keep") as server:
        server.cli("template", "build", "base")
        running, paused = sandboxes = [Sandbox.create(timeout=900, **server.sdk) for _ in range(2)]
        for sandbox in sandboxes:
            python(sandbox, "kept = 7")
        paused.pause()
        assert server.stop() == 0
        monkeypatch.delenv("PYTHONPATH")
        with again(server) as present:
            assert python(running, "print(kept)") == "7"
            with Sandbox.create(**present.sdk) as new:
                assert python(new, "print(1)") == "1"
            assert present.stop() == 0
            monkeypatch.setenv("PYTHONPATH", str(releases.newer))
            with again(server) as newer:
                assert python(running, "print(kept)") == "7"
                assert newer.stop() == 0
                monkeypatch.delenv("PYTHONPATH")
                refused = server.cli("serve", "--listen", "127.0.0.1:0", check=False)
                assert (refused.returncode, f"its schema is {NEWER_SCHEMA}" in refused.stderr) == (2, True)
                command = re.search(r"cloister (restore --replace \S+\.db)", refused.stderr)
                assert command, refused.stderr
                assert server.cli("status", "--json", check=False).stdout.count('"sandbox_id"') == 2, "the refused start ended a sandbox"
                monkeypatch.setenv("PYTHONPATH", str(releases.newer))
                server.cli(*command[1].split())
                monkeypatch.delenv("PYTHONPATH")
                with again(server) as back:
                    assert python(running, "print(kept)") == "7"
                    assert python(Sandbox.connect(paused.sandbox_id, timeout=300, **back.sdk), "print(kept)") == "7"
                    assert running.kill()
                    assert paused.kill()
