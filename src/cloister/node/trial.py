"""The end of a build: what the template starts is tried, and the languages it has are found (:class:`cloister.template.interfaces.Trial`).

Runs in: supervisor, in a build's own thread. Both happen in build sandboxes of the template, with its limits, users and variables, whose
files are thrown away: the start command runs anew in every sandbox. What the sandbox says is believed by nobody: languages and programs
are checked here for shape, and concern only sandboxes of this template (I2).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from cloister.errors import BuildError, StoreError
from cloister.model.build import FINALIZE_STEP
from cloister.model.resources import Limits
from cloister.model.template import Template
from cloister.protocol.startup import Attempt, Tail, never_ready, ready_pauses, start_died
from cloister.template.building.steplog import OutputLines
from cloister.template.interfaces import BoxSpec, BuildLog, BuildSandbox, Cancellation, Command, Workbench

__all__ = ["NodeTrial"]

_LANGUAGES = ("python", "javascript", "typescript", "r", "java", "bash")
_PROGRAM = re.compile(r"/[^\0\n]{1,500}\Z")
_DEFAULT_PROGRAMS = {"python": "/usr/bin/python3", "javascript": "/usr/bin/node", "r": "/usr/bin/Rscript", "java": "/usr/bin/java"}
_ALIKE = ("typescript", "bash")
"""Languages whose program is another's, or ours."""
_SETTLE_S = 2.0
"""How long a start command without a ready command is watched."""
_NO_PYTHON = "run_code has no Python in this template: it needs IPython, as by RUN pip install ipython"
_MAX_SHOWN = 300


class NodeTrial:
    """See :class:`Trial`."""

    def __init__(
        self,
        workbench: Workbench,
        limits: Callable[[Template], Limits],
        ready_timeout_s: float,
        tried: Callable[[], Iterable[Template]] = tuple,
        ahead: Callable[[Template], AbstractContextManager[None]] = lambda _template: contextlib.nullcontext(),
    ) -> None:
        """``limits`` are what sandboxes of a template get; ``tried`` the templates that have passed. ``ahead`` is open while what the
        template starts is tried.
        """
        self._workbench = workbench
        self._tried = tried
        self._ahead = ahead
        self._limits = limits
        self._ready_timeout_s = ready_timeout_s

    def __call__(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
        """See :class:`Trial`."""
        if not force and (earlier := self._find_tried(template)) is not None:
            log.add("info", "CACHED the same template was tried before", FINALIZE_STEP)
            _tell_languages(earlier.languages, log)
            return dataclasses.replace(template, languages=earlier.languages, programs=earlier.programs)
        spec = BoxSpec(limits=self._limits(template), envs=dict(template.envs))
        with self._workbench.open(template.layers, spec, cancellation) as box:
            template = self._with_languages(template, box, log)
        if template.starts_something:
            with self._ahead(template), self._workbench.open(template.layers, spec, cancellation) as box:
                _Start(template, box, log, cancellation, self._ready_timeout_s).run()
        return template

    def _find_tried(self, template: Template) -> Template | None:
        wanted = _outcome_aside(template)
        with contextlib.suppress(StoreError):  # a record that cannot be read: then it is tried
            return next((one for one in self._tried() if _outcome_aside(one) == wanted), None)
        return None

    def _with_languages(self, template: Template, box: BuildSandbox, log: BuildLog) -> Template:
        params = {
            "path": template.envs.get("PATH", ""),
            "envs": template.envs,
            "user": template.user,
            "workdir": template.workdir,
            "kernel_user": template.kernel_user,
            "mem_mib": self._limits(template).mem_mib,
        }
        found = box.operate("inspect", params)
        languages = _languages(found)
        missing = found.get("missing")
        if "python" not in languages and isinstance(missing, dict) and missing.get("python"):
            log.add("info", _NO_PYTHON, FINALIZE_STEP)
        _tell_languages(languages, log)
        programs = {name: program for name, program in languages.items() if _DEFAULT_PROGRAMS.get(name, program) != program}
        return dataclasses.replace(template, languages=tuple(languages), programs={n: p for n, p in programs.items() if n not in _ALIKE})


def _tell_languages(languages: Iterable[str], log: BuildLog) -> None:
    log.add("info", f"Languages of run_code: {', '.join(languages) or 'none'}", FINALIZE_STEP)


def _outcome_aside(template: Template) -> Template:
    """What a trial depends on: all but names, times, and what a trial finds."""
    return dataclasses.replace(template, template_id="", name="", build_id="", aliases=(), created_at=0.0, languages=(), programs={})


def _languages(found: Mapping[str, Any]) -> dict[str, str]:
    """Language to program, in our order, from what the sandbox says: names that are known, and paths."""
    rows = found.get("languages")
    said = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row):
            name, program = row
            if name in _ALIKE or _PROGRAM.match(program):
                said[name] = program
    return {name: said[name] for name in _LANGUAGES if name in said}


