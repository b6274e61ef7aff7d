"""JavaScript cells against `node file.cjs` and `node file.mjs` in the same sandbox."""

from __future__ import annotations

import pytest
from e2b_code_interpreter import OutputMessage, Result, Sandbox

from framework.node_oracle import unlike
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

ON_PURPOSE = {
    "language: temporal dead zone": "V8's REPL mode calls a name of the top level undefined before its declaration",
    "errors: syntax json as code": "an object literal is an expression",
}
"""Programs that a cell runs in another way, and why; docs/languages.md lists the kinds."""


def test_cells_do_what_node_does(server: Server) -> None:
    """Output, its order, exit codes, names, messages and lines of errors are those of node, all programs in one context."""
    with Sandbox.create("code-interpreter-v1", timeout=600, **server.sdk) as sandbox:
        wrong = unlike(sandbox, "javascript", ON_PURPOSE)
    assert not wrong, "\n".join(f"{name}\n    " + "\n    ".join(texts or ["differs no more"]) for name, texts in wrong.items())


def test_results_keep_their_place_among_all_that_is_written(server: Server) -> None:
    """Results of display() arrive in order with text from the console, children and descriptors."""
    seen: list[str] = []

    def text(message: OutputMessage) -> None:
        seen.extend(message.line.split())

    def result(shown: Result) -> None:
        seen.append(f"r{shown.text}")

    code = """const { execSync } = require('child_process'), fs = require('fs');
    for (let i = 0; i < 60; i++) {
      console.log(`b${i}`); display(i); console.log(`a${i}`);
      if (i % 10) continue;
      fs.writeSync(1, `w${i}\\n`); display(`x${i}`); execSync(`echo c${i}`, {stdio: 'inherit'}); process.stdout.write(`p${i}\\n`);
    }"""
    with Sandbox.create("code-interpreter-v1", timeout=120, **server.sdk) as sandbox:
        sandbox.run_code(code, language="javascript", on_stdout=text, on_result=result)
    expected = [[f"b{i}", f"r{i}", f"a{i}", *([f"w{i}", f"rx{i}", f"c{i}", f"p{i}"] if i % 10 == 0 else [])] for i in range(60)]
    assert seen == [word for words in expected for word in words]
