"""Uses a sandbox through whichever release of the Python SDKs is installed; prints what each step gave, as JSON.

Only what a release's own users write is used: its way to create, connect and list.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from e2b_code_interpreter import Sandbox

MAJOR, MINOR = (int(part) for part in importlib.metadata.version("e2b").split(".")[:2])
seen: dict[str, object] = {}


def create(**options: object) -> Sandbox:
    """A sandbox, made as this release makes one."""
    return Sandbox.create(timeout=120, **options) if MAJOR >= 2 else Sandbox(timeout=120, **options)


def step(name: str, work: Callable[[], object]) -> None:
    """Note what ``work()`` gives, or how it fails."""
    try:
        seen[name] = work()
    except Exception as error:  # noqa: BLE001 - each release has classes of its own
        seen[name] = f"{type(error).__name__}: {error}"


WAITING = """
import os, time
print(0, flush=True)
end = time.monotonic() + 20
while not os.path.exists("/tmp/go") and time.monotonic() < end:
    time.sleep(0.02)
print(1, flush=True)
os.path.exists("/tmp/go")
"""


def stream() -> list[object]:
    """Output while the code still runs (it waits for what the handler of its first line does), the result and an error."""
    lines: list[str] = []

    def heard(out: Any) -> None:
        lines.append(out.line)
        sandbox.files.write("/tmp/go", "")

    run = sandbox.run_code(WAITING, on_stdout=heard)
    error = sandbox.run_code("1 / 0").error
    return ["".join(lines), run.text, error.name if error else None]


def time_out() -> object:
    """How a run that is too long ends; the sandbox is of use afterwards."""
    began = time.monotonic()
    try:
        sandbox.run_code("import time; time.sleep(30)", timeout=2)
    except Exception as error:  # noqa: BLE001 - releases raise different classes
        return [type(error).__name__, time.monotonic() - began < 20, sandbox.run_code("1 + 1").text]
    return "it was not ended"


def command() -> list[object]:
    """A command with output as it comes, and one that fails."""
    lines: list[str] = []
    done = sandbox.commands.run("echo one; echo two >&2", on_stdout=lines.append)
    try:
        sandbox.commands.run("exit 3")
    except Exception as error:  # noqa: BLE001 - releases raise different classes
        return ["".join(lines), done.stdout, done.stderr, type(error).__name__]
    return ["no error"]


def files() -> list[object]:
    """A file written, read and listed."""
    sandbox.files.write("/home/user/a b.txt", "text é")
    names = [entry.name for entry in sandbox.files.list("/home/user") if entry.name.startswith("a b")]
    return [sandbox.files.read("/home/user/a b.txt"), names]


def listed() -> bool:
    """Whether the sandbox is among the running ones."""
    found = Sandbox.list()
    items = found if isinstance(found, list) else found.next_items()
    return sandbox.sandbox_id.partition("-")[0] in [info.sandbox_id.partition("-")[0] for info in items]


def connected() -> object:
    """A second handle to the sandbox."""
    return Sandbox.connect(sandbox.sandbox_id).commands.run("echo again").stdout


def secured() -> object:
    """A sandbox with ``secure=True``, where the release knows it."""
    if (MAJOR, MINOR) < (1, 5):
        return "unknown to this release"
    if MAJOR >= 2:
        return "is always so"
    other = create(secure=True)
    try:
        return [other.commands.run("echo safe").stdout, other.run_code("1 + 1").text]
    finally:
        other.kill()


try:
    sandbox = create(envs={"NAME": "value"}, metadata={"a": "b"})
except Exception as error:  # noqa: BLE001 - releases raise different classes
    print(json.dumps({"create": f"{type(error).__name__}: {error}"}))
    sys.exit()
seen["create"] = True
step("host", lambda: sandbox.get_host(8000).partition(".")[2].partition(":")[0])
step("is_running", sandbox.is_running)
step("run_code", stream)
step("timeout", time_out)
step("commands", command)
step("files", files)
step("list", listed)
step("connect", connected)
step("secure", secured)
step("set_timeout", lambda: sandbox.set_timeout(60))
step("kill", lambda: [sandbox.kill() is not False, sandbox.is_running()])
print(json.dumps(seen))
