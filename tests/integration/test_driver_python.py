"""The Python driver in the code-interpreter root: state, streams, errors, interrupts, asyncio, children."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from framework.driver_root import DRIVERS, DriverProcess, DriverRoot
from framework.waiting import eventually

ARGV = ["/usr/bin/python3", f"{DRIVERS}/python/main.py"]


def texts(messages: list[dict[str, Any]]) -> list[str]:
    """The text/plain of all results."""
    return [message["data"].get("text/plain", "") for message in messages if message["op"] == "result"]


def error(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The run's error."""
    (found,) = [message for message in messages if message["op"] == "error"]
    return found


def stdout(kernel: DriverProcess, messages: list[dict[str, Any]], *, stream: str = "raw_stdout") -> str:
    """Bytes of fd 1 so far. The run is over, so the reading thread needs only a moment."""
    assert messages[-1]["op"] == "done"
    deadline, seen = time.monotonic() + 0.3, -1
    while time.monotonic() < deadline and seen != len(getattr(kernel, stream)):
        seen = len(getattr(kernel, stream))
        time.sleep(0.05)
    text = bytes(getattr(kernel, stream)).decode(errors="replace")
    getattr(kernel, stream).clear()
    return text


def interrupt_later(kernel: DriverProcess, delay_s: float = 0.5) -> None:
    """SIGINT to the driver after a while."""
    threading.Timer(delay_s, kernel.interrupt).start()


def test_state_and_count(python: DriverProcess) -> None:
    """Names live on between cells, the last expression is the main result, the counter goes up."""
    assert python.execute("x = 20")[-1]["count"] == 1
    messages = python.execute("x + 1")
    assert messages[0]["main"] is True
    assert texts(messages) == ["21"]
    assert messages[-1]["count"] == 2


def test_underscore_and_semicolon(python: DriverProcess) -> None:
    """``_`` is the last result; a semicolon hides the result."""
    python.execute("6 * 7")
    assert texts(python.execute("_ + 1")) == ["43"]
    assert texts(python.execute("42;")) == []


def test_print_goes_to_stdout_in_order_with_children(python: DriverProcess) -> None:
    """Prints, unfinished lines and child processes write in the order of the program."""
    code = "import os, subprocess, sys\nprint('a', end='')\nsubprocess.run(['echo', 'b'])\n"
    code += "sys.stdout.write('c')\nos.system('echo d')\nprint('e')"
    assert stdout(python, python.execute(code)) == "ab\ncd\ne\n"


def test_first_line_comes_while_the_cell_runs(python: DriverProcess) -> None:
    """A printed line is out before the cell ends, and so is an unfinished one a little later."""
    python.send({"op": "execute", "id": 1, "code": "import time\nprint('now')\nprint('dots', end='')\ntime.sleep(5)", "envs": {}})
    eventually(lambda: bytes(python.raw_stdout) == b"now\ndots", 4.5)


def test_bytes_and_errors_streams(python: DriverProcess) -> None:
    """stdout.buffer, stderr, logging, warnings and lone surrogates all come out."""
    code = "import logging, sys, warnings\nsys.stdout.buffer.write(b'raw\\n'); print('\\ud800')\n"
    code += "logging.warning('logged'); warnings.warn('warned')\nprint('e', file=sys.stderr)"
    messages = python.execute(code)
    assert stdout(python, messages) == "raw\n\\ud800\n"
    said = stdout(python, messages, stream="raw_stderr")
    assert "logged" in said
    assert "warned" in said
    assert said.endswith("e\n")


def test_error_has_the_users_lines(python: DriverProcess) -> None:
    """A traceback names the user's lines, has no frames of ours and no colours."""
    found = error(python.execute("def f():\n    return 1 / 0\n\nf()"))
    assert (found["name"], found["value"]) == ("ZeroDivisionError", "division by zero")
    assert "line 4" in found["traceback"]
    assert "line 2, in f()" in found["traceback"]
    assert "\x1b" not in found["traceback"]
    assert "cloister_kernel" not in found["traceback"]


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("x = (1 +", "SyntaxError", "incomplete input"),
        ("x = = 1", "SyntaxError", "invalid syntax"),
        ("if True:\nprint(1)", "IndentationError", "expected an indented block"),
        ("import sys; sys.exit(3)", "SystemExit", "3"),
        ("exit()", "SystemExit", ""),
        ("input('name? ')", "StdinNotImplementedError", "input() was called"),
        ("raise ExceptionGroup('two', [ValueError(1), KeyError(2)])", "ExceptionGroup", "two"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E", "<ValueError in __str__>"),
    ],
)
def test_errors_of_all_kinds(python: DriverProcess, code: str, name: str, value: str) -> None:
    """Each kind of error arrives once, with its name, and the kernel lives on with its state."""
    python.execute("kept = 'kept'")
    found = error(python.execute(code))
    assert found["name"] == name
    assert value in found["value"]
    assert texts(python.execute("kept")) == ["'kept'"]


