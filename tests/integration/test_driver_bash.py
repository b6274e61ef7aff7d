"""The bash driver in the code-interpreter root: state, streams, errors, interrupts, and whatever may end a bash."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from framework.driver_root import DRIVERS, DriverProcess, DriverRoot
from framework.waiting import eventually

ARGV = ["/usr/bin/python3", "-I", "-S", f"{DRIVERS}/bash/main.py"]


@pytest.fixture
def bash(driver_root: DriverRoot) -> DriverProcess:
    """A ready bash driver."""
    return driver_root.start(ARGV)


def run(bash: DriverProcess, code: str, **fields: Any) -> tuple[str, str, dict[str, Any] | None]:
    """(stdout, stderr, error) of one cell. All output of a cell is in the pipes when ``done`` arrives; a marker shows its end."""
    del bash.raw_stdout[:], bash.raw_stderr[:]
    messages = bash.execute(code, **fields)
    assert messages[-1]["op"] == "done"
    errors = [message for message in messages if message["op"] == "error"]
    assert len(errors) <= 1
    collect_output(bash)
    return bash.raw_stdout.decode()[:-3], bash.raw_stderr.decode()[:-3], errors[0] if errors else None


def collect_output(bash: DriverProcess) -> None:
    """Wait until all output so far is read from the pipes, with a marker at its end."""
    bash.execute("echo @@; echo @@ >&2")
    eventually(lambda: bash.raw_stdout.endswith(b"@@\n") and bash.raw_stderr.endswith(b"@@\n"))


def out(bash: DriverProcess, code: str, **fields: Any) -> str:
    """The stdout of a cell that must not fail."""
    stdout, stderr, error = run(bash, code, **fields)
    assert (stderr, error) == ("", None)
    return stdout


def interrupted(bash: DriverProcess, code: str, after_s: float = 0.3) -> tuple[list[dict[str, Any]], float]:
    """The messages of a cell that is interrupted, and how long it took to stop."""
    stopped_at = []

    def interrupt() -> None:
        stopped_at.append(time.monotonic())
        bash.interrupt()

    timer = threading.Timer(after_s, interrupt)
    timer.start()
    messages = bash.execute(code, timeout_s=20)
    return messages, time.monotonic() - stopped_at[0]


def test_state_is_kept(bash: DriverProcess) -> None:
    """Variables, arrays, functions, aliases, options and the directory last from cell to cell."""
    out(bash, "x=5; a=(1 'b c'); declare -A m=([k]=v); f() { echo f$x; }; alias hi='echo hello'; umask 027")
    out(bash, "shopt -s nullglob; set -o pipefail; cd /tmp")
    assert out(bash, "echo $x ${a[1]} ${m[k]}; f; hi; umask") == "5 b c v\nf5\nhello\n0027\n"
    assert out(bash, "shopt -q nullglob && [[ -o pipefail ]] && pwd") == "/tmp\n"


def test_streams_are_apart_and_live(bash: DriverProcess) -> None:
    """Output arrives while the cell runs, stdout and stderr each on its own."""
    bash.send({"op": "execute", "id": 900, "code": "echo one; echo err >&2; sleep 2; echo two", "envs": {}})
    eventually(lambda: bash.raw_stdout == b"one\n" and bash.raw_stderr == b"err\n", 1.9)
    assert bash.receive()["op"] == "done"
    eventually(lambda: bash.raw_stdout == b"one\ntwo\n")


def test_status_of_the_last_command(bash: DriverProcess) -> None:
    """A status other than 0 is an error with the number as its value; the next cell finds it in $?."""
    error = bash.execute("(exit 7)")[0]
    assert (error["name"], error["value"], error["traceback"]) == ("ExitStatus", "7", "exit status 7")
    assert out(bash, "echo $?") == "7\n"
    assert [message["op"] for message in bash.execute("false; true")] == ["done"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("echo a\n\nnosuchcommand\necho b", "bash: line 3: nosuchcommand: command not found\n"),
        ("if true; then\n  echo )\nfi", "bash: eval: line 2: syntax error near unexpected token `)'\nbash: eval: line 2: `  echo )'\n"),
        ("echo a\necho 'b", "bash: eval: line 2: unexpected EOF while looking for matching `''\n"),
    ],
)
def test_line_numbers_are_the_cells(bash: DriverProcess, code: str, expected: str) -> None:
    """Errors name the line of the cell, also in the second cell."""
    for _ in range(2):
        assert run(bash, code)[1] == expected
    assert out(bash, "\n\necho $LINENO") == "3\n"


def test_code_is_data(bash: DriverProcess) -> None:
    """Quotes, here-documents, unicode, comments and no newline at the end come through unchanged."""
    assert out(bash, "cat <<'X'\n$a \"q\" 'ü' \\n 日本\nX") == "$a \"q\" 'ü' \\n 日本\n"
    assert out(bash, "") == ""
    assert out(bash, "echo a # comment") == "a\n"
    error = bash.execute("echo a\0b")[0]
    assert "NUL" in error["value"]


def test_line_ends_of_windows(bash: DriverProcess) -> None:
    """A cell all of whose lines end in carriage return and newline is the same as without them; other carriage returns are data."""
    assert out(bash, "for i in 1 2; do\r\n  echo $i\r\ndone\r\ncat <<X\r\na\r\nX\r\n") == "1\n2\na\n"
    assert out(bash, "printf '%s' 'a\r\nb'\n") == "a\r\nb"


def test_environment_of_a_run(bash: DriverProcess) -> None:
    """Variables of a run are data, reach children, and give way to the old values afterwards, also when the cell ends bash."""
    value = 'it\'s "q" $HOME `id` \n ü\\'
    out(bash, "OLD=old; ARR=(1 2)")
    envs = {"NEW": value, "OLD": "new", "ARR": "flat", "EMPTY": ""}
    assert out(bash, 'printf %s "$NEW"; env | grep -c ^OLD=new; echo $ARR ${EMPTY-unset}', envs=envs) == f"{value}1\nflat\n"
    assert out(bash, "echo ${NEW-gone} $OLD ${ARR[1]} ${EMPTY-gone}; env | grep -c ^OLD= || true") == "gone old 2 gone\n0\n"
    bash.execute("NEW=changed; exit 3", envs=envs)
    assert out(bash, "echo ${NEW-gone} $OLD ${ARR[1]}") == "gone old 2\n"
    assert "'a-b'" in bash.execute("true", envs={"a-b": "1"})[0]["value"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 3", "3"),
        ("f() { exit 4; }; f", "4"),
        ("set -e\nfalse\necho no", "1"),
        ("set -u; echo $nosuch; echo no", "1"),
        ("${q:?no}", "1"),
    ],
)
def test_ending_bash_ends_only_the_cell(bash: DriverProcess, code: str, status: str) -> None:
    """exit, set -e, set -u and failed expansions end the cell; the state goes on, and set -e with it does not."""
    out(bash, "x='a\nb'; g() { echo g; }; cd /tmp; export E=1; set -- p 'q r'; trap 'echo usr' USR1")
    stdout, _, error = run(bash, code)
    assert stdout == ""
    assert error is not None
    assert (error["name"], error["value"]) == ("ExitStatus", status)
    assert out(bash, 'echo "$x" $2; g; pwd; env | grep ^E=; kill -USR1 $$; set +u; false; echo on') == "a\nb q r\ng\n/tmp\nE=1\nusr\non\n"


def test_exit_0_is_no_error(bash: DriverProcess) -> None:
    """A cell may end itself early."""
    assert out(bash, "x=1; echo a; exit 0; echo b") == "a\n"
    assert out(bash, "echo $x") == "1\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [("exec true", None), ("exec false", "1"), ("kill -9 $$", "137"), ("set -n; x=2", None), ("exec bash -c 'exit 3'", "3")],
)
def test_what_kills_bash_keeps_the_state_before_the_cell(bash: DriverProcess, code: str, status: str | None) -> None:
    """Bash has no chance to hand over its state, but the driver saw it coming; the cell ends as a file does."""
    out(bash, "x=1; f() { echo f$x; }; set -- a b")
    _, _, error = run(bash, f"y=2; {code}")
    assert (error and (error["name"], error["value"])) == (status and ("ExitStatus", status))
    assert "what this cell did" in error["traceback"] if error else True
    assert out(bash, "f; echo $2 ${y-gone}") == "f1\nb gone\n"


@pytest.mark.parametrize("code", ["e=exec; $e true", "o=-n; set $o", "builtin trap 'echo bye' EXIT; exit 3"])
def test_lost_state_is_told(bash: DriverProcess, code: str) -> None:
    """When bash could not hand over its state, the error says that it is lost, and the next cell works."""
    bash.execute("x=1")
    error = run(bash, code)[2]
    assert error is not None
    assert error["name"] == "ShellEnded"
    assert "lost" in error["traceback"]
    assert out(bash, "echo ${x-gone}") == "gone\n"


@pytest.mark.parametrize(
    ("code", "printed", "status"),
    [
        ("trap 'echo bye' EXIT; exit 4", "bye\n", "4"),
        ("trap 'echo bye $?' EXIT; (exit 5)", "bye 5\n", "5"),
        ("set -e; trap 'rc=$?; echo bye $rc; exit 6' EXIT\nfalse", "bye 1\n", "6"),
        ("f() { local x=local IFS=,; trap 'echo bye $x' EXIT; exit 4; }; f", "bye local\n", "4"),
        ("f() { local -r z=local; exit 4; }; f", "", "4"),
    ],
)
def test_an_exit_trap_ends_with_its_cell_and_the_state_goes_on(bash: DriverProcess, code: str, printed: str, status: str) -> None:
    """It runs once, with the status in $?, when the cell ends, however it does; variables of functions do not become global ones."""
    out(bash, "y=1; x=global")
    stdout, _, error = run(bash, f"y=2; {code}")
    assert stdout == printed
    assert error is not None
    assert (error["name"], error["value"]) == ("ExitStatus", status)
    assert out(bash, "echo $y ${z-none}; declare -p IFS; trap") == "2 none\ndeclare -- IFS=$' \\t\\n'\n"


@pytest.mark.parametrize(
    ("code", "limit_s"),
    [
        ("sleep 1000", 0.5),
        ("while :; do :; done", 0.5),
        ("sleep 1000 | cat", 0.5),
        ("echo $(sleep 1000)", 0.5),
        ("( while :; do :; done )", 0.5),
        ("f() { local x=local IFS=,; sleep 1000; }; f", 0.5),
        ("set -e; sleep 1000", 0.5),
        ("while :; do python3 -c 'import time\ntry: time.sleep(9)\nexcept KeyboardInterrupt: pass'; done", 0.5),
        ("python3 -c 'import signal, time; signal.signal(2, 1); time.sleep(1000)'", 2),
        ("bash -c \"trap '' INT TERM; while :; do :; done\"", 2),
        ("trap '' INT; while :; do sleep 0.1; done", 2),
    ],
)
def test_interrupt_keeps_the_state(bash: DriverProcess, code: str, limit_s: float) -> None:
    """An interrupt stops whatever runs in the foreground, children included, and keeps the state."""
    bash.execute("x=global; sleep 500 &")
    messages, took_s = interrupted(bash, code)
    assert [message["op"] for message in messages] == ["error", "done"]
    assert messages[0]["name"] == "KeyboardInterrupt"
    assert took_s < limit_s
    collect_output(bash)  # bash may have told that a child was killed
    assert out(bash, "echo $x; declare -p IFS; [[ -o nounset ]] || echo u; pgrep -fc '^sleep 500'; pgrep -fc '^sleep 1000' || true") == (
        "global\ndeclare -- IFS=$' \\t\\n'\nu\n1\n0\n"
    )


def test_an_idle_interrupt_does_nothing(bash: DriverProcess) -> None:
    """An interrupt between runs, of the driver or of the whole session, disturbs neither the last nor the next."""
    bash.execute("x=1; false")
    bash.interrupt()
    subprocess.run(["pkill", "-INT", "--session", str(bash.pid)], check=True)
    time.sleep(0.1)
    assert out(bash, "echo $x $?") == "1 1\n"


@contextmanager
def repeated(action: Callable[[], object], pause_s: float) -> Iterator[None]:
    """Something that a thread does again and again."""
    done = threading.Event()

    def act() -> None:
        while not done.wait(pause_s):
            action()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_late_interrupts_lose_no_cell(bash: DriverProcess) -> None:
    """Interrupts of the whole session at any moment give each cell its output or KeyboardInterrupt, and the state is kept."""
    bash.execute("x=1; n=0")
    session = str(bash.pid)
    with repeated(lambda: subprocess.run(["pkill", "-INT", "--session", session], check=False), 0.007):
        names = {message.get("name") for _ in range(100) for message in bash.execute("x=$((x + 0))")}
    assert names <= {None, "KeyboardInterrupt"}
    bash.execute("true")
    assert out(bash, "echo $x") == "1\n"


def test_an_interrupt_may_end_bash_while_it_reports(bash: DriverProcess) -> None:
    """The report is longer than its pipe, and the driver stands still: bash is in the middle of it. The cell has ended, and once."""
    out(bash, 'printf -v text %200000s; trap ": $text" ERR; x=1')
    driver = bash.pid
    shell = int(Path(f"/proc/{driver}/task/{driver}/children").read_text(encoding="ascii"))
    bash.send({"op": "execute", "id": 900, "code": "kill -STOP $PPID; echo ran; x=2", "envs": {}})
    eventually(lambda: bash.raw_stdout.endswith(b"ran\n") and "pipe_write" in Path(f"/proc/{shell}/wchan").read_text(encoding="ascii"))
    os.kill(shell, signal.SIGINT)
    os.kill(driver, signal.SIGCONT)
    assert bash.receive()["op"] in {"error", "done"}
    bash.execute("true")
    assert bash.raw_stdout.count(b"ran\n") == 1
    assert out(bash, "echo $x") == "2\n"


def test_background_processes_hold_nothing_up(bash: DriverProcess) -> None:
    """A cell ends when its own commands have, though a child keeps the pipes; what that writes later is not lost."""
    assert out(bash, "(until [ -e /tmp/go ]; do sleep 0.05; done; echo late) & sleep 300 & echo now") == "now\n"
    bash.execute("touch /tmp/go")
    eventually(lambda: bash.raw_stdout.endswith(b"late\n"))
    assert out(bash, "jobs -p | wc -l").strip() in {"1", "2"}


def test_cells_read_nothing_and_leave_descriptors_alone(bash: DriverProcess) -> None:
    """Standard input is empty; redirecting the shell's own streams lasts for the cell; children have no descriptors of the driver."""
    assert out(bash, "read x; echo $?; cat") == "1\n"
    assert out(bash, "exec >/dev/null 2>&1; echo hidden") == ""
    assert out(bash, "echo visible; ls /proc/self/fd | wc -l") == "visible\n4\n"
    assert out(bash, "exec 5>/tmp/five; echo five >&5") == ""
    assert out(bash, "echo more >&5; cat /tmp/five") == "five\nmore\n"


