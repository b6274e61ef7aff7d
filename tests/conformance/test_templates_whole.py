"""Clients' templates on a real server, by the official Python SDK: builds, the cache, crashes, snapshots, deletion."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox, SandboxException, Template
from e2b.exceptions import BuildException
from e2b.template.types import TemplateBuildStatus

from framework.http import call
from framework.server import Server
from framework.template_requests import new_name

pytestmark = [pytest.mark.root, pytest.mark.templates]


def connection(server: Server) -> Any:
    """Keyword arguments that point the builder at the server."""
    return {"api_key": server.api_key, "api_url": server.url}


def delete(server: Server, name: str) -> int:
    """Delete a template; the status."""
    return call(server.url, "DELETE", f"/templates/{name}", headers={"X-API-KEY": server.api_key}).status


@pytest.fixture
def name(server: Server) -> Iterator[str]:
    """The name of a template that is deleted after the test."""
    name = new_name()
    yield name
    delete(server, name)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files to copy."""
    (tmp_path / "app" / "sub").mkdir(parents=True)
    (tmp_path / "app" / "main.sh").write_text("echo main\n")
    (tmp_path / "app" / "main.sh").chmod(0o755)
    (tmp_path / "app" / "sub" / "data").write_bytes(bytes(range(256)) * 4096)
    (tmp_path / "app" / "link").symlink_to("main.sh")
    return tmp_path


def test_build_run_and_build_again(server: Server, files: Path, name: str) -> None:
    """Sandboxes have the files of the steps and the requested size. A second build uses the cache, and tags name builds."""
    template = (
        Template(file_context_path=str(files))
        .from_template("base")
        .copy("app", "/srv/app", user="root")
        .set_workdir("/srv/app")
        .set_envs({"GREETING": "hello $USER"})
        .run_cmd('echo "$GREETING" > /srv/made', user="root")
    )
    logs: list[Any] = []
    built = Template.build(template, f"{name}:v1", cpu_count=1, memory_mb=512, on_build_logs=logs.append, **connection(server))
    with Sandbox.create(f"{name}:v1", timeout=120, **server.sdk) as sandbox:
        ran = sandbox.commands.run('pwd; ./link; stat -c "%U %a" main.sh; sha256sum sub/data | cut -c1-8; nproc')
        assert ran.stdout.splitlines() == ["/srv/app", "main", "root 755", "fbbab289", "1"]
        assert sandbox.get_info().memory_mb == 512
        assert sandbox.get_info().template_id == built.template_id
    again: list[Any] = []
    Template.build(template, f"{name}:v2", on_build_logs=again.append, **connection(server))
    assert sum(entry.message.startswith("CACHED") for entry in again) == 4
    with pytest.raises(BuildException, match="exit status 9"):
        Template.build(Template().from_template(f"{name}:v1").run_cmd("exit 9"), f"{name}:v2", **connection(server))
    with Sandbox.create(f"{name}:v2", timeout=120, **server.sdk) as sandbox:
        assert sandbox.files.read("/srv/made").startswith("hello")
    assert delete(server, name) == 204
    with pytest.raises(SandboxException, match="not found"):
        Sandbox.create(f"{name}:v1", **server.sdk)


def test_snapshot_and_a_template_on_top(server: Server, name: str) -> None:
    """A snapshot has the files of its sandbox at that moment. Sandboxes and templates start from it, also after the sandbox's end."""
    with Sandbox.create("base", timeout=120, **server.sdk) as sandbox:
        sandbox.files.write("/home/user/state", "first")
        snapshot = sandbox.create_snapshot(f"{name}-snap")
        sandbox.files.write("/home/user/state", "second")
    try:
        with Sandbox.create(snapshot.snapshot_id, timeout=120, **server.sdk) as copy:
            assert copy.files.read("/home/user/state") == "first"
        Template.build(Template().from_template(snapshot.snapshot_id).run_cmd("cp state more"), name, **connection(server))
    finally:
        assert Sandbox.delete_snapshot(snapshot.snapshot_id, **connection(server))
    with Sandbox.create(name, timeout=120, **server.sdk) as sandbox:
        assert sandbox.files.read("/home/user/more") == "first"


def test_cancelled_build_ends_its_processes(server: Server, name: str) -> None:
    """A cancelled build ends soon with an error that says so."""
    build = Template.build_in_background(Template().from_template("base").run_cmd("sleep 600"), name, **connection(server))
    while not Template.get_build_status(build, **connection(server)).log_entries:
        time.sleep(0.1)
    path = f"/templates/{build.template_id}/builds/{build.build_id}"
    assert call(server.url, "DELETE", path, headers={"X-API-KEY": server.api_key}).status == 204
    status = Template.get_build_status(build, **connection(server))
    assert status.status is TemplateBuildStatus.ERROR
    assert status.reason is not None
    assert status.reason.message == "the build was cancelled"


@pytest.mark.parametrize("victim", ["api", "node"])
def test_a_build_outlives_a_crash(server: Server, name: str, victim: str) -> None:
    """A build survives a kill of the api process or the supervisor. A client that keeps asking gets its end and log."""
    template = Template().from_template("base").run_cmd("echo before").run_cmd(f"sleep 3; echo after {name}")
    build = Template.build_in_background(template, name, **connection(server))
    while not any("sleep 3" in entry.message for entry in Template.get_build_status(build, **connection(server)).log_entries):
        time.sleep(0.1)
    os.kill(server.child(victim), signal.SIGKILL)
    deadline = time.monotonic() + 90
    while True:
        assert time.monotonic() < deadline
        time.sleep(0.3)
        try:
            status = Template.get_build_status(build, **connection(server))
        except Exception:  # noqa: BLE001 - no process listens for a moment, and each client library reports that in its own way
            continue
        if status.status not in (TemplateBuildStatus.WAITING, TemplateBuildStatus.BUILDING):
            break
    assert status.status is TemplateBuildStatus.READY
    assert f"after {name}" in [entry.message for entry in status.log_entries]
    with Sandbox.create(name, timeout=60, **server.sdk) as sandbox:
        assert sandbox.commands.run("echo runs").stdout == "runs\n"
