"""The variables and the directory that a process starts with. Pure, except that it checks whether a directory exists.

Each group of variables overrides those before it: the user's own (PATH, HOME, USER, …); the template's and the sandbox's, merged in the
init document; the sandbox's identity (``E2B_SANDBOX`` …); the call's.

The ``/etc/profile`` of most distributions sets PATH again. If a template or a call sets PATH, a login shell also gets it in a second
variable. The host layer's ``/etc/profile.d/00-cloister-path.sh`` restores PATH from there and removes the variable (decision 303).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cloister.agent.accounts import Account, expand_path
from cloister.agent.process.faults import check_cwd
from cloister.errors import InvalidRequestError
from cloister.protocol.agent import DEFAULT_PATH
from cloister.protocol.init_document import InitDocument

__all__ = ["default_directory", "login_environment", "process_environment", "working_directory"]

_LOGIN_PATH = "CLOISTER_LOGIN_PATH"


def process_environment(document: InitDocument, sandbox: Mapping[str, str], account: Account, call: Mapping[str, str]) -> dict[str, str]:
    """All variables of a process. ``sandbox``: the present variables of template and sandbox.

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
    """``env``; with the PATH to restore if ``args`` ask for a login shell and PATH is not the default."""
    if ("PATH" in sandbox or "PATH" in call) and ("-l" in args or "--login" in args):
        return {**env, _LOGIN_PATH: env["PATH"]}
    return dict(env)


def default_directory(document: InitDocument, account: Account) -> str:
    """The start of a process without ``cwd``, and of relative paths: the template's work directory, or the user's home.

    A template without a directory of its own has the default user's home. Other users then start in their own homes.
    """
    home = "/root" if document.user == "root" else f"/home/{document.user}"
    return account.home if account.name != document.user and document.workdir == home else document.workdir


def working_directory(cwd: str | None, document: InitDocument, account: Account) -> str:
    """The directory that a request's ``cwd`` means.

    Raises: InvalidRequestError (it is no directory), LimitError.
    """
    path = expand_path(cwd or "", account, default_directory(document, account))
    try:
        check_cwd(path)
    except InvalidRequestError:
        if not cwd:
            return "/"
        raise
    return path
