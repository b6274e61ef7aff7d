"""The verbs of the ``cloister`` command about sandboxes, each as a user runs it, against a real server."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from framework.http import call
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]

WAIT_S = 60.0


class Cli:
    """The command, as the operator on the server's host or as a client with the key of a team."""

    def __init__(self, server: Server, key: str = "") -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
        self.env = {**kept, "CLOISTER_DATA_DIR": str(server.data_dir), "TERM": "xterm"}
        if key:
            self.env |= {"E2B_API_URL": server.url, "E2B_API_KEY": key}

    def run(self, *words: str, stdin: str | bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        given = stdin if isinstance(stdin, bytes) else stdin.encode()
        done = subprocess.run(self.words(*words), check=False, input=given, capture_output=True, env=self.env, cwd=cwd, timeout=120)
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    def words(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "cloister.cli.main", *words]


    def live(self, metadata: str = "") -> set[str]:
        """The ids of the team's sandboxes, by the API."""
        query = f"?metadata={metadata.replace('=', '%3D')}" if metadata else ""
        answer = call(self.env["E2B_API_URL"], "GET", f"/v2/sandboxes{query}", headers={"X-API-KEY": self.env["E2B_API_KEY"]})
        return {one["sandboxID"] for one in answer.json()}


def wait_for(what: Callable[[], bool], told: str) -> None:
    """Wait until it is so."""
    until = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < until, told
        time.sleep(0.1)


@pytest.fixture(scope="module")
def operator(server: Server) -> Cli:
    """Root on the server's host."""
    return Cli(server)


@pytest.fixture(scope="module")
def client(server: Server) -> Cli:
    """A client with the default team's key."""
    return Cli(server, server.api_key)


@pytest.fixture(scope="module")
def stranger(server: Server, operator: Cli) -> Cli:
    """A client with the key of another team."""
    return Cli(server, operator.run("key", "create", "--team", "strangers").stdout.strip())


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox of the default team, with metadata of its own."""
    made = Sandbox.create("base", timeout=600, metadata={"owner": "a b&c=d", "module": "verbs"}, **server.sdk)
    yield made
    made.kill()


def ids(cli: Cli, *words: str) -> set[str]:
    """What ``cloister ps -q`` prints."""
    done = cli.run("ps", "-q", *words)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_ps_lists_and_filters(sandbox: Sandbox, client: Cli, operator: Cli, stranger: Cli) -> None:
    """A team sees its own sandboxes, the operator those of all teams; filters choose among them."""
    one = sandbox.sandbox_id
    assert ids(client, "--metadata", "owner=a b&c=d") == {one}
    assert ids(operator, "--metadata", "owner=a b&c=d", "--team", "default", "--state", "running") == {one}
    assert ids(client, "--metadata", "module=verbs", "--state", "paused") == set()
    assert one not in ids(stranger)
    assert f"{one}  base" in client.run("ps").stdout
    (row,) = json.loads(operator.run("ps", "--json", "--metadata", "module=verbs").stdout)
    assert (row["template"], row["state"], row["runtime"], row["team"]) == ("base", "running", "namespace", "default")
    assert row["metadata"]["module"] == "verbs"
    assert 0 < row["end_at"] - time.time() <= 600
    assert "root sees them" in client.run("ps", "--all").stderr
    assert "--team is for root" in client.run("ps", "--team", "default").stderr
    assert "--metadata takes NAME=VALUE" in client.run("ps", "--metadata", "x").stderr


def test_exec_is_the_command_itself(sandbox: Sandbox, client: Cli) -> None:
    """Streams, input, exit code, user, directory and variables are the command's; the shell here reads none of its words."""
    one = sandbox.sandbox_id
    data = bytes(range(256)) * 3000
    done = subprocess.run(client.words("exec", one, "--", "cat"), check=False, input=data, capture_output=True, env=client.env, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, data, b"")
    script = 'id -un; pwd; echo "$A|$1"; echo err >&2; exit 9'
    said = client.run("exec", one, "-u", "root", "-w", "/usr", "-e", "A=b c", "--", "sh", "-c", script, "sh", "$(x) *")
    assert (said.returncode, said.stdout, said.stderr) == (9, "root\n/usr\nb c|$(x) *\n", "err\n")
    assert client.run("exec", one, "-n", "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_exec_says_why_it_cannot(sandbox: Sandbox, client: Cli, stranger: Cli) -> None:
    """Faults of the command line, of the command and of the sandbox have exit codes of their own, and a cause."""
    one = sandbox.sandbox_id
    missing = client.run("exec", one, "--", "no-such-program")
    assert (missing.returncode, "no-such-program" in missing.stderr) == (126, True)
    assert client.run("exec", one, "-u", "nobody-here", "--", "true").returncode == 125
    gone = client.run("exec", "nosuchsandbox", "--", "true")
    assert (gone.returncode, "doesn't exist" in gone.stderr) == (125, True)
    theirs = stranger.run("exec", one, "--", "true")
    assert (theirs.returncode, "doesn't exist" in theirs.stderr) == (125, True)
    without = client.run("exec", one, "sh", "-c", "true")
    assert (without.returncode, "stand after --" in without.stderr) == (2, True)
    assert "a terminal is needed" in client.run("exec", "-t", one, "--", "true").stderr
    assert "a terminal is needed" in client.run("shell", one).stderr


def test_exec_that_is_ended_ends_the_command(sandbox: Sandbox, client: Cli) -> None:
    """SIGTERM to ``cloister exec`` is passed on."""
    script = "trap 'echo got it >/tmp/ended; exit' TERM; echo ready; while :; do sleep 0.1; done"
    words = client.words("exec", "-n", sandbox.sandbox_id, "--", "bash", "-c", script)
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=client.env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == 143
    wait_for(lambda: sandbox.files.exists("/tmp/ended"), "the command got no signal")


def test_exec_says_how_its_sandbox_ended(server: Server, client: Cli) -> None:
    """A command whose sandbox is killed ends with 125 and the reason."""
    made = Sandbox.create("base", timeout=120, **server.sdk)
    words = client.words("exec", "-n", made.sandbox_id, "--", "sh", "-c", "echo ready; sleep 300")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=client.env, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        made.kill()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 125
    assert said.endswith("it was killed\n")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, cli: Cli, *words: str, size: tuple[int, int] = (100, 30)) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, cli.words(*words), cli.env)
        self.seen = ""
        self.resize(*size)

    def resize(self, columns: int, lines: int) -> None:
        """Change the terminal's size."""
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.descriptor, text.encode())

    def expect(self, pattern: str) -> re.Match[str]:
        """Read until the pattern has appeared."""
        until = time.monotonic() + WAIT_S
        while (found := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self.descriptor], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{pattern!r} did not appear: {self.seen!r}"
            self.seen += os.read(self.descriptor, 65536).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found

    def end(self) -> int:
        """Wait for the end; the exit code."""
        until = time.monotonic() + WAIT_S
        while (found := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < until, f"it did not end: {self.seen!r}"
            if select.select([self.descriptor], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.descriptor, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    time.sleep(0.05)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(found[1])


def test_shell_has_a_terminal(sandbox: Sandbox, client: Cli) -> None:
    """Keys, also ^C, go to the shell; it knows the terminal's size and its changes; its exit code is that of the command."""
    shell = Terminal(client, "shell", sandbox.sandbox_id, "-e", "GIVEN=yes")
    shell.expect(r"\$ ")
    shell.type("stty size; echo $TERM-$GIVEN; tty\r")
    shell.expect(r"30 100\s+xterm-yes\s+/dev/pts/")
    shell.resize(70, 20)
    shell.type("until [ \"$(stty size)\" = '20 70' ]; do sleep 0.1; done; echo res''ized\r")
    shell.expect("resized")
    shell.type("sh -c 'echo beg''un; exec sleep 300'\r")  # a ^C before it runs would be the shell's own
    shell.expect("begun")
    shell.type("\x03")
    shell.expect(r"\^C[\s\S]*\$ ")
    shell.type("exit 5\r")
    assert shell.end() == 5


def test_a_shell_of_a_template_ends_its_sandbox(client: Cli) -> None:
    """A new sandbox lives as long as its shell, also when the terminal is gone."""
    before = client.live()
    shell = Terminal(client, "shell", "--template", "base")
    shell.expect(r"\$ ")
    (made,) = client.live() - before
    os.kill(shell.pid, signal.SIGHUP)
    assert shell.end() == 129
    assert made not in client.live()


def test_connections_are_followed_to_the_end(server: Server, client: Cli) -> None:
    """``connections --refused -f`` prints what the network refuses until the sandbox has ended; ended ones have a record, too."""
    with Sandbox.create(**server.sdk) as made:
        words = client.words("connections", "--refused", "-f", made.sandbox_id)
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=client.env, text=True) as process:
            made.commands.run("curl --silent --max-time 2 http://10.99.0.1:81/ || true")
            assert process.stdout is not None
            first = process.stdout.readline()
            made.kill()
            assert process.wait(WAIT_S) == 0
    assert re.search(r"Z refused tcp  10\.99\.0\.1:81: not_public", first), first
    done = client.run("connections", "--json", made.sandbox_id)
    assert [record["rule"] for record in map(json.loads, done.stdout.splitlines())][:1] == ["not_public"], done
    assert client.run("connections", "nosuchsandbox").returncode == 1


def test_logs_are_followed_to_the_end(server: Server, client: Cli) -> None:
    """``logs -f`` prints what happens until the sandbox has ended, then exits with 0; they can be read afterwards."""
    made = Sandbox.create("base", timeout=120, **server.sdk)
    with subprocess.Popen(client.words("logs", "-f", made.sandbox_id), stdout=subprocess.PIPE, env=client.env, text=True) as process:
        assert process.stdout is not None
        assert "sandbox created" in process.stdout.readline()
        made.commands.run("echo \x1b[31mred")
        lines = iter(process.stdout.readline, "")
        assert "red" in next(line for line in lines if "process started" in line)
        made.kill()
        rest = list(lines)
        assert process.wait(30) == 0
    assert rest[-1].endswith("sandbox ended: reason=killed\n")
    done = client.run("logs", "--tail", "1", "--json", made.sandbox_id)
    assert json.loads(done.stdout)["fields"]["logger"] == "api"
    assert "\x1b" not in client.run("logs", made.sandbox_id).stdout
    assert client.run("logs", "nosuchsandbox").returncode == 1


def test_cp_there_and_back(sandbox: Sandbox, client: Cli, tmp_path: Path) -> None:
    """Directories come back as they went: odd names, empty directories, modes, times and links; files can be renamed on the way."""
    tree = tmp_path / "tree"
    odd = tree / "a b" / "né\n*"
    odd.mkdir(parents=True)
    (tree / "empty").mkdir()
    (odd / "-rf").write_bytes(bytes(range(256)))
    (odd / "-rf").chmod(0o755)
    os.utime(odd / "-rf", (1_000_000_000, 1_000_000_000))
    Path(os.fsdecode(os.fsencode(tree) + b"/bad\xff")).write_text("x")
    (tree / "link").symlink_to("a b/né\n*/-rf")
    one = sandbox.sandbox_id
    assert client.run("cp", str(tree), f"{one}:new").returncode == 0
    assert client.run("cp", f"{one}:/home/user/new", str(tmp_path / "back")).returncode == 0
    back = tmp_path / "back"
    assert sorted(os.fsencode(p.relative_to(back)) for p in back.rglob("*")) == sorted(os.fsencode(p.relative_to(tree)) for p in tree.rglob("*"))
    again = back / "a b" / "né\n*" / "-rf"
    assert again.read_bytes() == bytes(range(256))
    assert (again.stat().st_mode & 0o777, again.stat().st_mtime) == (0o755, 1_000_000_000)
    assert (back / "link").readlink() == Path("a b/né\n*/-rf")
    assert client.run("cp", str(again), f"{one}:/tmp/renamed").returncode == 0
    assert client.run("cp", f"{one}:/tmp/renamed", ".", cwd=tmp_path).returncode == 0
    assert (tmp_path / "renamed").read_bytes() == bytes(range(256))
    assert client.run("cp", str(tree / "empty"), f"{one}:/tmp").returncode == 0
    assert sandbox.files.exists("/tmp/empty")
    assert client.run("cp", "-u", "root", str(again), f"{one}:/root/mine").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x", "y"), "must be ID:PATH"),
        (("{id}:/a", "{id}:/b"), "must be ID:PATH"),
        (("/no/such/file", "{id}:/tmp"), "there is no /no/such/file here"),
        (("{id}:/no/such", "."), "there is no /no/such in the sandbox"),
        (("/etc/hostname", "{id}:/no/such/x"), "there is no directory /no/such in the sandbox"),
        (("/etc/hostname", "{id}:/tmp/no/"), "there is no directory /tmp/no/ in the sandbox"),
        (("/etc/hostname", "{id}:/root/"), "Permission denied"),
        (("{id}:/etc/hostname", "/no/such/x"), "there is no directory /no/such here"),
    ],
)
def test_cp_says_why_it_cannot(sandbox: Sandbox, client: Cli, words: tuple[str, str], said: str) -> None:
    """A copy that cannot be made is one line with the cause, and exit code 1."""
    done = client.run("cp", *(word.format(id=sandbox.sandbox_id) for word in words))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_kill(server: Server, client: Cli, operator: Cli, stranger: Cli) -> None:
    """Named ones are ended, an unknown one is told; a stranger's kill finds none; the operator ends those of any team, and sees why."""
    made = [Sandbox.create("base", timeout=120, metadata={"kill": "me"}, **server.sdk).sandbox_id for _ in range(4)]
    assert stranger.run("kill", made[0]).returncode == 1
    done = client.run("kill", made[0], "nosuchsandbox", made[1])
    assert (done.returncode, done.stdout.split()) == (1, made[:2])
    assert done.stderr.count("\n") == 1
    assert operator.run("kill", made[2]).stdout.split() == [made[2]]
    wait_for(lambda: client.live("kill=me") == {made[3]}, "they are still listed")
    assert json.loads(client.run("kill", "--json", "--all", "--metadata", "kill=me").stdout) == [made[3]]
    assert client.live("kill=me") == set()
    ended = {row["sandbox_id"]: row for row in json.loads(operator.run("ps", "--all", "--json", "--metadata", "kill=me").stdout)}
    assert {ended[one]["state"] for one in made} == {"ended"}
    assert ended[made[2]]["end"].startswith("killed")
    recorded = operator.run("audit", "--action", "sandbox.kill", "--team", "default").stdout
    assert re.search(rf" - +uid:\d+ +sandbox.kill +ok +{made[2]}$", recorded, re.MULTILINE), recorded
    assert client.run("kill").returncode == client.run("kill", "--all", made[0]).returncode == 1


