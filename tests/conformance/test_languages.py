"""Every stock language through the official SDK: state, errors, interrupts, variables, much output, death by memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2b import TimeoutException
from e2b_code_interpreter import Sandbox

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

NASTY = "it's \"quoted\" `x` $HOME \\n 'é' 日本 \U0001f600\nsecond line"


@dataclass(frozen=True)
class Language:
    """Programs in one language. Each is what a beginner would write."""

    name: str
    keep: str
    recall: str
    """Prints 42 from what ``keep`` kept."""
    failing: str
    """Fails on its third line."""
    failure: str
    """A word that the error must hold."""
    spin: str
    """Never ends."""
    show_variable: str
    """Prints the environment variable NASTY without a newline of its own, or with one."""
    ten_megabytes: str
    eat_memory: str


LANGUAGES = (
    Language(
        "python",
        "kept = 41",
        "print(kept + 1)",
        "a = 1\nb = 0\nprint(a / b)\n",
        "ZeroDivisionError",
        "while True: pass",
        "import os; print(os.environ['NASTY'])",
        "for i in range(10 * 1024): print('x' * 1023)",
        "x = []\nwhile True: x.append(bytearray(50_000_000))",
    ),
    Language(
        "javascript",
        "const kept = 41",
        "console.log(kept + 1)",
        "const a = 1;\nconst b = null;\nb.missing();\n",
        "TypeError",
        "while (true) {}",
        "console.log(process.env.NASTY)",
        "for (let i = 0; i < 10 * 1024; i++) console.log('x'.repeat(1023))",
        "const x = []; while (true) x.push(Buffer.alloc(50_000_000, 1))",
    ),
    Language(
        "typescript",
        "const kept: number = 41",
        "console.log(kept + 1)",
        "const a: number = 1;\nconst b: any = null;\nb.missing();\n",
        "TypeError",
        "while (true) {}",
        "console.log(process.env.NASTY as string)",
        "for (let i: number = 0; i < 10 * 1024; i++) console.log('x'.repeat(1023))",
        "const y: Buffer[] = []; while (true) y.push(Buffer.alloc(50_000_000, 1))",
    ),
    Language(
        "r",
        "kept <- 41",
        "cat(kept + 1, '\\n')",
        "a <- 1\nb <- 'x'\nprint(a + b)\n",
        "non-numeric",
        "while (TRUE) {}",
        "cat(Sys.getenv('NASTY'), '\\n', sep = '')",
        "for (i in 1:(10 * 1024)) cat(strrep('x', 1023), '\\n', sep = '')",
        "x <- list(); while (TRUE) x[[length(x) + 1]] <- rep(1.5, 5e6)",
    ),
    Language(
        "java",
        "int kept = 41;",
        "System.out.println(kept + 1);",
        "int a = 1;\nint b = 0;\nSystem.out.println(a / b);\n",
        "ArithmeticException",
        "while (true) {}",
        'System.out.println(System.getenv("NASTY"));',
        'for (int i = 0; i < 10 * 1024; i++) System.out.println("x".repeat(1023));',
        "",
    ),
    Language(
        "bash",
        "kept=41",
        "echo $((kept + 1))",
        "a=1\nb=0\nfalse_command_here\n",
        "false_command_here",
        "while true; do :; done",
        'printf "%s\\n" "$NASTY"',
        "line=$(head -c 1023 /dev/zero | tr '\\0' x); for ((i = 0; i < 10 * 1024; i++)); do echo \"$line\"; done",
        "",
    ),
)


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for all languages."""
    made = Sandbox.create(timeout=900, envs={"FROM_SANDBOX": "yes"}, **server.sdk)
    yield made
    made.kill()


@pytest.fixture(params=LANGUAGES, ids=[language.name for language in LANGUAGES])
def language(request: pytest.FixtureRequest) -> Language:
    """Each language."""
    found: Language = request.param
    return found


def printed(sandbox: Sandbox, code: str, language: str, **options: object) -> str:
    """What the code printed; it must not fail."""
    execution = sandbox.run_code(code, language=language, timeout=120, **options)
    assert execution.error is None, execution.error
    return "".join(execution.logs.stdout)


def test_state_is_kept(sandbox: Sandbox, language: Language) -> None:
    """A variable of one run is there in the next."""
    printed(sandbox, language.keep, language.name)
    assert printed(sandbox, language.recall, language.name).strip() == "42"


