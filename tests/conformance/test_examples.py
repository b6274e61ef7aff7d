"""The programs of ``examples/``, unmodified, through both official SDKs, against a pretend internet that answers for httpbin.org."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from framework.client_programs import run_client_program
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted([*EXAMPLES.glob("python/[1-5]_*.py"), *EXAMPLES.glob("javascript/[1-5]_*.mjs")])
AREAS = {
    "7_commands": "stdout: hello|stderr: oh|exit code: 0|directory: /tmp|user: user|other user: root|failed with exit code 2",
    "8_background": "streamed: line 1|streamed: line 3|words: 5|running: sleep 1000|killed: yes|running: nothing",
    "9_terminal": "30 100|/dev/pts/0|xterm-256color|logout|exit code: 0",
    "10_files": "text: buy milk|bytes: 000102|dir /home/user/notes/old drwxr-xr-x|file /home/user/notes/old/one.txt -rw-r--r--"
    "|size: 9 owner: user|exists: no|not found",
    "11_watch": "create a.txt|write a.txt|rename a.txt|create b.txt|create sub|remove b.txt",
    "12_git": "changed: readme.txt|branches: feature main|cloned: hello",
    "13_web_server": "port 8000 is 8000-<id>|hello from inside",
    "14_metrics": "processors: 2|processor: | of 1024 MiB|disk: ",
    "15_lifecycle": "state: running|template: base|metadata: ada|seconds to live: 60|more than before: yes|found: yes"
    "|connected: remembered|running: no",
    "16_environment": 'sandbox: blue round|command: it\'s "red" round|afterwards: blue round|in a sandbox: true',
    "17_access": "web server, without a token: 403|web server, with the token: 200|files, with only that token: 401|files, by the SDK: yes",
    "18_urls": "in the sandbox: uploaded|downloaded: uploaded|another file by the same signature: 401",
    "19_mcp": "tools: |convert_time|12:00 in Paris is 1|without the token: 401",
    "27_pause": "paused: yes|state: paused|running: no|variables: 42|the command goes on: step 5|files: kept on disk|variables: NameError",
    "28_auto_pause": "after its time: paused|woken by three commands: 012|state: running|awake for: 300 seconds",
    "29_fork": "copy 1: state so far, branch 1|copy 2: state so far, branch 2|copy 3: state so far, branch 3|the original: state so far",
    "30_network": "httpbin.org: reached|example.com: refused|in the record: example.com name_not_allowed|after the update: refused"
    "|without limits: reached",
    "31_secrets": "the service sees: Bearer the-key|the token is for: https://httpbin.org and from this sandbox: yes"
    "|after the update: Bearer another-key",
    "32_volume": "two sees: 1,2|back: 1,2,3|read-only: yes|files: /input.csv /output.csv|in use: 409|after the sandboxes: 1,2,3"
    "|deleted: yes",
}
"""Output of each other program, in this order, in both languages."""
TEMPLATES = {
    "20_template": "built: example-first|from the cache: yes|note: made at build|jq: [1,2]|moo",
    "21_template_steps": "steps: 24|root 755 /opt/app/main.py|hello from the app|./config.json ./index.html ./style.css\n|blue|one.txt two.txt"
    '|700 /home/user/data|/opt/app/main.py|draft|removed|tree|tinydb|left-pad|it\'s "live" in /home/user/data|worker /srv/work|root|worker'
    "|/srv/work|first|built",
    "22_template_dockerfile": "FROM e2bdev/base|RUN echo hi|directory: /srv/app|output: hello from the app|variable: hello-world world|served: "
    "|blue",
    "23_template_start": "port: ready; running: python3 -m http.server|answers: 200|url: ready|process: ready|file: ready|timeout: ready"
    "|command: ready; running: nothing",
    "24_template_manage": "log: info|RUN echo one|status: ready|exists: |tags: production stable v1 v2|v1: one|stable: one|production: two",
    "25_template_errors": "a failing step: failed to run command 'cat /does/not/exist': command failed: exit status 1|at: |cat /does/not/exist"
    "|no such user: failed to run command 'whoami': command failed: unauthenticated: invalid username: 'nobody-knows'|at: |nobody-knows"
    "|no such image: image 'docker.io/library/fedora:44' cannot be fetched|at: |fedora:44|a start command that dies: |exit status 7|no licence|at: ",
    "26_snapshot": "copy 1: work so far|copy 2: work so far|the first: and more|listed: yes|deleted: yes",
}
"""The same of those that build templates, which need package registries."""
ALL = sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.glob("*/[0-9]*"))
STREAMING = sorted([*EXAMPLES.glob("python/6_*.py"), *EXAMPLES.glob("javascript/6_*.mjs")])


def run(program: Path, server: Server, timeout_s: float = 120) -> str:
    """Run one example as a person would; what it printed."""
    command = [sys.executable if program.suffix == ".py" else "node", str(program)]
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **server.environ}
    return run_client_program(command, environ, cwd=program.parent, timeout_s=timeout_s)[0]


def test_programs_are_in_both_languages_and_listed() -> None:
    """None is missing, none is left out of these tests, and the list of the directory names each."""
    assert len(PROGRAMS) == 10
    assert len(STREAMING) == 2
    areas = {
        Path(language) / f"{name}{end}" for name in {**AREAS, **TEMPLATES} for language, end in (("python", ".py"), ("javascript", ".mjs"))
    }
    assert set(ALL) == areas | {path.relative_to(EXAMPLES) for path in (*PROGRAMS, *STREAMING)}
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in {**AREAS, **TEMPLATES} if f"| {name.replace('_', ' ')} |" not in listed] == []


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_program_prints_the_document(program: Path, online_server: Server) -> None:
    """The JSON document of httpbin.org is fetched inside the sandbox and printed."""
    assert "Sample Slide Show" in run(program, online_server)


@pytest.mark.parametrize("program", STREAMING, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_streaming(program: Path, online_server: Server) -> None:
    """Output comes as it happens and results once."""
    printed = run(program, online_server)
    assert printed.index("hello") < printed.index("world")
    assert "2" in printed


@pytest.mark.parametrize("language", ["python", "javascript"])
@pytest.mark.parametrize("name", AREAS)
def test_area(name: str, language: str, online_server: Server) -> None:
    """Each area's program prints what it shows, in order."""
    (program,) = (EXAMPLES / language).glob(f"{name}.*")
    in_order(run(program, online_server), AREAS[name])


@pytest.mark.parametrize("language", ["python", "javascript"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str, language: str, server: Server) -> None:
    """Likewise those that build templates."""
    (program,) = (EXAMPLES / language).glob(f"{name}.*")
    in_order(run(program, server, 420), TEMPLATES[name])


def in_order(printed: str, expected: str) -> None:
    """Each of the words between bars is there, after those before it."""
    place = 0
    for words in expected.split("|"):
        place = printed.find(words, place)
        assert place >= 0, f"{words!r} is not printed, or too early:\n{printed}"
        place += len(words)


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [("ok.py", "print('fine')", 0), ("ok.js", "console.log('fine')", 0), ("ok.sh", "echo fine", 0), ("bad.py", "print('fine')\n1 / 0", 1)],
)
def test_cloister_run(tmp_path: Path, online_server: Server, name: str, code: str, status: int) -> None:
    """``cloister run FILE`` prints what the program prints and ends with its success or failure."""
    path = tmp_path / name
    path.write_text(code)
    done = online_server.cli("run", str(path), check=False)
    assert (done.returncode, done.stdout) == (status, "fine\n"), done.stderr
