"""Checks a build request before the build starts. Errors name the step. Pure."""

from __future__ import annotations

import posixpath
import re

from cloister.errors import BuildError
from cloister.model.build import BASE_STEP, MAX_STEPS, STEP_ARGUMENTS, BuildRequest, BuildStep
from cloister.template.building.expansion import MAX_VALUE

__all__ = ["check_request", "check_user"]

_MAX_COMMAND = 131_000
_MAX_PATH = 4096
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?\Z")
_VARIABLE = re.compile(r"[^\s=\x00-\x1f\x7f]{1,256}\Z")
_MODE = re.compile(r"(0o)?[0-7]{3,5}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def check_request(request: BuildRequest) -> None:
    """Raises: BuildError: the request or one of its steps is invalid for every image."""
    if (request.image is None) == (request.parent is None):
        raise BuildError("a build starts from an image or from a template", step=BASE_STEP)
    if len(request.steps) > MAX_STEPS:
        raise BuildError(f"a build has at most {MAX_STEPS} steps, this one {len(request.steps)}", step=BASE_STEP)
    for number, step in enumerate(request.steps, 1):
        try:
            _check(step)
        except BuildError as error:
            raise BuildError(error.message, step=str(number), hint=error.hint) from None


def check_user(user: str) -> None:
    """Raises: BuildError: not a valid user name."""
    if not _USER.match(user):
        raise BuildError(f"{user!r} is not the name of a user", hint="a name or a number, perhaps with a colon and a group")


def _check(step: BuildStep) -> None:
    if step.kind not in STEP_ARGUMENTS:
        raise BuildError(f"there is no step of the kind '{step.kind}'", hint=f"there are: {', '.join(STEP_ARGUMENTS)}")
    least, most = STEP_ARGUMENTS[step.kind]
    if not least <= len(step.args) <= most:
        raise BuildError(f"{step.kind} takes {least}{'' if least == most else f' to {most}'} arguments, not {len(step.args)}")
    if any("\0" in word for word in step.args):
        raise BuildError(f"an argument of {step.kind} has a NUL character in it")
    if any("\ud800" <= character <= "\udfff" for word in step.args for character in word):
        raise BuildError(f"an argument of {step.kind} is not valid Unicode")
    {"COPY": _check_copy, "RUN": _check_run, "WORKDIR": _check_workdir, "USER": _check_user_step, "ENV": _check_env}[step.kind](step)


def _check_copy(step: BuildStep) -> None:
    source, destination, owner, mode = (*step.args, "", "")[:4]
    if not source or posixpath.isabs(source) or posixpath.normpath(source).split("/")[0] == "..":
        raise BuildError(f"COPY needs a relative path inside the context directory, not {source!r}")
    _check_path("COPY", destination)
    if owner and "$" not in owner:
        check_user(owner)
    if mode and not (_MODE.match(mode) and int(mode, 8) <= 0o7777):
        raise BuildError(f"COPY needs an octal mode like 0644, not {mode!r}")
    if step.files is None:
        raise BuildError("COPY has no uploaded files", hint="upload them first")
    if not _DIGEST.match(step.files.digest):
        raise BuildError("COPY has no digest of its files")


def _check_run(step: BuildStep) -> None:
    command, user = (*step.args, "")[:2]
    if not command.strip():
        raise BuildError("RUN needs a command")
    if len(command.encode()) > _MAX_COMMAND:
        raise BuildError(f"RUN takes a command of at most {_MAX_COMMAND} bytes", hint="copy a script and run that")
    if user and "$" not in user:
        check_user(user)


def _check_workdir(step: BuildStep) -> None:
    _check_path("WORKDIR", step.args[0])


def _check_user_step(step: BuildStep) -> None:
    if "$" not in step.args[0]:
        check_user(step.args[0])
    if len(step.args) > 1 and step.args[1] not in ("", "true", "false"):
        raise BuildError(f"the second argument of USER, whether sudo needs no password, is true or false, not {step.args[1]!r}")


def _check_env(step: BuildStep) -> None:
    if len(step.args) % 2:
        raise BuildError("ENV takes a value for each name")
    for name, value in zip(step.args[::2], step.args[1::2], strict=True):
        if not _VARIABLE.match(name):
            raise BuildError(f"{name!r} is not the name of a variable")
        if len(value.encode()) > MAX_VALUE:
            raise BuildError(f"the value of {name} is longer than {MAX_VALUE} bytes")


def _check_path(kind: str, path: str) -> None:
    if not path or len(path.encode()) > _MAX_PATH:
        raise BuildError(f"{kind} needs a path of 1 to {_MAX_PATH} bytes")
