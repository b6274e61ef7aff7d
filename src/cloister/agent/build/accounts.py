"""``USER``: makes sure that a user exists, with the image's ``useradd``, or by editing the lists if the image has none.

A list is replaced as a whole, by a rename. Numbers work as in Docker: a number without a user, or a group other than the user's own, gets
its own line, since programs are started by a user's name. Where sudo is installed, a file in its directory says what a user may do without
a password.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.agent.build.users import MAX_ID, User, find_group, find_user, read_groups, read_users
from cloister.errors import BuildError, InvalidRequestError
from cloister.protocol.agent import DEFAULT_PATH

__all__ = ["Accounts", "run"]

_FIRST_ID = 1000
_ROOT_LINE = "root:x:0:0:root:/root:/bin/sh"
_PROGRAM_DIRECTORIES = ("usr/sbin", "usr/local/sbin", "sbin", "usr/bin", "usr/local/bin", "bin")
_USERADD_S = 60.0


def run(params: dict[str, Any]) -> dict[str, Any]:
    """``user``: name or number, optionally ``:`` and a group; ``sudo`` (default false): lets the user become root without a password;
    ``make`` (default true): whether a missing user is made. Returns ``name``, ``uid``, ``gid``, ``home`` and whether it was ``made``.
    """
    accounts = Accounts(Path("/"))
    user, made = accounts.ensure(params["user"], make=params.get("make", True))
    if params.get("sudo", False):
        accounts.allow_sudo(user.name)
    return {"name": user.name, "uid": user.uid, "gid": user.gid, "home": user.home, "made": made}


@dataclass(frozen=True)
class _Line:
    """A new line of a list, and the content of a list that is missing."""

    name: str
    text: str
    otherwise: str | None = None


class Accounts:
    """The users of the tree at ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._etc = root / "etc"

    def ensure(self, wanted: str, *, make: bool = True) -> tuple[User, bool]:
        """The user that ``wanted`` means, and whether it was made now.

        Raises: InvalidRequestError (no such group, a number that is too large; no such user, if none may be made), BuildError.
        """
        word, colon, group_word = wanted.partition(":")
        user = find_user(word, self._etc)
        gid = self._gid(group_word) if colon else None
        if user is not None and gid in (None, user.gid):
            return user, False
        if not make:
            raise InvalidRequestError(f"invalid username: '{wanted}'")
        if user is not None and gid is not None:
            return self._other_group(user, gid), True
        if word.isdigit():
            return self._numbered(int(word), gid or 0), True
        return self._named(word, gid), True

    def allow_sudo(self, name: str) -> None:
        """Let the user become root without a password, if sudo is installed and reads its directory."""
        directory = self._etc / "sudoers.d"
        if not directory.is_dir() or self._program("sudo") is None:
            return
        file = directory / name.replace(".", "_")  # sudo ignores names with a dot
        file.unlink(missing_ok=True)
        file.write_text(f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n", encoding="utf-8")
        file.chmod(0o440)

    def _gid(self, word: str) -> int:
        gid = find_group(word, self._etc)
        if gid is None:
            raise InvalidRequestError(f"there is no group '{word}'")
        if gid > MAX_ID:
            raise InvalidRequestError(f"the numbers of users and groups end at {MAX_ID}: '{word}'")
        return gid

    def _other_group(self, user: User, gid: int) -> User:
        """A second name for ``user``, whose programs run with another group."""
        alias = User(f"{user.name}-gid{gid}", user.uid, gid, user.home)
        if find_user(alias.name, self._etc) is None:
            self._add_user(alias)
        return alias

    def _numbered(self, uid: int, gid: int) -> User:
        if uid > MAX_ID:
            raise InvalidRequestError(f"the numbers of users and groups end at {MAX_ID}: '{uid}'")
        user = User(f"uid{uid}", uid, gid, f"/home/uid{uid}")
        self._add_user(user)
        self._make_home(user)
        return user

    def _named(self, name: str, gid: int | None) -> User:
        useradd = self._program("useradd")
        if useradd is not None and self._root == Path("/"):
            _call_useradd(useradd, name, self._shell(), gid if gid is not None else find_group(name, self._etc))
            made = find_user(name, self._etc)
            if made is None:
                raise BuildError(f"useradd said that it made the user '{name}', and there is none")
            return made
        user = self._with_free_ids(name, gid)
        self._add_user(user)
        self._make_home(user)
        return user

    def _with_free_ids(self, name: str, gid: int | None) -> User:
        """A new user; without a ``gid`` its group has its name, and its number if that is free."""
        taken = {user.uid for user in read_users(self._etc)} | {group.gid for group in read_groups(self._etc)}
        number = next(free for free in range(_FIRST_ID, MAX_ID) if free not in taken)
        if gid is None:
            gid = find_group(name, self._etc)
        if gid is None:
            gid = number
            self._append(_Line("group", f"{name}:x:{gid}:", "root:x:0:"), _Line("gshadow", f"{name}:!::"))
        return User(name, number, gid, f"/home/{name}")

    def _add_user(self, user: User) -> None:
        passwd = f"{user.name}:x:{user.uid}:{user.gid}::{user.home}:{self._shell()}"
        self._append(_Line("passwd", passwd, _ROOT_LINE), _Line("shadow", f"{user.name}:!::0:99999:7:::"))

    def _append(self, *lines: _Line) -> None:
        """Add each line to its list. A missing list is made only if its usual content is known."""
        for line in lines:
            path = self._etc / line.name
            if path.exists():
                _append_line(path, line.text)
            elif line.otherwise is not None:
                self._etc.mkdir(mode=0o755, exist_ok=True)
                path.write_text(f"{line.otherwise}\n{line.text}\n", encoding="utf-8")
                path.chmod(0o644)

    def _make_home(self, user: User) -> None:
        home = self._root / user.home.lstrip("/")
        if home.exists():
            return
        home.parent.mkdir(parents=True, exist_ok=True)
        skeleton = self._etc / "skel"
        if skeleton.is_dir():
            shutil.copytree(skeleton, home, symlinks=True)
        else:
            home.mkdir()
        home.chmod(0o755)
        for directory, names, files in os.walk(home):
            for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
                os.chown(path, user.uid, user.gid, follow_symlinks=False)

    def _shell(self) -> str:
        return "/bin/bash" if (self._root / "bin/bash").exists() else "/bin/sh"

    def _program(self, name: str) -> str | None:
        found = (f"/{directory}/{name}" for directory in _PROGRAM_DIRECTORIES if os.access(self._root / directory / name, os.X_OK))
        return next(found, None)


def _call_useradd(program: str, name: str, shell: str, gid: int | None) -> None:
    """Raises: BuildError with the program's output."""
    group = ["--user-group"] if gid is None else ["--no-user-group", "--gid", str(gid)]
    argv = [program, "--create-home", "--home-dir", f"/home/{name}", "--shell", shell, *group, "--", name]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_USERADD_S, check=False, env={"PATH": DEFAULT_PATH, "LC_ALL": "C"})
    except subprocess.TimeoutExpired:
        raise BuildError(f"useradd did not end within {_USERADD_S:.0f} seconds") from None
    said = (done.stderr + done.stdout).decode(errors="replace").strip()
    if done.returncode != 0:
        raise BuildError(f"failed to create user: {said or f'useradd ended with exit status {done.returncode}'}")
    if said:
        print(said, file=sys.stderr)


def _append_line(path: Path, line: str) -> None:
    """Replace the list by one with another line, with the same owner and mode."""
    real = path.resolve()
    info = real.stat()
    text = real.read_text(encoding="utf-8", errors="surrogateescape")
    end = "" if text.endswith("\n") or not text else "\n"
    temporary = real.with_name(f".{real.name}.{secrets.token_hex(4)}")
    temporary.write_text(f"{text}{end}{line}\n", encoding="utf-8", errors="surrogateescape")
    os.chown(temporary, info.st_uid, info.st_gid)
    temporary.chmod(stat.S_IMODE(info.st_mode))
    temporary.rename(real)
