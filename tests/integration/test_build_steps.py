"""Whole builds in real sandboxes: every kind of step, what it leaves, and that a failed one leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import BuildError
from cloister.model.build import BuildStep, UploadedArchive
from framework.build_lab import BuildLab
from framework.build_node import BuildNode, build_node

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def node(stock_templates: None) -> Iterator[BuildNode]:
    """One node for all tests of this file."""
    with build_node() as made:
        yield made


@pytest.fixture
def lab(node: BuildNode, tmp_path: Path) -> BuildLab:
    """A client's builds on it."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    return BuildLab(node, uploads)


def step(kind: str, *args: str) -> BuildStep:
    """Any step without files."""
    return BuildStep(kind=kind, args=args)


def test_every_kind_of_step(lab: BuildLab) -> None:
    """One after another, each on what the ones before have left: variables, user, directory and files."""
    made = lab.build(
        step("ENV", "APP", "/srv/my app", "QUOTED", "it's \"so\"\n$APP; `id`"),
        step("RUN", "printf '%s' \"$QUOTED\" > /tmp/quoted; id -un > /tmp/who; pwd > /tmp/where"),
        step("USER", "vera"),
        step("WORKDIR", "$APP/deep"),
        step("RUN", "id -un; pwd; echo $HOME; touch here; echo made > ~/mine"),
        lab.copy({"src": None, "src/a": "content"}, "src", "files"),
        step("RUN", "whoami > /tmp/root", "root"),
        step("ENV", "PATH", "/opt/bin:$PATH"),
    )
    assert [line for line in lab.log.lines() if not line.startswith("[")] == ["vera", "/srv/my app/deep", "/home/vera"]
    assert (made.user, made.workdir) == ("vera", "/srv/my app/deep")
    assert made.envs["QUOTED"] == "it's \"so\"\n/srv/my app; `id`"
    assert lab.look(made, 'printf %s "$QUOTED" | cmp - /tmp/quoted; cat /tmp/who /tmp/where /tmp/root') == "user\n/home/user\nroot\n"
    owners = lab.look(made, "cd '/srv/my app'; stat -c '%U:%G %n' . deep deep/here deep/files deep/files/a /srv; cat deep/files/a")
    assert owners.split("\n") == [
        "vera:vera .", "vera:vera deep", "vera:vera deep/here", "vera:vera deep/files", "vera:vera deep/files/a", "root:root /srv",
            "content",
    ]  # fmt: skip
    assert lab.look(made, "echo $PATH", user="vera").startswith("/opt/bin:/")


def test_a_second_build_is_quick(lab: BuildLab) -> None:
    """A build that is wholly in the cache takes no sandbox and less time, whatever the template is called."""
    steps = (step("RUN", "echo one > /opt/one", "root"), step("USER", "cached"), step("WORKDIR", "/cached"), step("RUN", "echo two > two"))
    times = [time.monotonic()]
    first = lab.build(*steps)
    times.append(time.monotonic())
    second = lab.build(*steps)
    times.append(time.monotonic())
    assert times[2] - times[1] < times[1] - times[0]
    assert second.layers == first.layers
    assert [line.split()[0] for line in lab.log.lines()[1:]] == ["CACHED"] * 4


def test_a_template_of_a_template(lab: BuildLab) -> None:
    """It begins where the other ended."""
    parent = lab.build(step("ENV", "A", "1"), step("WORKDIR", "/parent"), step("RUN", "echo $A > a"), start_cmd="serve")
    child = lab.build(step("RUN", "cp a b"), parent=parent.build_id)
    assert (child.workdir, child.start_cmd, child.envs["A"]) == ("/parent", "serve", "1")
    assert child.layers[: len(parent.layers)] == parent.layers
    assert lab.look(child, "cat /parent/b") == "1\n"


@pytest.mark.parametrize(
    ("command", "user", "message"),
    [
        ("echo out; exit 3", "", "command failed: exit status 3"),
        ("kill -9 $$", "", "command failed: exit status 137"),
        ("whoami", "root123", "command failed: unauthenticated: invalid username: 'root123'"),
        ("tail /dev/zero", "", "command failed: exit status 137: out of memory: the build has 512 MiB"),
        ("cat /dev/zero > /tmp/x", "", "command failed: exit status 1: the disk is full: the build has 512 MiB"),
    ],
)  # fmt: skip
def test_a_failed_command(lab: BuildLab, command: str, user: str, message: str) -> None:
    """The official words, with the cause where it is a limit; nothing of the step is kept."""
    before = sorted(path.name for path in (lab.node.store.root / "layers").iterdir())
    with pytest.raises(BuildError) as caught:
        lab.build(step("ENV", "A", "1"), step("RUN", command, *([user] if user else [])))
    assert (caught.value.message, caught.value.step) == (f"failed to run command '{command}': {message}", "2")
    assert sorted(path.name for path in (lab.node.store.root / "layers").iterdir()) == before
    assert list((lab.node.store.root / "tmp").iterdir()) == []


