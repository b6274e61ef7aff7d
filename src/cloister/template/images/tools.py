"""The tools that fetch images, and other Debian releases: trees built like stock templates when the first build needs them.

The tools tree consists of the base template's layers and one with Debian's skopeo. A release tree is a Debian of its own. Both come from
Debian's archives, verified with its keys.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cloister.errors import BuildError
from cloister.model.build import BASE_STEP
from cloister.template.agenttree import interpreter_layers
from cloister.template.stock import StockStep, read_definition
from cloister.template.stockbuilder import StockBuildContext, build_layers

if TYPE_CHECKING:
    from cloister.template.interfaces import BuildLog

__all__ = ["ImageTools"]


_RETRY_PAUSE_S = 300.0
"""The pause after a failure. Without a mirror each attempt takes long."""


class ImageTools:
    """Makes the trees. The progress of ``context`` goes to the log of the build that needs them. Thread-safe."""

    def __init__(self, context: StockBuildContext) -> None:
        self._context = context
        self._failures: dict[str, tuple[float, BuildError]] = {}

    def tools(self, log: BuildLog) -> tuple[str, ...]:
        """The layers of the tools tree. Raises: BuildError."""
        base = interpreter_layers(self._context.store.template("base"))
        return self._made("images", base, log, "the tools that fetch images cannot be made here")

    def release(self, suite: str, log: BuildLog) -> tuple[str, ...]:
        """The layers of another Debian release. Raises: BuildError."""
        return self._made(suite, (), log, f"Debian's release '{suite}' cannot be made here")

    def _made(self, name: str, below: tuple[str, ...], log: BuildLog, complaint: str) -> tuple[str, ...]:
        at, failure = self._failures.get(name, (-_RETRY_PAUSE_S, None))
        if failure is not None and time.monotonic() - at < _RETRY_PAUSE_S:
            raise BuildError(failure.message, hint=failure.hint)
        definition, host = read_definition(name), self._context.host_layer
        if host is not None and not below:
            host = replace(host, path=host.over(f"{name}/{definition.steps[0].name}"))
        context = replace(self._context, progress=_LoggedProgress(log), host_layer=host)
        try:
            return build_layers(definition, below, context)
        except BuildError as error:
            tail = error.log_tail.strip().rpartition("\n")[2]
            failure = BuildError(f"{complaint}: {tail or error.message}", hint="a Debian mirror must be reachable, once")
            self._failures[name] = time.monotonic(), failure
            raise failure from error


class _LoggedProgress:
    """The progress of a tree's build, as lines in the log of the client's build."""

    def __init__(self, log: BuildLog) -> None:
        self._log = log
        self._title = ""

    def step_started(self, template: str, index: int, total: int, step: StockStep) -> None:
        self._title = f"{step.title} ({template}, {index} of {total})"

    def step_waiting(self) -> None:
        self._log.add("info", f"waiting for another build that makes: {self._title}", BASE_STEP)

    def step_output(self, line: str) -> None:
        if not line.startswith(("pmstatus:", "dlstatus:")):
            self._log.add("debug", line, BASE_STEP)

    def step_done(self, elapsed_s: float, size_bytes: int | None, *, cached: bool) -> None:
        if not cached:
            size = "" if size_bytes is None else f", {size_bytes >> 20} MiB"
            self._log.add("info", f"made once: {self._title} in {elapsed_s:.0f} s{size}", BASE_STEP)

    def step_failed(self) -> None:
        self._log.add("error", f"failed: {self._title}", BASE_STEP)
