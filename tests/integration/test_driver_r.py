"""The R driver in the code-interpreter root: values, plots, streams, errors with lines, environment, interrupts."""

from __future__ import annotations

import base64
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import cloister
from framework.driver_root import DRIVERS, DriverProcess, DriverRoot
from framework.waiting import eventually

NATIVE = "/usr/local/lib/cloister/r/kernel.so"
SOURCES = Path(cloister.__file__).parent / "agent" / "drivers"
_built: dict[str, bytes] = {}


# A world in which every process starts at the same nanosecond and has the same pid: all that R seeds itself from.
SAME_MOMENT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>
static const struct timespec same = {1700000000, 123456789};
pid_t getpid(void) { return 6; }
int timespec_get(struct timespec *now, int base) { *now = same; return base; }
int clock_gettime(clockid_t id, struct timespec *now)
{
    int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    if (id != CLOCK_REALTIME)
        return real(id, now);
    *now = same;
    return 0;
}
"""


def built(driver_root: DriverRoot, build: str, into: Path) -> Path:
    """The standard output of a command line in the root, which has a compiler; run once."""
    if build not in _built:
        process = driver_root.spawn(["/bin/bash", "-ec", build], binds={SOURCES: DRIVERS})
        assert process.wait(60) == 0, process.raw_stderr.decode()
        process.close()
        assert b"warning" not in process.raw_stderr
        _built[build] = bytes(process.raw_stdout)
    into.write_bytes(_built[build])
    return into


@pytest.fixture
def native(driver_root: DriverRoot, tmp_path: Path) -> Path:
    """The driver's native part of this checkout, built in the root by build.sh."""
    return built(driver_root, f"cd {DRIVERS}/r && bash ./build.sh /tmp/built >&2 && cat /tmp/built/kernel.so", tmp_path / "kernel.so")


@pytest.fixture
def r(driver_root: DriverRoot, native: Path) -> DriverProcess:
    """A ready R driver."""
    return driver_root.start(["/usr/bin/Rscript", f"{DRIVERS}/r/main.R"], binds={native: NATIVE})


def streams(r: DriverProcess, code: str, **fields: Any) -> tuple[str, str]:
    """(stdout, stderr) of a cell that must not fail."""
    del r.raw_stdout[:], r.raw_stderr[:]
    assert [message for message in r.execute(code, **fields) if message["op"] == "error"] == []
    r.execute("cat('@@\\n'); cat('@@\\n', file = stderr())")
    eventually(lambda: r.raw_stdout.endswith(b"@@\n") and r.raw_stderr.endswith(b"@@\n"))
    return r.raw_stdout.decode()[:-3], r.raw_stderr.decode()[:-3]


def results(r: DriverProcess, code: str, **fields: Any) -> list[dict[str, Any]]:
    """The results of a cell that must not fail."""
    messages = r.execute(code, **fields)
    assert [message for message in messages if message["op"] == "error"] == []
    assert messages[-1]["op"] == "done"
    return [message for message in messages if message["op"] == "result"]


def text(r: DriverProcess, code: str, **fields: Any) -> str:
    """The text of a cell's one result."""
    (result,) = results(r, code, **fields)
    assert result["main"] is True
    return str(result["data"]["text/plain"])


def error(r: DriverProcess, code: str) -> dict[str, Any]:
    """The error of a cell, and nothing after it but done."""
    messages = r.execute(code)
    assert [message["op"] for message in messages[-2:]] == ["error", "done"]
    return messages[-2]


def test_state_values_and_invisibility(r: DriverProcess) -> None:
    """Visible values are results as R prints them, the last one the main one; invisible ones are none; state lasts."""
    assert text(r, "x <- 20 + 1\nx * 2") == "[1] 42"
    assert text(r, "x") == "[1] 21"
    assert results(r, "y <- 1; invisible(2); f <- function(n) n + 1") == []
    assert [(m["main"], m["data"]["text/plain"]) for m in results(r, "f(1)\n'a'")] == [(False, "[1] 2"), (True, '[1] "a"')]
    assert text(r, "ls()") == '[1] "f" "x" "y"'
    assert "package:jsonlite" not in text(r, "search()")


