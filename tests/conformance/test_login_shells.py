"""The login shell of every command, as the SDKs request it: its files and its PATH."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b import PtySize, Sandbox

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

_USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the tests of this file."""
    with Sandbox.create("base", timeout=600, **server.sdk) as made:
        yield made


def test_login_files_are_debians(sandbox: Sandbox) -> None:
    """PATH is that of Debian for each kind of user; files of /etc/profile.d and of the home are read, in order, backups are not."""
    assert sandbox.commands.run("echo $PATH").stdout == f"{_USER_PATH}\n"
    assert sandbox.commands.run("echo $PATH", user="root").stdout == f"{_ROOT_PATH}\n"
    assert sandbox.commands.run("dash -lc 'echo $PATH'").stdout == f"{_USER_PATH}\n"
    for name in ("z-last.sh", "a-first.sh", "b.sh.orig", ".hidden.sh", "odd+name.sh", "with space.sh", "not-a-script"):
        sandbox.files.write(f"/etc/profile.d/{name}", f'export READ="${{READ-}} {name}"\n', user="root")
    sandbox.commands.run("mkdir -p ~/bin; echo 'export OWN=1' >> ~/.profile")
    shown = sandbox.commands.run("echo $READ,$OWN,$PATH; echo ${i-unset}").stdout
    assert shown == f"a-first.sh z-last.sh,1,/home/user/bin:{_USER_PATH}\nunset\n"


def test_no_program_is_started_for_a_command(sandbox: Sandbox) -> None:
    """The login files ask no other program, so a command costs what a shell costs; with ``id`` and ``run-parts`` gone nothing changes."""
    away = "cd /usr/bin && for name in id run-parts; do mv $name $name.away; done"
    back = "cd /usr/bin && for name in id run-parts; do mv $name.away $name; done"
    sandbox.commands.run(away, user="root")
    try:
        for user, path in (("user", _USER_PATH), ("root", _ROOT_PATH)):
            done = sandbox.commands.run("echo $PATH", user=user)
            assert (done.stdout.removeprefix("/home/user/bin:"), done.stderr) == (f"{path}\n", "")
    finally:
        sandbox.commands.run(back, user="root")


def test_path_of_the_call(sandbox: Sandbox) -> None:
    """A PATH given with a command or terminal holds in its login shell, and leaves nothing else in the environment."""
    chosen = {"PATH": "/opt/tools:/usr/bin:/bin"}
    for user in ("user", "root"):
        shown = sandbox.commands.run("echo $PATH; env | grep -c CLOISTER || true", envs=chosen, user=user).stdout
        assert shown.removeprefix("/home/user/bin:") == "/opt/tools:/usr/bin:/bin\n0\n"
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), envs=chosen)
    sandbox.pty.send_stdin(terminal.pid, b"echo =$PATH=; exit\n")
    seen = bytearray()
    terminal.wait(on_pty=seen.extend)
    assert b"/opt/tools:/usr/bin:/bin=" in seen
    nested = sandbox.commands.run("PATH=/elsewhere:/usr/bin:/bin bash -lc 'echo $PATH'", envs=chosen).stdout
    assert nested.removeprefix("/home/user/bin:") == f"{_USER_PATH}\n"


def test_path_of_the_sandbox(server: Server) -> None:
    """A PATH given to the sandbox (a template's arrives in the same way) holds for each command; that of a call comes before it."""
    with Sandbox.create("base", timeout=120, envs={"PATH": "/srv/bin:/usr/bin:/bin"}, **server.sdk) as made:
        made.files.write("/srv/bin/ours", "#!/bin/sh\necho found\n", user="root")
        made.commands.run("chmod 755 /srv/bin/ours", user="root")
        assert made.commands.run("ours; echo $PATH").stdout == "found\n/srv/bin:/usr/bin:/bin\n"
        assert made.commands.run("echo $PATH", envs={"PATH": "/bin"}).stdout == "/bin\n"
