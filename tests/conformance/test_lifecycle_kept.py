"""Contents of a sandbox after a pause, by the official Python SDKs: with memory it goes on, with files only it boots again."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from e2b import AsyncSandbox, CommandExitException, NotFoundException, PtySize, Sandbox, SandboxException
from e2b_code_interpreter import Sandbox as Interpreter

from framework.lifecycles import KINDS, WEB_SERVER, boot_id, inside, new, state
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

WHO = "echo $(id -un) $PWD $HOME $SHARED"
SUMS = "cat /home/user/whole /home/user/scattered /home/user/zeroed /home/user/cut | sha256sum"
MAKE_FILES = """
import os, random
random.seed(7)
os.chdir("/home/user")
open("whole", "wb").write(random.randbytes(64 << 20))
with open("scattered", "wb") as file:
    for number in range(512):
        file.seek(number * (1 << 20))
        file.write(random.randbytes(64 << 10))
with open("zeroed", "wb") as file:
    file.write(random.randbytes(8 << 20))
    file.seek(1 << 20)
    file.write(bytes(4 << 20))
with open("cut", "wb") as file:
    file.write(random.randbytes(8 << 20))
    file.truncate(3 << 20)
open("/dev/shm/volatile", "wb").write(random.randbytes(8 << 20))
"""


def cycle(sandbox: Sandbox, kind: Any = "full") -> None:
    """One pause and one resume."""
    assert sandbox.pause(mode=kind)
    sandbox.connect(timeout=300)


def test_with_the_memory_everything_goes_on(server: Server) -> None:
    """Boot id, processes, open files, users, variables and timers are those of before, after each of two pauses."""
    with new(server, envs={"SHARED": "sandbox"}) as sandbox:
        boot, who = boot_id(sandbox), sandbox.commands.run(WHO).stdout
        sleeper = sandbox.commands.run("sleep 1000", background=True)
        sandbox.commands.run("(exec 3>kept; rm kept; while sleep 0.05; do echo tick >&3; done) > /dev/null 2>&1 & echo $! > pid")
        sandbox.commands.run("(sleep 1; echo done > later) > /dev/null 2>&1 & disown")
        sandbox.commands.run("head -c 1000000 /dev/urandom > /dev/shm/data; sha256sum < /dev/shm/data > sum")
        for _ in range(2):
            cycle(sandbox)
            assert boot_id(sandbox) == boot
            assert sandbox.commands.run(WHO).stdout == who == "user /home/user /home/user sandbox\n"
            assert sleeper.pid in [one.pid for one in sandbox.commands.list()]
            assert sandbox.commands.run("ls -l /proc/$(cat pid)/fd/3").stdout.strip().endswith("kept (deleted)")
            assert sandbox.commands.run("cat sum; sha256sum < /dev/shm/data | diff sum - && echo same").stdout.endswith("same\n")
        eventually(lambda: sandbox.files.exists("later"))
        assert sandbox.commands.kill(sleeper.pid)


def test_with_the_files_a_new_boot_begins(server: Server) -> None:
    """Files, users, variables and tokens stay; processes and /dev/shm do not, and the boot id is another."""
    with new(server, envs={"SHARED": "sandbox"}) as sandbox:
        who = sandbox.commands.run(WHO).stdout
        boots = [boot_id(sandbox)]
        sandbox.commands.run(
            "sudo sh -c 'echo rooted > /etc/rooted; useradd -m vera'; echo marker > marker; ln marker hard; chmod 640 marker"
        )
        sandbox.commands.run("echo gone > /dev/shm/gone")
        for number in range(2):
            sandbox.commands.run("sleep 1000", background=True)
            sandbox.files.write(f"round{number}", "kept")
            cycle(sandbox, "filesystem")
            boots.append(boot_id(sandbox))
            assert sandbox.commands.run(WHO).stdout == who == "user /home/user /home/user sandbox\n"
            assert sandbox.commands.list() == []
            assert sandbox.files.read(f"round{number}") == "kept"
            assert (
                sandbox.commands.run("cat marker /etc/rooted; stat -c '%a %h' marker; id -un vera").stdout
                == "marker\nrooted\n640 2\nvera\n"
            )
            assert not sandbox.files.exists("/dev/shm/gone")
        assert len(set(boots)) == 3
        hostname = sandbox.commands.run("hostname; cat /etc/hostname").stdout.split()
        assert hostname == [sandbox.sandbox_id] * 2


def test_reboot_of_a_sandbox_with_memory(server: Server) -> None:
    """``on_resume="reboot"`` boots a paused sandbox from its disk, and leaves a running one alone."""
    with new(server) as sandbox:
        sandbox.files.write("note", "kept")
        sandbox.commands.run("sync; sleep 1000 > /dev/null 2>&1 & disown")
        boot = boot_id(sandbox)
        sandbox.connect(on_resume="reboot")
        assert boot_id(sandbox) == boot
        assert sandbox.pause()
        sandbox.connect(on_resume="reboot")
        assert boot_id(sandbox) != boot
        assert sandbox.files.read("note") == "kept"
        assert sandbox.commands.run("pgrep sleep || echo none").stdout == "none\n"


def test_large_files(server: Server) -> None:
    """Contiguous, scattered, zeroed and truncated files keep every byte, as do writes between two pauses."""
    with new(server) as sandbox:
        sandbox.files.write("make.py", MAKE_FILES)
        sandbox.commands.run("python3 make.py")
        before = sandbox.commands.run(SUMS).stdout
        volatile = sandbox.commands.run("sha256sum < /dev/shm/volatile").stdout
        for number, kind in enumerate(KINDS):
            cycle(sandbox, kind)
            assert sandbox.commands.run(SUMS).stdout == before
            if kind == "full":
                assert sandbox.commands.run("sha256sum < /dev/shm/volatile").stdout == volatile
            sandbox.commands.run(f"dd if=/dev/zero of=whole bs=1M seek={number} count=1 conv=notrunc 2>/dev/null; echo more >> cut")
            changed = sandbox.commands.run(SUMS).stdout
            assert changed != before
            before = changed
        cycle(sandbox, "filesystem")
        assert sandbox.commands.run(SUMS).stdout == before


def test_unsynced_writes_survive_a_pause_of_files(server: Server) -> None:
    """A pause closes the disk cleanly: bytes that no program synced are there."""
    with new(server) as sandbox:
        digests = [hashlib.sha256(bytes([number]) * 200_000).hexdigest() for number in range(50)]
        sandbox.commands.run('python3 -c \'for n in range(50): open(f"f{n}", "wb").write(bytes([n]) * 200_000)\'')
        cycle(sandbox, "filesystem")
        found = sandbox.commands.run("for n in $(seq 0 49); do sha256sum < f$n; done").stdout.split()
        assert found[::2] == digests


def test_a_command_is_followed_again(server: Server) -> None:
    """A client that connects again gets the rest of the output and the end; input reaches the command."""
    with new(server) as sandbox:
        counter = sandbox.commands.run("for i in $(seq 40); do echo line $i; sleep 0.1; done; echo end", background=True)
        reader = sandbox.commands.run("read -r word; echo got $word", background=True, stdin=True)
        eventually(lambda: [one.pid for one in sandbox.commands.list()] == [counter.pid, reader.pid])
        cycle(sandbox)
        again = sandbox.commands.connect(counter.pid)
        lines = again.wait().stdout.splitlines()
        assert lines[-2:] == ["line 40", "end"]
        assert lines[:-1] == [f"line {number}" for number in range(41 - len(lines) + 1, 41)]
        other = sandbox.commands.connect(reader.pid)
        sandbox.commands.send_stdin(reader.pid, "words\n")
        assert other.wait().stdout == "got words\n"


def test_output_written_between_pause_and_connect_is_not_lost(server: Server) -> None:
    """A client that is back gets the output of the meantime."""
    with new(server) as sandbox:
        command = (
            "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second; touch said; while [ -e go ]; do sleep 0.02; done; echo third"
        )
        handle = sandbox.commands.run(command, background=True)
        cycle(sandbox)
        sandbox.files.write("go", "")
        eventually(lambda: sandbox.files.exists("said"))
        again = sandbox.commands.connect(handle.pid)
        sandbox.files.remove("go")
        assert again.wait().stdout.splitlines()[-2:] == ["second", "third"]


def test_a_terminal_goes_on(server: Server) -> None:
    """A terminal keeps its shell, directory, variables and size, and works after a new connection."""
    with new(server) as sandbox:
        terminal = sandbox.pty.create(PtySize(rows=31, cols=101))
        sandbox.pty.send_stdin(terminal.pid, b"cd /tmp; kept=yes; touch ready\n")
        eventually(lambda: sandbox.files.exists("/tmp/ready"))
        cycle(sandbox)
        again = sandbox.pty.connect(terminal.pid)
        sandbox.pty.send_stdin(terminal.pid, b"echo =$kept=$PWD=$(stty size)=; exit 7\n")
        shown = bytearray()
        with pytest.raises(CommandExitException, match="7"):
            again.wait(on_pty=shown.extend)
        assert "=yes=/tmp=31 101=" in shown.decode()


def test_contexts_keep_their_variables(server: Server) -> None:
    """Kernels of all languages, and a second Python context, keep their variables over a pause with memory."""
    assigned = {
        "python": ("kept = 41", "print(kept + 1)"),
        "javascript": ("var kept = 41", "console.log(kept + 1)"),
        "r": ("kept <- 41", "cat(kept + 1, '\\n')"),
        "bash": ("kept=41", "echo $((kept + 1))"),
        "java": ("int kept = 41;", "System.out.println(kept + 1);"),
    }
    with Interpreter.create(timeout=600, **server.sdk) as sandbox:
        for language, (assign, _) in assigned.items():
            assert sandbox.run_code(assign, language=language).error is None
        context = sandbox.create_code_context(cwd="/tmp")
        sandbox.run_code("import os, numpy; here = numpy.arange(10)", context=context)
        assert sandbox.pause()
        sandbox.connect(timeout=600)
        for language, (_, show) in assigned.items():
            run = sandbox.run_code(show, language=language)
            assert run.error is None, (language, run.error)
            assert "".join(run.logs.stdout).strip() == "42", language
        run = sandbox.run_code("print(os.getcwd(), here.sum())", context=context)
        assert "".join(run.logs.stdout) == "/tmp 45\n"
        assert sandbox.pause(mode="filesystem")
        sandbox.connect(timeout=600)
        fresh = sandbox.run_code("kept")
        assert fresh.error is not None
        assert fresh.error.name == "NameError"
        assert sandbox.run_code("1 + 1").text == "2"


def test_a_run_of_code_goes_on(server: Server) -> None:
    """Code that was asleep when its sandbox was paused comes to its end."""
    with ThreadPoolExecutor(1) as pool, Interpreter.create(timeout=300, **server.sdk) as sandbox:
        code = "import asyncio, os, pathlib\npathlib.Path('/home/user/begun').touch()\nwhile not os.path.exists('/home/user/go'):\n    await asyncio.sleep(0.05)\npathlib.Path('/home/user/woken').write_text('yes')"

        running = pool.submit(sandbox.run_code, code, timeout=60)
        other = sandbox.create_code_context()
        eventually(lambda: sandbox.run_code("import pathlib; pathlib.Path('/home/user/begun').exists()", context=other).text == "True")
        assert sandbox.pause()
        with pytest.raises((SandboxException, httpx.HTTPError)):  # a pause breaks the streams of clients
            running.result(30)
        sandbox.connect(timeout=300)
        sandbox.files.write("go", "")
        eventually(lambda: sandbox.files.exists("woken"))


def test_a_watch_goes_on(server: Server) -> None:
    """A polled watch goes on after a pause; after a boot from files it is gone, and a new one works."""
    with new(server) as sandbox:
        sandbox.files.make_dir("seen")
        handle = sandbox.files.watch_dir("seen")
        sandbox.files.write("seen/before", "x")
        cycle(sandbox)
        sandbox.files.write("seen/after", "x")
        names = [event.name for event in handle.get_new_events()]
        assert names[0] == "before"
        assert names[-1] == "after"
        cycle(sandbox, "filesystem")
        with pytest.raises(NotFoundException):
            handle.get_new_events()
        another = sandbox.files.watch_dir("seen")
        sandbox.files.write("seen/again", "x")
        assert another.get_new_events()[-1].name == "again"


@pytest.mark.parametrize("kind", KINDS)
def test_signed_addresses_and_tokens(kind: Any, server: Server) -> None:
    """Signed addresses and traffic tokens from before the pause work after it; wrong ones are refused."""
    with new(server, network={"allow_public_traffic": False}) as sandbox, new(server) as stranger:
        sandbox.files.write("note", "signed")
        url, token = sandbox.download_url("note", user="user"), sandbox.traffic_access_token
        cycle(sandbox, kind)
        assert httpx.get(url).text == "signed"
        assert httpx.get(url.replace("note", "nota")).status_code == 401
        sandbox.commands.run(WEB_SERVER, background=True)
        eventually(lambda: inside(server, sandbox.sandbox_id, 8000, E2B_Traffic_Access_Token=str(token)).status == 200)
        assert inside(server, sandbox.sandbox_id, 8000).status == 403
        assert inside(server, stranger.sandbox_id, 8000, E2B_Traffic_Access_Token=str(token)).status in (403, 502)


@pytest.mark.parametrize("kind", KINDS)
def test_no_internet_access_stays_so(kind: Any, server: Server) -> None:
    """A sandbox without internet access has none after a resume."""
    with new(server, allow_internet_access=False) as sandbox:
        probe = "timeout 3 bash -c 'exec 3<>/dev/tcp/198.51.100.1/80' 2>&1; cat /proc/net/route | wc -l"
        before = sandbox.commands.run(probe).stdout
        assert sandbox.pause(mode=kind)
        assert sandbox.get_info().allow_internet_access is False
        sandbox.connect()
        assert sandbox.commands.run(probe).stdout == before
        assert sandbox.get_info().allow_internet_access is False


def test_listening_ports_listen(server: Server) -> None:
    """A web server from before the pause answers after it, and 502 is the answer meanwhile."""
    with new(server) as sandbox:
        sandbox.commands.run(WEB_SERVER, background=True, cwd="/home/user")
        eventually(lambda: inside(server, sandbox.sandbox_id, 8000).status == 200)
        cycle(sandbox)
        assert inside(server, sandbox.sandbox_id, 8000).status == 200
        assert sandbox.pause()
        refused = inside(server, sandbox.sandbox_id, 8000)
        assert refused.status == 502
        assert refused.json()["message"] == "The sandbox was not found"
        assert refused.json()["sandboxId"] == sandbox.sandbox_id
        assert state(server, sandbox.sandbox_id) == "paused"


async def test_open_streams_break_at_a_pause(server: Server) -> None:
    """A command's stream ends with an error at the pause; the command itself lives."""
    sandbox = await AsyncSandbox.create("base", timeout=300, **server.sdk)
    handle = await sandbox.commands.run("sleep 1000", background=True)
    waiting = asyncio.create_task(handle.wait())
    assert await sandbox.pause()
    with pytest.raises(SandboxException):  # and not the TimeoutError of the wait
        await asyncio.wait_for(waiting, 15)
    await sandbox.connect()
    assert [one.pid for one in await sandbox.commands.list()] == [handle.pid]
    await sandbox.kill()


def test_git_and_packages_survive_both_kinds(server: Server) -> None:
    """A repository and an installed command are there after each kind of pause."""
    with new(server) as sandbox:
        sandbox.git.init("/home/user/work", initial_branch="main")
        sandbox.files.write("work/a", "x")
        sandbox.git.add("/home/user/work")
        sandbox.git.commit("/home/user/work", "first", author_name="Ada", author_email="a@example.com")
        sandbox.commands.run("printf '#!/bin/sh\\necho tool\\n' > /usr/local/bin/tool; chmod 755 /usr/local/bin/tool", user="root")
        for kind in (*KINDS, *KINDS):
            cycle(sandbox, kind)
            assert sandbox.commands.run("tool; cd work && git log --format=%s && git status --porcelain").stdout == "tool\nfirst\n"
