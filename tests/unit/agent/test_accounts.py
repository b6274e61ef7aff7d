"""Users, paths and variables of processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.agent.accounts import Account, expand_path, find_account
from cloister.agent.process.environment import default_directory, login_environment, process_environment, working_directory
from cloister.errors import AuthenticationError, InvalidRequestError
from cloister.protocol.init_document import InitDocument

VERA = Account("vera", 1001, 1001, (100, 1001), "/home/vera", "/bin/zsh")


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Lists of users and groups with the oddities that such files have."""
    passwd = "root:x:0:0:root:/root:/bin/bash\n\nbroken line\n"
    passwd += "odd:x:abc:1::/:/bin/sh\nvera:x:1001:1001:V\xc9RA,,,:/home/vera:/bin/zsh\nbare:x:7:8:::\n"
    (tmp_path / "passwd").write_bytes(passwd.encode("latin-1"))
    (tmp_path / "group").write_text("users:x:100:alice,vera\nverawood:x:102:averam\nwheel:x:10:\nbad:x:y:vera\n", encoding="ascii")
    return tmp_path


def test_accounts(etc: Path) -> None:
    """A user has ids, groups, home and shell as the files say."""
    assert find_account("vera", etc) == VERA
    assert find_account("bare", etc) == Account("bare", 7, 8, (8,), "/", "/bin/sh")


@pytest.mark.parametrize("name", ["nobody", "", "odd", "broken line", "ver", "1001", "vera:x"])
def test_unknown_accounts(etc: Path, name: str) -> None:
    """Whoever is not listed is refused by name."""
    with pytest.raises(AuthenticationError, match=f"invalid username: '{name}'"):
        find_account(name, etc)


def test_numbers_of_other_scripts_are_no_ids(tmp_path: Path) -> None:
    """A line that has some is passed over, like any broken one, and a line ends at a newline only."""
    (tmp_path / "passwd").write_text("vera:x:\u0663:\u00b2::/:/bin/sh\nvera:x:1:2:a\u2028b:/home/vera:/bin/sh\n", encoding="utf-8")
    (tmp_path / "group").write_text("users:x:\u00b2:vera\n", encoding="utf-8")
    assert find_account("vera", tmp_path) == Account("vera", 1, 2, (2,), "/home/vera", "/bin/sh")


def test_an_image_without_users_has_root(tmp_path: Path) -> None:
    """Root exists without any list; no other user does."""
    assert find_account("root", tmp_path).uid == 0
    with pytest.raises(AuthenticationError):
        find_account("user", tmp_path)


def test_paths() -> None:
    """Relative paths begin at the default, ``~`` is the home, and text is all that is looked at."""
    given = {"": "/w", "a/../b": "/w/b", "~": "/home/vera", "~/x/": "/home/vera/x", "/y//z": "/y/z", "~vera": "/w/~vera"}
    assert {path: expand_path(path, VERA, "/w") for path in given} == given


def test_directories(tmp_path: Path) -> None:
    """A work directory of the template holds for all; the default user's home is not put upon others."""
    assert default_directory(InitDocument(sandbox_id="s", workdir="/app"), VERA) == "/app"
    plain = InitDocument(sandbox_id="s", user="user", workdir="/home/user")
    assert default_directory(plain, VERA) == "/home/vera"
    assert default_directory(InitDocument(sandbox_id="s", user="root", workdir="/root"), VERA) == "/home/vera"
    assert default_directory(InitDocument(sandbox_id="s", user="root", workdir="/"), VERA) == "/"
    assert working_directory(str(tmp_path), plain, VERA) == str(tmp_path)
    assert working_directory(None, plain, VERA) == "/"  # a user whose home was never made
    for wrong in (str(tmp_path / "no"), "a\0b", "x" * 5000):
        with pytest.raises(InvalidRequestError, match=r"does not exist|is not a possible path|is too long"):
            working_directory(wrong, plain, VERA)


def test_environment() -> None:
    """The user's variables, then the sandbox's, then its identity, then the call's: the later counts."""
    document = InitDocument(sandbox_id="s", template_id="t")
    env = process_environment(document, {"PATH": "/opt", "A": "1", "E2B_SANDBOX_ID": "forged"}, VERA, {"A": "2", "USER": "x"})
    assert env == {
        "PATH": "/opt",
        "HOME": "/home/vera",
        "USER": "x",
        "LOGNAME": "vera",
        "SHELL": "/bin/zsh",
        "LANG": "C.UTF-8",
        "A": "2",
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": "s",
        "E2B_TEMPLATE_ID": "t",
    }
    for wrong in ({"": "x"}, {"A=B": "x"}, {"A": "\0"}):
        with pytest.raises(InvalidRequestError):
            process_environment(document, {}, VERA, wrong)


def test_a_login_shell_is_told_of_a_path_that_was_chosen() -> None:
    """The second variable is there for login shells with a PATH of the sandbox or the call, and for nothing else."""
    env = {"PATH": "/opt", "A": "1"}
    told = {**env, "CLOISTER_LOGIN_PATH": "/opt"}
    assert login_environment(env, {"PATH": "/x"}, {}, ["-l", "-c", "true"]) == told
    assert login_environment(env, {}, {"PATH": "/opt"}, ["-i", "--login"]) == told
    assert login_environment(env, {"A": "1"}, {"A": "1"}, ["-l", "-c", "true"]) == env
    assert login_environment(env, {"PATH": "/x"}, {"PATH": "/opt"}, ["-c", "true"]) == env
