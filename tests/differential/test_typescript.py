"""TypeScript cells against the `typescript` package and `node` in the same sandbox."""

from __future__ import annotations

import pytest
from e2b_code_interpreter import Sandbox

from framework.node_oracle import unlike
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

ON_PURPOSE: dict[str, str] = {}
"""Programs that a cell runs in another way, and why; docs/languages.md lists the kinds."""


def test_cells_do_what_the_compiler_and_node_do(server: Server) -> None:
    """Output, its order, exit codes, names, messages and lines of errors are those of the compiled program, all in one context."""
    with Sandbox.create("code-interpreter-v1", timeout=600, **server.sdk) as sandbox:
        wrong = unlike(sandbox, "typescript", ON_PURPOSE)
    assert not wrong, "\n".join(f"{name}\n    " + "\n    ".join(texts or ["differs no more"]) for name, texts in wrong.items())
