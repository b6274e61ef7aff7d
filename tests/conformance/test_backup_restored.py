"""A backup of a server under use, restored beside it: the same keys, and a template of a client, open sandboxes there."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox, Template

from framework.server import Server, running_server

pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the api process can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_restored_server_has_keys_and_templates(server: Server, place: Path) -> None:
    """A key and a template from before the backup work on the restored server; the sandbox that ran has ended there, and lives on here."""
    key = server.cli("key", "create", "for-the-backup", "--team", f"team-{uuid.uuid4().hex[:8]}").stdout.strip()
    mine = {**server.sdk, "api_key": key}
    name = f"backed-up-{uuid.uuid4().hex[:8]}"
    Template.build(Template().from_template("base").run_cmd("echo kept > /home/user/kept"), name, **mine)
    with Sandbox.create(name, **mine) as running:
        made = json.loads(server.cli("backup", "--no-layers", "--json", str(place / "backup.tar")).stdout)
        assert made["templates"] >= 1
        restored = place / "data"
        server.cli("restore", "--json", str(place / "backup.tar"), "--data-dir", str(restored))
        refused = server.cli("restore", "--replace", str(place / "backup.tar"), check=False)
        assert (refused.returncode, "a server runs on this data directory" in refused.stderr) == (1, True)
        with running_server(data_dir=restored) as other:
            there = {**other.sdk, "api_key": key}
            with Sandbox.create(name, **there) as sandbox:
                assert sandbox.files.read("/home/user/kept") == "kept\n"
            assert running.sandbox_id not in {one.sandbox_id for one in Sandbox.list(**there).next_items()}
        assert running.files.read("/home/user/kept") == "kept\n"
