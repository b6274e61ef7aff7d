"""The agent with real kernels of every language: state, output, errors, variables, interrupts, as clients see them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.protocol.languages import NATIVE_LANGUAGES
from framework.agent_process import AgentProcess

LANGUAGES = [language.name for language in NATIVE_LANGUAGES]
SET = {
    "python": "x = 41",
    "javascript": "const x = 41",
    "typescript": "const x: number = 41",
    "r": "x <- 41",
    "java": "int x = 41;",
    "bash": "x=41",
}
PRINT = {
    "python": "print(x + 1)",
    "javascript": "console.log(x + 1)",
    "typescript": "console.log(x + 1)",
    "r": "cat(x + 1, '\\n', sep='')",
    "java": "System.out.println(x + 1);",
    "bash": "echo $((x + 1))",
}
FAIL = {
    "python": "1/0",
    "javascript": "throw new Error('bad')",
    "typescript": "throw new Error('bad')",
    "r": "stop('bad')",
    "java": 'throw new RuntimeException("bad");',
    "bash": "exit 3",
}
LOOP = {
    "python": "while True: pass",
    "javascript": "while (true) {}",
    "typescript": "while (true) {}",
    "r": "while (TRUE) {}",
    "java": "while (true) {}",
    "bash": "while true; do :; done",
}
SHOW_ENV = {
    "python": "import os; print(os.environ.get('A'))",
    "javascript": "console.log(process.env.A)",
    "typescript": "console.log(process.env.A)",
    "r": "cat(Sys.getenv('A', 'None'), '\\n', sep='')",
    "java": 'System.out.println(System.getenv("A"));',
    "bash": 'echo "${A-None}"',
}
LINES = {
    "python": "for i in range(200000): print(i)",
    "javascript": "for (let i = 0; i < 200000; i++) console.log(i)",
    "typescript": "for (let i = 0; i < 200000; i++) console.log(i)",
    "r": "for (i in 0:199999) cat(i, '\\n', sep='')",
    "java": "for (int i = 0; i < 200000; i++) System.out.println(i);",
    "bash": "seq 0 199999",
}


@pytest.fixture
def agent(start_agent: Callable[..., AgentProcess]) -> AgentProcess:
    """An agent with all languages."""
    return start_agent()


def stdout(events: list[dict[str, Any]]) -> str:
    """All of stdout; the run must have ended."""
    assert events[-1]["type"] == "end_of_execution"
    return "".join(event["text"] for event in events if event["type"] == "stdout")


@pytest.mark.parametrize("language", LANGUAGES)
def test_language(agent: AgentProcess, language: str) -> None:
    """Each language keeps state, survives its own errors, and hides a run's variables from the next."""
    agent.execute(SET[language], language)
    assert stdout(agent.execute(PRINT[language], language)) == "42\n"
    assert [event for event in agent.execute(FAIL[language], language) if event["type"] == "error"]
    assert stdout(agent.execute(PRINT[language], language)) == "42\n"
    value = "q'\"\\ é 😀\nline"
    assert stdout(agent.execute(SHOW_ENV[language], language, env_vars={"A": value})) == value + "\n"
    assert stdout(agent.execute(SHOW_ENV[language], language)).strip() in ("None", "null", "undefined")


@pytest.mark.parametrize("language", LANGUAGES)
def test_interrupt_on_disconnect(agent: AgentProcess, language: str) -> None:
    """A client that goes away stops its code within seconds, in every language, and state is kept."""
    agent.execute(SET[language], language)
    connection = http.client.HTTPConnection("127.0.0.1", agent.port)
    connection.request("POST", "/execute", json.dumps({"code": LOOP[language], "language": language}))
    response = connection.getresponse()
    time.sleep(0.7)
    response.close()
    connection.close()
    started = time.monotonic()
    assert stdout(agent.execute(PRINT[language], language)) == "42\n"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_many_lines(agent: AgentProcess, language: str) -> None:
    """Two hundred thousand lines arrive complete and in order."""
    assert stdout(agent.execute(LINES[language], language)) == "".join(f"{i}\n" for i in range(200_000))


def test_kernels_have_the_sandbox_environment(start_agent: Callable[..., AgentProcess]) -> None:
    """Kernels see the sandbox's variables and identity, and variables that POST /init adds later."""
    agent = start_agent(envs={"MINE": "1"})
    code = "import os; print(*(os.environ.get(n) for n in ('MINE', 'E2B_SANDBOX', 'E2B_SANDBOX_ID', 'HOME', 'USER', 'LATER')))"
    assert stdout(agent.execute(code)) == "1 true testsandbox /root root None\n"
    assert agent.request("POST", "/init", {"envVars": {"LATER": "2"}}, control=True)[0] == 204
    assert stdout(agent.execute(code)) == "1 true testsandbox /root root 2\n"


def test_kernels_run_as_the_named_user(start_agent: Callable[..., AgentProcess]) -> None:
    """With another kernel user all of the kernel's identity is that user's."""
    agent = start_agent(kernel_user="user", workdir="/home/user")
    assert stdout(agent.execute("!id -un; id -gn; echo $HOME; pwd; touch ~/mine && echo ok")) == "user\nuser\n/home/user\n/home/user\nok\n"


def test_hundred_megabytes(agent: AgentProcess) -> None:
    """A hundred megabytes arrive complete; the agent's memory does not grow with them."""
    events = agent.execute("import sys\nfor i in range(100 * 1024): sys.stdout.write('x' * 1023 + '\\n')")
    assert len(stdout(events)) == 100 << 20
    status = Path(f"/proc/{agent.process.pid}/status").read_text(encoding="ascii")
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    assert peak_kib < 80 * 1024


def test_output_bound(start_agent: Callable[..., AgentProcess]) -> None:
    """Output without end is ended with an error that names the bound; the kernel and its state live."""
    agent = start_agent(limits={"mem_mib": 1024, "output_mib": 8})
    agent.execute("x = 1")
    events = agent.execute("while True: print('y' * 100)")
    (error,) = [event for event in events if event["type"] == "error"]
    assert error["name"] == "OutputLimitExceeded"
    assert "8 MiB" in error["value"]
    assert stdout(agent.execute("print(x)")) == "1\n"


def test_sigterm_ends_the_agent(agent: AgentProcess) -> None:
    """SIGTERM ends the agent cleanly, its kernels with it."""
    agent.execute("1")
    os.kill(agent.process.pid, signal.SIGTERM)
    assert agent.process.wait(10) == 0