def test_data_frame(r: DriverProcess) -> None:
    """A data frame is text, an HTML table with its content escaped, and columns without NaN or infinities."""
    code = "data.frame(n = c(1.5, NaN, Inf), s = c('a', '<b>', NA), d = as.Date('2024-01-31') + 0:2,\n"
    code += "           f = factor(c('u', 'v', 'u')), l = c(TRUE, NA, FALSE))"
    (result,) = results(r, code)
    assert result["data"]["text/plain"].splitlines()[1] == "1 1.5    a 2024-01-31 u  TRUE"
    assert "<td>&lt;b&gt;</td>" in result["data"]["text/html"]
    assert result["data"]["application/vnd.e2b.data"] == {
        "n": [1.5, None, None],
        "s": ["a", "<b>", None],
        "d": ["2024-01-31", "2024-02-01", "2024-02-02"],
        "f": ["u", "v", "u"],
        "l": [True, None, False],
    }
    (one,) = results(r, "data.frame(a = 1L)")
    assert one["data"]["application/vnd.e2b.data"] == {"a": [1]}
    (tibble,) = results(r, "dplyr::tibble(a = 1:2, b = list(1, 'x'))")
    assert tibble["data"]["application/vnd.e2b.data"] == {"a": [1, 2], "b": ["1", "x"]}


def test_plots(r: DriverProcess) -> None:
    """Each page is one PNG: additions to a plot join it, a second plot is a second one; a ggplot value is the main result."""

    def images(code: str) -> list[tuple[bool, bytes]]:
        return [(m["main"], base64.b64decode(m["data"]["image/png"])) for m in results(r, code) if "image/png" in m["data"]]

    first = images("plot(1:10)\nlines(1:10)\nabline(h = 3)")
    assert [main for main, _ in first] == [False]
    assert first[0][1].startswith(b"\x89PNG")
    assert first[0][1].endswith(b"IEND\xaeB`\x82")
    assert len(images("plot(1); for (i in 2:3) plot(i)")) == 3
    assert [main for main, _ in images("library(ggplot2); ggplot(mtcars, aes(wt, mpg)) + geom_point()")] == [True]
    assert images("x <- par(mfrow = c(1, 2))") == []
    assert images("png('/tmp/own.png'); plot(1); invisible(dev.off())") == []
    assert text(r, "file.exists('/tmp/own.png') && !file.exists('Rplots.pdf')") == "[1] TRUE"


def test_a_page_that_is_drawn_on_after_text_is_complete(r: DriverProcess) -> None:
    """The last page is the whole plot. Later code of the cell that adds to it replaces the page; otherwise both pages are sent."""

    def images(code: str) -> list[str]:
        return [m["data"]["image/png"] for m in results(r, code) if "image/png" in m["data"]]

    (plain,), (whole,) = images("plot(1:3)"), images("plot(1:3); lines(3:1); legend('top', 'a')")
    assert plain != whole
    assert images("plot(1:3)\ncat('text')\nlines(3:1)\nmessage('more')\nlegend('top', 'a')") == [whole]
    assert images("{ plot(1:3); cat('a'); lines(3:1); cat('b'); legend('top', 'a'); cat('c') }") == [plain, whole]
    assert images("for (i in 1:2) { plot(1:3); cat('a') }; cat('b')") == [plain, plain]
    assert len(images("par(mfrow = c(1, 2)); plot(1); cat('one'); plot(2); cat('two')")) == 1
    assert images("plot(1:3); pdf(NULL); cat('a'); plot(2); invisible(dev.off()); lines(3:1); legend('top', 'a')") == [plain, whole]
    assert len(images("for (i in 1:2) { print(ggplot2::qplot(1:9, geom = 'histogram')); message('m') }")) == 2


