"""Build sandboxes and the layers made of them, on a node of their own: what a command says, and what a layer keeps."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from cloister.errors import BuildError
from cloister.linux.trees import remove_tree
from cloister.model.network import NO_EGRESS
from cloister.model.resources import Limits
from cloister.node.host import close_host
from cloister.template.interfaces import BuildSandbox, BuildSandboxSpec, ShellCommand
from framework.build_node import LIMITS, BuildNode, NoCancellation, build_node, node_at

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """One node for all tests of this file."""
    with build_node() as made:
        yield made


def box(node: BuildNode, *above: str, limits: Limits = LIMITS, context: Path | None = None) -> AbstractContextManager[BuildSandbox]:
    """A build sandbox on the base template and the layers ``above`` it."""
    spec = BuildSandboxSpec(limits=limits, context=context, egress=NO_EGRESS, envs={"OF_BUILD": "b"})
    return node.build_sandboxes.open((*node.base.layers, *above), spec, NoCancellation())


def run(sandbox: BuildSandbox, text: str, user: str = "root") -> str:
    """What ``text`` writes; it must succeed."""
    parts: list[bytes] = []
    assert sandbox.run(ShellCommand(text=text, user=user), lambda _kind, data: parts.append(data)) == 0, b"".join(parts)
    return b"".join(parts).decode()


def silent(_kind: str, _data: bytes) -> None:
    """Takes output and leaves it."""


def build(node: BuildNode, text: str, *above: str) -> str:
    """The key of the layer of what ``text`` writes."""
    with box(node, *above) as sandbox:
        run(sandbox, text)
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert layer is not None
    return layer.key


def test_a_command_runs_as_its_user_in_its_home(node: BuildNode) -> None:
    """User, home, login shell, variables of the build and of the command; both outputs, as they are; the status."""
    seen: list[tuple[str, bytes]] = []
    with box(node) as sandbox:
        text = "id -un; pwd; echo $OF_BUILD$MINE; shopt -q login_shell && echo login; printf '\\xff' >&2; exit 3"
        status = sandbox.run(ShellCommand(text=text, user="user", envs={"MINE": "m"}), lambda kind, data: seen.append((kind, data)))
        assert run(sandbox, "pwd").strip() == "/root"
    out = b"".join(data for kind, data in seen if kind == "stdout")
    assert (status, out.split()) == (3, [b"user", b"/home/user", b"bm", b"login"])
    assert b"".join(data for kind, data in seen if kind == "stderr") == b"\xff"


def test_output_comes_while_the_command_runs(node: BuildNode) -> None:
    """A line is there before the command ends."""
    at: list[float] = []
    with box(node) as sandbox:
        sandbox.run(ShellCommand(text="echo one; sleep 1; echo two", user="root"), lambda _kind, _data: at.append(time.monotonic()))
    assert at[-1] - at[0] > 0.8


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (ShellCommand(text="echo x", user="nobody-here"), "echo x.: command failed: unauthenticated: invalid username: 'nobody-here'$"),
        (ShellCommand(text="echo x", user="user", cwd="/nowhere"), "command failed: .*/nowhere.*does not exist"),
        (ShellCommand(text="sleep 60", user="user", timeout_s=1), "it took longer than 1 s"),
        (ShellCommand(text="tail /dev/zero", user="user"), "command failed: exit status 137: out of memory: the build has 512 MiB"),
        (ShellCommand(text="cat /dev/zero > /opt/x", user="root"), "exit status 1: the disk is full: the build has 512 MiB"),
        (ShellCommand(text="cd /opt; for i in $(seq 60000); do : > $i || exit 1; done", user="root"), "the build may have 50000 files"),
    ],
)  # fmt: skip
def test_a_failure_names_its_cause(node: BuildNode, command: ShellCommand, message: str) -> None:
    """A command that cannot run or meets a limit fails with an error that names the cause."""
    with box(node) as sandbox, pytest.raises(BuildError, match=f"^failed to run command '.*{message}"):
        sandbox.run(command, silent)


def test_a_signal_is_a_status(node: BuildNode) -> None:
    """As shells tell it: 128 and its number."""
    with box(node) as sandbox:
        assert sandbox.run(ShellCommand(text="kill -TERM $$", user="root"), silent) == 143


def test_a_build_is_ended_from_another_thread(node: BuildNode) -> None:
    """A command under way fails soon, and names the end; later ones fail too."""
    with box(node) as sandbox:
        threading.Timer(0.5, sandbox.kill).start()
        began = time.monotonic()
        with pytest.raises(BuildError, match="its sandbox was ended"):
            sandbox.run(ShellCommand(text="sleep 60", user="root"), silent)
        assert time.monotonic() - began < 5
        with pytest.raises(BuildError, match="its sandbox was ended"):
            sandbox.publish(secrets.token_hex(32), "test")


def test_a_cancellation_ends_the_sandbox(node: BuildNode) -> None:
    """Its stop is called from another thread while a command runs."""

    class Cancelled(NoCancellation):
        @contextmanager
        def _timed(self, stop: Callable[[], None]) -> Iterator[None]:
            threading.Timer(0.5, stop).start()
            yield

        def calling(self, stop: Callable[[], None]) -> AbstractContextManager[None]:
            return self._timed(stop)

    with (
        node.build_sandboxes.open(node.base.layers, BuildSandboxSpec(limits=LIMITS), Cancelled()) as sandbox,
        pytest.raises(BuildError, match="its sandbox was ended"),
    ):
        sandbox.run(ShellCommand(text="sleep 60", user="root"), silent)


def test_a_step_that_writes_nothing_has_no_layer(node: BuildNode) -> None:
    """Neither the agent's log nor the sandbox's own name is written by the step."""
    key = secrets.token_hex(32)
    with box(node) as sandbox:
        run(sandbox, "cat /etc/hostname /etc/hosts /etc/machine-id > /dev/null; echo x >> /etc/hosts", "root")
        assert sandbox.publish(key, "test") is None
    assert not node.store.has(key)
    assert list((node.store.root / "tmp").iterdir()) == []


def test_a_layer_holds_what_was_written_and_nothing_of_the_runtimes(node: BuildNode) -> None:
    """Names, and no mount point among them; seen from the host, since this is about what lies on the disk."""
    key = build(node, "echo a > /opt/a; echo b > /etc/b; mkdir /home/user/d; rm /etc/issue; touch /.cloister/x; : > /var/log/mine")
    root = node.store.rootfs(key)
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert found == ["etc", "etc/b", "etc/issue", "home", "home/user", "home/user/d", "opt", "opt/a", "var", "var/log", "var/log/mine"]
    assert (root / "etc/issue").is_char_device()
    assert (root / "home/user").stat().st_uid == 1000
    assert node.store.layer(key).size_bytes > 4096


_MAKE = """set -e
cd /opt; mkdir d; cd d
echo one > file; ln file ../linked; chmod 4751 file; touch -d '2001-02-03 04:05:06.789' file
printf x > empty-but-one; : > empty; truncate -s 300M sparse; printf tail | dd of=sparse bs=1 seek=200M conv=notrunc status=none
head -c 3000000 /dev/urandom > big; sha256sum big > sum
ln -s /etc/passwd link; ln -s nowhere dangling; chown -h user:user dangling
mkfifo -m 640 fifo; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'
mkdir sticky; chmod 3775 sticky; chown 1234:4321 sticky; touch -d @5 sticky
setfattr -n user.note -v text file 2>/dev/null || python3 -c 'import os; os.setxattr("file", "user.note", b"text")'
cp /bin/true capable; python3 - <<'P'
import os, struct
os.setxattr("capable", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
P
printf x > "$(printf 'strange\\n\\xff name')"
mkdir -p deep; (cd deep; for i in $(seq 60); do n=$(printf '%0100d' $i); mkdir $n; cd $n; done; echo far > bottom)
rm -r /usr/share/doc; mkdir /usr/share/doc; echo new > /usr/share/doc/new; rm /etc/issue; rm -r /usr/share/info
"""

_LOOK = """exec 2>&1; cd /opt/d
stat -c '%n %a %u %g %s %h %y' file empty-but-one empty sparse sticky fifo capable ../linked
stat -c '%n %b' sparse; stat -c '%n %u %N' link dangling; sha256sum -c sum; tail -c +209715201 sparse | head -c 4
python3 -c 'import os; print(os.getxattr("file", "user.note"), os.getxattr("capable", "security.capability").hex())'
ls -b; [ file -ef ../linked ] && echo same; ls /usr/share/doc; ls -d /usr/share/info /etc/issue; cat /opt/linked
(cd deep; for i in $(seq 60); do cd $(printf '%0100d' $i); done; cat bottom); true
"""


def test_every_kind_of_file_survives(node: BuildNode) -> None:
    """Links, modes, owners, times, attributes, capabilities, holes, removals, paths of any length; not sockets. Seen from a sandbox."""
    with box(node) as sandbox:
        run(sandbox, _MAKE)
        before = run(sandbox, _LOOK)
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert layer is not None
    with box(node, layer.key) as sandbox:
        after = run(sandbox, _LOOK)
    assert "strange\\n\\377\\ name" in before
    assert "sock" in before.split()
    assert after.split() == [word for word in before.split() if word != "sock"]
    assert "same" in after.split()
    assert layer.size_bytes < 10 << 20
    with box(node, layer.key) as sandbox:  # what is no longer there, and what is there instead
        assert run(sandbox, "ls /usr/share/doc; ! ls -d /usr/share/info /etc/issue 2> /dev/null").split() == ["new"]


def test_layers_stand_on_each_other(node: BuildNode) -> None:
    """A file that one layer makes, the next changes and the third removes."""
    first = build(node, "echo 1 > /opt/x; echo keep > /opt/y")
    second = build(node, "echo 2 >> /opt/x", first)
    third = build(node, "test $(wc -l < /opt/x) = 2; rm /opt/x", first, second)
    with box(node, first, second, third) as sandbox:
        assert run(sandbox, "ls /opt").split() == ["y"]
    assert node.store.layer(third).parent == second


def test_a_hundred_and_twenty_eight_layers(node: BuildNode, tmp_path: Path) -> None:
    """So many can be had, all of them seen; one more is refused by a number, before anything is made."""
    keys = []
    for number in range(128 - len(node.base.layers)):
        keys.append(secrets.token_hex(32))
        with node.store.workspace(keys[-1]) as workspace:
            (workspace.upper / f"of-layer-{number}").touch()
            node.store.publish(workspace, keys[-1], "test", None, 0.0)
    with box(node, *keys) as sandbox:
        assert len(run(sandbox, "ls -d /of-layer-*").split()) == len(keys)
        with pytest.raises(BuildError, match="at most 128 layers"):
            sandbox.publish(secrets.token_hex(32), "test")
    with pytest.raises(BuildError, match="at most 128 layers, this one 129"), box(node, *keys, keys[0]):
        pass


def test_an_operation_takes_and_gives_anything(node: BuildNode) -> None:
    """Parameters of any size; an unknown operation is an error in words."""
    with box(node) as sandbox, pytest.raises(BuildError, match="there is no build operation 'nothing'"):
        sandbox.operate("nothing", {"large": "x" * 3_000_000})


def test_a_context_is_shown_and_cannot_be_changed(node: BuildNode, tmp_path: Path) -> None:
    """A directory of the host is there to read, as root's files; nothing in it is written, run or privileged."""
    (tmp_path / "secret").write_text("of the context\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "tool").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tool").chmod(0o4755)
    with box(node, context=tmp_path) as sandbox:
        assert run(sandbox, "cat /.cloister/context/secret; stat -c %u /.cloister/context/secret").split() == ["of", "the", "context", "0"]
        attempts = ("touch new", "echo x >> secret", "rm tool", "chmod 777 secret", "./tool", "mv tool x")
        script = "cd /.cloister/context\n" + "\n".join(f"if {one}; then echo done; fi" for one in attempts)
        assert run(sandbox, f"({script}) 2> /dev/null") == ""
        options = run(sandbox, "grep ' /.cloister/context ' /proc/self/mountinfo").split()[5].split(",")
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(options)
        assert sandbox.publish(secrets.token_hex(32), "test") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "tool"]


