"""The Python driver's shell: IPython's InteractiveShell with its output sent over the channel.

It runs cells (top-level await, ``!cmd``, interrupts) and sends values, displays and errors. It must not print anything itself. Contract:
drivers/README.md. A cell without ``await`` runs without a running event loop, so that ``asyncio.run`` works in it. Unfinished tasks of a
cell continue while the driver waits for the next one.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import dis
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from IPython.core import interactiveshell
from IPython.core.autocall import ExitAutocall
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.profiledir import ProfileDir
from traitlets import Type, default
from traitlets.config import Config

from cloister_kernel.channel import Channel
from cloister_kernel.errors import cut, name_left_out, shortened
from cloister_kernel.input import NoInputError, forbid_input, without_askers
from cloister_kernel.streams import flush_streams

__all__ = ["Shell", "make_shell"]

_PICKLES: Any = getattr(interactiveshell, "PickleShareDB", None)
"""IPython 8's database of variables, in the profile directory."""
_OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
"""Python before 3.11 has none."""
_SHOWS_VALUE = [dis.opmap[name] for name in ("CALL_INTRINSIC_1", "PRINT_EXPR") if name in dis.opmap]
"""The instruction that gives an expression's value to the display hook; a call of ``sys.displayhook`` is another."""
_MAX_TEXT_CHARS = 8 << 20
"""Bound of a result's text."""
_LOOP_WORDS = ("create_task", "ensure_future", "get_running_loop")


class _Hook(DisplayHook):  # type: ignore[misc]  # its base has no types
    """Sends the value of the last expression as the run's main result."""

    def write_output_prompt(self) -> None:
        """No prompt."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: Any = None) -> None:
        """Send the MIME bundle."""
        if format_dict:
            self.shell.send_result(format_dict, main=True)

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Do not log: it would keep every output in memory."""

    def finish_displayhook(self) -> None:
        """No text is left to write."""
        self._is_active = False


class _Publisher(DisplayPublisher):  # type: ignore[misc]  # its base has no types
    """Sends the output of ``display()`` and similar functions."""

    def publish(
        self, data: dict[str, Any], metadata: Any = None, source: Any = None, *, transient: Any = None, update: bool = False, **kwargs: Any
    ) -> None:
        """Send the bundle. An update is one more result: a stream cannot take back an earlier one."""
        if data:
            self.shell.send_result(data, main=False)

    def clear_output(self, wait: bool = False) -> None:
        """A result that was sent cannot be cleared."""


class _Exit(ExitAutocall):  # type: ignore[misc]  # its base has no types
    """``exit()`` ends the cell; the kernel and its state stay."""

    def __call__(self, code: Any = None) -> None:
        raise SystemExit(code)