def test_exception_group_shows_its_members(python: DriverProcess) -> None:
    """The traceback of a group has its members and is not printed a second time."""
    messages = python.execute("raise ExceptionGroup('two', [ValueError('first')])")
    assert "ValueError: first" in error(messages)["traceback"]
    assert stdout(python, messages, stream="raw_stderr") == ""


def test_indented_code_magics_and_commands(python: DriverProcess) -> None:
    """Indented code, line and cell magics and shell commands work as in a notebook."""
    assert stdout(python, python.execute("    print(1)\n    print(2)")) == "1\n2\n"
    assert stdout(python, python.execute("name = 'v'\n!echo $name {name}")) == "v v\n"
    assert stdout(python, python.execute("%%bash\nfor i in 1 2; do echo $i; done")) == "1\n2\n"
    assert stdout(python, python.execute("!echo err >&2; exit 4")) == ""
    assert texts(python.execute("_exit_code")) == ["4"]
    assert texts(python.execute("files = !echo a; echo b\nlist(files)")) == ["['a', 'b']"]
    assert "pip " in stdout(python, python.execute("%pip --version"))
    assert "45" in texts(python.execute("%%time\nsum(range(10))"))


def test_envs_are_data_and_gone_afterwards(python: DriverProcess) -> None:
    """A run's variables keep quotes, newlines and unicode, reach children, and are undone, also after an error."""
    value = "q'\"\\\n é 😀 $HOME"
    python.execute("import os; os.environ['KEPT'] = 'old'")
    assert texts(python.execute(f"(os.environ['A'] == {value!r}, os.environ['KEPT'])", envs={"A": value, "KEPT": "new"})) == [
        "(True, 'new')"
    ]
    assert stdout(python, python.execute('!printf %s "$A"', envs={"A": value})) == value
    error(python.execute("os.environ['A'] = 'changed'; 1/0", envs={"A": value}))
    assert texts(python.execute("(os.environ.get('A'), os.environ['KEPT'])")) == ["(None, 'old')"]


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import asyncio; await asyncio.sleep(60)",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "!sleep 60",
        "while True: print('x' * 100)",
        "import re; re.match('(a+)+b', 'a' * 60)",
    ],
)
def test_interrupt_stops_and_keeps_state(python: DriverProcess, code: str) -> None:
    """SIGINT ends what runs, with a KeyboardInterrupt, and the next cell sees the state."""
    python.execute("kept = 1")
    interrupt_later(python)
    found = error(python.execute(code, timeout_s=10))
    assert found["name"] == "KeyboardInterrupt"
    assert texts(python.execute("kept")) == ["1"]


def test_an_interrupt_ends_the_wait_for_the_agent(python: DriverProcess) -> None:
    """A display that the agent does not take holds the code; an interrupt ends it, and the answer that comes late is passed over."""
    python.acknowledges = False
    python.send({"op": "execute", "id": 1, "code": "try:\n    display(1)\nexcept KeyboardInterrupt:\n    kept = 2\nkept", "envs": {}})
    shown = python.receive()
    assert (shown["data"]["text/plain"], shown["ack"]) == ("1", 1)
    python.interrupt()
    value = python.receive()
    assert (value["data"]["text/plain"], value["main"], "ack" in value) == ("2", True, False)
    assert python.receive()["op"] == "done"
    python.send({"op": "ack", "ack": 1})
    python.acknowledges = True
    assert texts(python.execute("display(3)\nkept")) == ["3", "2"]


def test_only_code_that_goes_on_waits_for_the_agent(python: DriverProcess) -> None:
    """Results in the middle of a cell ask for an answer; the main value, other threads and what runs between cells do not."""
    code = (
        "import sys, threading\nthread = threading.Thread(target=display, args=(1,)); thread.start()\nthread.join()\nsys.displayhook(2)\n3"
    )
    assert [message.get("ack") for message in python.execute(code) if message["op"] == "result"] == [None, 1, None]
    code = "import matplotlib.pyplot as plt\nplt.plot([1]); plt.show()\nprint()"
    assert [message.get("ack") for message in python.execute(code)] == [2, None]
    python.execute("import asyncio\nasync def later(): await asyncio.sleep(0.2); display(5)\ntask = asyncio.create_task(later())")
    assert "ack" not in python.receive()


