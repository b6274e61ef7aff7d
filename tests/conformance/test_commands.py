"""``sandbox.commands`` of the official Python SDKs, sync and async, in a real sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    AuthenticationException,
    CommandExitException,
    CommandResult,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    SandboxException,
    TimeoutException,
)

from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """One sandbox for the tests of this file, with a variable of its own."""
    with Sandbox.create("base", timeout=900, envs={"SHARED": "sandbox", "ONLY": "sandbox"}, **server.sdk) as made:
        yield made


def running(sandbox: Sandbox, words: str) -> int:
    """How many processes of the sandbox have a command line that begins with ``words``."""
    return int(sandbox.commands.run(f"ps -eo args | grep -c '^{words}' || true").stdout)


def test_result(sandbox: Sandbox) -> None:
    """A command's output, error output and exit code come back, and a failure raises with all of them."""
    done = sandbox.commands.run("echo out; echo err >&2")
    assert (done.stdout, done.stderr, done.exit_code, done.error) == ("out\n", "err\n", 0, None)
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("echo out; echo err >&2; exit 3")
    assert (failed.value.stdout, failed.value.stderr, failed.value.exit_code) == ("out\n", "err\n", 3)
    assert failed.value.error == "exit status 3"


def test_signals_are_told_from_exit_codes(sandbox: Sandbox) -> None:
    """An end by signal has the code -1 and names the signal in the words that the command line tool looks for."""
    for signal, text in (("KILL", "signal: killed"), ("TERM", "signal: terminated"), ("SEGV", "signal: segmentation fault")):
        with pytest.raises(CommandExitException) as failed:
            sandbox.commands.run(f"echo before; kill -{signal} $$")
        assert (failed.value.stdout, failed.value.exit_code, failed.value.error) == ("before\n", -1, text)


def test_out_of_memory_is_named(sandbox: Sandbox) -> None:
    """A command that the kernel ends for lack of memory says so; one that is killed otherwise does not."""
    for program in (
        "exec python3 -c 'x = [bytearray(10**8) for _ in range(1000)]'",
        "python3 -c 'x = [bytearray(10**8) for _ in range(1000)]'; exit $?",
    ):
        with pytest.raises(CommandExitException) as ended:
            sandbox.commands.run(program)
        assert "(out of memory: the sandbox has" in (ended.value.error or "")
    with pytest.raises(CommandExitException) as ended:
        sandbox.commands.run("kill -9 $$")
    assert ended.value.error == "signal: killed"


def test_users(sandbox: Sandbox) -> None:
    """Commands run as the default user or the one that is asked for, with that user's home; an unknown one is refused."""
    words = "echo $(id -un) $(id -gn) $HOME $USER $LOGNAME $SHELL $PWD"
    assert sandbox.commands.run(words).stdout == "user user /home/user user user /bin/bash /home/user\n"
    assert sandbox.commands.run(words, user="root").stdout == "root root /root root root /bin/bash /root\n"
    assert sandbox.commands.run("sudo id -u").stdout == "0\n"
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        sandbox.commands.run("true", user="nobody-here")


def test_a_new_user_can_be_used_at_once(sandbox: Sandbox) -> None:
    """Users and groups made inside count from the next command on."""
    sandbox.commands.run("groupadd painters && useradd -m -s /bin/bash -G painters vera", user="root")
    assert sandbox.commands.run("id -un; id -Gn; pwd", user="vera").stdout == "vera\nvera painters\n/home/vera\n"


def test_directory(sandbox: Sandbox) -> None:
    """``cwd`` may be absolute, relative or below the home; one that is not there is named."""
    sandbox.commands.run("mkdir -p work/deep")
    assert sandbox.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n"
    assert sandbox.commands.run("pwd", cwd="work/deep").stdout == "/home/user/work/deep\n"
    assert sandbox.commands.run("pwd", cwd="~/work").stdout == "/home/user/work\n"
    for wrong, why in (("/no/such", "exist"), ("nope", "exist"), ("/etc/passwd", "is not a directory"), ("x" * 5000, "is too long")):
        with pytest.raises(InvalidArgumentException, match=f"^cwd '.*{why}"):
            sandbox.commands.run("true", cwd=wrong)