def test_nobody_else_speaks_to_a_builds_agent(node: BuildNode) -> None:
    """The step's own code, which can reach the agent, has no token for it."""
    body = json.dumps({})
    text = f"curl -s -o /dev/null -w %{{http_code}} -H 'Content-Type: application/json' -d '{body}' localhost:49983/process.Process/List"
    with box(node) as sandbox:
        assert run(sandbox, text).strip() == "401"


def test_nothing_is_left(node: BuildNode) -> None:
    """No directory, no control group, no lock that is held; and a sweep leaves a live one alone."""
    with box(node) as sandbox:
        node.host.sweep(set)
        run(sandbox, "true")
        assert len(list((node.host.instance.run_dir.parent).iterdir())) > 0
    assert [path.name for path in node.build_sandboxes.directory.iterdir()] == ["empty"]
    left = [line for line in node.host.survey() if "control group" in line and "zone-" not in line]
    assert left == []


_DEEP = """
import os, struct
os.chdir("/opt")
for level in range(3000):
    os.mkdir("d"); os.chdir("d")
open("bottom", "w").write("far")
open("/opt/listed", "w").close()
entries = [(1, 6, 2**32 - 1), (2, 4, 1000), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 0, 2**32 - 1)]
os.setxattr("/opt/listed", "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))
"""

