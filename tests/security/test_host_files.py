"""The server's files on the host. No umask changes their modes, and no other user reads them or changes code of root."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

import cloister
from cloister.config.settings import Settings
from cloister.errors import SettingsError
from cloister.node.instance import RUN_ROOT
from cloister.node.layout import make_directories
from cloister.node.strict_modes import code_paths, find_weak_paths
from framework.file_modes import open_to, wrong_modes
from framework.inside import shell
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]

OTHER = 65534
"""A user who has nothing to do with the server."""
NOWHERE = "192.0.2.77:9"
TEST_FILES = ("server.log", "server.out", "test-run.lock")
"""Files of the test's own server fixture in the data directory."""


@pytest.fixture(scope="module", params=[0o000, 0o022, 0o077, 0o777], ids=lambda umask: f"umask {umask:03o}")
def served(request: pytest.FixtureRequest, stock_templates: None) -> Iterator[tuple[Server, Path]]:
    """A server that was started with some umask, and its run-time directory."""
    with running_server("--pool-size", "1", umask=request.param) as running:
        number = next(path.name for path in (RUN_ROOT / "instances").iterdir() if path.read_text() == str(running.data_dir))
        running.cli("ca", "init", "--domain", "sbx.test")
        yield running, RUN_ROOT / number


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_operators_umask_cannot_change_a_mode(served: tuple[Server, Path]) -> None:
    """The server starts under any umask. Every file below data and run directory has the mode and owner of the table."""
    running, run_dir = served
    api_uid = (running.data_dir / "api").stat().st_uid
    assert api_uid > 0x1000_0000
    with Sandbox.create(**running.sdk):
        wrong = wrong_modes("data", running.data_dir, api_uid)
        assert [line for line in wrong if not any(f"/{name} " in line for name in TEST_FILES)] == []
        assert [line for line in wrong_modes("run", RUN_ROOT, api_uid) if str(run_dir) in line] == []
    assert Path("/var/lib/cloister/store").stat().st_mode & 0o077 == 0


def test_operators_umask_cannot_close_a_sandboxs_files(served: tuple[Server, Path]) -> None:
    """Inside, the ordinary user can read the host layer. New files are as on any Debian, where each user has its own group."""
    with Sandbox.create(**served[0].sdk) as sandbox:
        bundle = shell(sandbox, "head -c 27 /etc/ssl/certs/ca-certificates.crt", user="user")
        made = shell(sandbox, "umask; touch /tmp/f; mkdir /tmp/d; stat -c %a /tmp/f /tmp/d; echo x > /dev/null && echo null", user="user")
    assert bundle.text.strip() == "-----BEGIN CERTIFICATE-----"
    assert made.text.split() == ["0002", "664", "775", "null"]


def test_host_user_cannot_read_the_servers_files(served: tuple[Server, Path]) -> None:
    """Another user of the host reads the authority's certificate and names of servers, and nothing of sandboxes, clients or templates."""
    running, run_dir = served
    data = running.data_dir
    public = {data / "ca", data / "ca/ca.crt", data / "ca/bundle.crt", *(data / name for name in TEST_FILES)}
    with Sandbox.create(**running.sdk):
        assert open_to(OTHER, data, run_dir) == public
    assert open_to(OTHER, Path("/var/lib/cloister/store")) == set()


def test_host_user_cannot_keep_a_wrongly_open_directory_open(place: Path) -> None:
    """The server corrects and logs modes of directories of an earlier server. It refuses another user's directory, or a file in its place."""
    data, store = place / "data", place / "store"
    for path in (data / "node", data / "hostlayer", store / "layers"):
        path.mkdir(parents=True)
        path.chmod(0o777)
    store.chmod(0o755)
    settings = Settings(data_dir=data, store_dir=store, run_dir=place / "run")
    assert dict(make_directories(settings)) == {store: 0o755, data / "node": 0o777, data / "hostlayer": 0o777}
    assert (data / "node").stat().st_mode & 0o777 == 0o700
    assert make_directories(settings) == []
    os.chown(data / "node", OTHER, OTHER)
    with pytest.raises(SettingsError, match=f"belongs to user {OTHER}"):
        make_directories(settings)


