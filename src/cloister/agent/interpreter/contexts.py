"""Interpreter contexts: who may run when, and which kernel stands behind each.

A context owns at most one kernel. Runs of one context queue in the order they came; contexts run side by side. A kernel that is
gone is replaced by the next run, and the run is told when state was lost without its knowing. The default context of a language comes
into being on first use, again after it was deleted.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from cloister.agent.interpreter.kernel import Cost, Failure, Finished, Kernel, KernelEvent, Output
from cloister.agent.interpreter.languages import Language, find_language
from cloister.errors import CloisterError, ContextNotFoundError, InvalidRequestError
from cloister.protocol.execution import ContextRequest, ExecuteRequest

__all__ = ["Context", "Contexts", "KernelFactory", "Run"]

KernelFactory = Callable[[Language, str], Kernel]
"""(language, cwd) to a started kernel."""
OtherLanguages = Callable[[], Sequence[Language]]
"""Languages beside those of the template, as they are at this moment."""
EnvsFor = Callable[[Kernel], dict[str, str]]
Record = Callable[..., None]
"""``EventLog.record``."""
_OUR_FAILURES = {"KernelDied": "kernel_died", "OutputLimitExceeded": "output_limit"}


class Run:
    """One execution. Pull :meth:`next_events` until Finished; call :meth:`abandon` if you stop before."""

    def __init__(self, context: Context, request: ExecuteRequest) -> None:
        self._context = context
        self._request = request
        self._turn = context.queue_up()
        self._kernel: Kernel | None = None
        self._over = False
        self._outcome = "ok"
        self._drain: asyncio.Task[None] | None = None

    async def next_events(self) -> list[KernelEvent]:
        """At least one event; waits for the turn and the kernel first. May be cancelled without loss."""
        if self._kernel is None:
            await asyncio.wait({self._turn})
            if self._request.envs and not self._context.language.takes_envs:
                return self._refuse_envs()
            try:
                kernel = await self._context.running_kernel()
            except CloisterError as error:
                self._context.record("kernel.failed", level="error", language=self._context.language.name)
                self._leave()
                return [Failure("KernelStartError", str(error), str(error)), Finished(None, Cost(0))]
            self._kernel = kernel
            kernel.begin(self._request.code, {**self._context.envs_of_run(kernel), **self._request.envs})
            notice = self._context.take_notice()
            if notice:
                return [Output("stderr", notice)]
        events = await self._kernel.next_events()
        for event in events:
            if isinstance(event, Failure):
                self._outcome = _OUR_FAILURES.get(event.name, "error")
        if isinstance(events[-1], Finished):
            self._record(events[-1].cost)
            self._context.told = events[-1].count is None and self._drain is None
            self._leave()
        return events

    def abandon(self) -> None:
        """Nobody waits for it any more: give up the turn, or interrupt the code and see it end in the background."""
        if self._over or self._drain is not None:
            return
        if self._kernel is None:
            self._leave()
        else:
            self._kernel.stop()
            self._drain = asyncio.create_task(self._see_it_end())
            self._context.drains.add(self._drain)
            self._drain.add_done_callback(self._context.drains.discard)

    def _refuse_envs(self) -> list[KernelEvent]:
        self._leave()
        language = self._context.language.name
        text = (
            f"A run of the Jupyter kernel '{language}' cannot have environment variables of its own: kernels have no way to be told "
            "of them. Nothing was run. Give them to the sandbox when it is created, or set them in the code."
        )
        return [Failure("EnvsNotSupported", text, text), Finished(None, Cost(0))]

    async def _see_it_end(self) -> None:
        while not self._over:
            await self.next_events()

    def _record(self, cost: Cost) -> None:
        """Into the sandbox's log: what it cost and how it ended, nothing of the code or of what it wrote."""
        kernel, context = self._kernel, self._context
        outcome = "interrupted" if self._drain is not None and self._outcome == "ok" else self._outcome
        fields = {"language": context.language.name, "context": context.context_id, "outcome": outcome, "wall_ms": cost.wall_ms}
        fields |= {"cpu_ms": cost.cpu_ms, "peak_mem_bytes": cost.peak_mem_bytes}
        context.record("execution.ended", **{name: value for name, value in fields.items() if value is not None})
        if outcome == "output_limit":
            context.record("output.limited", level="warn", language=context.language.name)
        if kernel is not None and not kernel.is_alive:
            context.record_death(kernel)

    def _leave(self) -> None:
        self._over = True
        self._context.leave_queue(self._turn)


