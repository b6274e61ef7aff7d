"""A compromised egress process: it has no rights on the host, on the server's files and on its processes, and it ends with its supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.errors import UnavailableError
from cloister.linux.netns import open_netns
from cloister.model.network import EgressPolicy, HeaderRule
from cloister.node import egress_process
from cloister.node.instance import RUN_ROOT
from framework import programs
from framework.egress_process_lab import NAMES, ONE, TWO, egress_config, egress_group, is_followed, router_namespace
from framework.server import Server
from framework.template_store import real_store
from framework.waiting import eventually

pytestmark = [pytest.mark.root]

_ATTACKER = Path(programs.__file__).with_name("egress_attacker.py")
_UID_FROM_API = 1
"""The egress uid follows the api uid."""
_REFUSALS = {"EACCES", "EPERM", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "ENOENT"}


def _attack(server: Server) -> dict[str, str]:
    claims = (RUN_ROOT / "instances").iterdir()
    run_dir = RUN_ROOT / next(claim.name for claim in claims if claim.read_text() == str(server.data_dir.resolve()))
    data, store = server.data_dir, real_store()
    targets = {
        "files": [str(data / "node" / "node_id"), str(data / "api" / "cloister.db"), "/etc/shadow"],
        "directories": [str(path) for path in (data / "node", data / "api", data, store, run_dir / "records", run_dir / "netns", run_dir)],
        "sockets": [str(run_dir / "supervisor.sock")],
        "ports": [server.url.rpartition(":")[2]],
        "pids": [str(pid) for pid in (server.child("node"), server.child("api"), os.getpid())],
    }
    uid = Path(f"/proc/{server.child('api')}").stat().st_uid + _UID_FROM_API
    near, far = socket.socketpair()
    netns = open_netns(run_dir / "netns" / "router")
    words = [str(uid), str(far.fileno()), str(netns), str(os.getpid()), "info", "json", json.dumps(targets)]
    with near, far:
        try:
            subprocess.run([sys.executable, "-P", str(_ATTACKER), *words], pass_fds=(far.fileno(), netns), cwd="/", check=True, timeout=60)
        finally:
            os.close(netns)
        return dict(json.loads(near.recv(1 << 20)))


@pytest.mark.templates
def test_egress_process_cannot_use_rights_of_the_host(server: Server) -> None:
    """Root, the server's files and sockets, its processes' memory, the host's own network and loopback: all refused."""
    told = _attack(server)
    assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (told["NoNewPrivs"], told["Groups"].strip()) == ("1", "")
    done = {name: outcome for name, outcome in told.items() if name.partition(" ")[0].islower() and outcome not in _REFUSALS}
    done.pop("descriptors")
    listable = {f"list {path}" for path in (server.data_dir, *RUN_ROOT.glob("[0-9]"))}
    assert not {name: outcome for name, outcome in done.items() if name not in listable}


def test_client_cannot_take_the_hosts_memory_by_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that needs more than its bound is ended and started again; it follows the other policies, and the large one is refused."""
    monkeypatch.setattr(egress_process, "_ANSWER_S", 3.0)
    rules = tuple(HeaderRule(host=f"{number}.example", headers={"a": "v" * 150_000}) for number in range(64))
    with contextlib.ExitStack() as stack:
        router, group = stack.enter_context(router_namespace(tmp_path)), stack.enter_context(egress_group(32))
        gate = stack.enter_context(contextlib.closing(egress_process.EgressProcess(egress_config(router, group))))
        gate.admit(1, ONE, "one", NAMES)
        with pytest.raises(UnavailableError):
            gate.admit(2, TWO, "two", EgressPolicy(public=True, rules=rules))
        assert group.memory_ends() > 0
        eventually(lambda: is_followed(router, ONE))
        assert not is_followed(router, TWO)