class Shell(InteractiveShell):  # type: ignore[misc]  # its base has no types
    """One Python context."""

    displayhook_class = Type(_Hook)
    display_pub_class = Type(_Publisher)
    channel: Channel
    child_error: BaseException | None = None
    """The outcome of the last cell, for a forked child's exit code."""

    @default("exiter")  # type: ignore[untyped-decorator]  # traitlets has no types here
    def _exiter_default(self) -> _Exit:
        return _Exit(self)

    def init_completer(self) -> None:
        """No completer: building one costs start time."""
        self.Completer = None

    def init_virtualenv(self) -> None:
        """Nothing to check: the interpreter is the template's own."""

    homeless = False
    """Whether this is a zygote's shell: :meth:`take_home` later sets the IPython directory and the profile from HOME."""

    def init_ipython_dir(self, ipython_dir: Any) -> None:
        """See IPython; a zygote's shell does it later."""
        if not self.homeless:
            super().init_ipython_dir(ipython_dir)

    def init_profile_dir(self, profile_dir: Any) -> None:
        """See IPython; a zygote's shell does it later."""
        if not self.homeless:
            super().init_profile_dir(profile_dir)
        elif _PICKLES is not None:
            self.profile_dir = ProfileDir()  # IPython 8 asks for the directory, and gets none

    def take_home(self) -> None:
        """Do the steps that depend on HOME, which a forked kernel learns late."""
        self.homeless = False
        self.init_ipython_dir(None)
        self.init_profile_dir(None)
        self.history_manager.dir_hist[:] = [Path.cwd()]
        if _PICKLES is not None:
            self.db = _PICKLES(os.path.join(self.profile_dir.location, "db"))

    @contextlib.contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        yield  # IPython would keep a copy of all output

    def enable_gui(self, gui: str | None = None) -> None:
        """No GUI; ``%matplotlib`` calls this."""

    def send_result(self, data: dict[str, Any], *, main: bool) -> None:
        """Send one MIME bundle; in a forked child, which has no channel, print its text instead."""
        if not self.channel.alive:
            print(data.get("text/plain", ""))
            return
        text = data.get("text/plain")
        if isinstance(text, str) and len(text) > _MAX_TEXT_CHARS:
            data = {**data, "text/plain": cut(text, _MAX_TEXT_CHARS)}
        wait = not (main and _is_last_of_cell(self.ast_node_interactivity))
        self.channel.send({"op": "result", "id": self.channel.run_id, "main": main, "data": data, "extra": {}}, wait=wait)

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        if issubclass(etype, asyncio.CancelledError) and self.channel.interrupted:
            stb = [part.replace(etype.__name__, "KeyboardInterrupt") for part in stb]
            etype, evalue = KeyboardInterrupt, KeyboardInterrupt()
        name = etype.__name__
        text = "\n".join(name_left_out(stb))
        if name == "_IncompleteInputError":  # CPython's internal subclass of SyntaxError
            name, text = "SyntaxError", text.replace("_IncompleteInputError", "SyntaxError")
        self.send_error(name, evalue, text)

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Like IPython's, but shortened. It also sends exception groups, which IPython would print to stderr."""
        _, value, tb = self._get_exc_info(exc_tuple)
        value.__traceback__ = without_askers(tb)
        with shortened(value):
            if isinstance(value, _GROUP):
                self.send_error(type(value).__name__, value, "".join(traceback.format_exception(*_parts_of(_without_ours(value)))))
            else:
                super().showtraceback(_parts_of(value), *args, **kwargs)
        sys.last_traceback = value.__traceback__

    def show_usage_error(self, exc: BaseException) -> None:
        """Treat wrong use of a magic like any other error."""
        self.send_error(type(exc).__name__, exc, f"{type(exc).__name__}: {exc}")

    def _format_exception_for_storage(self, exception: BaseException, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}  # IPython would format every traceback again, for a history that is off

    def send_error(self, name: str, value: BaseException | str, text: str) -> None:
        """Send the run's error."""
        self.error_sent = True
        try:
            value = "" if isinstance(value, SystemExit) and value.code is None else str(value)
        except Exception as error:  # user code: an exception whose __str__ fails
            value = f"<{type(error).__name__} in __str__>"
        if not self.channel.alive:
            if name != "SystemExit":
                sys.stderr.write(f"{text}\n")
            elif value and not value.isdecimal():  # sys.exit("text")
                sys.stderr.write(f"{value}\n")
            return
        self.channel.send({"op": "error", "id": self.channel.run_id, "name": name, "value": cut(value), "traceback": cut(text)})

    def report_late(self, error: BaseException) -> None:
        """Print an error of code from an earlier cell, such as a signal handler; the next run shows it."""
        with contextlib.suppress(Exception):  # user code: a broken sys.stderr
            traceback.print_exception(*_parts_of(_without_ours(error)), file=sys.stderr)

    def end_child(self) -> None:
        """End a forked child that has reached the end of its cell, as the end of a program would."""
        code = 0 if self.child_error is None else 1
        if isinstance(self.child_error, SystemExit) and (self.child_error.code is None or isinstance(self.child_error.code, int)):
            code = self.child_error.code or 0
        flush_streams()
        os._exit(code & 0xFF)

    def run(self, code: str) -> int:
        """Run one cell; all its messages except ``done`` are sent on return. Gives the execution count."""
        self.error_sent = False
        self._prepare_loop(code)
        count = int(self.execution_count)
        result = self.run_cell(code, store_history=True)
        error = result.error_before_exec or result.error_in_exec if result is not None else None
        self.child_error = error
        if error is not None and not self.error_sent:  # IPython could not show the error
            self.send_error(type(error).__name__, error, "".join(traceback.format_exception(*_parts_of(_without_ours(error)))))
        return count

    # -- asyncio --------------------------------------------------------------------------------------------------------

    loop: asyncio.AbstractEventLoop | None = None

    def _prepare_loop(self, code: str) -> None:
        if self.loop is None and "await" not in code and "asyncio" not in code and "async " not in code:
            return
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)  # again: asyncio.run() leaves no loop

    def should_run_async(self, raw_cell: str, **kwargs: Any) -> bool:
        """Whether the cell awaits, or starts tasks at its top level, which need a running loop."""
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
        """Whether tasks of earlier cells are unfinished."""
        return self.loop is not None and not self.loop.is_closed() and bool(asyncio.all_tasks(self.loop))

    def run_tasks_until_readable(self, fd: int) -> None:
        """Let background tasks continue until ``fd`` can be read."""
        assert self.loop is not None
        loop = self.loop
        loop.add_reader(fd, loop.stop)
        try:
            loop.run_forever()
        finally:
            loop.remove_reader(fd)

    # -- commands -------------------------------------------------------------------------------------------------------

    def system(self, cmd: str) -> None:
        """``!cmd``: bash runs it and writes straight to our output; an interrupt reaches all of it."""
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
        """No user can be asked."""
        raise NoInputError(prompt)


def _is_last_of_cell(interactivity: str) -> bool:
    """Whether the display hook shows the value of the cell's last expression, after which the cell has no output."""
    if not interactivity.startswith("last_expr"):
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith("<ipython-input"):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_code[frame.f_lasti] in _SHOWS_VALUE


def _starts_task(node: ast.AST) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
        return False
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _LOOP_WORDS:
            return True
    return any(_starts_task(child) for child in ast.iter_child_nodes(node))


def _without_ours(error: BaseException) -> BaseException:
    """The same error; its traceback begins at the user's own frame."""
    tb = error.__traceback__
    while tb is not None and not tb.tb_frame.f_code.co_filename.startswith("<ipython-input"):
        tb = tb.tb_next
    return error.with_traceback(tb) if tb is not None else error


def _parts_of(error: BaseException) -> tuple[type[BaseException], BaseException, Any]:
    """In the form that Python 3.9 also takes."""
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
    forbid_input()
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