def test_top(sandbox: Sandbox, client: Cli, operator: Cli) -> None:
    """Once, or where the output is no terminal, it is one table; JSON has the numbers; on a terminal it goes on until ^C."""
    wait_for(lambda: bool(sandbox.get_metrics()), "no sample")
    assert sandbox.sandbox_id in client.run("top").stdout
    (row,) = json.loads(operator.run("top", "--json", "--metadata", "module=verbs").stdout)
    assert 0 < row["usage"]["mem_bytes"] < row["usage"]["mem_limit_bytes"]
    live = Terminal(client, "top", "--interval", "0.2", "--metadata", "module=verbs")
    for _ in range(2):
        live.expect(rf"\x1b\[H\x1b\[J1 running[\s\S]*{sandbox.sandbox_id}")
    live.type("\x03")
    assert live.end() == 130


PROGRAM = """
import os, sys
print(sys.argv[1:], os.environ["A"], sys.stdin.read())
open("made.txt", "w").write("made")
import matplotlib.pyplot as plt
plt.plot([1, 2]); plt.show()
sys.exit(3)
"""


def test_run_is_as_python_here(client: Cli, tmp_path: Path) -> None:
    """Arguments, input, variables and the exit code are the program's; ``--save`` copies its files and plots."""
    (tmp_path / "-p.py").write_text(PROGRAM)
    before = client.live()
    done = client.run("run", "-e", "A=b", "--save", "out", "--", "-p.py", "x", "--y", "-e", cwd=tmp_path, stdin="given")
    assert (done.returncode, done.stdout) == (3, "['x', '--y', '-e'] b given\n"), done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["made.txt", "plot-1.png"]
    assert client.live() == before


