"""``become``, which starts a program as another user by vfork: ids, errors and descriptors are those of a fork by Python."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

import cloister.agent.process.spawn as spawn_module
from cloister.agent.accounts import Account
from cloister.agent.process.spawn import spawn

SOURCE = Path(spawn_module.__file__).with_name("become.c")
ENV = {"PATH": "/nonexistent:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
OTHER = Account("other", 12345, 12346, (27, 12346), "/", "/bin/sh")
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")


@pytest.fixture(params=["by vfork", "by a fork"])
def _each_way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path_factory.mktemp("become")
    directory.chmod(0o755)
    for parent in directory.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    program = directory / "become"
    if request.param == "by vfork":
        subprocess.run(["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, SOURCE], check=True)
    monkeypatch.setattr(spawn_module, "_BECOME", program)


def output_of(*argv: str, account: Account = OTHER, **env: str) -> str:
    """What the program writes."""
    process = spawn(argv, ENV | env, account, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/")
    return process.communicate()[0].decode()


@pytest.mark.usefixtures("_each_way")
class TestBecome:
    """Both ways do the same."""

    def test_the_program_has_the_users_ids_and_no_power(self) -> None:
        """All ids are the user's, the groups are all of the user's, and no capability is left."""
        text = output_of("cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == ["12345"] * 4
        assert fields["Gid"].split() == ["12346"] * 4
        assert fields["Groups"].split() == ["27", "12346"]
        assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
        assert fields["Umask"] == "0022"

    def test_the_program_has_its_arguments_and_standard_descriptors_alone(self) -> None:
        """Arguments arrive unchanged, also empty ones and options, and no descriptor of the start is left open."""
        assert output_of("printf", "[%s]", "-x", "", "a b", "é") == "[-x][][a b][é]"
        assert output_of("sh", "-c", "cd /proc/$$/fd && echo *") == "0 1 2 3\n"  # the last is the listing's

    def test_the_program_leads_a_session_and_is_named_as_asked(self) -> None:
        """It leads a session of its own, and its command line shows nothing of ours."""
        assert output_of("sh", "-c", 'read -r pid _ _ _ _ session _ < /proc/$$/stat; [ "$pid" = "$session" ] && echo leads') == "leads\n"
        assert output_of("cat", "/proc/self/cmdline") == "cat\0/proc/self/cmdline\0"

    @pytest.mark.parametrize(
        ("command", "number"),
        [
            ("no-such-command", errno.ENOENT),
            ("/etc/passwd", errno.EACCES),
            ("/etc/passwd/x", errno.ENOTDIR),
            ("x" * 300, errno.ENAMETOOLONG),
            ("", errno.EACCES),
        ],
    )
    def test_a_program_that_cannot_be_run_is_an_error(self, command: str, number: int) -> None:
        """The error is that of the last step, as the user meets it."""
        with pytest.raises(OSError, match=r".*") as caught:
            output_of(command)
        assert caught.value.errno == number

    def test_a_script_without_an_interpreter_is_an_error(self, tmp_path: Path) -> None:
        """No shell runs it in its place."""
        script = tmp_path / "script"
        script.write_text("echo no")
        script.chmod(0o755)
        for parent in tmp_path.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o111)
        tmp_path.chmod(0o755)
        with pytest.raises(OSError, match=r".*") as caught:
            output_of(str(script))
        assert caught.value.errno == errno.ENOEXEC

    def test_what_the_user_may_not_reach_is_searched_on(self, tmp_path: Path) -> None:
        """A directory of PATH that is closed to the user does not end the search, but names the error when nothing is found."""
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        assert output_of("true", PATH=f"{closed}:/usr/bin:/bin") == ""
        with pytest.raises(OSError, match=r".*") as caught:
            output_of("no-such-command", PATH=f"{closed}:/usr/bin")
        assert caught.value.errno == errno.EACCES
