"""What a process starts with: variables and directory. Pure, but for looking whether a directory is there.

Variables, each line over the ones before: the user's own (PATH, HOME, USER, …); the template's and the sandbox's, which arrive merged
in the init document; the sandbox's identity (``E2B_SANDBOX`` …); the call's.

The ``/etc/profile`` of most distributions sets PATH anew. A login shell is therefore told of a PATH that somebody chose in a second
variable, which the host layer's ``/etc/profile.d/00-cloister-path.sh`` puts in place and removes (decision 303).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cloister.agent.accounts import Account, expand_path
from cloister.agent.init import InitDocument
from cloister.errors import InvalidRequestError

__all__ = ["DEFAULT_PATH", "default_directory", "login_environment", "process_environment", "working_directory"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH where a template sets none."""
_LOGIN_PATH = "CLOISTER_LOGIN_PATH"


def process_environment(document: InitDocument, sandbox: Mapping[str, str], account: Account, call: Mapping[str, str]) -> dict[str, str]:
    """All variables of a process. ``sandbox``: the template's and the sandbox's, as they are now.

    Raises: InvalidRequestError: a name or value that no environment can hold.
    """
    for name, value in call.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequestError(f"the environment variable {name!r} has a name or value that is not possible")
    return {
        "PATH": DEFAULT_PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        "LANG": "C.UTF-8",
        **sandbox,
        "E2B_SANDBOX": "true",
        "E2B_SANDBOX_ID": document.sandbox_id,
        "E2B_TEMPLATE_ID": document.template_id,
        **call,
    }


def login_environment(env: Mapping[str, str], sandbox: Mapping[str, str], call: Mapping[str, str], args: Sequence[str]) -> dict[str, str]:
    """``env``, and the PATH to put back when ``args`` ask for a login shell and PATH is not merely the default."""
    if ("PATH" in sandbox or "PATH" in call) and ("-l" in args or "--login" in args):
        return {**env, _LOGIN_PATH: env["PATH"]}
    return dict(env)


def default_directory(document: InitDocument, account: Account) -> str:
    """Where a process without ``cwd`` starts and where relative paths begin: the template's work directory, or the user's home.

    A template that sets no directory of its own has the default user's home; that is no reason to put other users there.
    """
    home = "/root" if document.user == "root" else f"/home/{document.user}"
    return account.home if account.name != document.user and document.workdir == home else document.workdir


def working_directory(cwd: str | None, document: InitDocument, account: Account) -> str:
    """The directory that ``cwd`` of a request means.

    Raises: InvalidRequestError: it does not exist.
    """
    path = expand_path(cwd or "", account, default_directory(document, account))
    try:
        if Path(path).is_dir():
            return path
    except (OSError, ValueError):  # too long; with a NUL in it
        pass
    if not cwd:
        return "/"
    raise InvalidRequestError(f"cwd '{path}' does not exist")
