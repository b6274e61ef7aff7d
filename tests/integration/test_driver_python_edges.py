"""The Python driver at the edges: streams that a cell broke, late signals, questions to a person, errors and values that are too long."""

from __future__ import annotations

from typing import Any

import pytest

from framework.driver_root import DriverProcess
from framework.waiting import eventually


def said(kernel: DriverProcess, code: str, end: str = "end") -> tuple[str, str]:
    """Bytes of a cell on descriptors 1 and 2; the cell prints ``end`` last."""
    kernel.raw_stdout.clear()
    kernel.raw_stderr.clear()
    messages = kernel.execute(f"{code}\nprint({end!r}); print({end!r}, file=sys.stderr)")
    assert not [one for one in messages if one["op"] == "error"], messages
    eventually(lambda: all(bytes(raw).endswith(f"{end}\n".encode()) for raw in (kernel.raw_stdout, kernel.raw_stderr)), 5)
    return bytes(kernel.raw_stdout).decode(), bytes(kernel.raw_stderr).decode()


def error(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The run's error."""
    (found,) = [message for message in messages if message["op"] == "error"]
    return found


BREAKING = (
    "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8'); sys.stderr = io.TextIOWrapper(sys.stderr.buffer, 'utf-8')",
    "sys.stdout = sys.__stdout__; sys.stderr = sys.__stderr__; file = os.fdopen(sys.stdout.fileno(), 'w'); del file",
    "file = os.fdopen(sys.stdout.fileno(), 'w'); del file",
    "os.close(1); os.close(2)",
    "sys.stdout.flush(); fd = os.open('/tmp/other', os.O_CREAT | os.O_WRONLY); os.dup2(fd, 1); os.dup2(fd, 2)",
    "sys.stdout.close(); sys.stderr.close()",
    "kept = sys.stdout.detach(); sys.stderr.detach()",
    "sys.stdout = None; sys.stderr = None",
    "os.set_blocking(1, False)",
    "with open(1, 'w') as out: out.write('in a file object\\n')",
    "sys.stdout.reconfigure(encoding='utf-8', errors='strict', line_buffering=True)",
)


def test_the_next_run_prints_whatever_a_cell_did_to_the_streams(python: DriverProcess) -> None:
    """Wrapped, closed, detached, replaced and redirected streams and descriptors: the next cell prints, and so do its children."""
    python.execute("import io, os, sys, subprocess")
    for code in BREAKING * 2:
        python.execute(code)
        assert said(python, "print('x' * 200_000); os.system('echo child')") == ("x" * 200_000 + "\nchild\nend\n", "end\n"), code


def test_a_stream_of_the_users_stays(python: DriverProcess) -> None:
    """A file object that a cell put in the place of sys.stdout is there in the next cell too."""
    python.execute("import io, sys\nsys.stdout = io.StringIO()\nprint('kept')")
    assert [one["data"]["text/plain"] for one in python.execute("sys.stdout.getvalue()") if one["op"] == "result"] == ["'kept\\n'"]


def test_a_signal_handler_between_cells(python: DriverProcess) -> None:
    """It runs; what it prints and raises is the next run's output; the kernel goes on. So with a task that exits."""
    python.execute(
        "import signal, sys\ndef late(*_):\n    print('late')\n    raise RuntimeError('raised late')\n"
        "signal.signal(signal.SIGALRM, late)\nsignal.setitimer(signal.ITIMER_REAL, 0.2);"
    )
    eventually(lambda: b"raised late" in bytes(python.raw_stderr), 5)
    assert bytes(python.raw_stdout) == b"late\n"
    text = bytes(python.raw_stderr).decode()
    assert "line 4, in late" in text
    assert "drivers" not in text
    python.execute("import asyncio\nasync def leave():\n    await asyncio.sleep(0.1)\n    sys.exit(3)\ntask = asyncio.create_task(leave())")
    eventually(lambda: b"SystemExit: 3" in bytes(python.raw_stderr), 5)
    assert said(python, "") == ("end\n", "end\n")


def test_a_signal_handler_that_raises_tears_no_message(python: DriverProcess) -> None:
    """A handler that raises or displays while a large result is being sent leaves the result whole."""
    python.execute(
        "import os, signal\nclass Late(Exception): pass\nshown = 0\n"
        "def late(_, frame):\n    global shown\n    if frame.f_code.co_name != '_write_whole': return\n"
        "    shown += 1\n    os.write(2, b'.')\n    if shown % 2: raise Late\n    display('from the handler')\n"
        "signal.signal(signal.SIGALRM, late);"
    )
    python.send({"op": "execute", "id": 2, "code": "signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)\ndisplay('q' * 8_000_000)", "envs": {}})
    # The result is larger than the buffer of the socket: it waits for us, and the handler runs.
    eventually(lambda: bytes(python.raw_stderr).count(b".") > 1, 10)
    assert len(python.receive()["data"]["text/plain"]) == 8_000_002
    while python.receive()["op"] != "done":
        continue
    python.execute("signal.setitimer(signal.ITIMER_REAL, 0);")


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("input('name? ')", "input()"),
        ("import getpass\ngetpass.getpass()", "getpass()"),
        ("breakpoint()", "debugger"),
        ("def f():\n    import pdb; pdb.set_trace()\n    return 1\nf()", "debugger"),
        ("import pdb\npdb.pm()", "debugger"),
        ("%debug", "debugger"),
    ],
)
def test_a_question_fails_at_once(python: DriverProcess, code: str, asked: str) -> None:
    """The error says what happened and what to do; its traceback ends at the user's call; the state is kept."""
    python.execute("kept = 1\n1 / 0")
    found = error(python.execute(code))
    assert found["name"] == "StdinNotImplementedError"
    assert asked in found["value"]
    assert "no one can answer" in found["value"]
    for hidden in ("drivers", "bdb.py", "pdb.py", "cloister_kernel"):
        assert hidden not in found["traceback"]
    python.execute(f"try:\n    {code.splitlines()[0] if asked == 'input()' else 'input()'}\nexcept EOFError:\n    kept += 1")
    assert [one["data"]["text/plain"] for one in python.execute("kept") if one["op"] == "result"] == ["2"]