def test_what_cannot_be_copied(lab: BuildLab) -> None:
    """Each cause in words; the failed step is tried again by the next build."""
    good = lab.copy({"a": "1"}, "a", "/opt/a")
    assert good.files is not None
    wrong = BuildStep(kind="COPY", args=good.args, files=UploadedArchive(path=good.files.path, digest="0" * 64))
    with pytest.raises(BuildError, match="not the one that the build was started with") as caught:
        lab.build(wrong)
    assert caught.value.step == "1"
    with pytest.raises(BuildError, match="source path does not exist: b"):
        lab.build(lab.copy({"a": "1"}, "b", "/opt/"))
    with pytest.raises(BuildError, match="there is no user 'nobody-here'"):
        lab.build(lab.copy({"a": "1"}, "a", "/opt/", "nobody-here"))
    with pytest.raises(BuildError, match="'/etc/passwd' is no directory"):
        lab.build(lab.copy({"d": None, "d/a": "1"}, "d", "/etc/passwd"))
    with pytest.raises(BuildError, match=r"/opt/.*no space left on device"):
        lab.build(lab.copy({"big": "x" * (80 << 20)}, "big", "/opt/big"), disk_mib=64)
    assert lab.look(lab.build(good), "cat /opt/a") == "1"


@pytest.mark.parametrize(
    ("args", "seen"),
    [
        (("a", "x"), "/home/user/x 644 user:user"),
        (("a", "x/"), "/home/user/x/a 644 user:user"),
        (("a", "~/x"), "/home/user/x 644 user:user"),
        (("a", "/new/deep/x", "root"), "/new/deep/x 644 root:root"),
        (("a", "/opt/x", "user:root", "0755"), "/opt/x 755 user:root"),
        (("a", "/opt/x", "12:3434", "0600"), "/opt/x 600 12:3434"),
        (("a", "/tmp"), "/tmp/a 644 user:user"),
        (("d", "/opt/x"), "/opt/x/in 644 user:user"),
        (("*", "/opt/x"), "/opt/x/a 644 user:user"),
        (("d/*", "/opt/x"), "/opt/x/in 644 user:user"),
        (("link", "/opt/x"), "/opt/x 777 user:user"),
        (("a", "$HOME/x"), "/home/user/x 644 user:user"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_copies(lab: BuildLab, args: tuple[str, ...], seen: str) -> None:
    """Where a file goes, and whose it is."""
    made = lab.build(lab.copy({"a": "1", "d": None, "d/in": "2", "link": "-> a"}, *args))
    names = "-printf '%p %m %u:%g\\n'"
    assert seen in lab.look(made, f"find /home/user /opt /new /tmp -newer /etc/passwd {names} 2> /dev/null || true").split("\n")


def test_directories_are_merged_over_layers(lab: BuildLab) -> None:
    """COPY sees the files of earlier layers: it keeps them, replaces them or follows their links, as Docker does."""
    made = lab.build(
        step("RUN", "cd /srv; mkdir d real; echo old > d/a; echo kept > d/k; ln -s real link; chmod 700 real", "root"),
        lab.copy({"t": None, "t/d": None, "t/d/a": "new", "t/link": None, "t/link/in": "through"}, "t", "/srv"),
    )
    shown = lab.look(made, "cd /srv; cat d/a d/k real/in; readlink link; stat -c %a:%U real")
    assert shown == "newkept\nthroughreal\n700:root\n"


def test_ten_thousand_files(lab: BuildLab) -> None:
    """An archive of many files is copied whole, and soon."""
    tree: dict[str, str | None] = {f"d{number % 100}/f{number}": f"{number}\n" for number in range(10_000)}
    files = lab.copy(tree, ".", "/srv/many")
    began = time.monotonic()
    made = lab.build(files)
    assert time.monotonic() - began < 60
    assert lab.look(made, "find /srv/many -type f | wc -l; cat /srv/many/d99/f9999").split() == ["10000", "9999"]


def test_users_are_made(lab: BuildLab) -> None:
    """By name with a home and a group, by number as in Docker; commands run as them."""
    made = lab.build(
        step("USER", "vera", "true"),
        step("RUN", "id; sudo -n id -un"),
        step("USER", "1234:0"),
        step("RUN", "id -u; id -g; pwd; touch ok"),
        step("USER", "root"),
        step("RUN", "pwd"),
    )
    lines = [line for line in lab.log.lines() if not line.startswith("[")]
    assert lines[0].startswith("uid=")
    assert lines[1:] == ["root", "1234", "0", "/home/uid1234", "/root"]
    assert (made.user, made.workdir) == ("root", "/root")


def test_a_user_in_an_image_without_tools(lab: BuildLab) -> None:
    """Nothing of the image is needed but its lists."""
    bare = step("RUN", "rm /usr/sbin/useradd /usr/sbin/adduser", "root")
    made = lab.build(bare, step("USER", "bare"), step("RUN", "id -un; echo x > ~/x"))
    assert "bare" in lab.log.lines()
    assert lab.look(made, "stat -c %U /home/bare/x") == "bare\n"


def test_paths_of_the_agent_are_the_templates_own(lab: BuildLab) -> None:
    """A template may have files of the names that the agent's tree has, which is mounted elsewhere."""
    made = lab.build(step("RUN", "mkdir -p /drivers /site /bin; echo mine > /drivers/package.json; echo mine > /bin/borrow", "root"))
    assert lab.look(made, "cat /drivers/package.json /bin/borrow") == "mine\nmine\n"


def test_output_is_in_the_log(lab: BuildLab) -> None:
    """Both outputs, by lines, under the number of their step."""
    lab.build(step("RUN", "echo out; echo err >&2; printf 'a\\rb\\n'; printf end"))
    shown = [(message, number) for level, message, number in lab.log.entries if level == "info" and number == "1"]
    assert shown[0][0].startswith("[1/1] RUN echo out")
    assert sorted(message for message, _number in shown[1:]) == ["b", "end", "err", "out"]
