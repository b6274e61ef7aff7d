"""Jupyter kernels as languages, through both official SDKs: ipykernel by a name of its own, and one that is not Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import TimeoutException
from e2b_code_interpreter import Sandbox

from framework.inside import shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]
JS = Path(__file__).parent / "js"
IPY = "ipy"


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox in which ipykernel is a language named ``ipy``, installed while it lives."""
    made = Sandbox.create(timeout=900, envs={"FROM_SANDBOX": "yes"}, **server.sdk)
    with pytest.raises(Exception, match=r"Available: python, .*bash$"):
        made.run_code("1", language=IPY)
    done = shell(made, "python3 -m ipykernel install --name ipy --prefix /usr/local", timeout=60)
    assert done.status == 0, done.text
    yield made
    made.kill()


def printed(sandbox: Sandbox, code: str, language: str = IPY) -> str:
    """What the code printed; it must not fail."""
    execution = sandbox.run_code(code, language=language, timeout=120)
    assert execution.error is None, execution.error
    return "".join(execution.logs.stdout)


def test_state_streaming_results_and_errors(sandbox: Sandbox) -> None:
    """State is kept, lines come as they are printed, each result has its types, an error its name and traceback; the counter counts."""
    sandbox.run_code("kept = 41", language=IPY, timeout=60)
    seen: list[tuple[float, str]] = []
    code = "import time\nprint(kept + 1); time.sleep(1); print('end')"
    sandbox.run_code(code, language=IPY, on_stdout=lambda message: seen.append((time.monotonic(), message.line)))
    assert [line for _, line in seen] == ["42\n", "end\n"]
    assert seen[1][0] - seen[0][0] > 0.7
    code = "from IPython.display import HTML, display\nimport matplotlib.pyplot as plt\ndisplay(HTML('<b>h</b>'))\nplt.plot([1]); plt.show()\n'last'"
    results = sandbox.run_code(code, language=IPY, timeout=60).results
    assert results[0].html == "<b>h</b>"
    assert results[1].png
    assert (results[2].text, results[2].is_main_result) == ("last", True)
    failed = sandbox.run_code("1/0", language=IPY)
    assert failed.error is not None
    assert failed.error.name == "ZeroDivisionError"
    assert "line 1" in failed.error.traceback
    assert sandbox.run_code("1", language=IPY).execution_count == (failed.execution_count or 0) + 1


def test_results_come_between_the_text_around_them(sandbox: Sandbox) -> None:
    """A result arrives after what was printed before it and before what is printed next."""
    seen: list[str] = []
    code = "for i in range(60): print(f'b{i}'); display(i); print(f'a{i}')"
    sandbox.run_code(
        code, language=IPY, on_stdout=lambda message: seen.append(message.line), on_result=lambda result: seen.append(f"{result.text}\n")
    )
    assert "".join(seen) == "".join(f"b{i}\n{i}\na{i}\n" for i in range(60))


def test_time_out_stops_the_code_and_keeps_the_state(sandbox: Sandbox) -> None:
    """An endless loop ends with the client's patience; the next run remembers."""
    printed(sandbox, "kept = 41")
    with pytest.raises(TimeoutException):
        sandbox.run_code("while True: pass", language=IPY, timeout=1.5)
    assert printed(sandbox, "print(kept + 1)") == "42\n"


def test_much_output_arrives_whole(sandbox: Sandbox) -> None:
    """Not a line of two hundred thousand is lost."""
    assert printed(sandbox, "for i in range(200_000): print(i)") == "".join(f"{i}\n" for i in range(200_000))


def test_death_is_named_and_the_next_run_works(sandbox: Sandbox) -> None:
    """A kernel that is ended by its code says how; the next run has a new one."""
    for code, reason in (("import os; os._exit(3)", "exit code 3"), ("x = []\nwhile True: x.append(bytearray(50_000_000))", "memory")):
        died = sandbox.run_code(code, language=IPY, timeout=120)
        assert died.error is not None
        assert reason in died.error.value
        assert printed(sandbox, "print('alive')") == "alive\n"


def test_variables_and_input(sandbox: Sandbox) -> None:
    """The sandbox's variables are there, those of a run are refused, and so is input."""
    assert printed(sandbox, "import os; print(os.environ['FROM_SANDBOX'])") == "yes\n"
    refused = sandbox.run_code("print('ran')", language=IPY, envs={"A": "1"})
    assert refused.error is not None
    assert (refused.error.name, refused.logs.stdout) == ("EnvsNotSupported", [])
    asked = sandbox.run_code("input('?')", language=IPY)
    assert asked.error is not None
    assert asked.error.name == "StdinNotImplementedError"


def test_contexts(sandbox: Sandbox) -> None:
    """Contexts of such a language have their own state and directory, and can be listed, restarted and removed."""
    context = sandbox.create_code_context(language="IPY", cwd="/tmp")
    assert (context.language, context.cwd) == (IPY, "/tmp")
    assert sandbox.run_code("import os; mine = 1; os.getcwd()", context=context).text == "/tmp"
    assert "mine" not in printed(sandbox, "print(*globals())").split()
    assert context.id in [one.id for one in sandbox.list_code_contexts()]
    sandbox.restart_code_context(context)
    assert sandbox.run_code("mine", context=context, timeout=60).error is not None
    sandbox.remove_code_context(context)
    assert context.id not in [one.id for one in sandbox.list_code_contexts()]


def test_a_kernel_from_debian(server: Server) -> None:
    """PARI/GP, which is neither Python nor in the stock templates: installed in a live sandbox and used by its language's name."""
    with Sandbox.create("base", timeout=600, **server.sdk) as made:
        script = "apt-get update -q && apt-get install -y -q --no-install-recommends xeus-gp"
        made.commands.run(script, user="root", timeout=300)
        assert printed(made, "x = 41;", "gp") == ""
        assert printed(made, "print(x + 1)", "xeus-gp") == "42\n"
        assert "svg" in (made.run_code("ploth(t = 0, 6, sin(t));", language="gp").results[0].html or "")
        assert made.run_code("1/0", language="gp").error is not None
        with pytest.raises(TimeoutException):
            made.run_code("while(1, )", language="gp", timeout=1.5)
        assert printed(made, "print(x + 1)", "gp") == "42\n"


@pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(), reason="needs Node and `npm ci` in tests/conformance/js"
)
def test_through_the_javascript_sdk(server: Server, sandbox: Sandbox) -> None:
    """The JavaScript SDK runs code in it, with state, errors and a context."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **server.environ}
    command = ["node", "kernelspecs.mjs", sandbox.sandbox_id]
    done = subprocess.run(command, cwd=JS, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "lines": ["42\n"],
        "text": "41",
        "html": "<b>h</b>",
        "error": "ZeroDivisionError",
        "context": ["ipy", "/tmp"],
        "timeout": "TimeoutError",
        "after": "41",
    }
