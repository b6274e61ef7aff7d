"""Interpreter contexts: the order of their runs, and the kernel behind each.

A context owns at most one kernel. Runs of one context queue in order of arrival; contexts run side by side. If a kernel is gone, the next
run starts a new one and is told that state was lost. The default context of a language is made on first use, and again after it was
deleted.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cloister.agent.interpreter.ahead import KernelsAhead
from cloister.agent.interpreter.detached import DetachedOutput
from cloister.agent.interpreter.kernel import Cost, Failure, Finished, Kernel, KernelEvent, Output
from cloister.agent.interpreter.languages import Language, find_language
from cloister.agent.process.faults import check_cwd
from cloister.errors import CloisterError, ContextNotFoundError, InvalidRequestError
from cloister.protocol.execution import ContextRequest, ExecuteRequest

__all__ = ["Context", "Contexts", "KernelFactory", "Run"]

KernelFactory = Callable[[Language, str], Kernel]
"""Starts a kernel for (language, cwd)."""
OtherLanguages = Callable[[], Sequence[Language]]
"""The languages beside those of the template, at this moment."""
EnvsFor = Callable[[Kernel], dict[str, str]]
Record = Callable[..., None]
"""``EventLog.record``."""
_CAPTURE_S = 120.0
"""The longest time for which a capture keeps code from being interrupted: its server may have died."""
_OUR_FAILURES = {"KernelDied": "kernel_died", "OutputLimitExceeded": "output_limit"}


class Run:
    """One execution. Call :meth:`next_events` until Finished, or :meth:`abandon` to stop earlier."""

    def __init__(self, context: Context, request: ExecuteRequest) -> None:
        self._context = context
        self._request = request
        self._turn = context.queue_up()
        self._kernel: Kernel | None = None
        self._over = False
        self._outcome = "ok"
        self._drain: asyncio.Task[None] | None = None
        self._is_detached = False
        self._may_be_copied = False
        self._is_undecided = False
        self._is_copied = False
        self._output = DetachedOutput()
        self.on_detach: Callable[[], None] = lambda: None
        """Called when the client's stream is to end now."""

    def detach(self) -> None:
        """A pause of the sandbox takes the client. The run goes on without it, as :meth:`abandon` finds.

        Does nothing if the client has gone before: by an earlier pause, or by itself, and then the code is being interrupted.
        """
        if self._is_detached or self._drain is not None:
            return
        self._is_detached = True
        self.on_detach()

    def expect_copies(self) -> None:
        """From now on it is not known whether a client that goes has left, or this is a copy, in which connections break."""
        self._may_be_copied = True

    def settle(self, *, is_copy: bool) -> None:
        """Now it is known. In a copy the run goes on without its client."""
        self._may_be_copied = False
        self._is_copied = is_copy
        if not self._is_undecided:
            if is_copy and not self._over:
                self.detach()
            return
        self._is_undecided = False
        self._is_detached = is_copy
        if self._over and is_copy:
            self._context.give_notice(self._output.notice(is_copy=True))
        elif not self._over and not is_copy and self._kernel is not None:
            self._kernel.stop()

    async def next_events(self) -> list[KernelEvent]:
        """At least one event. Waits for the turn and the kernel first. A cancellation loses no event."""
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
            self._context.run = self
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
        """The client has gone: give up the turn, or interrupt the code and read its end in the background.

        A detached run is not interrupted: a pause must not lose the work of code that its client wants to see finished.
        """
        if self._over or self._drain is not None:
            return
        if self._kernel is None:
            self._leave()
        else:
            self._is_undecided = self._may_be_copied
            if not self._is_detached and not self._is_undecided:
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
            self._output.add(await self.next_events())
        if self._is_detached:
            self._context.give_notice(self._output.notice(is_copy=self._is_copied))

    def _record(self, cost: Cost) -> None:
        """Record in the sandbox's log what the run cost and how it ended, without the code or its output."""
        kernel, context = self._kernel, self._context
        is_interrupted = self._drain is not None and not self._is_detached and not self._is_undecided
        outcome = "interrupted" if is_interrupted and self._outcome == "ok" else self._outcome
        fields = {"language": context.language.name, "context": context.context_id, "outcome": outcome, "wall_ms": cost.wall_ms}
        fields |= {"cpu_ms": cost.cpu_ms, "peak_mem_bytes": cost.peak_mem_bytes}
        context.record("execution.ended", **{name: value for name, value in fields.items() if value is not None})
        if outcome == "output_limit":
            context.record("output.limited", level="warn", language=context.language.name)
        if kernel is not None and not kernel.is_alive:
            context.record_death(kernel)

    def _leave(self) -> None:
        self._over = True
        if self._context.run is self:
            self._context.run = None
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
        self.run: Run | None = None
        """The run that has the kernel."""
        self.told = False
        self._notice = ""
        self._changed: dict[str, str] = {}
        self._closed = False

    def submit(self, request: ExecuteRequest) -> Run:
        """Queue a run."""
        return Run(self, request)

    def adopt(self, kernel: Kernel) -> None:
        """Take a kernel that is started already."""
        self._kernel = kernel
        self._starting = asyncio.create_task(self._wait(kernel))
        self._starting.add_done_callback(_retrieve)

    def expect(self, birth: Coroutine[Any, Any, Kernel]) -> None:
        """Take the kernel that ``birth`` will give; the first run reports a failure."""
        self._starting = asyncio.create_task(self._receive(birth))
        self._starting.add_done_callback(_retrieve)

    def prepare(self) -> None:
        """Start the kernel in the background; the first run reports a failure."""
        if self._starting is None and self._kernel is None:
            self._starting = asyncio.create_task(self._launch())
            self._starting.add_done_callback(_retrieve)

    async def restart(self) -> None:
        """Start a new kernel in the same directory. The present run ends with an error; waiting runs get the new kernel."""
        if self._kernel is not None:
            self.told = True
            self._kernel.kill("The context was restarted")
        if not self._queue:
            await self._drop_kernel()
        self.prepare()

    async def close(self) -> None:
        """End the kernel. The present run ends with an error, which its reader still gets."""
        self._closed = True
        if self._kernel is not None:
            self._kernel.kill("The context was deleted")
        while self.drains:  # runs without a reader end now, since their kernel has ended
            await asyncio.wait(set(self.drains))
        if not self._queue:
            await self._drop_kernel()

    def renew(self) -> None:
        """Renew the random generators of its kernel."""
        if self._kernel is not None and self._kernel.is_alive:
            self._kernel.renew()

    def envs_of_run(self, kernel: Kernel) -> dict[str, str]:
        """The sandbox's variables that changed since the kernel's start. A kernel that takes no variables warns of a change instead."""
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
        """A place in the queue; it is done when it is the holder's turn."""
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
            if not self.told:  # it died between runs, or in a run without a reader
                self.record_death(self._kernel)
                self._notice += f"{self._kernel.death_note}. Its state was lost: this run has a new kernel.\n"
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
        """Record in the sandbox's log, once, that a kernel ended and why, without text of the program's own."""
        if kernel is not self._dead:
            self._dead = kernel
            self.record("kernel.died", level="error", language=self.language.name, context=self.context_id, **kernel.death_facts)

    def give_notice(self, text: str) -> None:
        """Have the next run begin with ``text`` on stderr."""
        self._notice += text

    def take_notice(self) -> str:
        """The text that the next run gets on stderr, once."""
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
        self._ahead = KernelsAhead(start)
        self._captured: list[Run] = []
        self._capture: asyncio.TimerHandle | None = None
        """Set while a capture of the memory is expected or under way, of these runs."""

    def begin(self, languages: tuple[str, ...], cwd: str) -> None:
        """Take the sandbox's languages and work directory, which were unknown until now. There are no contexts yet."""
        self._languages, self._cwd = languages, cwd

    async def start_ahead(self, languages: Sequence[str]) -> None:
        """Start kernels for the first contexts of languages, where the sandbox has these. Raises: as :class:`KernelsAhead`."""
        await self._ahead.add([self._language(name) for name in languages if name in self._languages], self._cwd)

    def list(self) -> list[Context]:
        """The default contexts of Python and JavaScript, which always exist, then the others, the newest last."""
        always = [self.default(name) for name in ("python", "javascript") if name in self._languages]
        defaults = [context for context in self._contexts.values() if context.context_id in self._defaults.values()]
        return list(dict.fromkeys([*always, *defaults, *self._contexts.values()]))

    def create(self, request: ContextRequest) -> Context:
        """A new context; its kernel starts in the background.

        Raises: NotFoundError (unknown language), InvalidRequestError (no such directory).
        """
        language = self._language(request.language)
        cwd = self._cwd if request.cwd is None else request.cwd
        if not Path(cwd).is_absolute():
            raise InvalidRequestError(f"The working directory '{cwd}' must be an absolute path")
        check_cwd(cwd)
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
        """The default context of a language (None: of the sandbox), made if it is missing; its kernel starts with the first run.

        Raises: NotFoundError.
        """
        context_id = self._defaults.get(language_name or "")
        if context_id is not None:  # a context of that name exists: no search for installed kernels
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

    def detach_runs(self) -> None:
        """A pause takes the clients of all runs. Runs that wait for their turn are given up, as their code has not begun."""
        for context in self._contexts.values():
            if context.run is not None:
                context.run.detach()

    def expect_copies(self) -> None:
        """The memory is about to be captured; :meth:`settle` comes afterwards here and in each copy, or it is taken as not copied."""
        self.settle(is_copy=False)
        self._captured = [context.run for context in self._contexts.values() if context.run is not None]
        for run in self._captured:
            run.expect_copies()
        self._capture = asyncio.get_running_loop().call_later(_CAPTURE_S, partial(self.settle, is_copy=False))

    def settle(self, *, is_copy: bool) -> None:
        """A capture of the memory is over, or this is the copy."""
        if self._capture is not None:
            self._capture.cancel()
        runs, self._captured, self._capture = self._captured, [], None
        for run in runs:
            run.settle(is_copy=is_copy)

    def renew_kernels(self) -> None:
        """The sandbox is a copy of another: its kernels must not draw the same random numbers."""
        for context in self._contexts.values():
            context.renew()
        self._ahead.renew()

    async def close(self) -> None:
        """End all kernels."""
        for context in list(self._contexts.values()):
            await context.close()
        await self._ahead.close()

    def _language(self, name: str | None) -> Language:
        if name is None:
            name = "python"  # SDKs mean Python; a template without it gives an error with the remedy
        return find_language(name, self._languages, self._others)

    def _add(self, language: Language, cwd: str) -> Context:
        context = Context(str(uuid.uuid4()), language, cwd, self._start, self.envs_for, self._record)
        self._contexts[context.context_id] = context
        if (kernel := self._ahead.take(language, cwd)) is not None:
            context.adopt(kernel)
        return context


def _retrieve(task: asyncio.Task[Kernel]) -> None:
    """Mark the exception as read: the run that needs the kernel reports the failed start."""
    if not task.cancelled():
        task.exception()