class Context:
    """One context of the API."""

    def __init__(self, context_id: str, language: Language, cwd: str, start: KernelFactory, envs_for: EnvsFor, record: Record) -> None:
        self.context_id = context_id
        self.language = language
        self.cwd = cwd
        self._start_kernel = start
        self.envs_for = envs_for
        self.record = record
        self._dead: Kernel | None = None
        self._kernel: Kernel | None = None
        self._starting: asyncio.Task[Kernel] | None = None
        self._queue: deque[asyncio.Future[None]] = deque()
        self.drains: set[asyncio.Task[None]] = set()
        self.told = False
        self._notice = ""
        self._changed: dict[str, str] = {}
        self._closed = False

    def submit(self, request: ExecuteRequest) -> Run:
        """Queue a run."""
        return Run(self, request)

    def adopt(self, kernel: Kernel) -> None:
        """Take a kernel that was started already."""
        self._kernel = kernel
        self._starting = asyncio.create_task(self._wait(kernel))
        self._starting.add_done_callback(_retrieve)

    def expect(self, birth: Coroutine[Any, Any, Kernel]) -> None:
        """Take the kernel that ``birth`` will give; a failure is told by the first run."""
        self._starting = asyncio.create_task(self._receive(birth))
        self._starting.add_done_callback(_retrieve)

    def prepare(self) -> None:
        """Start the kernel in the background; a failure is told by the first run."""
        if self._starting is None and self._kernel is None:
            self._starting = asyncio.create_task(self._launch())
            self._starting.add_done_callback(_retrieve)

    async def restart(self) -> None:
        """A new kernel in the same directory; a run that is on ends with an error, those that wait go to the new kernel."""
        if self._kernel is not None:
            self.told = True
            self._kernel.kill("The context was restarted")
        if not self._queue:
            await self._drop_kernel()
        self.prepare()

    async def close(self) -> None:
        """End the kernel. A run that is on ends with an error, which its reader still gets."""
        self._closed = True
        if self._kernel is not None:
            self._kernel.kill("The context was deleted")
        while self.drains:  # runs that nobody reads end now that their kernel has
            await asyncio.wait(set(self.drains))
        if not self._queue:
            await self._drop_kernel()

    def envs_of_run(self, kernel: Kernel) -> dict[str, str]:
        """The sandbox's variables that a run must be given. A kernel that takes none has those of its start; a change is told."""
        changed = self.envs_for(kernel)
        if self.language.takes_envs:
            return changed
        if changed and changed != self._changed:
            names = ", ".join(sorted(changed))
            notice = "This kernel has the sandbox's variables as they were when it started"
            self._notice += f"{notice}. Changed since: {names}. A restart brings them.\n"
        self._changed = changed
        return {}

    # -- the queue ------------------------------------------------------------------------------------------------------

    def queue_up(self) -> asyncio.Future[None]:
        """A place in the queue: done when it is the holder's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        if self._queue[0] is turn:
            turn.set_result(None)
        return turn

    def leave_queue(self, turn: asyncio.Future[None]) -> None:
        """Give the place up, before its turn or after it."""
        self._queue.remove(turn)
        if self._queue and not self._queue[0].done():
            self._queue[0].set_result(None)
        if self._closed and not self._queue:
            closing = asyncio.create_task(self._drop_kernel())
            self.drains.add(closing)
            closing.add_done_callback(self.drains.discard)

    # -- the kernel -----------------------------------------------------------------------------------------------------

    async def running_kernel(self) -> Kernel:
        """A kernel that can run code, started now if there is none."""
        if self._closed:
            raise ContextNotFoundError("The context was deleted")
        if self._kernel is not None and self._starting is None and not self._kernel.is_alive:
            if not self.told:  # it died between runs, or in one that nobody listened to
                self.record_death(self._kernel)
                self._notice = f"{self._kernel.death_note}. Its state was lost: this run has a new kernel.\n"
            await self._drop_kernel()
        self.told = False
        self.prepare()
        if self._starting is not None:
            starting = self._starting
            try:
                return await asyncio.shield(starting)
            except CloisterError:
                await self._drop_kernel()
                raise
            finally:
                if starting.done():
                    self._starting = None
        assert self._kernel is not None
        return self._kernel

    async def _launch(self) -> Kernel:
        self._kernel = self._start_kernel(self.language, self.cwd)
        return await self._wait(self._kernel)

    async def _receive(self, birth: Coroutine[Any, Any, Kernel]) -> Kernel:
        self._kernel = await birth
        return self._kernel

    async def _wait(self, kernel: Kernel) -> Kernel:
        await kernel.wait_ready()
        return kernel

    async def _drop_kernel(self) -> None:
        kernel, self._kernel = self._kernel, None
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait({starting})
        if kernel is not None:
            await kernel.close()

    def record_death(self, kernel: Kernel) -> None:
        """Into the sandbox's log, once: a kernel ended, and why as far as that holds nothing of the program's own."""
        if kernel is not self._dead:
            self._dead = kernel
            self.record("kernel.died", level="error", language=self.language.name, context=self.context_id, **kernel.death_facts)

    def take_notice(self) -> str:
        """What the next run is to be told on stderr, once."""
        notice, self._notice = self._notice, ""
        return notice


class Contexts:
    """All contexts of the sandbox."""

    def __init__(
        self,
        languages: tuple[str, ...],
        cwd: str,
        start: KernelFactory,
        envs_for: EnvsFor,
        record: Record = lambda _kind, **_fields: None,
        others: OtherLanguages = tuple,
    ) -> None:
        self._languages = languages
        self._cwd = cwd
        self._start = start
        self.envs_for = envs_for
        self._record = record
        self._others = others
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, str] = {}

    def begin(self, languages: tuple[str, ...], cwd: str) -> None:
        """What the sandbox has and where its contexts work, when that was not known before; there are no contexts yet."""
        self._languages, self._cwd = languages, cwd

    def list(self) -> list[Context]:
        """All, in the order they were made; those of the default languages are always there."""
        for name in ("python", "javascript"):
            if name in self._languages:
                self.default(name)
        return list(self._contexts.values())

    def create(self, request: ContextRequest) -> Context:
        """A new context; its kernel starts in the background.

        Raises: NotFoundError (unknown language), InvalidRequestError (no such directory).
        """
        language = self._language(request.language)
        cwd = self._cwd if request.cwd is None else request.cwd
        if not Path(cwd).is_absolute():
            raise InvalidRequestError(f"The working directory '{cwd}' must be an absolute path")
        if not Path(cwd).is_dir():
            raise InvalidRequestError(f"The working directory '{cwd}' does not exist")
        context = self._add(language, cwd)
        context.prepare()
        return context

    def get(self, context_id: str) -> Context:
        """Raises: ContextNotFoundError."""
        context = self._contexts.get(context_id)
        if context is None:
            raise ContextNotFoundError(f"Context {context_id[:80]} not found")
        return context

    def default(self, language_name: str | None = None) -> Context:
        """The default context of a language (None: of the sandbox), made if need be; its kernel waits for the first run.

        Raises: NotFoundError.
        """
        context_id = self._defaults.get(language_name or "")
        if context_id is not None:  # a name that needs no second look at what is installed
            return self._contexts[context_id]
        language = self._language(language_name)
        context_id = self._defaults.get(language.name)
        if context_id is None:
            context = self._add(language, self._cwd)
            self._defaults[language.name] = context.context_id
            return context
        return self._contexts[context_id]

    def submit(self, request: ExecuteRequest) -> Run:
        """Queue a run in the context that the request names.

        Raises: ContextNotFoundError, NotFoundError (unknown language).
        """
        context = self.get(request.context_id) if request.context_id else self.default(request.language)
        return context.submit(request)

    async def delete(self, context_id: str) -> None:
        """Raises: ContextNotFoundError."""
        context = self.get(context_id)
        del self._contexts[context_id]
        if self._defaults.get(context.language.name) == context_id:
            del self._defaults[context.language.name]
        await context.close()

    async def close(self) -> None:
        """End all kernels."""
        for context in list(self._contexts.values()):
            await context.close()

    def _language(self, name: str | None) -> Language:
        if name is None:
            name = "python"  # what SDKs mean; a template without it says what it needs rather than run the code as another language
        return find_language(name, self._languages, self._others)

    def _add(self, language: Language, cwd: str) -> Context:
        context = Context(str(uuid.uuid4()), language, cwd, self._start, self.envs_for, self._record)
        self._contexts[context.context_id] = context
        return context


def _retrieve(task: asyncio.Task[Kernel]) -> None:
    """A failed start is told by the run that needs it; asyncio need not complain that nobody asked."""
    if not task.cancelled():
        task.exception()