def test_interrupt_while_idle_does_nothing(python: DriverProcess) -> None:
    """An interrupt that comes too late hits nothing, also when the user had a handler of their own."""
    python.execute("import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); x = 1")
    python.execute("x")
    python.interrupt()
    time.sleep(0.1)
    assert texts(python.execute("x")) == ["1"]


def test_asyncio(python: DriverProcess) -> None:
    """Top-level await works, asyncio.run works beside it, and tasks go on between cells."""
    assert texts(python.execute("import asyncio\nawait asyncio.sleep(0.01, 'awaited')")) == ["'awaited'"]
    assert texts(python.execute("async def f(): return 'run'\nasyncio.run(f())")) == ["'run'"]
    assert texts(python.execute("asyncio.get_event_loop().run_until_complete(f())")) == ["'run'"]
    code = "async def later():\n    await asyncio.sleep(0.1)\n    print('later')\n    return 'done'\ntask = asyncio.create_task(later())"
    python.execute(code)
    eventually(lambda: bytes(python.raw_stdout) == b"later\n")
    assert texts(python.execute("await task")) == ["'done'"]


def test_threads_and_forks(python: DriverProcess) -> None:
    """Threads, process pools and forks print and compute; a forked child cannot disturb the protocol."""
    code = "import concurrent.futures as cf\nwith cf.ThreadPoolExecutor(4) as pool: print(list(pool.map(lambda n: n * n, range(4))))"
    assert stdout(python, python.execute(code)) == "[0, 1, 4, 9]\n"
    code = "import multiprocessing as mp\ndef square(n): return n * n\n"
    code += "with mp.get_context('fork').Pool(2) as pool: print(pool.map(square, range(4)))"
    assert stdout(python, python.execute(code)) == "[0, 1, 4, 9]\n"
    code = "import os\npid = os.fork()\nif not pid:\n    display('in the child')\n    print('child')\n"
    code += "else:\n    os.waitpid(pid, 0); print('parent')"
    messages = python.execute(code)
    assert [message["op"] for message in messages] == ["done"]
    assert stdout(python, messages) == "'in the child'\nchild\nparent\n"
    assert texts(python.execute("1 + 1")) == ["2"]


def test_children_do_not_hold_the_protocol_socket(python: DriverProcess) -> None:
    """A program started by a cell has descriptors 0, 1 and 2 only."""
    assert stdout(python, python.execute("!ls /proc/self/fd | wc -l")).strip() == "4"


def test_work_directory_is_importable(python: DriverProcess) -> None:
    """A module in the work directory can be imported, and the driver's own directory shadows nothing."""
    python.execute("import os; os.chdir('/tmp'); open('mine_own.py', 'w').write('v = 5')")
    assert texts(python.execute("import mine_own; mine_own.v")) == ["5"]
    assert texts(python.execute("import sys; (sys.path[0], sys.argv, __name__)")) == ["('', [''], '__main__')"]


def test_pickle_of_own_classes(python: DriverProcess) -> None:
    """Classes of cells belong to ``__main__`` and can be pickled."""
    assert texts(python.execute("import pickle\nclass C: pass\ntype(pickle.loads(pickle.dumps(C()))).__name__")) == ["'C'"]


def test_ten_megabytes(python: DriverProcess) -> None:
    """Ten megabytes of lines arrive complete and in order."""
    messages = python.execute("for i in range(1000000): print('%09d' % i)")
    assert messages[-1]["op"] == "done"
    deadline = time.monotonic() + 20
    while len(python.raw_stdout) < 10_000_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    lines = bytes(python.raw_stdout).split()
    assert len(lines) == 1_000_000
    assert lines == sorted(lines)


def test_crash_says_where(driver_root: DriverRoot) -> None:
    """A crash in native code leaves the Python stack on stderr."""
    python = driver_root.start(ARGV)
    with pytest.raises(EOFError):
        python.execute("import ctypes; ctypes.string_at(0)")
    eventually(lambda: b"string_at" in python.raw_stderr)
    assert b"Segmentation fault" in python.raw_stderr
