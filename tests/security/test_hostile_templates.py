"""Templates whose Python is hostile already when the host prepares them: what they do stays theirs, and ends."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2b import Template
from e2b_code_interpreter import Sandbox

from framework.server import Server, running_server
from framework.template_requests import new_name

pytestmark = [pytest.mark.root, pytest.mark.templates]

IN_ZYGOTE = "import os, signal, sys, time\nif b'zygote_main' in open('/proc/self/cmdline', 'rb').read():\n    "
FOR_EVER = "while True:\n        try: {}\n        except OSError: pass"
CODE = {
    "hangs": "import time\ntime.sleep(1e6)",
    "hangs-prepared-1": IN_ZYGOTE + "time.sleep(1e6 + 1)",
    "hangs-prepared-2": IN_ZYGOTE + "time.sleep(1e6 + 2)",
    "forks": IN_ZYGOTE + FOR_EVER.format("os.fork()"),
    "kills": "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass",
    "kills-prepared": IN_ZYGOTE + "if not os.fork():\n        os.setsid()\n    " + FOR_EVER.format("os.kill(-1, 9)"),
    "eats": IN_ZYGOTE + "kept = []\n    while True: kept.append(b'x' * (1 << 24))",
    "prints": IN_ZYGOTE + FOR_EVER.format("[os.write(fd, b'x' * (1 << 16)) for fd in (1, 2)]"),
    "writes": IN_ZYGOTE + "[os.write(fd, b'junk') for fd in (1, 2, 3)]; time.sleep(1e6)",
    "lies": IN_ZYGOTE + "os.write(3, b'ready'); os.fork() and os._exit(0); time.sleep(1e6)",
    "stops": IN_ZYGOTE
    + "if not os.fork():\n        os.setsid()\n        while True:\n            for pid in [int(name) for name in os.listdir('/proc') if name.isdigit()]:\n"
    + "                try: pid in (1, os.getpid()) or os.kill(pid, signal.SIGSTOP)\n                except OSError: pass",
}
"""Programs that its Python runs at its start, by a .pth file. There are fewer than zones, so each has a zone of its own."""
SCRIPTS = {
    "linked": "ln -sf /bin/true /usr/bin/python3",
    "scripted": "rm /usr/bin/python3; printf '#!/bin/sh\\nexec sleep 1000000\\n' > /usr/bin/python3; chmod +x /usr/bin/python3",
}
BUILD_S, CREATE_S = 240.0, 150.0
MOST_MIB = 2048 + 64
"""Of a group of a zygote."""
NEIGHBOUR_S = 29.0
"""Less than the first answer of a neighbour that a hostile template holds up: its creation waits for one of the server's time-outs, of which
the shortest is 30 s (``runtime/namespace/zygotes.py``). On a busy machine an answer may take most of that for lack of processors alone."""


def script_of(name: str) -> str:
    """What makes the code interpreter the hostile template."""
    if name in SCRIPTS:
        return SCRIPTS[name]
    place = "/usr/local/lib/hostile"
    code = CODE[name].replace("'", "'\\''")
    return (
        f"site=$(python3 -c 'import site; print(site.getsitepackages()[0])'); mkdir -p $site {place}; printf '%s' '{code}' > {place}/hostile_start.py; "
        f"printf '{place}\\nimport hostile_start\\n' > $site/zz-hostile.pth"
    )


class Neighbour:
    """A client that creates sandboxes of a stock template, one at a time, and notes the time to the first answer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.seconds: list[float] = []
        self.faults: list[str] = []

    def live(self) -> None:
        """Until told to stop."""
        while not self._stop.wait(0.2):
            began = time.monotonic()
            try:
                with Sandbox.create(timeout=120, request_timeout=60, **self._server.sdk) as sandbox:
                    if sandbox.run_code("6 * 7").text != "42":
                        self.faults.append("a wrong answer")
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
                self.faults.append(repr(error))
            self.seconds.append(round(time.monotonic() - began, 2))

    @contextlib.contextmanager
    def living(self) -> Iterator[None]:
        """While the block lasts."""
        thread = threading.Thread(target=self.live)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()