def test_long_commands(sandbox: Sandbox) -> None:
    """A here-document of megabytes is written, whoever runs it and however; what Linux or the server does not take is an argument's fault."""
    content = "it's \"é\" $HOME `x` \\ 中\n" * 200_000
    write = f"cat > $FILE <<'EOF'\n{content}EOF\n[ -t 0 ] && echo terminal; cat; fds=(/proc/$$/fd/*); echo $0 $(sha256sum < $FILE) ${{#fds[@]}}"
    digest = hashlib.sha256(content.encode()).hexdigest()
    kinds: tuple[dict[str, Any], ...] = ({}, {"user": "root"}, {"stdin": True, "background": True})
    for number, more in enumerate(kinds):
        done = sandbox.commands.run(write, envs={"FILE": f"/tmp/long{number}"}, **more)
        if not isinstance(done, CommandResult):
            listed = next(one for one in sandbox.commands.list() if one.pid == done.pid)
            assert listed.args[-1] == "cat > $FILE <<'EOF' …"
            done.send_stdin("fed ")
            done.close_stdin()
            done = done.wait()
        fed = "fed " if "stdin" in more else ""
        assert (done.stdout, done.stderr) == (f"{fed}/bin/bash {digest} - 4\n", "")
    for command, envs in (("#" * (16 << 20) + "#", {}), ("#" * (33 << 20), {}), ("true", {"BIG": "x" * (128 << 10)})):
        with pytest.raises(InvalidArgumentException):
            sandbox.commands.run(command, envs=envs)


def test_environment(sandbox: Sandbox) -> None:
    """Call variables go over the sandbox's, these over the defaults; any text is a value; programs see that they are in a sandbox."""
    nasty = 'it\'s "quoted" `x` $HOME \\n é日\nsecond line'
    done = sandbox.commands.run('printf "%s|%s|%s|" "$SHARED" "$ONLY" "$NASTY"', envs={"SHARED": "call", "NASTY": nasty})
    assert done.stdout == f"call|sandbox|{nasty}|"
    assert sandbox.commands.run('printf %s "$SHARED$NASTY"').stdout == "sandbox"
    done = sandbox.commands.run("echo $E2B_SANDBOX $E2B_SANDBOX_ID $LANG; test -n $E2B_TEMPLATE_ID")
    assert done.stdout == f"true {sandbox.sandbox_id} C.UTF-8\n"
    with pytest.raises(InvalidArgumentException, match="environment variable"):
        sandbox.commands.run("true", envs={"A=B": "x"})


def test_streaming(sandbox: Sandbox) -> None:
    """Output arrives while the command runs, in order, each stream by its own callback."""
    seen: list[tuple[float, str]] = []
    sandbox.commands.run(
        "for i in 1 2 3; do echo o$i; echo e$i >&2; sleep 0.5; done",
        on_stdout=lambda text: seen.append((time.monotonic(), text)),
        on_stderr=lambda text: seen.append((time.monotonic(), text)),
    )
    assert sorted(text for _, text in seen) == ["e1\n", "e2\n", "e3\n", "o1\n", "o2\n", "o3\n"]
    assert [text for _, text in seen if text.startswith("o")] == ["o1\n", "o2\n", "o3\n"]
    assert seen[-1][0] - seen[0][0] > 0.5


def test_every_byte_arrives(sandbox: Sandbox) -> None:
    """Output that is no text arrives byte by byte, and characters that are split between two writes are whole."""
    done = sandbox.commands.run("printf '\\xe2'; sleep 0.2; printf '\\x82\\xac'; printf 'a\\0b'; printf '\\xff'")
    assert done.stdout == "€a\0b\ufffd"
    text = "é日\U0001f600x" * 200_000
    size = len(text.encode())
    done = sandbox.commands.run(
        "python3 -c \"import sys; sys.stdout.write('é日\U0001f600x' * 200_000)\" | tee /tmp/copy; wc -c < /tmp/copy >&2"
    )
    assert done.stdout == text
    assert int(done.stderr) == size


def test_large_output(sandbox: Sandbox) -> None:
    """64 MiB on both streams at once arrive whole."""
    program = "import os,random\nfor i in range(512):\n d=random.Random(i).randbytes(32768).hex().encode()\n os.write(1,d); os.write(2,d)"
    done = sandbox.commands.run(f"python3 -c '{program}'", timeout=120)
    expected = hashlib.sha256(b"".join(random.Random(i).randbytes(32768).hex().encode() for i in range(512))).hexdigest()
    assert [hashlib.sha256(text.encode()).hexdigest() for text in (done.stdout, done.stderr)] == [expected, expected]


def test_background(sandbox: Sandbox) -> None:
    """A background command is listed while it runs, can be followed, and outlives its client."""
    handle = sandbox.commands.run("echo first; sleep 1; echo last", background=True)
    assert handle.pid in [one.pid for one in sandbox.commands.list()]
    (info,) = (one for one in sandbox.commands.list() if one.pid == handle.pid)
    assert (info.cmd, info.args, info.tag, info.cwd) == ("/bin/bash", ["-l", "-c", "echo first; sleep 1; echo last"], None, None)
    handle.disconnect()
    assert "last\n" in sandbox.commands.connect(handle.pid).wait().stdout
    assert handle.pid not in [one.pid for one in sandbox.commands.list()]


