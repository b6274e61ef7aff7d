"""Executes one step of a client's build, in a sandbox of its own. ``ENV`` needs no sandbox, because it changes no file.

``RUN`` reaches the internet and sees the host layer. Our own programs (agent/build/) have neither, so that no file of the host gets into
their layers. This module checks their answers, because they ran beside foreign code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloister.errors import BuildError
from cloister.linux.beneath import directory_beneath
from cloister.model.build import BuildStep
from cloister.model.network import NO_EGRESS
from cloister.model.resources import Limits
from cloister.protocol.agent import DEFAULT_PATH
from cloister.template.building.expansion import expand, expand_value
from cloister.template.building.stepcheck import check_user
from cloister.template.building.steplog import OutputLines
from cloister.template.building.steprecords import StepState
from cloister.template.interfaces import BuildLog, BuildSandbox, BuildSandboxes, BuildSandboxSpec, Cancellation, ShellCommand

__all__ = ["StepExecutor", "StepPosition"]

_MAX_ENVS = 1 << 20
_MAX_PATH = 4096


@dataclass(frozen=True, kw_only=True)
class StepPosition:
    """Step ``number`` of ``total``, from 1. ``key`` and ``name`` are those of its layer."""

    number: int
    total: int
    key: str
    name: str

    @property
    def step(self) -> str:
        """The number as errors and log entries name it."""
        return str(self.number)

    @property
    def label(self) -> str:
        """The beginning of the step's lines in the log."""
        return f"[{self.number}/{self.total}]"