def test_reading_standard_input(python: DriverProcess) -> None:
    """It is at its end, which stderr says once a run; a file that the cell puts there is read."""
    note = "The program reads standard input, which is empty here. Put the data into a variable or a file.\n"
    code = "import os, sys\nprint(repr(sys.stdin.read()), repr(sys.stdin.readline()), list(sys.stdin), os.read(0, 9))"
    assert said(python, code) == ("'' '' [] b''\nend\n", f"{note}end\n")
    code = "fd = os.open('/etc/hostname', os.O_RDONLY); null = os.dup(0); os.dup2(fd, 0)\nsys.stdin.read(); os.dup2(null, 0);"
    assert said(python, code) == ("end\n", "end\n")


DEEP = (
    ("def f(n):\n    return f(n + 1)\nf(0)", ("line 3", "in f(n)")),
    ("def f(n):\n    return g(n + 1)\ndef g(n):\n    return f(n + 1)\nf(0)", ("line 5", "in f(n)", "in g(n)")),
)


@pytest.mark.parametrize(("code", "lines"), DEEP, ids=["self", "mutual"])
def test_a_deep_recursion_is_shortened(python: DriverProcess, code: str, lines: tuple[str, ...]) -> None:
    """Name, value and the user's lines are right, how many frames are left out is told, and what is rendered does not grow with depth."""
    sizes = []
    for limit in (1_000, 10_000, 50_000):
        found = error(python.execute(f"import sys; sys.setrecursionlimit({limit})\n{code}"))
        assert (found["name"], found["value"]) == ("RecursionError", "maximum recursion depth exceeded")
        assert "frames are not shown" in found["traceback"]
        for line in (*lines[1:], "Cell In["):
            assert line in found["traceback"]
        sizes.append(len(found["traceback"]))
    assert max(sizes) < 3_000
    assert len(error(python.execute("sys.setrecursionlimit(3000)\nraise sys.last_value"))["traceback"]) < 5_000
    depth = "import traceback\nlen(list(traceback.walk_tb(sys.last_exc.__traceback__))) > 40_000"
    assert [one["data"]["text/plain"] for one in python.execute(depth) if one["op"] == "result"] == ["True"]