def test_connect_after_the_end(sandbox: Sandbox) -> None:
    """Some time after the end a client still learns the exit and the last output."""
    handle = sandbox.commands.run("echo said; exit 4", background=True)
    with pytest.raises(CommandExitException):
        handle.wait()
    time.sleep(0.5)
    with pytest.raises(CommandExitException) as again:
        sandbox.commands.connect(handle.pid).wait()
    assert (again.value.stdout, again.value.exit_code) == ("said\n", 4)
    with pytest.raises(NotFoundException, match="does not exist"):
        sandbox.commands.connect(999_999)


def test_output_between_two_clients_is_kept(sandbox: Sandbox) -> None:
    """Output that arrives while no client is connected goes to the next client."""
    handle = sandbox.commands.run("read x; echo alone; read x; echo together", background=True, stdin=True)
    handle.disconnect()
    time.sleep(0.2)
    sandbox.commands.send_stdin(handle.pid, "\n")
    time.sleep(0.3)
    again = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "\n")
    assert again.wait().stdout == "alone\ntogether\n"


def test_several_clients(sandbox: Sandbox) -> None:
    """Clients that are connected at the same time all get everything from then on."""
    handle = sandbox.commands.run("read x; seq 1 50000", background=True, stdin=True)
    others = [sandbox.commands.connect(handle.pid) for _ in range(5)]
    sandbox.commands.send_stdin(handle.pid, "\n")
    whole = "".join(f"{i}\n" for i in range(1, 50001))
    assert [one.wait().stdout == whole for one in (handle, *others)] == [True] * 6


def test_stdin(sandbox: Sandbox) -> None:
    """Input arrives in order, its end too; a command without input reads nothing and cannot be sent any."""
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    parts = [f"{i} é\n" for i in range(200)]
    for part in parts:
        handle.send_stdin(part)
    handle.send_stdin(b"\x00\xff")
    handle.close_stdin()
    assert handle.wait().stdout == "".join(parts) + "\0\ufffd"
    assert sandbox.commands.run("cat").stdout == ""
    handle = sandbox.commands.run("sleep 5", background=True)
    with pytest.raises(SandboxException, match="is closed"):
        handle.send_stdin("x")
    assert handle.kill()


def test_large_input(sandbox: Sandbox) -> None:
    """Input larger than any pipe goes through while the program reads slowly."""
    data = random.Random(1).randbytes(8 << 20)
    handle = sandbox.commands.run("sleep 0.5; sha256sum", background=True, stdin=True)
    handle.send_stdin(data)
    handle.close_stdin()
    assert handle.wait().stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_stream_input(sandbox: Sandbox) -> None:
    """A stream of input is taken as it comes."""
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, (f"{i}\n" for i in range(1000)))
    handle.close_stdin()
    assert handle.wait().stdout == "".join(f"{i}\n" for i in range(1000))
    with pytest.raises(NotFoundException):
        sandbox.commands.stream_input(999_999, iter(["x"]))


def test_input_to_a_program_that_does_not_read(sandbox: Sandbox) -> None:
    """The call waits no longer than its time, and the process can be killed."""
    handle = sandbox.commands.run("sleep 60", background=True, stdin=True)
    with pytest.raises(TimeoutException):
        handle.send_stdin(b"x" * (1 << 20), request_timeout=1)
    assert handle.kill()


def test_kill(sandbox: Sandbox) -> None:
    """A kill takes the whole tree, says so, and is told from a command that is not there."""
    handle = sandbox.commands.run("sleep 1234 & setsid sleep 1235 & (sleep 1236 | cat) & sleep 1237", background=True)
    eventually(lambda: running(sandbox, "sleep 123") == 4)
    assert handle.kill()
    with pytest.raises(CommandExitException) as ended:
        handle.wait()
    assert (ended.value.exit_code, ended.value.error) == (-1, "signal: killed")
    assert running(sandbox, "sleep 123") == 0
    assert not handle.kill()
    assert not sandbox.commands.kill(999_999)


def test_timeout(sandbox: Sandbox) -> None:
    """A command that takes too long is ended with all its children; what it said before is not lost."""
    seen: list[str] = []
    with pytest.raises(TimeoutException):
        sandbox.commands.run("echo before; sleep 2345 & sleep 2346", timeout=1, on_stdout=seen.append)
    assert seen == ["before\n"]
    eventually(lambda: running(sandbox, "sleep 234") == 0)


