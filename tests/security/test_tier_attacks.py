"""Attacks that need the client or the host beside the sandbox, on every tier (I2, I3). Those from inside alone: test_attacks.py."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from framework.attack_table import held_by
from framework.inside import reason_of_end
from framework.server import Server
from framework.stage import Stage

pytestmark = [pytest.mark.root, pytest.mark.templates]

_BY_THE_AGENT = held_by(namespace="the agent reads files, not the server", gvisor="the agent reads files, not the server")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory of the host in which every user there may make files."""
    path = Path("/tmp") / f"cloister-open-{secrets.token_hex(8)}"
    path.mkdir()
    path.chmod(0o777)
    yield path
    for left in path.iterdir():
        left.unlink()
    path.rmdir()


@_BY_THE_AGENT
@pytest.mark.usefixtures("server")
def test_sandbox_cannot_have_a_download_follow_a_link_to_the_host(stage: Stage) -> None:
    """A link inside leads to files inside, whoever reads it."""
    stage.sandbox.commands.run(f"ln -sf {stage.secret} /tmp/link; ln -sfn /proc/1/root{stage.secret} /tmp/link-by-proc", user="root")
    for link in ("/tmp/link", "/tmp/link-by-proc"):
        with pytest.raises(Exception, match=r"(?i)not.*exist|not found|denied"):
            stage.sandbox.files.read(link, user="root")


@_BY_THE_AGENT
@pytest.mark.usefixtures("server")
def test_sandbox_cannot_have_an_upload_follow_a_link_to_the_host(stage: Stage, open_directory: Path) -> None:
    """A directory that is a link to one of the host is not written to there."""
    stage.sandbox.commands.run(f"ln -sfn {open_directory} /tmp/uploads", user="root")
    with contextlib.suppress(SandboxException):
        stage.sandbox.files.write("/tmp/uploads/attack", "x", user="root")
    assert not list(open_directory.iterdir())


_SWAP = """
import os, sys
os.makedirs("/tmp/race/real", exist_ok=True)
os.symlink(sys.argv[1], "/tmp/race/link")
os.symlink("/tmp/race/real", "/tmp/race/place")
while True:
    for target in (sys.argv[1], "/tmp/race/real", "/proc/1/root" + sys.argv[1]):
        os.symlink(target, "/tmp/race/next")
        os.rename("/tmp/race/next", "/tmp/race/place")
"""


@_BY_THE_AGENT
@pytest.mark.usefixtures("server")
def test_sandbox_cannot_swap_a_link_while_files_are_written(stage: Stage, open_directory: Path) -> None:
    """A link that changes between two directories all the time never leads a client's upload to the host."""
    stage.sandbox.files.write("/tmp/swap.py", _SWAP, user="root")
    swapping = stage.sandbox.commands.run(f"python3 /tmp/swap.py {open_directory}", background=True, user="root")
    written = 0
    for number in range(40):
        with contextlib.suppress(SandboxException):
            stage.sandbox.files.write(f"/tmp/race/place/{number}", "x", user="root")
            written += 1
    swapping.kill()
    stage.sandbox.commands.run("rm -rf /tmp/race", user="root")
    assert written
    assert not list(open_directory.iterdir())


@held_by(namespace="mount namespace; no descriptor of the host is left", gvisor="the gofer's root; no descriptor of the host is left")
@pytest.mark.usefixtures("server")
def test_sandbox_cannot_have_a_command_begin_in_a_directory_of_the_host(stage: Stage) -> None:
    """A working directory that is a descriptor or the root of another process leads to the sandbox alone (CVE-2024-21626)."""
    up = "/".join([".."] * 20)
    for place in (*(f"/proc/self/fd/{number}" for number in range(16)), "/proc/1/root", "/proc/1/cwd"):
        with contextlib.suppress(SandboxException):
            said = stage.sandbox.commands.run(f"cat {up}{stage.secret} 2>&1 || true", cwd=place, user="root").stdout
            assert stage.secret.read_text() not in said


@held_by(namespace="masked and own files", gvisor="gVisor's /proc")
def test_sandbox_cannot_learn_paths_of_the_host(server: Server, stage: Stage) -> None:
    """No mount, environment or command line that it sees names the server's directories."""
    said = stage.sandbox.commands.run(
        "cat /proc/self/mountinfo /proc/mounts /proc/1/environ /proc/1/cmdline /proc/cmdline 2>/dev/null | tr '\\0' ' '", user="root"
    ).stdout
    assert "/" in said
    for path in (str(server.data_dir), "/run/cloister", "/store/"):
        assert path not in said


@held_by(namespace="the host's record", gvisor="the host's record")
def test_sandbox_cannot_choose_its_runtime(server: Server, stage: Stage) -> None:
    """The record that the host keeps names the one that was asked for, whatever happens inside."""
    other = "gvisor" if stage.tier != "gvisor" else "namespace"
    stage.sandbox.commands.run(f"export CLOISTER_RUNTIME={other}; echo CLOISTER_RUNTIME={other} >> /etc/environment", user="root")
    record = json.loads((server.data_dir / "node" / "sandboxes" / stage.sandbox.sandbox_id / "record.json").read_text())
    assert record["record"]["runtime"] == ("gvisor" if stage.tier == "gvisor" else "namespace")


@held_by(namespace="pid 1 takes no signal from inside", gvisor="a kernel of its own; the sandbox may end, alone")
def test_sandbox_cannot_end_more_than_itself(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """Root sends pid 1 every signal that ends a process. On gVisor its own sandbox ends, and the server says so."""
    with contextlib.suppress(SandboxException, httpx.HTTPError):
        attacker.commands.run("for n in 15 11 6 9; do kill -$n 1; done; sleep 1", user="root", timeout=20)
    assert neighbour.run_code("6 * 7").text == "42"
    assert attacker.is_running() or reason_of_end(server, attacker) == "crashed"


@held_by(namespace="directories of root's own", gvisor="directories of root's own")
def test_sandbox_cannot_open_what_the_server_keeps_of_it(server: Server, stage: Stage) -> None:
    """From the host: records, disks and images are in directories that root alone enters."""
    for path in (server.data_dir / "node", server.data_dir / "node" / "sandboxes"):
        assert path.stat().st_uid == 0
        assert path.stat().st_mode & 0o077 == 0
    assert stage.sandbox.commands.run(f"ls {server.data_dir} 2>&1 || true", user="root").stdout.count("No such file") == 1
