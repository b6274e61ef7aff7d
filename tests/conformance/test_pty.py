"""``sandbox.pty`` of the official Python SDKs: a login shell that a person would find normal."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from e2b import AsyncSandbox, CommandExitException, NotFoundException, PtySize, Sandbox, SandboxException
from e2b.sandbox_sync.commands.command_handle import CommandHandle

from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the tests of this file."""
    with Sandbox.create("base", timeout=600, **server.sdk) as made:
        yield made


def until_end(handle: CommandHandle) -> str:
    """All that the terminal shows until its shell exits."""
    shown = bytearray()
    handle.wait(on_pty=shown.extend)
    return shown.decode()


def type_in(sandbox: Sandbox, text: bytes, *, size: PtySize | None = None, user: str | None = None) -> str:
    """Output of a terminal for this input, until its shell ends."""
    handle = sandbox.pty.create(size or PtySize(rows=24, cols=80), user=user)
    sandbox.pty.send_stdin(handle.pid, text)
    return until_end(handle)


def test_login_shell(sandbox: Sandbox) -> None:
    """The shell is a login shell on a terminal of its own, with colours, UTF-8 and the usual prompt."""
    shown = type_in(
        sandbox,
        b"echo =$TERM $LANG $(tty) $(stat -c %U $(tty)) $-= $(shopt login_shell); stty -a | grep -o iutf8; ls --color=auto -d /tmp; exit\n",
    )
    assert "=xterm-256color C.UTF-8 /dev/pts/0 user himBHs= login_shell on" in shown.replace("\t", "").replace(
        "login_shell    ", "login_shell "
    )
    assert "\r\niutf8\r\n" in shown
    assert "\x1b[30;42m/tmp" in shown
    assert "user@" in shown
    assert "no job control" not in shown
    assert "cannot set terminal process group" not in shown


def test_utf8(sandbox: Sandbox) -> None:
    """Characters of several bytes are typed, erased whole, and shown."""
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    for keys in ("read -r x\n", "ab日€\x7f\n", "echo =${#x}${x}=; exit\n"):
        time.sleep(0.4)  # as a person types: to the program that reads now
        sandbox.pty.send_stdin(handle.pid, keys.encode())
    assert "=3ab日=" in until_end(handle)


def test_size_and_resize(sandbox: Sandbox) -> None:
    """Programs see the size, and a change of it."""
    handle = sandbox.pty.create(PtySize(rows=30, cols=111))
    sandbox.pty.send_stdin(handle.pid, b"stty size; trap 'stty size' WINCH; read -r x\n")
    time.sleep(0.5)
    sandbox.pty.resize(handle.pid, PtySize(rows=50, cols=140))
    time.sleep(0.3)
    sandbox.pty.send_stdin(handle.pid, b"\nexit\n")
    shown = until_end(handle)
    assert "30 111" in shown
    assert "50 140" in shown


def test_control_c_and_jobs(sandbox: Sandbox) -> None:
    """Ctrl-C ends the program in front and not the shell; Ctrl-Z, bg and jobs work."""
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    for keys in (b"sleep 1111\n", b"\x03", b"sleep 0.7\n", b"\x1a", b"bg; jobs; wait; echo =alive=\n", b"exit 7\n"):
        sandbox.pty.send_stdin(handle.pid, keys)
        time.sleep(0.3)
    shown = bytearray()
    with pytest.raises(CommandExitException) as ended:
        handle.wait(on_pty=shown.extend)
    assert ended.value.exit_code == 7
    text = shown.decode()
    assert "^C" in text
    assert "Stopped" in text
    assert "Running" in text
    assert "\r\n=alive=\r\n" in text


def test_users_and_directory(sandbox: Sandbox) -> None:
    """The user, directory and variables are those that were asked for."""
    assert "uid=0(root)" in type_in(sandbox, b"id; exit\n", user="root")
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), cwd="/tmp", envs={"COLOUR": "blå", "TERM": "vt100"})
    sandbox.pty.send_stdin(handle.pid, b"echo =$PWD $COLOUR $TERM=; exit\n")
    assert "=/tmp blå vt100=" in until_end(handle)


def test_reconnect(sandbox: Sandbox) -> None:
    """A terminal lives on without a client, and shows the next one what came meanwhile."""
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=0)
    handle.disconnect()
    time.sleep(0.2)
    sandbox.pty.send_stdin(handle.pid, b"echo =$((40 + 2))=\n")
    time.sleep(0.3)
    again = sandbox.pty.connect(handle.pid)
    sandbox.pty.send_stdin(handle.pid, b"echo =$((50 + 5))=; exit\n")
    shown = until_end(again)
    assert shown.index("=42=") < shown.index("=55=")


def test_kill(sandbox: Sandbox) -> None:
    """A kill ends the shell and what it has started; a second one finds nothing."""
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.send_stdin(handle.pid, b"sleep 5678\n")
    time.sleep(0.5)
    assert sandbox.pty.kill(handle.pid)
    with pytest.raises(CommandExitException) as ended:
        handle.wait()
    assert ended.value.exit_code == -1
    assert not sandbox.pty.kill(handle.pid)
    assert sandbox.commands.run("pgrep -fc 'sleep [5]678' || true").stdout == "0\n"
    with pytest.raises(NotFoundException):
        sandbox.pty.resize(handle.pid, PtySize(rows=1, cols=1))


def test_terminal_input_and_plain_input_are_not_mixed_up(sandbox: Sandbox) -> None:
    """Each kind of process takes its own kind of input only; a terminal's input is not closed but sent Ctrl-D."""
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    with pytest.raises(SandboxException, match="has a terminal"):
        sandbox.commands.send_stdin(handle.pid, "x")
    with pytest.raises(SandboxException, match="Ctrl"):
        sandbox.commands.close_stdin(handle.pid)
    time.sleep(0.5)
    sandbox.pty.send_stdin(handle.pid, b"\x04")
    assert "logout" in until_end(handle)


def test_much_output(sandbox: Sandbox) -> None:
    """A terminal shows all of a long output, also to a reader that takes its time."""
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.send_stdin(handle.pid, b"stty -echo; PS1=; echo begin; seq 1 300000; exit\n")
    shown = bytearray()

    def take(data: bytes) -> None:
        shown.extend(data)
        time.sleep(0.001)

    handle.wait(on_pty=take)
    numbers = shown.decode().partition("begin\r\n")[2].rpartition("begin\r\n")[2]
    assert "".join(f"{i}\r\n" for i in range(1, 300001)) in numbers


async def test_async_sdk(server: Server) -> None:
    """The async SDK opens, feeds, resizes and ends a terminal."""
    sandbox = await AsyncSandbox.create("base", timeout=300, **server.sdk)
    try:
        shown = bytearray()
        handle = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=shown.extend)
        await sandbox.pty.resize(handle.pid, PtySize(rows=33, cols=99))
        await sandbox.pty.send_stdin(handle.pid, b"stty size; exit\n")
        assert (await handle.wait()).exit_code == 0
        assert b"33 99" in shown
    finally:
        await sandbox.kill()