JAVA = """class P {
    public static void main(String[] a) throws Exception {
        System.out.println(a[0] + " " + new String(System.in.readAllBytes()));
        System.exit(4);
    }
}
"""


@pytest.mark.parametrize(
    ("name", "code", "printed"),
    [
        ("p.js", "console.log(process.argv[2], require('fs').readFileSync(0, 'utf8')); process.exit(4)", "arg in\n"),
        ("p.sh", 'echo "$1 $(cat)"; exit 4', "arg in\n"),
        ("p.r", "cat(commandArgs(TRUE), readLines(file('stdin'))); cat('\\n'); quit(status=4)", "arg in\n"),
        ("p.java", JAVA, "arg in\n"),
    ],
)
def test_run_in_other_languages(client: Cli, tmp_path: Path, name: str, code: str, printed: str) -> None:
    """As above."""
    (tmp_path / name).write_text(code)
    done = client.run("run", name, "arg", cwd=tmp_path, stdin="in")
    assert (done.returncode, done.stdout) == (4, printed), done.stderr


def test_run_as_a_cell(client: Cli, tmp_path: Path) -> None:
    """``--kernel`` prints the value of the last line; ``--save`` has results as numbered files, and the files of the cell."""
    code = "from IPython.display import HTML\nopen('made.txt', 'w').write('x')\nHTML('<b>bold</b>')"
    done = client.run("run", "--kernel", "--language", "python", "--save", str(tmp_path / "out"), "-", stdin=code)
    assert (done.returncode, "HTML object" in done.stdout) == (0, True), done.stderr
    assert (tmp_path / "out" / "result-1.html").read_text() == "<b>bold</b>"
    assert (tmp_path / "out" / "made.txt").read_text() == "x"
    assert client.run("run", "--language", "python", "-", stdin="import os; 1/0").returncode == 1


