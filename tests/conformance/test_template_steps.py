"""Templates built by the Python SDK on a whole server: every method of the builder that is a step, and sandboxes of what came out."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Template, wait_for_port
from e2b.exceptions import BuildException
from e2b_code_interpreter import Sandbox

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A client's directory."""
    (tmp_path / "app" / "lib").mkdir(parents=True)
    (tmp_path / "app" / "main.py").write_text("from lib import a; print(a.NAME)")
    (tmp_path / "app" / "lib" / "a.py").write_text("NAME = 'a'")
    (tmp_path / "app" / "link").symlink_to("main.py")
    (tmp_path / "start.sh").write_text("#!/bin/sh\nexec python3 -m http.server $PORT\n")
    (tmp_path / "notes.txt").write_text("n\n")
    (tmp_path / "Dockerfile").write_text(_DOCKERFILE)
    return tmp_path


_DOCKERFILE = """\
FROM e2bdev/base
ENV A=1 B="$A x" C='it"s'
WORKDIR /srv/$A
COPY app ./app
COPY --chown=1000:1000 --chmod=600 notes.txt app/main.py /dest/
ARG Q=2
RUN printf '%s|' "$A" "$B" "$C" "$Q" > seen
USER vera
RUN id -un > ~/me
"""


@pytest.fixture
def sandboxes(server: Server) -> Iterator[Any]:
    """Makes sandboxes of a template, and kills them."""
    made: list[Sandbox] = []

    def make(name: str) -> Sandbox:
        made.append(Sandbox.create(name, timeout=120, **server.sdk))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.kill()


def _build(server: Server, template: Any, name: str) -> list[str]:
    """Lines of the log."""
    lines: list[str] = []
    Template.build(template, name, on_build_logs=lambda entry: lines.append(entry.message), **server.sdk)
    return lines


def test_every_step_of_the_builder(server: Server, project: Path, sandboxes: Any) -> None:
    """Files, commands, users, directories and variables are in the sandbox; a second build takes all of them from the cache."""
    template = (
        Template(file_context_path=project)
        .from_base_image()
        .set_envs({"PORT": "8321", "WORDS": 'it\'s "so"\n$HOME'})
        .copy("start.sh", "/usr/local/bin/start", user="root", mode=0o755)
        .copy(["app", "notes.txt"], "work/")
        .make_dir("made", mode=0o700)
        .rename("work/notes.txt", "made/renamed")
        .make_symlink("made/renamed", "linked")
        .run_cmd(["id -un", "pwd"])
        .set_user("vera")
        .set_workdir("/srv/vera")
        .run_cmd("echo $WORDS > words; whoami >> words")
        .remove("/usr/local/bin/absent", force=True)
        .set_start_cmd("start", wait_for_port(8321))
    )
    first = _build(server, template, "steps-all")
    at = [line.endswith("RUN id -un && pwd") for line in first].index(True)
    assert first[at + 1 : at + 3] == ["user", "/home/user"]
    sandbox = sandboxes("steps-all")
    told = sandbox.commands.run(
        "id -un; pwd; cat words; stat -c '%a %U' /usr/local/bin/start; curl -sf localhost:$PORT > /dev/null && echo up"
    )
    assert told.stdout.split("\n") == ["vera", "/srv/vera", 'it\'s "so" /home/user', "vera", "755 root", "up", ""]
    told = sandbox.commands.run("cat ~/linked; ls work; stat -c %a ~/made; cd work; python3 main.py", user="user", cwd="/home/user")
    assert told.stdout.split() == ["n", "lib", "link", "main.py", "700", "a"]
    second = _build(server, template, "steps-again")
    steps = [line for line in second if re.search(r"\[\d+/\d+\]", line)]
    assert len(steps) == 12
    assert all(line.startswith("CACHED [") for line in steps)


def test_a_dockerfile(server: Server, project: Path, sandboxes: Any) -> None:
    """The SDK's steps mean what the Dockerfile means to Docker. The last user and directory count."""
    _build(server, Template(file_context_path=project).from_dockerfile(str(project / "Dockerfile")), "steps-dockerfile")
    sandbox = sandboxes("steps-dockerfile")
    assert sandbox.commands.run("pwd; cat seen; echo; cat /home/vera/me; ls app").stdout.split("\n")[:3] == [
        "/srv/1",
        '1|1 x|it"s|2|',
        "vera",
    ]
    assert (
        sandbox.commands.run("stat -c '%a %u:%g %n' /dest/*", user="root").stdout
        == "600 1000:1000 /dest/main.py\n600 1000:1000 /dest/notes.txt\n"
    )


def test_a_template_of_a_template(server: Server, project: Path, sandboxes: Any) -> None:
    """A child begins with files, variables, user and directory of its parent."""
    _build(server, Template().from_base_image().set_envs({"P": "1"}).set_workdir("/parent").run_cmd("echo $P > p"), "steps-parent")
    _build(server, Template().from_template("steps-parent").run_cmd("cp p c"), "steps-child")
    assert sandboxes("steps-child").commands.run("pwd; cat c; echo $P; id -un").stdout.split() == ["/parent", "1", "1", "user"]


@pytest.mark.parametrize(
    ("command", "user", "message"),
    [
        ("echo no >&2; exit 3", None, "failed to run command 'echo no >&2; exit 3': command failed: exit status 3"),
        ("whoami", "root123", "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"),
    ],
)
def test_a_failed_step_points_at_its_line(server: Server, command: str, user: str | None, message: str) -> None:
    """The SDK's exception has the words of the official service, and ends in the line of the step."""
    template = Template().from_base_image().run_cmd("true")
    template = template.run_cmd(command, user=user)  # this line
    with pytest.raises(BuildException) as caught:
        _build(server, template, "steps-failed")
    assert str(caught.value) == message
    assert "# this line" in (traceback.extract_tb(caught.value.__traceback__)[-1].line or "")