def test_error_has_name_and_line_of_the_users_code(sandbox: Sandbox, language: Language) -> None:
    """A failure names what went wrong, and the traceback says line 3."""
    execution = sandbox.run_code(language.failing, language=language.name, timeout=60)
    said = "".join(execution.logs.stderr)
    if execution.error is not None:
        said += f"{execution.error.name} {execution.error.value} {execution.error.traceback}"
    assert language.failure in said
    assert any(mark in said for mark in ("line 3", ":3", "3:", "> 3 ", "-> 3", "#3")), said


def test_time_out_stops_the_code_and_keeps_the_state(sandbox: Sandbox, language: Language) -> None:
    """A client that gives up after a second stops an endless loop; the next run works and remembers."""
    printed(sandbox, language.keep, language.name)
    with pytest.raises(TimeoutException):
        sandbox.run_code(language.spin, language=language.name, timeout=1.5)
    assert printed(sandbox, language.recall, language.name).strip() == "42"


def test_variable_arrives_as_data_and_is_gone_afterwards(sandbox: Sandbox, language: Language) -> None:
    """Quotes, newlines and unicode in a variable survive; the next run does not see it."""
    assert printed(sandbox, language.show_variable, language.name, envs={"NASTY": NASTY}).rstrip("\n") == NASTY
    execution = sandbox.run_code(language.show_variable, language=language.name, timeout=60)
    assert NASTY[:10] not in "".join(execution.logs.stdout)


def test_ten_megabytes_arrive_whole(sandbox: Sandbox, language: Language) -> None:
    """Not a byte of much output is lost."""
    text = printed(sandbox, language.ten_megabytes, language.name)
    assert len(text) == 10 * 1024 * 1024
    assert set(text) == {"x", "\n"}


def test_first_line_arrives_before_the_end(sandbox: Sandbox) -> None:
    """Output is streamed as it happens, in order."""
    seen: list[tuple[float, str]] = []
    code = 'print("hello"); import time; time.sleep(1); print("world")'
    sandbox.run_code(code, on_stdout=lambda message: seen.append((time.monotonic(), message.line)))
    assert [text for _, text in seen] == ["hello\n", "world\n"]
    assert seen[1][0] - seen[0][0] > 0.7


def test_result_callback(sandbox: Sandbox) -> None:
    """An assignment gives no result; a value does, once."""
    seen: list[str | None] = []
    sandbox.run_code("x = 1", on_result=lambda result: seen.append(result.text))
    assert seen == []
    sandbox.run_code("x", on_result=lambda result: seen.append(result.text))
    assert seen == ["1"]


@pytest.mark.parametrize("language", [item for item in LANGUAGES if item.eat_memory], ids=lambda item: item.name)
def test_death_by_memory_is_explained(server: Server, language: Language) -> None:
    """A kernel killed for want of memory says so and how much there was; the next run works."""
    sandbox = Sandbox.create(timeout=300, **server.sdk)
    try:
        execution = sandbox.run_code(language.eat_memory, language=language.name, timeout=120)
        assert execution.error is not None
        said = f"{execution.error.name} {execution.error.value} {execution.error.traceback}".lower()
        assert "memory" in said, execution.error
        printed(sandbox, language.keep, language.name)
        assert printed(sandbox, language.recall, language.name).strip() == "42"
    finally:
        sandbox.kill()


def test_unknown_language_lists_the_known_ones(sandbox: Sandbox) -> None:
    """A language that is not there gives an error that says which are."""
    with pytest.raises(Exception, match=r"(?s)python.*bash"):
        sandbox.run_code("1", language="cobol")


@pytest.mark.parametrize(
    ("alias", "code", "expected"), [("js", "1 + 1", "2"), ("ts", "const q: number = 2; q", "2"), ("JavaScript", "2 + 1", "3")]
)
def test_aliases(sandbox: Sandbox, alias: str, code: str, expected: str) -> None:
    """The short names of languages work, in any case."""
    assert sandbox.run_code(code, language=alias).text == expected