def timed(work: Callable[[], Any]) -> tuple[float, str]:
    """How long it took, and the error that it ended with."""
    began = time.monotonic()
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the outcome is what is looked at
        return time.monotonic() - began, f"{type(error).__name__}: {error}"
    return time.monotonic() - began, ""


@pytest.fixture(scope="module")
def hostile_server(stock_templates: None) -> Iterator[Server]:
    """A server that builds many at a time."""
    with running_server("--max-builds", "8", "--pool-size", "1") as server:
        yield server


@pytest.fixture(scope="module")
def built(hostile_server: Server) -> dict[str, tuple[str, float, str]]:
    """The hostile templates, all built at once beside a neighbour: name, how long it took, and the error."""
    server = hostile_server
    connection: dict[str, Any] = {"api_key": server.api_key, "api_url": server.url}
    names = {kind: new_name() for kind in (*CODE, *SCRIPTS)}

    def build(kind: str) -> tuple[str, float, str]:
        template = Template().from_template("code-interpreter-v1").run_cmd(script_of(kind), user="root")
        return (names[kind], *timed(lambda: Template.build(template, names[kind], cpu_count=1, memory_mb=1024, **connection)))

    neighbour = Neighbour(server)
    with neighbour.living(), ThreadPoolExecutor(len(names)) as threads:
        outcomes = dict(zip(names, threads.map(build, names), strict=True))
    print(json.dumps({"built": {kind: outcome[1:] for kind, outcome in outcomes.items()}, "neighbour": neighbour.seconds}))
    assert neighbour.faults == []
    assert max(neighbour.seconds) < NEIGHBOUR_S, neighbour.seconds
    return outcomes


def use(server: Server, name: str) -> None:
    """A sandbox of it, which runs a command."""
    with Sandbox.create(name, timeout=120, request_timeout=CREATE_S, **server.sdk) as sandbox:
        assert sandbox.commands.run("echo here", timeout=20).stdout == "here\n"


def test_trial_ends_in_time_with_a_clear_outcome(built: dict[str, tuple[str, float, str]]) -> None:
    """A build succeeds, or says what is wrong."""
    for kind, (_name, seconds, error) in built.items():
        assert seconds < BUILD_S * (1 + len(built) // 8), kind
        assert not error or "BuildException" in error, (kind, error)


def test_creations_end_and_neighbours_notice_nothing(hostile_server: Server, built: dict[str, tuple[str, float, str]]) -> None:
    """Sandboxes of hostile templates work or fail in bounded time; creations of others, all the while, are as quick as ever."""
    neighbour = Neighbour(hostile_server)
    wanted = [kind for kind, (_name, _seconds, error) in built.items() if not error for _ in range(2)] + ["stops", "lies"] * 4
    with neighbour.living(), ThreadPoolExecutor(len(wanted)) as threads:
        outcomes = list(zip(wanted, threads.map(lambda kind: timed(lambda: use(hostile_server, built[kind][0])), wanted), strict=True))
    print(json.dumps({"used": outcomes, "neighbour": neighbour.seconds}))
    assert neighbour.faults == []
    assert max(neighbour.seconds) < NEIGHBOUR_S, neighbour.seconds
    for kind, (seconds, _error) in outcomes:
        assert seconds < CREATE_S + 30, (kind, seconds)
    assert [(kind, error) for kind, (_seconds, error) in outcomes if error and kind not in ("stops", "kills-prepared")] == []
    assert not [error for _kind, (_seconds, error) in outcomes if "Errno" in error]


def test_what_zygotes_hold_is_bounded(hostile_server: Server, built: dict[str, tuple[str, float, str]]) -> None:
    """Memory and processes of each of their control groups, also of what they have started and left."""
    groups = list(Path("/sys/fs/cgroup").glob("memory/cloister/*/zone-*-kernel")) or list(
        Path("/sys/fs/cgroup").glob("cloister/*/zone-*-kernel")
    )
    assert groups
    for group in groups:
        limit = group / "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else group / "memory.max"
        assert int(limit.read_text()) <= MOST_MIB << 20