def test_run_has_an_honest_time_limit(client: Cli, tmp_path: Path) -> None:
    """A program that takes too long is ended with 124 and a message; what it wrote before is saved."""
    (tmp_path / "p.py").write_text("import time\nopen('early', 'w').close()\nprint('on')\ntime.sleep(600)")
    done = client.run("run", "--timeout", "3", "--save", "out", "p.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (124, "on\n")
    assert "time limit (--timeout)" in done.stderr
    assert (tmp_path / "out" / "early").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda one: one.name)
def test_run_that_is_ended_ends_its_sandbox(client: Cli, tmp_path: Path, number: signal.Signals) -> None:
    """A signal ends the sandbox too, and the exit code names it."""
    (tmp_path / "p.py").write_text("import time\nprint('on')\ntime.sleep(600)")
    before = client.live()
    with subprocess.Popen(client.words("run", str(tmp_path / "p.py")), stdout=subprocess.PIPE, env=client.env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert client.live() == before


def test_template_rm(client: Cli, operator: Cli) -> None:
    """A template of the server that others stand on is refused, with them; one that does not exist is told."""
    refused = operator.run("template", "rm", "base")
    assert (refused.returncode, "in use by the template code-interpreter-v1" in refused.stderr) == (1, True)
    missing = client.run("template", "rm", "no-such-template")
    assert (missing.returncode, "no-such-template" in missing.stderr) == (1, True)


def test_a_server_that_is_not_there(client: Cli) -> None:
    """Each verb names the address that does not answer."""
    env = {**client.env, "E2B_API_URL": "http://127.0.0.1:9"}
    for words in (("ps",), ("exec", "i", "--", "true")):
        done = subprocess.run(client.words(*words), check=False, capture_output=True, env=env, text=True, timeout=60)
        assert done.returncode in {1, 125}
        assert "http://127.0.0.1:9 does not answer: Connection refused" in done.stderr