@dataclass
class _End:
    status: str = ""
    error: BuildError | None = None


class _Start:
    """One trial of the start and the ready command."""

    def __init__(self, template: Template, box: BuildSandbox, log: BuildLog, cancellation: Cancellation, timeout_s: float) -> None:
        self._template = template
        self._box = box
        self._log = log
        self._cancellation = cancellation
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._said = Tail()
        self._end = _End()
        self._ended = threading.Event()

    def run(self) -> None:
        """Raises: BuildError."""
        starting = None
        if self._template.start_cmd:
            self._log.add("info", f"Starting '{self._template.start_cmd}'", FINALIZE_STEP)
            starting = threading.Thread(target=self._start, name="trial-start", daemon=True)
            starting.start()
        try:
            self._ask() if self._template.ready_cmd else self._ended.wait(_SETTLE_S)
            self._check()
            self._log.add("info", "The template is ready", FINALIZE_STEP)
        finally:
            if starting is not None:
                self._box.kill()
                starting.join()

    def _start(self) -> None:
        with OutputLines(self._log, FINALIZE_STEP) as lines:

            def take(stream: str, data: bytes) -> None:
                self._said.add(data)
                lines(stream, data)

            try:
                status = self._box.run(self._command(self._template.start_cmd, self._timeout_s + 60.0), take)
                self._end.status = f"exit status {status}" if status else ""
            except BuildError as error:  # thread border: told by the other thread, unless it has ended the sandbox itself
                self._end.error = error
        self._ended.set()

    def _ask(self) -> None:
        attempts, last = 0, None
        self._log.add("info", f"Waiting for '{self._template.ready_cmd}'", FINALIZE_STEP)
        for pause_s in ready_pauses():
            self._check()
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise _failed(never_ready(self._template.ready_cmd, self._timeout_s, attempts, last, start_ended=self._ended.is_set()))
            said = Tail()
            status = self._attempt(said, left_s)
            if status == 0:
                return
            if status is not None:
                attempts, last = attempts + 1, Attempt(f"exit status {status}", said.text())
                self._ended.wait(pause_s) if not self._ended.is_set() else time.sleep(pause_s)

    def _attempt(self, said: Tail, left_s: float) -> int | None:
        """The status of one run of the ready command; None: it was cut off."""
        try:
            return self._box.run(self._command(self._template.ready_cmd, left_s), lambda _stream, data: said.add(data))
        except BuildError:
            self._check()
            if time.monotonic() < self._deadline - 1.0:
                raise
            time.sleep(max(0.0, self._deadline - time.monotonic()))
            return None

    def _check(self) -> None:
        """Raises: BuildError, when the build is to end or the start command has ended with an error."""
        self._cancellation.check()
        if self._ended.is_set():
            if self._end.error is not None:
                raise self._end.error
            if self._end.status:
                raise _failed(start_died(self._template.start_cmd, self._end.status, self._said.text()))

    def _command(self, text: str, timeout_s: float) -> Command:
        return Command(text=text, user=self._template.user, cwd=self._template.workdir, timeout_s=timeout_s)


def _failed(message: str) -> BuildError:
    return BuildError(message, step=FINALIZE_STEP)