def _serve(place: Path, *options: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``cloister serve``, which refuses. Its address is not this host's, so it never leaves a server."""
    words = ["serve", "--listen", NOWHERE, "--domain", "headers-only", *([] if "--data-dir" in options else ["--data-dir", str(place / "data")]), *options]
    command = [sys.executable, "-m", "cloister.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environ or {})}, timeout=60)


@pytest.mark.parametrize("weak", ["a module for everybody", "a directory for its group", "another user's module", "another user's directory"])
def test_host_user_cannot_change_what_root_runs(weak: str, place: Path) -> None:
    """A server does not start if another user may change its code. One line names the path, its owner or mode, and the remedy."""
    package = Path(cloister.__file__).parent
    shutil.copytree(package, place / "src/cloister", ignore=shutil.ignore_patterns("__pycache__", "stock"))
    (place / "src/cloister/template/stock").symlink_to(package / "template/stock")
    module = place / "src/cloister/ids.py"
    if weak == "a module for everybody":
        module.chmod(0o666)
    elif weak == "a directory for its group":
        os.chown(module.parent, 0, OTHER)
        module.parent.chmod(0o775)
    else:
        os.chown(module if weak.endswith("module") else module.parent, OTHER, OTHER)
    done = _serve(place, environ={"PYTHONPATH": f"{place / 'src'}"})
    named = module if weak.endswith(("everybody", "module")) else module.parent
    assert done.returncode == 2
    assert done.stderr.startswith(f"cloister: insecure installation: {named} ")
    assert done.stderr.count("\n") == 1
    assert ("owned by user 65534; use a place that belongs to root" if "another" in weak else "; chmod go-w") in done.stderr
    assert not (place / "data").exists()


def test_private_group_of_the_owner_may_write(place: Path) -> None:
    """With the usual umask of Debian and Ubuntu, files are group-writable. A group whose only member is the owner counts as the owner."""
    (place / "own").mkdir()
    (place / "own").chmod(0o775)
    assert find_weak_paths([place / "own"]) == []
    os.chown(place / "own", 0, OTHER)
    assert [weak.path for weak in find_weak_paths([place / "own"])] == [place / "own"]


def test_host_user_cannot_hide_in_an_access_list(place: Path) -> None:
    """A list that lets another user write makes a path weak, although owner and group are root's alone."""
    (place / "own").mkdir(mode=0o755)
    entries = [(0x01, 7, -1), (0x02, 7, OTHER), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1)]  # owner, OTHER, group, mask, others: acl(5)
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(place / "own", "system.posix_acl_access", packed)
    assert [weak.path for weak in find_weak_paths([place / "own"])] == [place / "own"]


def test_host_user_cannot_make_a_missing_directory_of_programs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of PATH that is missing counts as what it would be made in; an empty one is the working directory."""
    sticky = place / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{sticky}/missing")
    assert [weak.path for weak in find_weak_paths(code_paths())] == [sticky]
    monkeypatch.setenv("PATH", "/usr/bin:")
    monkeypatch.chdir(sticky)
    assert [weak.path for weak in find_weak_paths(code_paths())] == [sticky]


def test_sudos_user_may_own_the_code(place: Path) -> None:
    """The code of the user who called sudo is taken, since that user is root when it likes; the settings are looked at next."""
    package = Path(cloister.__file__).parent
    shutil.copytree(package, place / "src/cloister", ignore=shutil.ignore_patterns("__pycache__", "stock"))
    os.chown(place / "src/cloister/ids.py", OTHER, OTHER)
    (place / "src/cloister/template/stock").symlink_to(package / "template/stock")
    environ = {"PYTHONPATH": f"{place / 'src'}", "SUDO_UID": str(OTHER)}
    done = _serve(place, environ=environ)
    assert done.returncode == 2
    assert f"cannot listen on {NOWHERE}" in done.stderr


@pytest.mark.parametrize("name", ["data_dir", "store_dir", "run_dir"])
def test_host_user_cannot_replace_a_directory_of_the_servers(name: str, place: Path) -> None:
    """A directory below one that others may write, or that another user owns, is refused by name; a sticky one may be above it."""
    open_parent = place / "open"
    open_parent.mkdir()
    open_parent.chmod(0o777)
    option = f"--{name.replace('_', '-')}"
    done = _serve(place, option, str(open_parent / "x"))
    assert done.returncode == 2
    assert f"setting {name} (command line): {open_parent} has mode 0777: every user can change it; chmod go-w {open_parent}" in done.stderr
    open_parent.chmod(0o755)
    os.chown(open_parent, OTHER, OTHER)
    assert f"{open_parent} is owned by user {OTHER}" in _serve(place, option, str(open_parent / "x")).stderr
    os.chown(open_parent, 0, 0)
    open_parent.chmod(0o1777)
    assert "insecure" not in (said := _serve(place, option, str(open_parent / "x")).stderr)
    assert "cannot listen" in said


@pytest.mark.parametrize("name", ["data_dir", "run_dir"])
def test_closed_parent_is_refused_before_anything_starts(name: str, place: Path) -> None:
    """A parent that the api process cannot pass is named with the remedy; nothing was made."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    done = _serve(place, f"--{name.replace('_', '-')}", str(closed / "x"))
    assert done.returncode == 2
    parent = next(path for path in reversed((closed, *closed.parents)) if path.stat().st_mode & 0o001 == 0)
    assert f"setting {name} (command line): {parent} has mode 0700" in done.stderr
    assert f"chmod o+x {parent}" in done.stderr
    assert list(closed.iterdir()) == []


def test_host_user_cannot_hand_root_a_module_from_its_directory(place: Path) -> None:
    """A server that is started in another user's directory runs no module that lies there."""
    with running_server("--pool-size", "0") as running:
        commands = [Path(f"/proc/{running.child(name)}/cmdline").read_bytes().split(b"\0") for name in ("node", "api")]
    hostile = place / "hostile"
    hostile.mkdir()
    (hostile / "structlog.py").write_text("import pathlib; pathlib.Path(__file__).with_name('taken').touch()\n")
    for command in commands:
        head = command[: command.index(b"cloister.cli.main") + 2]
        subprocess.run([*head, b"--help"], check=True, capture_output=True, cwd=hostile)
    assert not (hostile / "taken").exists()
