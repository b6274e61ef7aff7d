"""Users of an image: looked up, and made by editing its lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloister.agent.build.accounts import Accounts
from cloister.agent.build.paths import Directories, absolute
from cloister.agent.build.users import User, owner_ids
from cloister.errors import InvalidRequestError

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="gives files to other users, which only root may")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image with lists of users, and no program."""
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh\nlast:x:7:8::/:/bin/false")
    (etc / "group").write_text("root:x:0:\nnode:x:1000:\ndocker:x:999:node\nfree:x:1001:\n")
    (etc / "shadow").write_text("root:*:1:0:99999:7:::\n")
    (etc / "shadow").chmod(0o640)
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "user"),
    [
        ("node", User("node", 1000, 1000, "/home/node")),
        ("1000", User("node", 1000, 1000, "/home/node")),
        ("1000:node", User("node", 1000, 1000, "/home/node")),
        ("node:1000", User("node", 1000, 1000, "/home/node")),
        ("root", User("root", 0, 0, "/root")),
    ],
)
def test_users_that_exist_are_found(root: Path, wanted: str, user: User) -> None:
    """By name or number, and nothing changes."""
    before = (root / "etc/passwd").read_text()
    assert Accounts(root).ensure(wanted) == (user, False)
    assert (root / "etc/passwd").read_text() == before


@needs_root
def test_a_user_is_made_without_tools(root: Path) -> None:
    """It has the next number that neither a user nor a group has, a group of its name, no password, and a home with what is laid out."""
    (root / "etc/skel").mkdir()
    (root / "etc/skel/.profile").write_text("profile")
    assert Accounts(root).ensure("vera") == (User("vera", 1002, 1002, "/home/vera"), True)
    assert (root / "etc/passwd").read_text().endswith("last:x:7:8::/:/bin/false\nvera:x:1002:1002::/home/vera:/bin/sh\n")
    assert (root / "etc/group").read_text().endswith("vera:x:1002:\n")
    assert (root / "etc/shadow").read_text().endswith("vera:!::0:99999:7:::\n")
    assert (root / "etc/shadow").stat().st_mode & 0o777 == 0o640
    assert (root / "home/vera/.profile").stat().st_uid == 1002
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["group", "passwd", "shadow", "skel"]
    assert Accounts(root).ensure("vera")[1] is False


@needs_root
def test_an_empty_image_gets_lists(tmp_path: Path) -> None:
    """Root stays root where there were no lists at all."""
    assert Accounts(tmp_path).ensure("user") == (User("user", 1000, 1000, "/home/user"), True)
    assert (tmp_path / "etc/passwd").read_text().splitlines()[0].startswith("root:x:0:0:")
    assert Accounts(tmp_path).ensure("root")[0].uid == 0
    assert not (tmp_path / "etc/shadow").exists()


@needs_root
def test_numbers_and_other_groups_get_names(root: Path) -> None:
    """A number without a user is a user with root's group, as in Docker; with a group that is not the user's own it is a second name."""
    accounts = Accounts(root)
    assert accounts.ensure("4000") == (User("uid4000", 4000, 0, "/home/uid4000"), True)
    assert accounts.ensure("4000") == (User("uid4000", 4000, 0, "/home/uid4000"), False)
    assert accounts.ensure("5000:6000") == (User("uid5000", 5000, 6000, "/home/uid5000"), True)
    assert accounts.ensure("node:docker") == (User("node-gid999", 1000, 999, "/home/node"), True)
    before = (root / "etc/passwd").read_text()
    assert accounts.ensure("node:docker")[0] == User("node-gid999", 1000, 999, "/home/node")
    assert (root / "etc/passwd").read_text() == before
    assert accounts.ensure("1000")[0].name == "node"


@pytest.mark.parametrize(
    ("wanted", "told"), [("nobody:absent", "no group 'absent'"), ("70000", "end at 65535"), ("1000:70000", "end at 65535")]
)
def test_what_cannot_be_is_refused(root: Path, wanted: str, told: str) -> None:
    """By name, and nothing is made."""
    before = (root / "etc/passwd").read_text()
    with pytest.raises(InvalidRequestError, match=told):
        Accounts(root).ensure(wanted)
    assert (root / "etc/passwd").read_text() == before


def test_looking_makes_nothing(root: Path) -> None:
    """Who asks only gets the official words for a user that is not there."""
    with pytest.raises(InvalidRequestError, match="invalid username: 'vera'"):
        Accounts(root).ensure("vera", make=False)


def test_sudo_only_where_it_is(root: Path) -> None:
    """A rule is written into sudo's own directory, if sudo is installed."""
    Accounts(root).allow_sudo("node")
    (root / "etc/sudoers.d").mkdir()
    Accounts(root).allow_sudo("node")
    assert not list((root / "etc/sudoers.d").iterdir())
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/sudo").touch(0o755)
    Accounts(root).allow_sudo("first.last")
    rule = root / "etc/sudoers.d/first_last"
    assert rule.read_text() == "first.last ALL=(ALL:ALL) NOPASSWD: ALL\n"
    assert rule.stat().st_mode & 0o777 == 0o440


@pytest.mark.parametrize(
    ("owner", "ids"),
    [
        ("node", (1000, 1000)),
        ("node:docker", (1000, 999)),
        ("12", (12, 12)),
        ("12:34", (12, 34)),
        ("last", (7, 8)),
        ("7", (7, 8)),
        ("0:node", (0, 1000)),
    ],
)
def test_owners(root: Path, owner: str, ids: tuple[int, int]) -> None:
    """Names and numbers of users and groups, with the user's own group when none is named."""
    assert owner_ids(owner, root / "etc") == ids


@pytest.mark.parametrize("owner", ["absent", "node:absent", "node:", "", "-1", "65536", "0:65536"])
def test_unknown_owners(root: Path, owner: str) -> None:
    """A user that does not exist gets no right."""
    with pytest.raises(InvalidRequestError):
        owner_ids(owner, root / "etc")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a", "/a"), ("a", "/w/a"), (".", "/w"), ("./a/", "/w/a"), ("../a", "/a"), ("../../a", "/a"), ("~", "/home/v"),
        ("~/a", "/home/v/a"), ("~a", "/w/~a"), ("//a", "/a"), ("/a/../b", "/b"), ("/", "/"),
    ],
)  # fmt: skip
def test_paths_are_made_absolute(path: str, expected: str) -> None:
    """Relative to the work directory, with the user's home for a tilde."""
    assert absolute(path, "/w", "/home/v") == expected


@needs_root
def test_made_directories_belong_to_their_owner(tmp_path: Path) -> None:
    """From the first missing one on; those that were there stay whose they are."""
    directories = Directories((1234, 567))
    assert directories.ensure(str(tmp_path / "a/b")) is True
    assert directories.ensure(str(tmp_path)) is False
    owners = [(path.stat().st_uid, path.stat().st_gid) for path in (tmp_path, tmp_path / "a", tmp_path / "a/b")]
    assert owners == [(0, 0), (1234, 567), (1234, 567)]
