"""The Python driver's shell: IPython's InteractiveShell with its output sent over the channel.

It owns how a cell runs (top-level await, ``!cmd``, interrupts) and how values, displays and errors leave. It must not print
anything itself. Contract: drivers/README.md. A cell without ``await`` runs with no event loop running, so that ``asyncio.run`` works
in it; tasks that a cell leaves behind go on while the driver waits for the next one.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Coroutine, Iterator
from typing import Any

from IPython.core import interactiveshell
from IPython.core.autocall import ExitAutocall
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from python_channel import Channel
from traitlets import Type, default
from traitlets.config import Config

__all__ = ["Shell", "make_shell"]

_PICKLES: Any = getattr(interactiveshell, "PickleShareDB", None)
"""IPython 8's database of variables, in the profile directory."""
_OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
"""Before Python 3.11 there are none."""
_LOOP_WORDS = ("create_task", "ensure_future", "get_running_loop")


class _Hook(DisplayHook):  # type: ignore[misc]
    """Sends the value of the last expression as the run's main result."""

    def write_output_prompt(self) -> None:
        """There is no prompt."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        """Send the MIME bundle."""
        if format_dict:
            self.shell.send_result(format_dict, main=True)

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Nothing is logged: it would keep every output in memory."""

    def finish_displayhook(self) -> None:
        """Nothing is left to write."""
        self._is_active = False


class _Publisher(DisplayPublisher):  # type: ignore[misc]
    """Sends what ``display()`` and its relatives show."""

    def publish(
        self, data: dict[str, Any], metadata: Any = None, source: Any = None, *, transient: Any = None, update: bool = False, **kwargs: Any
    ) -> None:
        """Send the bundle. An update is sent as one more result: a stream cannot take back what it has given."""
        if data:
            self.shell.send_result(data, main=False)

    def clear_output(self, wait: bool = False) -> None:
        """What was sent stays sent."""


class _Exit(ExitAutocall):  # type: ignore[misc]
    """``exit()`` ends the cell; the kernel and its state stay."""

    def __call__(self, code: Any = None) -> None:
        raise SystemExit(code)


def _no_input(prompt: str = "", /) -> str:
    __tracebackhide__ = True
    raise StdinNotImplementedError("input() was called, but there is nobody to answer: the code runs without standard input")


