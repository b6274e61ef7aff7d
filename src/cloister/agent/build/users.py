"""The image's users and groups, by name or number. Reads the two lists below an ``etc`` directory and changes nothing.

It uses the parser of agent/accounts.py, but a step may also name a user by number, name a group, or make missing ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister.agent.accounts import are_ids, list_lines
from cloister.errors import InvalidRequestError

__all__ = ["MAX_ID", "Group", "User", "find_group", "find_user", "owner_ids", "read_groups", "read_users"]

MAX_ID = 65_535
"""The first number that no user or group of a sandbox can have: the host maps no more ids."""


@dataclass(frozen=True)
class User:
    """A line of ``passwd``."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class Group:
    """A line of ``group``."""

    name: str
    gid: int


def read_users(etc: Path) -> list[User]:
    """All users, in the list's order. ``root`` exists even without a list."""
    found = [
        User(line[0], int(line[2]), int(line[3]), line[5] or "/") for line in list_lines(etc / "passwd", 7) if are_ids(line[2], line[3])
    ]
    return found if any(user.name == "root" for user in found) else [*found, User("root", 0, 0, "/root")]


def read_groups(etc: Path) -> list[Group]:
    """All groups, in the list's order. ``root`` exists even without a list."""
    found = [Group(line[0], int(line[2])) for line in list_lines(etc / "group", 4) if are_ids(line[2])]
    return found if any(group.name == "root" for group in found) else [*found, Group("root", 0)]


def find_user(word: str, etc: Path) -> User | None:
    """The user of that name, else of that number."""
    users = read_users(etc)
    named = next((user for user in users if user.name == word), None)
    return named or next((user for user in users if are_ids(word) and user.uid == int(word)), None)


def find_group(word: str, etc: Path) -> int | None:
    """The number of the group of that name; a number stands for itself."""
    named = next((group.gid for group in read_groups(etc) if group.name == word), None)
    return int(word) if named is None and are_ids(word) else named


def owner_ids(owner: str, etc: Path) -> tuple[int, int]:
    """The ids that ``user``, ``user:group``, ``uid`` or ``uid:gid`` means. Without a group it is the user's own; for a number without a
    user it is the same number.

    Raises: InvalidRequestError: there is no such user or group.
    """
    word, colon, group_word = owner.partition(":")
    user = find_user(word, etc)
    if user is None and not are_ids(word):
        raise InvalidRequestError(f"there is no user '{word}'")
    uid, gid = (user.uid, user.gid) if user is not None else (int(word), int(word))
    if colon:
        found = find_group(group_word, etc)
        if found is None:
            raise InvalidRequestError(f"there is no group '{group_word}'")
        gid = found
    if max(uid, gid) > MAX_ID:
        raise InvalidRequestError(f"the numbers of users and groups end at {MAX_ID}: '{owner}'")
    return uid, gid