def test_an_interrupt_ends_the_wait_for_an_answer(driver_root: DriverRoot, native: Path) -> None:
    """A run that waits until the agent has taken a plot is interrupted like any other."""
    r = driver_root.start(["/usr/bin/Rscript", f"{DRIVERS}/r/main.R"], binds={native: NATIVE})
    send, r.send = r.send, lambda message: None if message["op"] == "ack" else send(message)  # type: ignore[method-assign]  # replaced on purpose
    messages = r.stream("for (i in 1:2) { plot(i); cat('text') }")
    assert next(messages)["op"] == "result"
    r.interrupt()
    assert [message.get("name", message["op"]) for message in messages] == ["KeyboardInterrupt", "done"]


def test_data_of_every_kind_of_column(r: DriverProcess) -> None:
    """Numbers keep all digits; matrices and frames in columns are several; dates, times, lists and odd types are text; names differ."""

    def data(code: str) -> Any:
        (result,) = results(r, code)
        return result["data"].get("application/vnd.e2b.data")

    assert data("data.frame(n = c(0.1 + 0.2, 1/3, 1e300, 2^53), i = c(1234567890123456, -0.5, NA, -Inf))") == {
        "n": [0.1 + 0.2, 1 / 3, 1e300, 2**53],
        "i": [1234567890123456, -0.5, None, None],
    }
    assert data(
        "d <- data.frame(id = 1:2); d$m <- matrix(1:4, 2); d$k <- matrix(5:6, 2); d$f <- data.frame(a = 1:2, b = c('x', NA)); d"
    ) == {
        "id": [1, 2],
        "m.1": [1, 2],
        "m.2": [3, 4],
        "k": [5, 6],
        "f.a": [1, 2],
        "f.b": ["x", None],
    }
    times = "t = as.POSIXct(c('2024-07-01 12:00:00.5', NA), tz = 'Europe/Berlin'), d = as.difftime(c(90, NA), units = 'mins')"
    assert data(f"data.frame({times}, z = c(1+2i, NA), r = as.raw(c(1, 255)))") == {
        "t": ["2024-07-01T12:00:00.500+02:00", None],
        "d": ["90 mins", None],
        "z": ["1+2i", None],
        "r": ["01", "ff"],
    }
    assert data("data.frame(a = 1, a = '2', check.names = FALSE)") == {"a": [1], "a.1": ["2"]}
    assert data("data.frame(a = integer(0), b = character(0))") == {"a": [], "b": []}
    assert data("data.frame()") is None
    assert data("d <- data.frame(x = 1:2); d$l <- list(1:2, NULL); d")["l"][0] == "1, 2"
    assert streams(r, "d <- data.frame(x = I(list(1, 'a')), s = c('ä', '\\xff')); d$e <- as.POSIXlt(0, 'UTC') + 0:1; d")[1] == ""


def test_line_ends_of_windows(r: DriverProcess) -> None:
    """A cell with carriage returns at the ends of its lines is the same as without them."""
    assert text(r, "x <- 'a\r\nb'\r\nif (TRUE) {\r\n  x\r\n}\r\n") == '[1] "a\\nb"'


def test_streams_live_and_apart(r: DriverProcess) -> None:
    """Output arrives while the cell sleeps, with and without a newline; messages and warnings go to stderr, with their call."""
    r.send({"op": "execute", "id": 900, "code": "cat('one\\n'); Sys.sleep(2); cat('dots.'); Sys.sleep(2); cat('\\n')", "envs": {}})
    eventually(lambda: r.raw_stdout == b"one\n", 1.9)
    eventually(lambda: r.raw_stdout == b"one\ndots.", 3.5)
    assert r.receive()["op"] == "done"
    assert streams(r, "print(1); message('hello'); f <- function(x) warning('careful'); f(1)") == (
        "[1] 1\n",
        "hello\nWarning message:\nIn f(1) : careful\n",
    )
    assert streams(r, "options(warn = -1); x <- as.integer('a'); options(warn = 0)") == ("", "")


def test_children_write_in_order(r: DriverProcess) -> None:
    """Output of system() and of forked workers arrives complete and in order."""
    code = "cat('a '); invisible(system('echo b')); cat('c '); invisible(system2('echo', 'd')); cat('e\\n')"
    assert streams(r, code)[0] == "a b\nc d\ne\n"
    assert streams(r, "invisible(parallel::mclapply(1:2, function(i) if (i == 2) cat('worker')))")[0] == "worker"
    assert text(r, "system('exit 3')\nsystem('exit 3', intern = FALSE) + length(system('echo a; echo b', intern = TRUE))") == "[1] 5"


