"""kill -9 of either host process at bad moments. Running sandboxes continue, nothing leaks, and clients get true answers (I8, I10)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

from cloister.linux.cgroup import find_tree
from cloister.node.instance import INSTANCES, RUN_ROOT
from framework.inside import python
from framework.server import Server, end_killed_servers, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.slow]


def answers(sandbox: Sandbox, code: str, expected: str) -> None:
    """The sandbox gives this answer within a while."""
    deadline, last = time.monotonic() + 30, None
    while time.monotonic() < deadline:
        try:
            assert python(sandbox, code, timeout=10) == expected
        except SandboxException as error:
            last = error
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"no answer: {last!r}")


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("name", ["node", "api"])
def test_running_sandbox_survives(name: str, server: Server) -> None:
    """A sandbox keeps its state and answers after the process is killed; killing it afterwards works."""
    sandbox = Sandbox.create(timeout=300, **server.sdk)
    python(sandbox, "kept = 41")
    server.kill_child(name)
    answers(sandbox, "print(kept + 1)", "42")
    assert sandbox.is_running()
    assert sandbox.kill()
    assert not sandbox.is_running()


def test_frozen_sandbox_goes_on_after_the_death_of_who_froze_it(server: Server) -> None:
    """A supervisor that dies during a snapshot leaves a sandbox that stands still; the next one lets it go on."""
    sandbox = Sandbox.create(timeout=300, **server.sdk)
    python(sandbox, "kept = 41")
    groups = next(tree for tree in map(find_tree, range(INSTANCES)) if sandbox.sandbox_id in tree.names())
    groups.freeze(sandbox.sandbox_id, 10)
    assert groups.is_frozen(sandbox.sandbox_id)
    server.kill_child("node")
    answers(sandbox, "print(kept + 1)", "42")
    assert sandbox.kill()


@pytest.mark.parametrize("is_zone_dying", [False, True])
def test_frozen_zygote_ends_after_the_death_of_who_froze_it(is_zone_dying: bool) -> None:
    """A supervisor that dies while it ends a zygote, or a whole zone, leaves frozen processes. None of them stays."""
    with running_server() as server:
        sandbox = Sandbox.create(timeout=300, **server.sdk)
        python(sandbox, "kept = 41")
        groups = next(tree for tree in map(find_tree, range(INSTANCES)) if sandbox.sandbox_id in tree.names())
        frozen = next(name for name in groups.names() if name.endswith("-agent"))
        groups.freeze(frozen, 10)
        (zygote,) = (groups.directories(frozen).popitem()[1] / "cgroup.procs").read_text().split()
        if is_zone_dying:
            os.kill(int(Path(f"/proc/{zygote}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
        server.kill_child("node")
        another = Sandbox.create(timeout=300, **server.sdk)
        answers(another, "print(6 * 7)", "42")
        assert not lives(int(zygote))
        assert another.kill()
        if not is_zone_dying:
            answers(sandbox, "print(kept + 1)", "42")
            assert sandbox.kill()


def test_slot_maker_that_was_just_being_started_ends() -> None:
    """A supervisor may die before it records a new slot maker. The next supervisor ends that slot maker."""
    with running_server() as server:
        sandbox = Sandbox.create(timeout=300, **server.sdk)
        instance = next(number for number in range(INSTANCES) if sandbox.sandbox_id in find_tree(number).names())
        note = RUN_ROOT / str(instance) / "zones" / "0" / "zone.json"
        slot_maker = json.loads(note.read_text())["pid"]
        note.unlink()
        server.kill_child("node")
        answers(Sandbox.create(timeout=300, **server.sdk), "print(6 * 7)", "42")
        assert not lives(slot_maker)


@pytest.mark.parametrize("name", ["node", "api"])
def test_death_of_a_process_during_creations_and_runs(name: str) -> None:
    """Creations, runs and kills continue while the process is killed repeatedly. At the end there are no leftovers."""
    with running_server() as server:
        keeper = Sandbox.create(timeout=600, **server.sdk)
        python(keeper, "kept = 'yes'")
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                with contextlib.suppress(Exception):
                    sandbox = Sandbox.create(timeout=60, **server.sdk)
                    sandbox.run_code("import time; time.sleep(0.3); print(1)", timeout=10)
                    sandbox.kill()

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            time.sleep(random.uniform(0.5, 2.0))
            server.kill_child(name)
        stop.set()
        for thread in threads:
            thread.join()
        answers(keeper, "print(kept)", "yes")
        for listed in Sandbox.list(api_key=server.api_key, api_url=server.url).next_items():
            Sandbox.kill(listed.sandbox_id, api_key=server.api_key, api_url=server.url)
        time.sleep(1)
        server.census()


def test_expiry_does_not_need_the_api_process(server: Server) -> None:
    """A sandbox's lifetime ends although the api process was killed just before."""
    sandbox = Sandbox.create(timeout=4, **server.sdk)
    server.kill_child("api")
    time.sleep(6)
    assert not sandbox.is_running()
    server.census()


def test_sandboxes_live_through_a_restart_that_keeps_them() -> None:
    """With on_stop=keep a stop and a start of the whole server leave a sandbox as it was."""
    with running_server("--on-stop", "keep") as server:
        sandbox = Sandbox.create(timeout=600, **server.sdk)
        python(sandbox, "kept = 7")
        assert server.stop() == 0
        with running_server("--listen", server.url.removeprefix("http://"), data_dir=server.data_dir):
            answers(sandbox, "print(kept)", "7")


def test_launcher_killed_and_started_again_finds_its_sandboxes(server: Server) -> None:
    """Kill -9 of the launcher ends both processes and leaves the sandboxes; the next start adopts them."""
    with running_server() as first:
        sandbox = Sandbox.create(timeout=600, **first.sdk)
        python(sandbox, "kept = 7")
        children = [first.child("node"), first.child("api")]
        first.process.kill()
        first.process.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < deadline, "the launcher's children live on without it"
            time.sleep(0.05)
        end_killed_servers()  # as another test run does that starts now; it leaves alone what a live one still needs
        with running_server("--listen", first.url.removeprefix("http://"), data_dir=first.data_dir) as second:
            answers(sandbox, "print(kept)", "7")
            second.census()


def test_sandboxes_take_signals_that_their_server_ignores() -> None:
    """A script that starts the server in the background ignores interrupts. Programs inside do not inherit this."""
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        with running_server() as server:
            signal.signal(signal.SIGQUIT, signal.SIG_DFL)
            sandbox = Sandbox.create(timeout=60, **server.sdk)
            for _ in range(2):  # the second one may be forked from a zygote
                ignored = sandbox.commands.run("grep SigIgn /proc/self/status").stdout.split()[1]
                assert not int(ignored, 16) & 1 << (signal.SIGQUIT - 1)
                sandbox.kill()
                time.sleep(4)
                sandbox = Sandbox.create(timeout=60, **server.sdk)
    finally:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def test_a_stop_does_not_wait_for_what_is_only_being_prepared() -> None:
    """A server that is stopped at once ends its zygotes while they start, and does not wait until they are ready."""
    with running_server() as server:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20
