"""The programs of ``examples/integrations``: agents' frameworks, unmodified, against a real server, with scripted models and no network of their own.

Each framework is in an environment of its own, made by ``scripts/test`` from ``requirements/integrations``.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from e2b import Sandbox

from cloister.config.client_env import read_client_env
from framework.client_programs import run_client_program
from framework.http import call
from framework.pretend_domain import pretend_domain
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "integrations"
QUIET = {
    "AGNO_TELEMETRY": "false",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "HARBOR_TELEMETRY": "off",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
}
"""Settings of the frameworks that turn off their telemetry."""
AGENTS = {
    "smolagents_agent": "[7, 2, 19]|answer: 7.0",
    "deepagents_agent": "Updated file /home/user/largest.sh|Successfully replaced|ca-certificates.crt|Command succeeded with exit code 0|ai: The script ran",
    "agno_agent": "Figure size|saved to squares.png|note.txt (File, 7 bytes)|squares|answer: The plot",
    "pydantic_ai_agent": ": 1229|: NameError|: 2262|answer: 1229 and 2262",
}
"""What each prints, in this order."""
CREWAI_FILES = "'status': 'written'|'name': 'sales.csv'|'stdout': 'awk says 100"
CREWAI_END = "'content': 'amount\\n20|answer: Both sums are 100.|a sandbox for one call: {'exit_code': 0, 'stdout': 'user"
"""The same, of CrewAI's tools for files and commands: before and after those of the Python tool."""
DOMAIN = "crew.test"
NEEDS = {"harbor": (12, 99), "crewai": (11, 13)}
"""The oldest and the newest minor version of Python for an environment, where not all will do: as in ``scripts/lib.sh``."""


def program(venv: str, name: str) -> str:
    """A program of the environment ``venv``."""
    path = ROOT / f".venv-{venv}" / "bin" / name
    if venv in NEEDS and not path.exists() and find_python(*NEEDS[venv]) is None:
        pytest.skip(f"this machine cannot run {venv}: it has none of the Pythons that scripts/lib.sh takes for it")
    if not path.exists():
        pytest.skip(f"the environment {venv} is not there: run scripts/test")
    return str(path)


