"""The trial at the end of a build: runs the start and ready commands and finds the languages of the template.

Runs in: supervisor, in the build's own thread. Build sandboxes of the template, with its limits, users and variables, run both. Their files
are thrown away, since the start command runs again in every sandbox. Answers of a sandbox are not trusted: this module checks the form of
languages and programs, and they affect only sandboxes of this template (I2).
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
from cloister.protocol.languages import NATIVE_LANGUAGES
from cloister.protocol.startup import Attempt, Tail, never_ready, ready_pauses, start_died
from cloister.template.building.steplog import OutputLines
from cloister.template.interfaces import BuildLog, BuildSandbox, BuildSandboxes, BuildSandboxSpec, Cancellation, ShellCommand, Trial

__all__ = ["TemplateTrial"]

_PROGRAM = re.compile(r"/[^\0\n]{1,500}\Z")
_OWN_PROGRAM = {language.name: language.program for language in NATIVE_LANGUAGES if language.program and not language.program_of}
"""The usual program of each language that does not run by another language's program, or by ours."""
_SETTLE_S = 2.0
"""How long the trial watches a start command that has no ready command."""
_NO_PYTHON = "run_code has no Python in this template: it needs IPython, as by RUN pip install ipython"


class TemplateTrial(Trial):
    """See :class:`Trial`."""

    def __init__(
        self,
        build_sandboxes: BuildSandboxes,
        limits: Callable[[Template], Limits],
        ready_timeout_s: float,
        tried: Callable[[], Iterable[Template]] = tuple,
        meanwhile: Callable[[Template], AbstractContextManager[None]] = lambda _template: contextlib.nullcontext(),
    ) -> None:
        """``limits`` gives the limits of a template's sandboxes, ``tried`` the templates that have passed. The context ``meanwhile`` is
        open while the start command is tried.
        """
        self._build_sandboxes = build_sandboxes
        self._tried = tried
        self._meanwhile = meanwhile
        self._limits = limits
        self._ready_timeout_s = ready_timeout_s

    def run(self, template: Template, log: BuildLog, cancellation: Cancellation, *, force: bool) -> Template:
        """See :class:`Trial`."""
        if not force and (earlier := self._find_tried(template)) is not None:
            log.add("info", "CACHED the same template was tried before", FINALIZE_STEP)
            _log_languages(earlier.languages, log)
            return dataclasses.replace(template, languages=earlier.languages, programs=earlier.programs)
        spec = BuildSandboxSpec(limits=self._limits(template), envs=dict(template.envs))
        with self._build_sandboxes.open(template.layers, spec, cancellation) as sandbox:
            template = self._with_languages(template, sandbox, log)
        if template.starts_something:
            with self._meanwhile(template), self._build_sandboxes.open(template.layers, spec, cancellation) as sandbox:
                _StartCommandTrial(template, sandbox, log, cancellation, self._ready_timeout_s).run()
        return template

    def _find_tried(self, template: Template) -> Template | None:
        wanted = _without_results(template)
        with contextlib.suppress(StoreError):  # a record cannot be read: then the trial runs
            return next((one for one in self._tried() if _without_results(one) == wanted), None)
        return None

    def _with_languages(self, template: Template, sandbox: BuildSandbox, log: BuildLog) -> Template:
        params = {
            "path": template.envs.get("PATH", ""),
            "envs": template.envs,
            "user": template.user,
            "workdir": template.workdir,
            "kernel_user": template.kernel_user,
            "mem_mib": self._limits(template).mem_mib,
        }
        found = sandbox.operate("inspect", params)
        languages = _languages(found)
        missing = found.get("missing")
        if "python" not in languages and isinstance(missing, dict) and missing.get("python"):
            log.add("info", _NO_PYTHON, FINALIZE_STEP)
        _log_languages(languages, log)
        programs = {name: program for name, program in languages.items() if _OWN_PROGRAM.get(name, program) != program}
        return dataclasses.replace(template, languages=tuple(languages), programs=programs)


def _log_languages(languages: Iterable[str], log: BuildLog) -> None:
    log.add("info", f"Languages of run_code: {', '.join(languages) or 'none'}", FINALIZE_STEP)


def _without_results(template: Template) -> Template:
    """The fields that a trial depends on: all but names, times and the results of a trial."""
    return dataclasses.replace(
        template, template_id="", name="", build_id="", aliases=(), created_at=0.0, languages=(), programs={}, authors=None
    )


def _languages(found: Mapping[str, Any]) -> dict[str, str]:
    """Language to program, in our order, from the sandbox's answer. Takes known names and absolute paths only."""
    rows = found.get("languages")
    said = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row):
            name, program = row
            if name not in _OWN_PROGRAM or _PROGRAM.match(program):
                said[name] = program
    return {language.name: said[language.name] for language in NATIVE_LANGUAGES if language.name in said}


@dataclass
class _StartCommandEnd:
    """How the start command ended."""

    status: str = ""
    error: BuildError | None = None


class _StartCommandTrial:
    """Runs the start command in a thread, and the ready command until it passes."""

    def __init__(self, template: Template, sandbox: BuildSandbox, log: BuildLog, cancellation: Cancellation, timeout_s: float) -> None:
        self._template = template
        self._sandbox = sandbox
        self._log = log
        self._cancellation = cancellation
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._said = Tail()
        self._end = _StartCommandEnd()
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
                self._sandbox.kill()
                starting.join()

    def _start(self) -> None:
        with OutputLines(self._log, FINALIZE_STEP) as lines:

            def take(stream: str, data: bytes) -> None:
                self._said.add(data)
                lines(stream, data)

            try:
                status = self._sandbox.run(self._command(self._template.start_cmd, self._timeout_s + 60.0), take)
                self._end.status = f"exit status {status}" if status else ""
            except BuildError as error:  # thread border: the other thread raises it, unless it ended the sandbox itself
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
        """The exit status of one run of the ready command. None: its time ran out."""
        try:
            return self._sandbox.run(self._command(self._template.ready_cmd, left_s), lambda _stream, data: said.add(data))
        except BuildError:
            self._check()
            if time.monotonic() < self._deadline - 1.0:
                raise
            time.sleep(max(0.0, self._deadline - time.monotonic()))
            return None

    def _check(self) -> None:
        """Raises: BuildError: the build was cancelled, or the start command ended with an error."""
        self._cancellation.check()
        if self._ended.is_set():
            if self._end.error is not None:
                raise self._end.error
            if self._end.status:
                raise _failed(start_died(self._template.start_cmd, self._end.status, self._said.text()))

    def _command(self, text: str, timeout_s: float) -> ShellCommand:
        return ShellCommand(text=text, user=self._template.user, cwd=self._template.workdir, timeout_s=timeout_s)


def _failed(message: str) -> BuildError:
    return BuildError(message, step=FINALIZE_STEP)