class StepExecutor:
    """Executes the steps of one build."""

    def __init__(self, build_sandboxes: BuildSandboxes, uploads: Path, limits: Limits, log: BuildLog, cancellation: Cancellation) -> None:
        self._build_sandboxes = build_sandboxes
        self._uploads = uploads
        self._limits = limits
        self._log = log
        self._cancellation = cancellation

    def execute(self, step: BuildStep, position: StepPosition, layers: tuple[str, ...], state: StepState) -> tuple[str | None, StepState]:
        """Execute a step over ``layers``. Returns the key of its layer (None: no file changed) and the new state. Raises: BuildError."""
        execute = {"COPY": self._copy, "RUN": self._run, "WORKDIR": self._workdir, "USER": self._user, "ENV": self._env}[step.kind]
        return execute(step, _StepInput(position, layers, state))

    def _run(self, step: BuildStep, step_input: _StepInput) -> tuple[str | None, StepState]:
        command, user = step.args[0], self._expanded(step.args[1], step_input) if len(step.args) > 1 else ""
        if user:
            check_user(user)
        spec = BuildSandboxSpec(limits=self._limits, envs=step_input.state.envs)
        with self._open(step_input, spec) as (sandbox, output):
            code = sandbox.run(ShellCommand(text=command, user=user or step_input.state.user, cwd=step_input.state.workdir or None), output)
            output.finish()
            if code != 0:
                raise BuildError(f"failed to run command '{command}': command failed: exit status {code}")
            return self._publish(sandbox, step_input), step_input.state

    def _copy(self, step: BuildStep, step_input: _StepInput) -> tuple[str | None, StepState]:
        source, destination, owner, mode = (*step.args, "", "")[:4]
        owner = self._expanded(owner, step_input)
        if owner:
            check_user(owner)
        assert step.files is not None
        params = {
            "source": source,
            "destination": self._path(destination, step_input),
            "owner": owner,
            "mode": mode.removeprefix("0o"),
            "user": step_input.state.user,
            "workdir": step_input.state.workdir,
            "digest": step.files.digest,
        }
        with contextlib.ExitStack() as stack:
            try:
                context = stack.enter_context(self._archive(step.files.path))
            except OSError as error:
                raise BuildError(
                    f"the uploaded files of COPY {source} are not there: {error.strerror}", hint="upload them again"
                ) from error
            sandbox, output = stack.enter_context(self._open(step_input, self._offline_spec(context)))
            sandbox.operate("copy", params, output)
            return self._publish(sandbox, step_input), step_input.state

    def _archive(self, path: str) -> AbstractContextManager[Path]:
        """The directory ``path`` below ``uploads``, opened without following links: the api process could replace ``uploads`` itself."""
        api = self._uploads.parent
        return directory_beneath(api.parent, f"{api.name}/{self._uploads.name}", path)

    def _workdir(self, step: BuildStep, step_input: _StepInput) -> tuple[str | None, StepState]:
        wanted = self._path(step.args[0], step_input)
        if wanted == "/":
            return None, replace(step_input.state, workdir="/")
        with self._open(step_input, self._offline_spec()) as (sandbox, output):
            params = {"path": wanted, "user": step_input.state.user, "workdir": step_input.state.workdir}
            result = sandbox.operate("workdir", params, output)
            layer = self._publish(sandbox, step_input) if result.get("made", True) else None
            return layer, replace(step_input.state, workdir=_checked_path(result.get("path")))

    def _user(self, step: BuildStep, step_input: _StepInput) -> tuple[str | None, StepState]:
        wanted = self._expanded(step.args[0], step_input)
        check_user(wanted)
        sudo = len(step.args) > 1 and step.args[1] == "true"
        with self._open(step_input, self._offline_spec()) as (sandbox, output):
            result = sandbox.operate("accounts", {"user": wanted, "sudo": sudo}, output)
            name, home = _checked_account(result)
            layer = self._publish(sandbox, step_input) if sudo or result.get("made", True) else None
            return layer, replace(step_input.state, user=name, home=home)

    def _env(self, step: BuildStep, step_input: _StepInput) -> tuple[str | None, StepState]:
        """Later names of one step see the values of earlier ones, as when the SDKs read a Dockerfile."""
        state = self._at_home(" ".join(step.args[1::2]), step_input)
        envs = dict(state.envs)
        for name, value in zip(step.args[::2], step.args[1::2], strict=True):
            envs[name] = expand_value(value, _variables(replace(state, envs=envs)))
        if sum(len(name) + len(value) + 2 for name, value in envs.items()) > _MAX_ENVS:
            raise BuildError(f"the variables of a template are longer than {_MAX_ENVS} bytes together")
        return None, replace(state, envs=envs)

    def _path(self, text: str, step_input: _StepInput) -> str:
        path = self._expanded(text, step_input)
        if not path or len(path.encode()) > _MAX_PATH:
            raise BuildError(f"the path '{text}' is empty or too long when its variables are put in")
        return path

    def _expanded(self, text: str, step_input: _StepInput) -> str:
        return expand(text, _variables(self._at_home(text, step_input)))

    def _at_home(self, text: str, step_input: _StepInput) -> StepState:
        """The state, with the user's home if ``text`` needs it and it is not known yet."""
        state = step_input.state
        if state.home or "HOME" not in text or "HOME" in state.envs:
            return state
        with self._open(step_input, self._offline_spec()) as (sandbox, output):
            _name, home = _checked_account(sandbox.operate("accounts", {"user": state.user, "make": False}, output))
        return replace(state, home=home)

    def _offline_spec(self, context: Path | None = None) -> BuildSandboxSpec:
        """The sandbox of our own programs: no internet, no host layer."""
        return BuildSandboxSpec(limits=self._limits, context=context, egress=NO_EGRESS, host_layer=False)

    @contextlib.contextmanager
    def _open(self, step_input: _StepInput, spec: BuildSandboxSpec) -> Iterator[tuple[BuildSandbox, OutputLines]]:
        with (
            self._build_sandboxes.open(step_input.layers, spec, self._cancellation) as sandbox,
            OutputLines(self._log, step_input.position.step) as output,
        ):
            yield sandbox, output

    def _publish(self, sandbox: BuildSandbox, step_input: _StepInput) -> str | None:
        layer = sandbox.publish(step_input.position.key, step_input.position.name)
        return None if layer is None else layer.key


@dataclass(frozen=True)
class _StepInput:
    """The step's position, the layers below it and the state before it."""

    position: StepPosition
    layers: tuple[str, ...]
    state: StepState


def _variables(state: StepState) -> dict[str, str]:
    """The variables that a step's arguments may name."""
    home = {"HOME": state.home} if state.home else {}
    return {"PATH": DEFAULT_PATH, "USER": state.user, "LOGNAME": state.user, **home, **state.envs}


def _checked_account(result: dict[str, Any]) -> tuple[str, str]:
    name = result.get("name")
    if not isinstance(name, str):
        raise BuildError("the sandbox did not name the user")
    check_user(name)
    return name, _checked_path(result.get("home"))


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path or len(path) > _MAX_PATH:
        raise BuildError(f"the sandbox named an invalid directory: {str(path)[:100]!r}")
    return path
