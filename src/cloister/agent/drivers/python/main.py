"""The native Python kernel: takes runs from the agent over the protocol socket and gives them to an IPython shell.

Runs on the template's Python, started by ``exec`` (:func:`main`) or imported by zygote_main.py, whose forked children call
:func:`serve`. It owns the message loop and the variables of one run; the shell, the formats and the streams are in the package
``cloister_kernel``. Contract: drivers/README.md.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Any

renewal: Any = None
"""The module of that name, for the message ``renew``."""


def import_package() -> None:
    """Import our package. Afterwards the path is that of a program started in the work directory."""
    sys.path[0] = os.path.dirname(os.path.abspath(__file__))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    import cloister_kernel.channel
    import cloister_kernel.formats
    import cloister_kernel.shell
    import cloister_kernel.streams  # noqa: F401 - importing it is the point
    import cloister_zygote.renewal as found

    global renewal  # noqa: PLW0603 - it must not be found by cells
    renewal = found
    for name in ("cloister_zygote.renewal", "cloister_zygote"):
        sys.modules.pop(name, None)
    sys.dont_write_bytecode = before
    sys.path[0] = ""
    sys.argv = [""]


class _Environment:
    """The variables of one run: set before it, restored after it."""

    def __init__(self, envs: dict[str, str]) -> None:
        self._envs = envs
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        for name, value in self._envs.items():
            self._before[name] = os.environ.get(name)
            os.environ[name] = value

    def __exit__(self, *exc: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def execute(channel: Any, shell: Any, message: dict[str, Any]) -> None:
    """Run one cell and send all its messages."""
    count = shell.execution_count
    try:
        channel.begin_run(message["id"])
        channel.take_signals()
        with _Environment(message.get("envs") or {}):
            count = _run(channel, shell, message["code"])
    finally:
        channel.interruptible = False
        if not channel.alive:  # the cell forked, and the child has returned to this point
            shell.end_child()
        channel.send({"op": "done", "id": channel.run_id, "count": count})


def _run(channel: Any, shell: Any, code: str) -> int:
    count: int = shell.execution_count
    try:
        channel.interruptible = True
        count = shell.run(code)
        channel.interruptible = False
    except KeyboardInterrupt:  # it came after the shell had returned
        channel.interruptible = False
        shell.send_error("KeyboardInterrupt", "", "KeyboardInterrupt")
    return count


def serve(channel: Any, shell: Any) -> None:
    """Run cells until the agent closes the socket."""
    while True:
        try:
            if shell.has_tasks() and not channel.has_message():
                shell.run_tasks_until_readable(channel.fileno())
            message = channel.receive()
            if message is None:
                return
            execute(channel, shell, message)
        except BaseException as error:  # a signal handler or a task of an earlier cell raised it
            shell.report_late(error)


def main() -> None:
    """Serve until the agent closes the socket."""
    import_package()
    from cloister_kernel.channel import Channel
    from cloister_kernel.formats import install_formats
    from cloister_kernel.shell import make_shell
    from cloister_kernel.streams import install_streams, renew_streams

    faulthandler.enable(2)
    install_streams()
    renew_streams()
    channel = Channel(int(os.environ.pop("CLOISTER_KERNEL_FD", "3")))
    channel.end_in_children()
    channel.on_renew = lambda: renewal.renew_copy([], lambda _name: None)
    shell = make_shell(channel)
    install_formats(shell)
    if os.environ.pop("CLOISTER_KERNEL_READY", "") != "said":  # set if a forked kernel that has reported ready becomes this one
        channel.send({"op": "ready"})
    serve(channel, shell)


if __name__ == "__main__":
    main()
