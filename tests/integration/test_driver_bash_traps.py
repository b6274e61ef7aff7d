"""Traps in bash cells: listings print what bash prints for a script, and traps stay from cell to cell."""

from __future__ import annotations

import pytest

from framework.driver_root import DRIVERS, DriverProcess, DriverRoot
from framework.waiting import eventually

ARGV = ["/usr/bin/python3", "-I", "-S", f"{DRIVERS}/bash/main.py"]
END = "@@\n"


@pytest.fixture
def bash(driver_root: DriverRoot) -> DriverProcess:
    """A ready bash driver."""
    return driver_root.start(ARGV)


def printed(bash: DriverProcess, code: str) -> str:
    """The standard output of a cell."""
    del bash.raw_stdout[:]
    bash.execute(code)
    bash.execute("builtin printf '@@\\n'")
    eventually(lambda: bash.raw_stdout.endswith(END.encode()))
    return bash.raw_stdout.decode().removesuffix(END)


SCRIPTS = {
    "err": "trap 'echo err' ERR; trap -p ERR; false; trap -p; trap; trap --; trap -p EXIT",
    "quotes": "trap \"echo it's\" ERR; trap -p ERR; false; trap '' ERR; trap -p; trap \"\n'a'\n\" ERR; trap -p; trap - ERR",
    "exit": "trap 'echo bye' EXIT; trap 'echo err' ERR; trap -p; trap -p ERR EXIT; false; trap -p EXIT ERR USR1",
    "removed": "trap 'echo err' ERR; false; trap - ERR; false; trap -p ERR; trap -p; trap ERR; trap -p; exit 0",
    "removed with others": "trap 'echo err' ERR EXIT USR1; trap - ERR EXIT; false; trap -p; trap 'echo new' ERR; false; trap -p; exit 0",
    "function": "f() { trap -p ERR; false; trap 'echo in' ERR; trap -p ERR; false; }; trap 'echo out' ERR; f; false; trap -p; exit 0",
    "errtrace": "set -E; trap 'echo err' ERR; f() { trap -p ERR; false; true; }; f; trap - ERR; f; trap -p; exit 0",
    "subshells": "trap 'echo err' ERR; (trap -p ERR); echo \"$(trap -p)\"; (trap - ERR; trap -p); trap -p | cat; exit 0",
    "unknown": "trap 'echo err' ERR; trap -p NOSUCH ERR 2>/dev/null; echo $?; exit 0",
    "debug": "trap -p; trap 'echo debug' DEBUG; trap -p DEBUG; :; trap - DEBUG; trap -p; exit 0",
    "signals": "trap 'echo int' INT; trap 'echo usr' USR1; trap 'echo err' ERR; trap; trap -p INT TERM ERR; trap - INT USR1 ERR; trap",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_traps_in_a_cell_are_those_of_a_script(bash: DriverProcess, name: str) -> None:
    """A cell prints what bash prints for a file with the same lines: the traps of the user, and none of the driver."""
    bash.execute(f"cat > /tmp/script <<'END'\n{SCRIPTS[name]}\nEND")
    script = printed(bash, "bash /tmp/script")
    assert script
    assert printed(bash, SCRIPTS[name]) == script


def test_an_err_trap_stays_for_later_cells(bash: DriverProcess) -> None:
    """It runs, and is listed, in each cell until one removes it, also after cells that end bash itself."""
    bash.execute("trap 'echo err' ERR; f() { exit 4; }; g() { :; }")
    for code in ("true", "exit 3", "f", "kill -TERM $$", "trap 'echo bye' EXIT; f"):
        bash.execute(code)
        assert printed(bash, "false; echo on") == "err\non\n", code
        assert printed(bash, "trap -p ERR; trap -p") == "trap -- 'echo err' ERR\n" * 2, code
    bash.execute("trap - ERR; exit 0")
    assert printed(bash, "false; trap -p; echo on") == "on\n"


def test_debug_and_return_traps_stay_when_a_cell_ends_bash(bash: DriverProcess) -> None:
    """Bash hides these two from the script that saves the state; listings have them in later cells."""
    bash.execute("trap 'n=$((n + 1))' DEBUG; trap 'echo returned' RETURN")
    bash.execute("exit 3")
    assert printed(bash, "f() { :; }; declare -ft f; f; trap -p DEBUG; trap -p") == (
        "returned\ntrap -- 'n=$((n + 1))' DEBUG\ntrap -- 'n=$((n + 1))' DEBUG\ntrap -- 'echo returned' RETURN\n"
    )
    bash.execute("trap - DEBUG; exit 0")
    assert printed(bash, "trap -p DEBUG; trap -p") == "trap -- 'echo returned' RETURN\n"
