"""The native Python kernel: takes runs from the agent over the protocol socket and gives them to an IPython shell.

Runs on the template's Python, started by ``exec`` (:func:`main`) or imported by python_zygote.py, whose forked children call
:func:`serve`. It owns the message loop and the variables of one run; the shell, the formats and the streams are in the sibling
``python_*`` modules. Contract: drivers/README.md.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Any


def import_siblings() -> None:
    """Import our modules; then the path is what a program started in the work directory has."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = here
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    import python_channel  # noqa: F401, PLC0415
    import python_formats  # noqa: F401, PLC0415
    import python_shell  # noqa: F401, PLC0415

    sys.dont_write_bytecode = before
    sys.path[0] = ""
    sys.path.append(here)  # last: python_charts is imported when the first figure is shown
    sys.argv = [""]


class _Environment:
    """The variables of one run: set as data before it, put back after it."""

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


def _execute(channel: Any, shell: Any, message: dict[str, Any]) -> None:
    channel.run_id = message["id"]
    channel.interrupted = False
    channel.take_signals()
    count = shell.execution_count
    with _Environment(message.get("envs") or {}):
        try:
            channel.interruptible = True
            count = shell.run(message["code"])
            channel.interruptible = False
        except KeyboardInterrupt:  # it came between the shell and us
            channel.end_run()
            shell.send_error("KeyboardInterrupt", "", "KeyboardInterrupt")
        finally:
            channel.end_run()
    if not channel.alive:  # a child that the cell forked has come back here
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    channel.send({"op": "done", "id": channel.run_id, "count": count})


def serve(channel: Any, shell: Any) -> None:
    """Run cells until the agent closes the socket."""
    while True:
        while shell.has_tasks() and not channel.has_message():
            shell.run_tasks_until_readable(channel.fileno())
            break
        message = channel.receive()
        if message is None:
            return
        if message["op"] == "execute":
            _execute(channel, shell, message)


def main() -> None:
    """Serve until the agent closes the socket."""
    import_siblings()
    from python_channel import Channel, install_streams  # noqa: PLC0415
    from python_formats import install_formats  # noqa: PLC0415
    from python_shell import make_shell  # noqa: PLC0415

    faulthandler.enable(2)
    install_streams()
    channel = Channel(int(os.environ.pop("CLOISTER_KERNEL_FD", "3")))
    shell = make_shell(channel)
    install_formats(shell)
    if os.environ.pop("CLOISTER_KERNEL_READY", "") != "said":  # by the forked kernel that this one takes the place of
        channel.send({"op": "ready"})
    serve(channel, shell)


if __name__ == "__main__":
    main()