def test_long_chains_and_values_of_errors_are_shortened(python: DriverProcess) -> None:
    """Of 1,000 chained exceptions the first and last are shown, of a huge value its ends; the exceptions themselves are unchanged."""
    code = "last = None\nfor i in range(1000):\n    try: raise ValueError(i) from last\n    except ValueError as error: last = error\n"
    text = error(python.execute(f"{code}raise last"))["traceback"]
    assert "ValueError: 0\n" in text
    assert text.endswith("ValueError: 999")
    assert "990 exceptions of this chain are not shown" in text
    count = "n = 0\nwhile last is not None:\n    n, last = n + 1, last.__cause__\nn"
    assert [one["data"]["text/plain"] for one in python.execute(count) if one["op"] == "result"] == ["1000"]
    found = error(python.execute("raise ValueError('a' + 'x' * 20_000_000 + 'z')"))
    assert found["value"].startswith("axx")
    assert found["value"].endswith("xxz")
    assert "18,951,426 characters are not shown" in found["value"]
    assert len(found["traceback"]) < 1_100_000


@pytest.mark.parametrize(
    ("code", "kinds", "most"),
    [
        ("pandas.DataFrame(numpy.zeros((2000, 500)))", {"text/plain", "text/html"}, 40_000),
        ("pandas.DataFrame(numpy.zeros((400, 500)))", {"text/plain", "text/html", "application/vnd.e2b.data"}, 2_000_000),
        ("numpy.zeros((3000, 3000))", {"text/plain"}, 2_000),
        ("list(range(5_000_000))", {"text/plain"}, 10_000),
        ("[[list(range(100)) for _ in range(100)] for _ in range(100)]", {"text/plain"}, 100_000),
        ("{i: [i] * 5 for i in range(200_000)}", {"text/plain"}, 200_000),
        ("'x' * 50_000_000", {"text/plain"}, 9_000_000),
    ],
    ids=["frame", "smaller frame", "array", "list", "nested", "dictionary", "string"],
)
def test_a_large_value_is_shown_in_part(python: DriverProcess, code: str, kinds: set[str], most: int) -> None:
    """A large value is sent as its library shows it. A frame's data is complete up to 200,000 cells."""
    (shown,) = [one["data"] for one in python.execute(f"import numpy, pandas\n{code}") if one["op"] == "result"]
    assert shown.keys() == kinds
    assert sum(len(str(value)) for value in shown.values()) < most
    if "application/vnd.e2b.data" in kinds:
        assert [len(column) for column in shown["application/vnd.e2b.data"].values()] == [400] * 500


def test_deep_values_are_shown(python: DriverProcess) -> None:
    """Lists in lists to a depth that the pretty-printer cannot follow are shown as ``repr`` shows them."""
    (shown,) = [one["data"] for one in python.execute("x = []\nfor _ in range(800): x = [x]\nx") if one["op"] == "result"]
    assert shown["text/plain"] == "[" * 801 + "]" * 801


def test_a_child_that_the_cell_forks_ends_as_a_program_does(python: DriverProcess) -> None:
    """Its exit code is that of sys.exit or of an error, whose traceback is on stderr."""
    code = (
        "import os, sys\nfor end in ('sys.exit(3)', '1 / 0', 'pass', 'sys.exit(\"message\")'):\n    pid = os.fork()\n"
        "    if pid == 0:\n        exec(end)\n        break\n    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    messages = python.execute(code + "else:\n    'parent'")
    assert [one["op"] for one in messages] == ["done"]
    eventually(lambda: bytes(python.raw_stdout) == b"3\n1\n0\n1\n", 5)
    assert b"ZeroDivisionError" in bytes(python.raw_stderr)
    assert b"message" in bytes(python.raw_stderr)