def test_error_with_the_users_lines(r: DriverProcess) -> None:
    """The traceback has the frames of the user's code with their lines, also of earlier cells, and none of the driver's."""
    code = "f <- function(n) {\n  y <- 1\n  stop('bad ', n)\n}\ng <- function() {\n\n  f(3)\n}\n\ng()"
    first = error(r, code)
    assert (first["name"], first["value"]) == ("Error", "bad 3")
    assert first["traceback"] == 'Error in f(3) : bad 3\nTraceback:\n  line 10: g()\n  line 7: f(3)\n  line 3: stop("bad ", n)'
    assert error(r, "x <- 1\ng()")["traceback"].splitlines()[2:4] == ["  line 2: g()", "  cell 1, line 7: f(3)"]
    assert error(r, "\nnosuch")["traceback"] == "Error: object 'nosuch' not found\nTraceback:\n  line 2"
    assert error(r, "library(nosuch)")["name"] == "packageNotFoundError"
    assert error(r, "f <- function(x) f(x); f(1)")["name"] == "expressionStackOverflowError"
    assert text(r, "x") == "[1] 1"


def test_nothing_the_user_defines_breaks_the_driver(r: DriverProcess) -> None:
    """Functions named like base's, broken bytes, and conditions that fail to say what they are leave the kernel working."""
    r.execute("paste <- list <- function(...) stop('mine'); c <- 1; send <- run <- NULL; T <- FALSE")
    assert text(r, "1 + 1") == "[1] 2"
    assert error(r, "stop('x')")["value"] == "x"
    assert results(r, "'a\\xff'")[0]["data"]["text/plain"].startswith('[1] "a')
    assert "<ff>" in error(r, "stop('bad \\xff byte')")["value"]
    r.execute("conditionMessage.odd <- function(c) stop('no message')")
    assert error(r, "stop(structure(class = c('odd', 'error', 'condition'), base::list(message = 'm', call = NULL)))")["value"]
    assert "format" in error(r, "print.odd <- function(x, ...) stop('cannot format'); structure(1, class = 'odd')")["value"]
    assert text(r, "sink(tempfile()); rm(list = ls())\nsink()\n2") == "[1] 2"


def test_parse_error(r: DriverProcess) -> None:
    """A cell that does not parse runs not at all and names line and column."""
    wrong = error(r, "x <- 1\ny z")
    assert wrong["name"] == "ParseError"
    assert wrong["value"].startswith("line 2, column 3: unexpected symbol")
    assert text(r, "exists('x')") == "[1] FALSE"
    assert "unexpected end of input" in error(r, "f <- function() {")["value"]


def test_environment_of_a_run(r: DriverProcess) -> None:
    """Variables of a run are data, reach children, and give way to the old values afterwards, also when the run fails."""
    value = 'it\'s "q" $HOME `id` \n ü\\'
    r.execute("Sys.setenv(OLD = 'old')")
    envs = {"NEW": value, "OLD": "new"}
    assert streams(r, "cat(Sys.getenv('NEW')); invisible(system('printf %s \"$OLD\"'))", envs=envs)[0] == f"{value}new"
    r.execute("stop('x')", envs=envs)
    assert text(r, "c(Sys.getenv('NEW', NA), Sys.getenv('OLD'))") == '[1] NA    "old"'
    assert text(r, "nchar(Sys.getenv('CLOISTER_KERNEL_FD'))") == "[1] 0"


@pytest.mark.parametrize(
    "code",
    ["repeat {}", "Sys.sleep(100)", "system('sleep 1000')", "while (TRUE) system('sleep 0.2; true')", "for (i in 1:1e10) sqrt(i)"],
)
def test_interrupt_keeps_the_state(r: DriverProcess, code: str) -> None:
    """An interrupt ends the run, its children included, and keeps the state."""
    r.execute("x <- 5")
    timer = threading.Timer(0.4, r.interrupt)
    timer.start()
    messages = r.execute(f"a <- 1\n{code}", timeout_s=5)
    assert [message["op"] for message in messages] == ["error", "done"]
    assert (messages[0]["name"], messages[0]["traceback"]) == ("KeyboardInterrupt", "Interrupted\n  line 2")
    assert text(r, "x + length(suppressWarnings(system('pgrep -x sleep', intern = TRUE)))") == "[1] 5"