class Shell(InteractiveShell):  # type: ignore[misc]
    """One Python context."""

    displayhook_class = Type(_Hook)
    display_pub_class = Type(_Publisher)
    channel: Channel

    @default("exiter")  # type: ignore[untyped-decorator]
    def _exiter_default(self) -> _Exit:
        return _Exit(self)

    def init_completer(self) -> None:
        """Nobody completes; not building one saves start time."""
        self.Completer = None

    def init_virtualenv(self) -> None:
        """The interpreter is the template's own."""

    homeless = False
    """Of a zygote's shell: the IPython directory and profile are those of the HOME that :meth:`take_home` finds."""

    def init_ipython_dir(self, ipython_dir: Any) -> None:
        """As IPython does, or not yet."""
        if not self.homeless:
            super().init_ipython_dir(ipython_dir)

    def init_profile_dir(self, profile_dir: Any) -> None:
        """As IPython does, or not yet."""
        if not self.homeless:
            super().init_profile_dir(profile_dir)
        elif _PICKLES is not None:
            self.profile_dir = ProfileDir()  # IPython 8 asks where it is, and is told of no place

    def take_home(self) -> None:
        """Make up for what was left out: a forked kernel learns its HOME late."""
        self.homeless = False
        self.init_ipython_dir(None)
        self.init_profile_dir(None)
        if _PICKLES is not None:
            self.db = _PICKLES(os.path.join(self.profile_dir.location, "db"))

    @contextlib.contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        yield  # IPython would keep a copy of all output

    def enable_gui(self, gui: str | None = None) -> None:
        """There is no GUI; ``%matplotlib`` calls this."""

    def send_result(self, data: dict[str, Any], *, main: bool) -> None:
        """Send one MIME bundle; in a forked child, which has no channel, print its text instead."""
        if not self.channel.alive:
            print(data.get("text/plain", ""))
            return
        self.channel.send({"op": "result", "id": self.channel.run_id, "main": main, "data": data, "extra": {}})

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        text = "\n".join(stb)
        if issubclass(etype, asyncio.CancelledError) and self.channel.interrupted:
            text = text.replace(etype.__name__, "KeyboardInterrupt")
            etype, evalue = KeyboardInterrupt, KeyboardInterrupt()
        name = etype.__name__
        if name == "_IncompleteInputError":  # CPython's private kind of SyntaxError
            name, text = "SyntaxError", text.replace("_IncompleteInputError", "SyntaxError")
        self.send_error(name, evalue, text)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """As IPython does, but exception groups, which it would print to stderr, are sent too."""
        _, value, _ = self._get_exc_info(exc_tuple)
        if isinstance(value, _GROUP):
            self.send_error(type(value).__name__, value, "".join(traceback.format_exception(*_parts_of(_without_ours(value)))))
        else:
            super().showtraceback(exc_tuple, *args, **kwargs)

    def show_usage_error(self, exc: BaseException) -> None:
        """A magic that was used wrongly is an error like any other."""
        self.send_error(type(exc).__name__, exc, f"{type(exc).__name__}: {exc}")

    def _format_exception_for_storage(self, exception: BaseException, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}  # IPython would format every traceback a second time, for a history that is off

    def send_error(self, name: str, value: BaseException | str, text: str) -> None:
        """Send the run's error."""
        self.error_sent = True
        try:
            value = "" if isinstance(value, SystemExit) and value.code is None else str(value)
        except Exception as error:  # user code: an exception whose __str__ fails
            value = f"<{type(error).__name__} in __str__>"
        self.channel.send({"op": "error", "id": self.channel.run_id, "name": name, "value": value, "traceback": text})

    def run(self, code: str) -> int:
        """Run one cell; all of its messages but ``done`` are sent on return. Gives the execution count."""
        self.error_sent = False
        self._prepare_loop(code)
        count = int(self.execution_count)
        result = self.run_cell(code, store_history=True)
        error = result.error_before_exec or result.error_in_exec if result is not None else None
        if error is not None and not self.error_sent:  # IPython could not show it
            self.send_error(type(error).__name__, error, "".join(traceback.format_exception(*_parts_of(_without_ours(error)))))
        return count

    # -- asyncio --------------------------------------------------------------------------------------------------------

    loop: asyncio.AbstractEventLoop | None = None

    def _prepare_loop(self, code: str) -> None:
        if self.loop is None and "await" not in code and "asyncio" not in code and "async " not in code:
            return
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)  # again: asyncio.run() leaves none behind

    def should_run_async(self, raw_cell: str, **kwargs: Any) -> bool:
        """Also true for cells that start tasks at their top level, which need a running loop."""
        if super().should_run_async(raw_cell, **kwargs):
            return True
        if not any(word in raw_cell for word in _LOOP_WORDS):
            return False
        try:
            tree = ast.parse(kwargs.get("transformed_cell") or raw_cell)
        except (SyntaxError, ValueError):
            return False
        return any(_starts_task(node) for node in tree.body)

    def run_coroutine(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run a cell on the context's event loop; an interrupt cancels it there."""
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(coro)
        try:
            return self.loop.run_until_complete(task)
        except KeyboardInterrupt:
            if task.done():
                raise
            task.cancel()
            return self.loop.run_until_complete(task)

    def has_tasks(self) -> bool:
        """Whether tasks of earlier cells are not finished."""
        return self.loop is not None and not self.loop.is_closed() and bool(asyncio.all_tasks(self.loop))

    def run_tasks_until_readable(self, fd: int) -> None:
        """Let background tasks go on until ``fd`` can be read."""
        assert self.loop is not None
        loop = self.loop
        loop.add_reader(fd, loop.stop)
        try:
            loop.run_forever()
        finally:
            loop.remove_reader(fd)

    # -- commands -------------------------------------------------------------------------------------------------------

    def system(self, cmd: str) -> None:
        """``!cmd``: run by bash, writing straight to our output; an interrupt reaches all of it."""
        command = self.var_expand(cmd, depth=1)
        sys.stdout.flush()
        sys.stderr.flush()
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        process = subprocess.Popen([shell, "-c", command], **_OWN_GROUP)
        try:
            code = process.wait()
        except BaseException:
            _end_group(process)
            raise
        self.user_ns["_exit_code"] = code

    def ask_yes_no(self, prompt: str, *_args: Any, **_options: Any) -> Any:
        """Nobody can be asked."""
        raise StdinNotImplementedError(prompt)


def _starts_task(node: ast.AST) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
        return False
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _LOOP_WORDS:
            return True
    return any(_starts_task(child) for child in ast.iter_child_nodes(node))


def _without_ours(error: BaseException) -> BaseException:
    """The same error, its traceback beginning at the user's own frame."""
    tb = error.__traceback__
    while tb is not None and not tb.tb_frame.f_code.co_filename.startswith("<ipython-input"):
        tb = tb.tb_next
    return error.with_traceback(tb) if tb is not None else error


def _parts_of(error: BaseException) -> tuple[type[BaseException], BaseException, Any]:
    """As Python 3.9 wants them too."""
    return type(error), error, error.__traceback__


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(0.7)
        except subprocess.TimeoutExpired:
            continue
        return


def make_shell(channel: Channel) -> Shell:
    """The shell, ready to run its first cell."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.separate_in = ""
    config.InteractiveShell.show_rewritten_input = False
    config.InteractiveShell.xmode = "Context"
    Shell.channel = channel
    builtins.input = _no_input  # type: ignore[assignment]
    if Shell.homeless and _PICKLES is not None:
        interactiveshell.PickleShareDB = lambda _path: {}  # until the shell has a home
    try:
        shell: Shell = Shell.instance(config=config)
    finally:
        if _PICKLES is not None:
            interactiveshell.PickleShareDB = _PICKLES
    shell.loop_runner = shell.run_coroutine
    warnings.filterwarnings("ignore", message="To exit: use 'exit'")
    return shell
