"""Build operation ``provision``: makes a template's base of an image.

It adds the account ``user``, the directories that programs expect, and the commands that the SDKs need. A command is added only if the
image has none of that name: it is a link to ``borrow``, which runs the agent's own program (borrow.c). Nothing of the image is replaced.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

from cloister.agent.build.accounts import Accounts
from cloister.agent.build.paths import absolute
from cloister.errors import InvalidRequestError

__all__ = ["run"]

BORROW = "/.cloister/agent/bin/borrow"
_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_SHELL = "bash"
_READY = ("ss", "curl", "pgrep", "grep", "sleep", "wc")
"""The SDKs' ready commands use these."""
_BASICS = (
    "sh", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dirname", "echo", "env", "false", "find", "head", "id", "kill", "ln",
    "ls", "mkdir", "mktemp", "mv", "nproc", "ps", "printf", "pwd", "readlink", "rm", "rmdir", "sed", "sort", "stat", "tail", "tar", "tee",
    "test", "touch", "tr", "true", "uname", "uniq", "whoami", "xargs",
)  # fmt: skip
"""For an image without a shell, so that users can look around in it."""
_DIRECTORIES = {
    "": 0o755, "etc": 0o755, "home": 0o755, "root": 0o700, "run": 0o755, "tmp": 0o1777, "usr/local/bin": 0o755, "var/log": 0o755,
    "var/tmp": 0o1777,
}  # fmt: skip


def run(params: dict[str, Any], root: Path = Path("/")) -> dict[str, Any]:
    """``user`` and ``workdir`` are those of the image's configuration, possibly empty; the result has those of the template.

    Raises: InvalidRequestError: the image names a user that it does not have.
    """
    for name, mode in _DIRECTORIES.items():
        _directory(root / name, mode)
    _borrow(root)
    _share_npmrc(root)
    accounts = Accounts(root)
    accounts.ensure("user")
    accounts.allow_sudo("user")
    wanted = str(params.get("user") or "").strip()
    word = wanted.partition(":")[0]
    user, _made = accounts.ensure(wanted if word else "root", make=word.isdigit() or ":" in wanted)
    if user.uid == 0:
        return {"user": "user", "workdir": "/home/user"}
    workdir = absolute(str(params.get("workdir") or "/"), "/", user.home)
    _directory(root / workdir.lstrip("/"), 0o755)
    return {"user": user.name, "workdir": workdir}


def _directory(path: Path, mode: int) -> None:
    """The directories exist at the end. The mode is set only if the directory is new, or other users could not enter or use it."""
    try:
        path.mkdir(parents=True, mode=0o755)
    except FileExistsError:
        if not path.is_dir():
            raise InvalidRequestError(f"the image has something at /{path.name} that is no directory") from None
        if mode == 0o700 or stat.S_IMODE(path.stat().st_mode) & mode == mode:
            return
    path.chmod(mode)


def _share_npmrc(root: Path) -> None:
    """Let npm below /usr/local read the host's settings in /etc/npmrc."""
    path = root / "usr/local/etc/npmrc"
    if _is_program(root / "usr/local/bin/npm") and not path.exists() and not path.is_symlink():
        path.parent.mkdir(exist_ok=True)
        path.symlink_to("/etc/npmrc")


def _borrow(root: Path) -> None:
    """Make links for missing commands."""
    missing = [name for name in _READY if not _has(root, name)]
    if not _has(root, "sh"):
        missing = list(dict.fromkeys([*missing, *(name for name in _BASICS if not _has(root, name))]))
    for name in missing:
        _link(root / "usr/local/bin" / name)
    if not _is_program(root / "bin" / _SHELL):
        missing.insert(0, _SHELL)
        _link(root / "bin" / _SHELL)
    if "sh" in missing:
        _link(root / "bin/sh")
    if missing:
        print(f"the image lacks {', '.join(sorted(missing))}: added", file=sys.stderr)


def _has(root: Path, name: str) -> bool:
    return any(_is_program(root / folder / name) for folder in _PATH)


def _is_program(path: Path) -> bool:
    try:
        return path.is_file() and bool(path.stat().st_mode & 0o111)
    except OSError:
        return False


def _link(path: Path) -> None:
    if path.is_symlink() and not path.exists():  # dangling
        path.unlink()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(BORROW)