_DEEP_LOOK = """
import os
os.chdir("/opt")
for level in range(3000):
    os.chdir("d")
print(open("bottom").read(), os.getxattr("/opt/listed", "system.posix_acl_access").hex())
"""


def test_any_depth_and_access_lists_survive(node: BuildNode) -> None:
    """More levels than a path can name, and a list that names a user of the sandbox."""
    with box(node) as sandbox:
        run(sandbox, f"python3 - <<'P'\n{_DEEP}\nP")
        before = run(sandbox, f"python3 - <<'P'\n{_DEEP_LOOK}\nP")
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert layer is not None
    assert "far" in before
    assert "e8030000" in before
    with box(node, layer.key) as sandbox:
        assert run(sandbox, f"python3 - <<'P'\n{_DEEP_LOOK}\nP") == before
    remove_tree(node.store.root / "layers" / layer.key)  # pytest's own removal cannot


_CUT_OFF = """
import sys, time
from pathlib import Path
from framework.build_node import LIMITS, NoCancellation, node_at
from cloister.template.interfaces import BuildSandboxSpec
node = node_at(Path(sys.argv[1]))
with node.build_sandboxes.open(node.base.layers, BuildSandboxSpec(limits=LIMITS), NoCancellation()):
    print("open", flush=True)
    time.sleep(60)
"""


def test_build_sandboxes_of_a_supervisor_that_died_are_swept(stock_templates: None, tmp_path: Path) -> None:
    """The next one finds them by their slots and groups, ends them, and clears their disks away."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", _CUT_OFF, tmp_path], stdout=subprocess.PIPE, text=True, env=environ) as first:
        assert first.stdout is not None
        while first.stdout.readline() != "open\n":  # the log may have the word too
            assert first.poll() is None
        first.kill()
    assert len(list((tmp_path / "node" / "boxes").iterdir())) == 2
    second = node_at(tmp_path)
    try:
        removed = " ".join(second.host.sweep(set))
        assert "slot 0/1" in removed
        assert "control group" in removed
        assert [path.name for path in second.build_sandboxes.directory.iterdir()] == ["empty"]
        assert [line for line in second.host.survey() if "control group" in line and "zone-" not in line] == []
        with second.build_sandboxes.open(second.base.layers, BuildSandboxSpec(limits=LIMITS), NoCancellation()) as sandbox:
            assert run(sandbox, "echo on") == "on\n"
    finally:
        close_host(second.host)