def test_no_timeout(sandbox: Sandbox) -> None:
    """Zero means no limit."""
    assert sandbox.commands.run("sleep 1.2; echo done", timeout=0).stdout == "done\n"


def test_timeout_of_a_client_that_has_gone(sandbox: Sandbox) -> None:
    """The limit holds for the process, whether or not its client stays."""
    sandbox.commands.run("sleep 3456", background=True, timeout=1).disconnect()
    assert running(sandbox, "sleep 3456") == 1
    eventually(lambda: running(sandbox, "sleep 3456") == 0)


def test_background_children_do_not_hold_the_end(sandbox: Sandbox) -> None:
    """A command that leaves a child behind ends at once, and the child lives on even when it writes."""
    started = time.monotonic()
    done = sandbox.commands.run("(for i in $(seq 8); do sleep 0.2; echo tick; done; sleep 4567) & echo started")
    assert time.monotonic() - started < 20
    assert done.stdout.startswith("started\n")
    eventually(lambda: running(sandbox, "sleep 4567") == 1)
    sandbox.commands.run("pkill -x sleep")
    assert running(sandbox, "sleep 4567") == 0


def test_missing_command(sandbox: Sandbox) -> None:
    """The shell says that a command is not there, with its usual code."""
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("no-such-command")
    assert failed.value.exit_code == 127
    assert "no-such-command: command not found" in failed.value.stderr


PRINTER = """
import hashlib, select, sys
digest, count = hashlib.sha256(), 0
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    count += 1
    line = "%d %s\\n" % (count, "x" * (count % 997))
    digest.update(line.encode())
    sys.stdout.write(line)
    sys.stdout.flush()
sys.stderr.write("%d %s" % (count, digest.hexdigest()))
"""


def test_connects_and_disconnects_lose_nothing(sandbox: Sandbox) -> None:
    """While one client follows a program, a thousand others come and go; not a byte of the first one's is lost."""
    handle = sandbox.commands.run(f"exec python3 -c '{PRINTER}'", background=True, stdin=True, timeout=0)
    digest, lines = hashlib.sha256(), [0]
    seen: list[object] = []

    def come_and_go() -> None:
        for _ in range(250):
            other = sandbox.commands.connect(handle.pid, timeout=30)
            seen.extend(zip(range(3), other, strict=False))
            other.disconnect()

    def take(text: str) -> None:
        digest.update(text.encode())
        lines[0] += text.count("\n")

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]

    def stop_after_all() -> None:
        for thread in threads:
            thread.join()
        handle.close_stdin()

    for thread in (*threads, threading.Thread(target=stop_after_all)):
        thread.start()
    said = handle.wait(on_stdout=take).stderr
    assert said == f"{lines[0]} {digest.hexdigest()}"
    assert len(seen) == 3000


async def test_200_processes_print_to_200_readers(server: Server) -> None:
    """Two hundred programs print at once, each to a reader of its own, and every one's output is whole."""
    sandbox = await AsyncSandbox.create("base", timeout=600, **server.sdk)
    try:
        program = "for i in $(seq 1 2000); do echo $1-$i; done"

        async def one(number: int) -> bool:
            done = await sandbox.commands.run(f"bash -c '{program}' _ {number}", timeout=240)
            return done.stdout == "".join(f"{number}-{i}\n" for i in range(1, 2001))

        assert all(await asyncio.gather(*(one(number) for number in range(200))))
    finally:
        await sandbox.kill()


async def test_async_sdk(server: Server) -> None:
    """The async SDK runs, streams, feeds, follows, lists and kills."""
    sandbox = await AsyncSandbox.create("base", timeout=300, **server.sdk)
    try:
        seen: list[str] = []
        assert (await sandbox.commands.run("echo hello", on_stdout=seen.append)).stdout == "hello\n"
        assert seen == ["hello\n"]
        handle = await sandbox.commands.run("cat", background=True, stdin=True)
        assert [one.pid for one in await sandbox.commands.list()] == [handle.pid]
        other = await sandbox.commands.connect(handle.pid)
        await handle.send_stdin("both\n")
        await handle.close_stdin()
        assert [(await one.wait()).stdout for one in (handle, other)] == ["both\n", "both\n"]
        handle = await sandbox.commands.run("sleep 60", background=True)
        assert await handle.kill()
        with pytest.raises(CommandExitException):
            await handle.wait()
        with pytest.raises(TimeoutException):
            await sandbox.commands.run("sleep 60", timeout=1)
    finally:
        await sandbox.kill()