def test_javascript_modules_and_callbacks(sandbox: Sandbox) -> None:
    """require, import, top-level await and output of callbacks in one cell."""
    code = (
        "const fs = require('fs');\nimport path from 'path';\nconst value = await Promise.resolve(path.basename('/a/b'));\n"
        "setTimeout(() => console.log('late', value, typeof fs.readFileSync), 200);"
    )
    assert printed(sandbox, code, "javascript") == "late b function\n"
    assert printed(sandbox, "const value = 5; console.log(value)", "javascript") == "5\n"


def test_java_whole_program(sandbox: Sandbox) -> None:
    """A pasted public class with main runs."""
    code = 'public class Main {\n  public static void main(String[] args) {\n    System.out.println("Hello " + args.length);\n  }\n}'
    assert printed(sandbox, code, "java") == "Hello 0\n"
    assert printed(sandbox, code.replace("Hello", "Again"), "java") == "Again 0\n"


def test_contexts_are_apart_and_run_in_parallel(sandbox: Sandbox) -> None:
    """Two contexts have their own variables and do not wait for each other."""
    first, second = sandbox.create_code_context(), sandbox.create_code_context(cwd="/tmp")
    sandbox.run_code("mine = 1", context=first)
    missing = sandbox.run_code("mine", context=second)
    assert missing.error is not None
    assert missing.error.name == "NameError"
    assert "".join(sandbox.run_code("import os; print(os.getcwd())", context=second).logs.stdout) == "/tmp\n"
    timed = "import time; began = time.monotonic(); time.sleep(2); print(began, time.monotonic())"
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda context: sandbox.run_code(timed, context=context), (first, second)))
    (began_1, ended_1), (began_2, ended_2) = (map(float, "".join(run.logs.stdout).split()) for run in runs)
    assert max(began_1, began_2) < min(ended_1, ended_2)
    sandbox.restart_code_context(first)
    assert sandbox.run_code("mine", context=first).error is not None
    sandbox.remove_code_context(first)
    assert first.id not in [context.id for context in sandbox.list_code_contexts()]


def test_figure_is_png_with_chart_data(sandbox: Sandbox) -> None:
    """A matplotlib figure comes as png and as the chart that the SDK's own classes parse."""
    code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [3, 3])\nplt.title('T')\nplt.xlabel('x')\nplt.show()"
    (result,) = sandbox.run_code(code).results
    assert result.png is not None
    assert result.chart is not None
    assert result.chart.title == "T"
    assert [element.value for element in result.chart.elements] == [3, 3]


def test_rich_results(sandbox: Sandbox) -> None:
    """Data frames, html, svg, latex, markdown, json and images come as what they are."""
    frame = sandbox.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})").results[0]
    assert frame.data == {"a": [1, 2], "b": ["x", None]}
    assert frame.html is not None
    code = (
        "from IPython.display import display, HTML, SVG, Latex, Markdown, JSON\n"
        "display(HTML('<b>h</b>'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>'), Latex('$x$'), Markdown('# m'), JSON({'k': 1}))\n'last'"
    )
    results = sandbox.run_code(code).results
    assert (results[0].html, results[2].latex, results[3].markdown, results[4].json) == ("<b>h</b>", "$x$", "# m", {"k": 1})
    assert results[1].svg is not None
    assert (results[5].text, results[5].is_main_result) == ("last", True)
    image = sandbox.run_code("from PIL import Image\nImage.new('RGB', (8, 8), 'red')").results[0]
    assert image.png is not None


@pytest.mark.slow
def test_a_hundred_megabytes_in_bounded_memory(server: Server) -> None:
    """100 MB arrive whole while the agent and the ingress stay small, though the reader is slow."""
    sandbox = Sandbox.create(timeout=600, **server.sdk)
    try:
        count = 0

        def take(message: object) -> None:
            nonlocal count
            count += len(message.line)  # type: ignore[attr-defined]  # a log line, typed as object

        execution = sandbox.run_code("for i in range(100 * 1024): print('y' * 1023)", timeout=300, on_stdout=take)
        assert execution.error is None
        assert count == 100 * 1024 * 1024
        status = Path(f"/proc/{server.child('api')}/status").read_text().splitlines()
        peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        assert peak_kib < 300 * 1024
        agent = "$(pgrep -of agent/main.py)"
        peak = sandbox.run_code(f"awk '/VmHWM/ {{print $2}}' /proc/{agent}/status", language="bash")
        assert int("".join(peak.logs.stdout)) < 150 * 1024
    finally:
        sandbox.kill()
