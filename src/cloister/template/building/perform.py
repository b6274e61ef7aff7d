"""Carries out one step of a client's build: each kind in a sandbox of its own, or in none where no file can change.

``RUN`` sees the internet and the host's layer; our own programs (agent/build/) see neither, so that nothing of the host gets into their
layers. What those programs say is checked here: they ran beside foreign code.
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
from cloister.model.resources import Limits
from cloister.runtime.spec import DEFAULT_PATH
from cloister.template.building.expansion import expand, expand_value
from cloister.template.building.stepcheck import check_user
from cloister.template.building.steplog import OutputLines
from cloister.template.building.steprecords import StepState
from cloister.template.interfaces import BoxSpec, BuildLog, BuildSandbox, Cancellation, Command, Workbench

__all__ = ["Performer", "Place"]

_MAX_ENVS = 1 << 20
_MAX_PATH = 4096


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which step it is: ``number`` of ``total``, from 1; ``key`` and ``name`` are the layer's."""

    number: int
    total: int
    key: str
    name: str

    @property
    def step(self) -> str:
        """As errors and the log name it."""
        return str(self.number)

    @property
    def label(self) -> str:
        """As lines of the log begin."""
        return f"[{self.number}/{self.total}]"


class Performer:
    """Carries out the steps of one build."""

    def __init__(self, workbench: Workbench, uploads: Path, limits: Limits, log: BuildLog, cancellation: Cancellation) -> None:
        self._workbench = workbench
        self._uploads = uploads
        self._limits = limits
        self._log = log
        self._cancellation = cancellation

    def perform(self, step: BuildStep, place: Place, layers: tuple[str, ...], state: StepState) -> tuple[str | None, StepState]:
        """The key of the step's layer over ``layers``, None where it changed no file; and the state after it. Raises: BuildError."""
        perform = {"COPY": self._copy, "RUN": self._run, "WORKDIR": self._workdir, "USER": self._user, "ENV": self._env}[step.kind]
        return perform(step, _Ground(place, layers, state))

    def _run(self, step: BuildStep, ground: _Ground) -> tuple[str | None, StepState]:
        command, user = step.args[0], self._expanded(step.args[1], ground) if len(step.args) > 1 else ""
        if user:
            check_user(user)
        spec = BoxSpec(limits=self._limits, envs=ground.state.envs)
        with self._open(ground, spec) as (box, output):
            code = box.run(Command(text=command, user=user or ground.state.user, cwd=ground.state.workdir or None), output)
            output.finish()
            if code != 0:
                raise BuildError(f"failed to run command '{command}': command failed: exit status {code}")
            return self._publish(box, ground), ground.state

    def _copy(self, step: BuildStep, ground: _Ground) -> tuple[str | None, StepState]:
        source, destination, owner, mode = (*step.args, "", "")[:4]
        owner = self._expanded(owner, ground)
        if owner:
            check_user(owner)
        assert step.files is not None
        params = {
            "source": source,
            "destination": self._path(destination, ground),
            "owner": owner,
            "mode": mode.removeprefix("0o"),
            "user": ground.state.user,
            "workdir": ground.state.workdir,
            "digest": step.files.digest,
        }
        with contextlib.ExitStack() as stack:
            try:
                context = stack.enter_context(self._archive(step.files.path))
            except OSError as error:
                raise BuildError(
                    f"the uploaded files of COPY {source} are not there: {error.strerror}", hint="upload them again"
                ) from error
            box, output = stack.enter_context(self._open(ground, self._closed(context)))
            box.operate("copy", params, output)
            return self._publish(box, ground), ground.state

    def _archive(self, path: str) -> AbstractContextManager[Path]:
        """The directory ``path`` of the archives. The api process, whose they are, may put a link in the place of ``uploads`` itself."""
        api = self._uploads.parent
        return directory_beneath(api.parent, f"{api.name}/{self._uploads.name}", path)

    def _workdir(self, step: BuildStep, ground: _Ground) -> tuple[str | None, StepState]:
        wanted = self._path(step.args[0], ground)
        if wanted == "/":
            return None, replace(ground.state, workdir="/")
        with self._open(ground, self._closed()) as (box, output):
            result = box.operate("workdir", {"path": wanted, "user": ground.state.user, "workdir": ground.state.workdir}, output)
            layer = self._publish(box, ground) if result.get("made", True) else None
            return layer, replace(ground.state, workdir=_checked_path(result.get("path")))

    def _user(self, step: BuildStep, ground: _Ground) -> tuple[str | None, StepState]:
        wanted = self._expanded(step.args[0], ground)
        check_user(wanted)
        sudo = len(step.args) > 1 and step.args[1] == "true"
        with self._open(ground, self._closed()) as (box, output):
            result = box.operate("accounts", {"user": wanted, "sudo": sudo}, output)
            name, home = _checked_account(result)
            layer = self._publish(box, ground) if sudo or result.get("made", True) else None
            return layer, replace(ground.state, user=name, home=home)

    def _env(self, step: BuildStep, ground: _Ground) -> tuple[str | None, StepState]:
        """Later names of one step see the values of the ones before them, as Dockerfiles are read by the SDKs."""
        state = self._at_home(" ".join(step.args[1::2]), ground)
        envs = dict(state.envs)
        for name, value in zip(step.args[::2], step.args[1::2], strict=True):
            envs[name] = expand_value(value, _variables(replace(state, envs=envs)))
        if sum(len(name) + len(value) + 2 for name, value in envs.items()) > _MAX_ENVS:
            raise BuildError(f"the variables of a template are longer than {_MAX_ENVS} bytes together")
        return None, replace(state, envs=envs)

    def _path(self, text: str, ground: _Ground) -> str:
        path = self._expanded(text, ground)
        if not path or len(path.encode()) > _MAX_PATH:
            raise BuildError(f"the path '{text}' is empty or too long when its variables are put in")
        return path

    def _expanded(self, text: str, ground: _Ground) -> str:
        return expand(text, _variables(self._at_home(text, ground)))

    def _at_home(self, text: str, ground: _Ground) -> StepState:
        """The state, with the user's home if ``text`` needs it and nobody has asked for it yet."""
        state = ground.state
        if state.home or "HOME" not in text or "HOME" in state.envs:
            return state
        with self._open(ground, self._closed()) as (box, output):
            _name, home = _checked_account(box.operate("accounts", {"user": state.user, "make": False}, output))
        return replace(state, home=home)

    def _closed(self, context: Path | None = None) -> BoxSpec:
        """For a program of ours: it needs neither the internet nor what the host brings."""
        return BoxSpec(limits=self._limits, context=context, allow_internet=False, host_layer=False)

    @contextlib.contextmanager
    def _open(self, ground: _Ground, spec: BoxSpec) -> Iterator[tuple[BuildSandbox, OutputLines]]:
        with self._workbench.open(ground.layers, spec, self._cancellation) as box, OutputLines(self._log, ground.place.step) as output:
            yield box, output

    def _publish(self, box: BuildSandbox, ground: _Ground) -> str | None:
        layer = box.publish(ground.place.key, ground.place.name)
        return None if layer is None else layer.key


@dataclass(frozen=True)
class _Ground:
    """What a step stands on."""

    place: Place
    layers: tuple[str, ...]
    state: StepState


def _variables(state: StepState) -> dict[str, str]:
    """What the words of a step may name."""
    home = {"HOME": state.home} if state.home else {}
    return {"PATH": DEFAULT_PATH, "USER": state.user, "LOGNAME": state.user, **home, **state.envs}


def _checked_account(result: dict[str, Any]) -> tuple[str, str]:
    name = result.get("name")
    if not isinstance(name, str):
        raise BuildError("the user could not be found out")
    check_user(name)
    return name, _checked_path(result.get("home"))


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path or len(path) > _MAX_PATH:
        raise BuildError(f"the sandbox names a directory that cannot be one: {str(path)[:100]!r}")
    return path