def test_nothing_of_a_cell_reaches_the_drivers_own_lines(bash: DriverProcess) -> None:
    """Loop words, functions and aliases named like builtins, options and closed descriptors disturb neither the rest nor the next cell."""
    assert run(bash, "x=1; echo a; break; continue 2; return 3; echo b")[0] == "a\nb\n"
    bash.execute("builtin() { echo mine; }; eval() { :; }; read() { :; }; source() { :; }; trap() { :; }; return() { :; }")
    bash.execute("unset -f eval read source trap return; alias eval=no builtin=no printf=no unset=no trap=no; IFS=x; set -fv")
    bash.execute("unalias -a; set +fv; unset IFS; readonly IFS LINENO; set -o posix; export BASH_ENV=/nonexistent POSIXLY_CORRECT=1")
    bash.execute("set +o posix; for fd in /proc/$$/fd/*; do exec {fd##*/}>&-; done 2>/dev/null; exec 0<&- 1>&- 2>&-")
    bash.execute('for fd in {3..255}; do eval "exec $fd>&-"; done 2>/dev/null')
    assert out(bash, "echo $x; [[ ! -v nothing ]] && echo $LINENO") == "1\n1\n"


def test_a_cell_is_a_file_to_bash(bash: DriverProcess) -> None:
    """The usual guard of scripts runs main; names, lines and errors are those of a script named bash, in functions of earlier cells too."""
    main = 'main() { echo "main $#"; }\n[[ "${BASH_SOURCE[0]}" == "$0" ]] && main "$@"\n(return 0 2>/dev/null) || echo executed'
    assert out(bash, main) == "main 0\nexecuted\n"
    out(bash, "f() {\n\n  nosuchcommand\n  caller\n}")
    assert run(bash, "\nf")[:2] == ("2 bash\n", "bash: line 3: nosuchcommand: command not found\n")
    assert out(bash, "declare -F; compgen -A function") == "declare -f f\ndeclare -f main\nf\nmain\n"


def test_tracing_shows_only_the_users_commands(bash: DriverProcess) -> None:
    """Neither set -x nor a DEBUG trap of the user shows anything of the driver's."""
    bash.execute("set -x")
    assert run(bash, "echo a")[1].splitlines()[0] == "++ echo a"
    assert "cloister" not in bash.raw_stderr.decode()
    bash.execute("set +x; trap 'echo dbg >&2' DEBUG")
    assert run(bash, "echo a")[1].count("dbg") == 3
    bash.execute("trap - DEBUG")


def test_much_output_comes_whole(bash: DriverProcess) -> None:
    """100 MB arrive complete and in order."""
    bash.execute("seq -w 1 12500000 | head -c 100000000; echo end")
    eventually(lambda: bash.raw_stdout.endswith(b"end\n"), 60)
    assert len(bash.raw_stdout) == 100_000_004
    assert bytes(bash.raw_stdout[9_000_000:9_000_009]) == b"01000001\n"


def test_the_driver_ends_with_its_channel(driver_root: DriverRoot) -> None:
    """When the agent closes the channel, driver and bash end."""
    bash = driver_root.start(ARGV)
    bash._socket.close()
    assert bash.wait(5) == 0
