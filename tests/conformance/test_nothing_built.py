"""A server on which no template was built: its operator and its clients are told what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2b import Sandbox, SandboxException

from framework.server import running_server
from framework.waiting import eventually

pytestmark = pytest.mark.root


def test_operator_and_clients_are_told_the_remedy(tmp_path: Path) -> None:
    """At the start, and by each creation, which is refused and leaves nothing."""
    with running_server("--store-dir", str(tmp_path / "store")) as server:
        remedy = "run: cloister template build all"
        eventually(lambda: f"no sandbox can be created yet: template 'base' is not built ({remedy})" in server.log.read_text())
        with pytest.raises(SandboxException, match=r"404: .*cloister template build all"):
            Sandbox.create("code-interpreter-v1", **server.sdk)
