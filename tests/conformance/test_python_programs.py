"""Python programs of users through the SDK: behaviour that other languages do not share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for all programs."""
    made = Sandbox.create(timeout=900, **server.sdk)
    yield made
    made.kill()


def events(sandbox: Sandbox, code: str) -> list[str]:
    """Lines of output in order, with ``<text>`` for a result."""
    seen: list[str] = []
    execution = sandbox.run_code(
        code,
        timeout=120,
        on_stdout=lambda message: seen.append(message.line),
        on_stderr=lambda message: seen.append(message.line),
        on_result=lambda result: seen.append(f"<{'figure' if result.png else result.text}>\n"),
    )
    assert execution.error is None, execution.error
    return "".join(seen).splitlines()


@pytest.mark.parametrize(
    ("code", "each", "times"),
    [
        ("print(f'b{i}'); display(i); print(f'a{i}')", ["b{}", "<{}>", "a{}"], 60),
        ("print(f'b{i}', file=sys.stderr); display(i); print(f'a{i}', file=sys.stderr)", ["b{}", "<{}>", "a{}"], 20),
        ("os.system(f'echo b{i}'); display(i); subprocess.run(['echo', f'a{i}'])", ["b{}", "<{}>", "a{}"], 20),
        ("c.printf(b'b%d\\n', i); c.fflush(None); display(i); c.printf(b'a%d\\n', i); c.fflush(None)", ["b{}", "<{}>", "a{}"], 20),
        ("print(f'b{i}'); plt.plot([i]); plt.show(); print(f'a{i}')", ["b{}", "<figure>", "a{}"], 4),
    ],
    ids=["print", "stderr", "children", "C", "plots"],
)
def test_results_come_between_the_text_around_them(sandbox: Sandbox, code: str, each: list[str], times: int) -> None:
    """A result arrives after what was written before it and before what is written next, by whomever."""
    setup = "import ctypes, os, subprocess, sys\nimport matplotlib.pyplot as plt\nc = ctypes.CDLL(None)\n"
    loop = f"for i in range({times}):\n    {code}\n"
    assert events(sandbox, setup + loop) == [line.format(i) for i in range(times) for line in each]