def find_python(oldest: int, newest: int) -> str | None:
    """What ``scripts/lib.sh`` would make an environment with."""
    command = ["bash", "-c", f". scripts/lib.sh && find_python {oldest} {newest}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() or None


def run(server: Server, home: Path, *command: str, cwd: Path | None = None, timeout_s: float = 240) -> str:
    """Run one example as a person would, with an empty home; what it printed, and after that its log."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), **QUIET, **server.environ}
    return "".join(run_client_program(command, environ, cwd=cwd or home, timeout_s=timeout_s))


def in_order(printed: str, expected: str) -> None:
    """Each of the words between bars is there, after those before it."""
    place = 0
    for words in expected.split("|"):
        place = printed.find(words, place)
        assert place >= 0, f"{words!r} is not printed, or too early:\n{printed}"
        place += len(words)


def ids(server: Server) -> set[str]:
    """The sandboxes, running and paused."""
    return {
        found["sandboxID"] for found in json.loads(call(server.url, "GET", "/v2/sandboxes", headers={"X-API-Key": server.api_key}).body)
    }


def test_every_integration_is_listed_and_tested() -> None:
    """The list of the directory names each example."""
    found = {path.name for path in EXAMPLES.iterdir() if path.name != "README.md"}
    others = {"crewai_agent.py", "openai_agents.py", "rewards.py", "vercel-ai", "mastra", "harbor", "claude-code"}
    assert found == {*(f"{name}.py" for name in AGENTS), *others}
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in found if f"]({name})" not in listed] == []


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_works_in_a_sandbox(name: str, server: Server, tmp_path: Path) -> None:
    """The framework's own tools run the script's steps, and no sandbox is left."""
    before = ids(server)
    in_order(run(server, tmp_path, program("agents", "python"), str(EXAMPLES / f"{name}.py")), AGENTS[name])
    assert ids(server) <= before


def test_crewai_with_a_domain(stock_templates: None, tmp_path: Path) -> None:
    """All three E2B tools of CrewAI, with the SDKs that it pins, reach a server that has a domain by TLS, and look up no other name."""
    command = (program("crewai", "python"), str(EXAMPLES / "crewai_agent.py"))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    listen = ("--listen-tls", f"127.0.0.1:{port}", "--domain", f"{DOMAIN}:{port}")
    with pretend_domain(DOMAIN, tmp_path) as domain, running_server(*listen) as server:
        environ = {name: value for name, value in read_client_env(server.data_dir).public().items() if value is not None}
        done = domain.run(*command, env={"HOME": str(tmp_path), **QUIET, **environ}, cwd=tmp_path, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        in_order(done.stdout, f"{CREWAI_FILES}|'text': '100', 'stdout': ['rows 3|'name': 'IndexError'|{CREWAI_END}")
        assert ids(server) == set()
    assert {name for name in domain.asked if not name.endswith(f".{DOMAIN}")} == set()
    assert any(name.startswith("49999-") for name in domain.asked)


def test_crewai_on_loopback(server: Server, tmp_path: Path) -> None:
    """Without a domain CrewAI's files and commands work; its Python tool fails at the TLS handshake with this machine, and the agent is told."""
    before = ids(server)
    printed = run(server, tmp_path, program("crewai", "python"), str(EXAMPLES / "crewai_agent.py"))
    in_order(printed, f"{CREWAI_FILES}|{CREWAI_END}")
    assert "'rows 3" not in printed
    assert ids(server) <= before


def test_openai_agents_pauses_between_two_turns(server: Server, tmp_path: Path) -> None:
    """Its E2B client pauses the sandbox at the end of a turn and resumes it by the state it saved; the files and a process are there."""
    before = ids(server)
    printed = run(server, tmp_path, program("openai", "python"), str(EXAMPLES / "openai_agents.py"))
    in_order(
        printed,
        "answer: It counts.|between the turns: paused|said: it still runs\nit has written|answer: It does.|the same sandbox: yes",
    )
    assert ids(server) <= before


def test_mastra_pauses_between_two_turns(server: Server, tmp_path: Path) -> None:
    """A Mastra workspace pauses its sandbox when it stops; another one with the same id finds it with its files and its process."""
    if not (EXAMPLES / "mastra" / "node_modules" / "@mastra" / "e2b").is_dir():
        pytest.skip("needs Node and `npm ci` in examples/integrations/mastra")
    before = ids(server)
    printed = run(server, tmp_path, "node", "agent.mjs", cwd=EXAMPLES / "mastra")
    turn = "between the turns: paused"
    in_order(printed, f"said: started|answer: It counts.|{turn}|said: it still runs\nit has written|answer: It does.|{turn}|sandboxes: 1")
    assert ids(server) <= before


def test_rewards_of_64_sandboxes_at_once(server: Server, tmp_path: Path) -> None:
    """Each candidate gets what its answers are worth, whatever it does to its sandbox."""
    Sandbox.create("base", timeout=60, **server.sdk).kill()  # the first of a template is slow, and 64 of them on two processors are slower
    printed = run(server, tmp_path, program("agents", "python"), str(EXAMPLES / "rewards.py"))
    assert re.findall(r"^\[([^]]*)]", printed, re.MULTILINE) == ["1.0", "0.5", "0.75", "0.0", "0.0", "0.0", "0.0", "0.25"]
    in_order(printed, "64 sandboxes in|64 rewards in")


def test_vercel_ai(server: Server, tmp_path: Path) -> None:
    """A tool of the Vercel AI SDK runs code by the JavaScript SDK."""
    if not (EXAMPLES / "vercel-ai" / "node_modules" / "ai").is_dir():
        pytest.skip("needs Node and `npm ci` in examples/integrations/vercel-ai")
    printed = run(server, tmp_path, "node", "agent.mjs", cwd=EXAMPLES / "vercel-ai")
    in_order(printed, "np.float64(1.0)|: 0.05|answer: About one in twenty.")


@pytest.mark.slow
@pytest.mark.timeout(900)  # it installs 175 MB, which are 400 MB on disk
def test_claude_code_in_a_sandbox(server: Server, tmp_path: Path) -> None:
    """Claude Code, installed from npm in a template, edits a file and runs it, asked by a stub of its API in the same sandbox."""
    printed = run(server, tmp_path, program("agents", "python"), str(EXAMPLES / "claude-code" / "claude_code.py"), timeout_s=840)
    in_order(printed, "Write: |File created|Bash: |hello from the sandbox|answer: It printed: hello|file: print(")


@pytest.mark.slow
def test_harbor_runs_a_task(server: Server, tmp_path: Path) -> None:
    """Harbor builds the task's template once, and both agents earn the reward in sandboxes begun with that build."""
    for agent in ("oracle", "scripted_agent:ScriptedAgent"):
        words = ["run", "-p", "task", "-e", "e2b", "-a", agent, "-o", str(tmp_path), "--job-name", agent[:6], "-y", "-q"]
        python = [program("harbor", "python"), "-c", "import sys; sys.path[0] = '.'; from harbor.cli.main import app; app()"]
        printed = run(server, tmp_path, *python, *words, cwd=EXAMPLES / "harbor", timeout_s=280)
        assert ("build started" in printed) is (agent == "oracle")
        result = json.loads((tmp_path / agent[:6] / "result.json").read_text())
        assert re.search(r'"mean": 1\.0', json.dumps(result)), result