def test_an_idle_interrupt_does_nothing(r: DriverProcess) -> None:
    """An interrupt between runs disturbs neither the last nor the next."""
    r.interrupt()
    time.sleep(0.1)
    assert text(r, "Sys.sleep(0.05); 1") == "[1] 1"


def test_no_questions(r: DriverProcess) -> None:
    """R is not interactive: readline returns an empty string at once."""
    assert text(r, "identical(readline('name? '), '') && !interactive()") == "[1] TRUE"


def test_much_output_comes_whole_in_little_memory(r: DriverProcess) -> None:
    """100 MB line by line and 10 MB at once arrive complete and in order, and the driver does not grow with them."""
    peak = "as.integer(sub('[^0-9]*([0-9]+).*', '\\\\1', grep('VmHWM', readLines('/proc/self/status'), value = TRUE)))"
    r.execute("invisible(gc()); s <- strrep('y', 992)")
    before_kib = int(text(r, peak).split()[1])
    r.execute("for (i in 1:100000) cat(sprintf('%06d', i), ' ', s, '\n', sep = '')")
    eventually(lambda: len(r.raw_stdout) == 100_000_000, 60)
    assert bytes(r.raw_stdout[50_000_000:50_000_007]) == b"050001 "
    assert int(text(r, peak).split()[1]) - before_kib < 40_000
    del r.raw_stdout[:]
    r.execute("cat(strrep('x', 1e7))")
    eventually(lambda: len(r.raw_stdout) == 10_000_000, 30)


def test_kernels_of_the_same_moment_draw_differently(driver_root: DriverRoot, native: Path, tmp_path: Path) -> None:
    """Draws and names of temporary files are seeded from the kernel's random numbers: R's own seed is 16 bits of the clock, xor the pid."""
    build = f"gcc -shared -fPIC -O2 -xc -o /tmp/same.so - <<'END' && cat /tmp/same.so\n{SAME_MOMENT}END"
    same_moment = built(driver_root, build, tmp_path / "same.so")
    drawn = []
    for _ in range(2):
        r = driver_root.start(
            ["/usr/bin/Rscript", f"{DRIVERS}/r/main.R"],
            env={"LD_PRELOAD": "/usr/local/lib/same.so"},
            binds={native: NATIVE, same_moment: "/usr/local/lib/same.so"},
        )
        assert streams(r, "cat(Sys.getpid(), as.integer(Sys.time()))")[0] == "6 1700000000"  # they do live in the same moment
        r.execute("generator <- RNGkind()")
        drawn.append([text(r, "runif(1)"), text(r, "rnorm(1)"), text(r, "sample.int(1e9, 1)"), text(r, "basename(tempfile())")])
        assert text(r, "generator") == '[1] "Mersenne-Twister" "Inversion"        "Rejection"       '
        r.execute("set.seed(1)")
        assert text(r, "runif(1)") == "[1] 0.2655087"  # seeds of the user's are R's
    assert all(first != second for first, second in zip(*drawn, strict=True)), drawn


def test_quit_ends_the_cell_and_not_the_kernel(r: DriverProcess) -> None:
    """quit() ends a cell, quietly for status 0 and with an error that has the status otherwise; clean-up runs, and the state stays."""
    r.execute("x <- 5")
    assert (
        streams(r, "cat('last words'); f <- function() { on.exit(cat(' and more')); q() }; f(); cat('never')")[0] == "last words and more"
    )
    ended = error(r, "quit('no', 3); cat('never')")
    assert (ended["name"], ended["value"], ended["traceback"]) == ("SystemExit", "3", "SystemExit: 3")
    assert text(r, "x") == "[1] 5"
    assert results(r, "invisible(parallel::mclapply(1:2, function(i) quit('no', 1)))") == []
