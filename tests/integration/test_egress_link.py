"""The egress process as the supervisor has it: started on first need, told all policies again after a death, ended with the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cloister.linux.cgroup import find_tree
from cloister.model.network import EgressPolicy
from cloister.network.gate import TCP_PORT
from cloister.node.egress_process import EgressProcess
from framework import egress_process_lab
from framework.egress_process_lab import GATEWAY, NAMES, ONE, TWO, egress_config, egress_group, is_followed, router_namespace
from framework.network_lab import Namespace
from framework.waiting import eventually

pytestmark = pytest.mark.root


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Namespace]:
    """A namespace in the router's place."""
    with router_namespace(tmp_path) as made:
        yield made


@pytest.fixture
def gate(router: Namespace) -> Iterator[EgressProcess]:
    """The supervisor's side."""
    with egress_group() as group, contextlib.closing(EgressProcess(egress_config(router, group))) as made:
        yield made


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_it_starts_on_first_need_and_follows_each_policy(router: Namespace, gate: EgressProcess) -> None:
    """No process runs before the first policy; a policy is followed when ``admit`` returns, until ``forget``."""
    gate.forget(1)
    assert gate.pid is None
    gate.admit(1, ONE, "one", NAMES)
    assert is_followed(router, ONE)
    assert not is_followed(router, TWO)
    gate.forget(1)
    assert not is_followed(router, ONE)


def test_a_new_process_gets_all_policies(router: Namespace, gate: EgressProcess) -> None:
    """After a death the next process follows the policies of all sandboxes, and accepts connections again."""
    gate.admit(1, ONE, "one", NAMES)
    gate.admit(2, TWO, "two", NAMES)
    dead = gate.pid
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    eventually(lambda: gate.pid not in (None, dead))
    eventually(lambda: is_followed(router, ONE) and is_followed(router, TWO))
    with router.open_socket() as sock:
        sock.connect((GATEWAY, TCP_PORT))
    gate.admit(1, ONE, "one", EgressPolicy(public=True, names=("evil.example",)))
    assert not is_followed(router, ONE)


def test_its_records_reach_the_supervisor(router: Namespace, gate: EgressProcess) -> None:
    """A refused question is recorded, with its sandbox and name."""
    gate.admit(1, ONE, "one", NAMES)
    assert is_followed(router, ONE)
    (record,) = eventually(lambda: gate.take_records()[0])
    assert (record.sandbox_id, record.name, record.verdict) == ("one", "evil.example", "refused")


def test_it_ends_with_its_supervisor(router: Namespace) -> None:
    """A supervisor that is killed takes the process with it, and a closed one too."""
    code = f"""
import sys
from pathlib import Path
from types import SimpleNamespace
from framework.egress_process_lab import NAMES, ONE, egress_config, egress_group
from cloister.node.egress_process import EgressProcess
with egress_group() as group:
    gate = EgressProcess(egress_config(SimpleNamespace(path=Path({str(router.path)!r})), group))
    gate.admit(1, ONE, "one", NAMES)
    print(gate.pid, flush=True)
    sys.stdin.read()
    gate.close()
"""
    environ = {**os.environ, "PYTHONPATH": str(Path(egress_process_lab.__file__).parents[1])}
    for end in ("killed", "closed"):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as supervisor:
            assert supervisor.stdout is not None
            pid = int(supervisor.stdout.readline())
            if end == "killed":
                supervisor.kill()
            supervisor.communicate()
        eventually(partial(_is_gone, pid))
        find_tree(10_000 + supervisor.pid).remove_all()
