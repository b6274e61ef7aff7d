"""The official JavaScript SDK's template builder and the CLI, unmodified, against the control plane over a fake node."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from framework.control_plane import ControlPlane
from framework.requests import ask

JS = Path(__file__).parent / "js"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("node") is None or not (JS / "node_modules" / "e2b").is_dir(),
        reason="needs Node and `npm ci` in tests/conformance/js",
    ),
]
CLI = "node_modules/.bin/e2b"


@pytest.fixture
def plane(control_plane: ControlPlane) -> ControlPlane:
    """A control plane whose builds run."""
    control_plane.node.builds_run = True
    return control_plane


def run(plane: ControlPlane, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in the directory of the JavaScript packages, pointed at the control plane."""
    return subprocess.run(
        command, cwd=JS, env=plane.environ, capture_output=True, text=True, check=check, timeout=90, stdin=subprocess.DEVNULL
    )


def test_builder(plane: ControlPlane, tmp_path: Path) -> None:
    """The JavaScript SDK builds with files, follows, fails where it should, tags, and makes snapshots."""
    files, name = tmp_path / "files", f"js-{uuid.uuid4().hex[:8]}"
    (files / "app" / "sub").mkdir(parents=True)
    (files / "one.txt").write_text("one")
    (files / "app" / "main.js").write_text("1\n")
    (files / "app" / "sub" / "deep").write_text("2\n")
    (files / "app" / "link").symlink_to("main.js")
    done = run(plane, "node", "templates.mjs", str(files), name, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    built = seen.pop("built")
    assert (built["name"], built["tags"]) == (f"{name}:v1", ["v1", "stable"])
    request = plane.node.builds[built["buildId"]]
    assert [(step.kind, step.args) for step in request.steps] == [
        ("COPY", ("one.txt", "/app/", "root", "0755")),
        ("COPY", ("app", "/app/tree", "", "")),
        ("COPY", ("app/*", "/app/files", "", "")),
        ("RUN", ("echo hello",)),
        ("WORKDIR", ("/app",)),
        ("USER", ("root",)),
        ("ENV", ("A", "1")),
    ]
    assert all(step.files is not None for step in request.steps[:3])
    assert seen.pop("assigned")["tags"] == ["prod"]
    image = plane.node.builds[seen.pop("amazon")["buildId"]].image
    assert image is not None
    assert (image.username, image.password, image.is_aws_key) == ("a", "s", True)
    assert "is in no registry of Amazon" in seen.pop("notAmazon")
    assert "already used" in seen.pop("refused")
    assert seen == {
        "hellos": 1,
        "skipped": 3,
        "exists": [True, False],
        "failed": {"status": "error", "message": "failed to run command 'exit 3': command failed: exit status 3", "step": "1"},
        "failure": "BuildError",
        "stack": True,
        "tags": ["prod", "stable", "v1"],
        "tagsAfter": ["v1"],
        "unknownTag": "TemplateError",
        "sandbox": built["templateId"],
        "snapshot": {"snapshotId": f"default/{name}-snap:default", "names": [f"default/{name}-snap"]},
        "listed": [f"default/{name}-snap:default"],
        "deleted": [True, False],
        "wrongKey": "AuthenticationError",
    }


def test_cli_builds_a_dockerfile(plane: ControlPlane, tmp_path: Path) -> None:
    """``e2b template create`` builds what a Dockerfile says; ``list``, ``publish``, ``unpublish`` and ``delete`` work on it."""
    (tmp_path / "e2b.Dockerfile").write_text(
        "FROM python:3.12-slim\nWORKDIR /srv\nENV A=1\nCOPY app.py /srv/\nRUN pip install flask\nUSER nobody\n"
    )
    (tmp_path / "app.py").write_text("print(1)\n")
    done = run(
        plane, CLI, "template", "create", "from-docker", "--path", str(tmp_path), "--cpu-count", "1", "--memory-mb", "512", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (request,) = plane.node.builds.values()
    assert request.image is not None
    assert (request.image.reference, request.name, request.cpu_count, request.mem_mib) == ("python:3.12-slim", "from-docker", 1, 512)
    kinds = [step.kind for step in request.steps]
    assert kinds.count("COPY") == 1
    assert ("RUN", ("pip install flask",)) in [(step.kind, step.args) for step in request.steps]
    assert "from-docker" in run(plane, CLI, "template", "list").stdout
    listed = {one["templateID"]: one for one in json.loads(run(plane, CLI, "template", "list", "--format", "json").stdout)}
    assert listed[request.template_id]["public"] is False
    assert "default/from-docker" in run(plane, CLI, "template", "publish", "-y", request.template_id).stdout
    assert ask(plane, "GET", f"/templates/{request.template_id}").json()["public"] is True
    run(plane, CLI, "template", "unpublish", "-y", "from-docker")
    assert ask(plane, "GET", f"/templates/{request.template_id}").json()["public"] is False
    run(plane, CLI, "sandbox", "create", "from-docker", "--detach")
    used = run(plane, CLI, "template", "delete", "-y", "from-docker", check=False)
    assert (used.returncode, "sandboxes using it" in used.stderr) == (1, True)
    run(plane, CLI, "sandbox", "kill", "--all")
    run(plane, CLI, "template", "delete", "-y", "from-docker")
    assert "from-docker" not in run(plane, CLI, "template", "list").stdout
    refused = run(plane, CLI, "template", "delete", "-y", "from-docker", check=False)
    assert (refused.returncode, "not found" in refused.stderr) == (1, True)


def test_cli_tells_of_a_failure(plane: ControlPlane, tmp_path: Path) -> None:
    """A build that fails is told with its cause and an exit status; the template's name that is the server's is refused."""
    (tmp_path / "e2b.Dockerfile").write_text("FROM debian:12\nRUN exit 7\n")
    failed = run(plane, CLI, "template", "create", "broken", "--path", str(tmp_path), check=False)
    assert failed.returncode == 1
    assert "exit status 7" in failed.stderr
    taken = run(plane, CLI, "template", "create", "base", "--path", str(tmp_path), check=False)
    assert (taken.returncode, "already used" in taken.stderr) == (1, True)
    gone = run(plane, CLI, "template", "build", check=False)
    assert (gone.returncode, "DEPRECATION" in gone.stdout) == (1, True)


def test_cli_makes_a_project(plane: ControlPlane, tmp_path: Path) -> None:
    """``e2b template init`` needs no server; what it writes is there."""
    done = run(plane, CLI, "template", "init", "--name", "fresh", "--language", "python-sync", "--path", str(tmp_path), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = "".join(path.read_text() for path in tmp_path.rglob("*.py"))
    assert "Template()" in written
