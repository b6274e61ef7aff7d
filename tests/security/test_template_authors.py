"""The author of a public template, whose code runs where sandboxes are prepared, against teams that use the template or build on it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Template
from e2b_code_interpreter import Sandbox

from cloister.cluster.base import NodeClient, reserve_id
from cloister.model.sandbox import SandboxRequest
from cloister.nodewire.requests import Kill
from framework.inside import python
from framework.node_peer import NodePeer
from framework.server import Server, running_server
from framework.starts import creation_of
from framework.template_requests import new_name
from framework.waiting import eventually
from framework.zones import entry_of, outsiders_of

pytestmark = [pytest.mark.root, pytest.mark.templates]

SPY = Path(__file__).parents[1] / "framework" / "programs" / "spying_zygote.py"
EQUAL = """
import ctypes, os, struct, sys
pid, permitted, libc = sys.argv[1], int(sys.argv[2], 16), ctypes.CDLL(None)
libc.setns(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY), 0)
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
low, high = permitted & 0xFFFFFFFF, permitted >> 32
libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", low, low, 0, high, high, 0))
print("root of the zone", end=": ")
try:
    print(open(f"/proc/{pid}/maps").read())
except PermissionError:
    print("refused")
"""
"""Reads the memory map of a process as the same user with the same capabilities."""
OURS = {"slot maker", "agent zygote"}
PRELOADED = "/usr/lib/preloaded.so"
LOOKS = 3
"""So many times the author's helper has looked into every sandbox that it can enter."""


@dataclass(frozen=True)
class Authors:
    """A server with the author's public template, and another team that uses it."""

    server: Server
    template: str
    """Its id, which any team may use."""
    build_id: str
    user_key: str

    @property
    def user(self) -> dict[str, Any]:
        """Keyword arguments that make the SDK the other team's."""
        return {**self.server.sdk, "api_key": self.user_key}


@pytest.fixture(scope="module")
def authors(stock_templates: None) -> Iterator[Authors]:
    """The author's code runs in the kernel zygote of its template by a .pth file, and in processes that load its files."""
    program = base64.b64encode(SPY.read_bytes()).decode()
    script = (
        "site=$(python3 -c 'import site; print(site.getsitepackages()[0])'); mkdir -p $site /usr/local/lib/spy; "
        f"echo {program} | base64 -d > /usr/local/lib/spy/spying_zygote.py; printf '/usr/local/lib/spy\\nimport spying_zygote\\n' > $site/zz-spy.pth; "
        f"cp $(ls /usr/lib/x86_64-linux-gnu/libz.so.1* | head -n 1) {PRELOADED}; echo {PRELOADED} > /etc/ld.so.preload"
    )
    with running_server("--pool-size", "1") as server:
        template = Template().from_template("code-interpreter-v1").run_cmd(script, user="root")
        built = Template.build(template, new_name(), cpu_count=1, memory_mb=512, api_key=server.api_key, api_url=server.url)
        answer = httpx.patch(f"{server.url}/v2/templates/{built.template_id}", json={"public": True}, headers={"X-API-Key": server.api_key})
        assert answer.status_code == 200, answer.text
        yield Authors(server, built.template_id, built.build_id, server.cli("key", "create", "spied", "--team", "spied").stdout.strip())


@pytest.fixture
def spy(authors: Authors) -> Iterator[Sandbox]:
    """A sandbox of the author's own, forked, in which the helper leaves what it finds: the attack itself works."""
    with Sandbox.create(authors.template, timeout=300, **authors.server.sdk) as sandbox:
        assert creation_of(authors.server, sandbox)["cold"] == []
        sandbox.files.write("/home/user/secret.txt", "the author's own")
        eventually(lambda: "the author's own" in loot(sandbox)["secrets"], 30)
        yield sandbox


def loot(sandbox: Sandbox) -> dict[str, Any]:
    """What the helper has left."""
    found: dict[str, Any] = {"looks": 0, "secrets": [], "neighbours": {}}
    if sandbox.files.exists("/tmp/stolen.json"):
        found = json.loads(sandbox.files.read("/tmp/stolen.json"))
    return found


def look_again(spy: Sandbox) -> dict[str, Any]:
    """The helper's findings of a full search that starts now."""
    before = loot(spy)["looks"]
    eventually(lambda: loot(spy)["looks"] >= before + LOOKS, 30)
    return loot(spy)


def assert_spared(authors: Authors, victim: Sandbox, spy: Sandbox) -> None:
    """The helper finds no process of the victim and leaves none there. Only the server's own processes run beside it."""
    secret = f"of {victim.sandbox_id}"
    victim.files.write("/home/user/secret.txt", secret)
    assert python(victim, "print(6 * 7)") == "42"
    assert secret not in look_again(spy)["secrets"]
    assert not victim.files.exists("/tmp/stolen.json")
    assert {one.kind for one in outsiders_of(authors.server, victim)} <= OURS
    assert zone_of(authors.server, victim.sandbox_id) != zone_of(authors.server, spy.sandbox_id)


def zone_of(server: Server, sandbox_id: str) -> int:
    """The number of its zone."""
    return int(entry_of(server, sandbox_id)["runtime"]["zone"])


def test_author_cannot_read_a_sandbox_of_another_team(authors: Authors, spy: Sandbox) -> None:
    """A team uses the public template twice: the first sandbox is made for it, the second may have been made ahead."""
    for _ in range(2):
        with Sandbox.create(authors.template, timeout=120, **authors.user) as victim:
            assert_spared(authors, victim, spy)


def test_author_cannot_read_a_sandbox_of_a_template_built_upon_theirs(authors: Authors, spy: Sandbox) -> None:
    """The code came with the base. Neither the author's processes nor copies of them in the team's zone see the sandbox."""
    template = Template().from_template(authors.template).run_cmd("touch /derived", user="root")
    built = Template.build(template, new_name(), cpu_count=1, memory_mb=512, api_key=authors.user_key, api_url=authors.server.url)
    with Sandbox.create(built.template_id, timeout=120, **authors.user) as victim:
        assert victim.files.exists("/derived")
        assert_spared(authors, victim, spy)


def test_author_cannot_read_a_sandbox_of_a_snapshot_of_theirs(authors: Authors, spy: Sandbox) -> None:
    """A snapshot of a sandbox of the author's template is another team's, and holds the author's code still."""
    with Sandbox.create(authors.template, timeout=120, **authors.user) as sandbox:
        snapshot = sandbox.create_snapshot()
    with Sandbox.create(snapshot.snapshot_id, timeout=120, **authors.user) as victim:
        assert_spared(authors, victim, spy)


def test_teams_of_one_image_cannot_meet_in_a_zone(authors: Authors) -> None:
    """Each team's own template of the same layers is prepared, and its sandboxes made ahead, in a zone of the team's own."""
    zones = []
    for team in (authors.server.sdk, authors.user):
        same = Template().from_template("base")
        built = Template.build(same, new_name(), cpu_count=1, memory_mb=512, api_key=team["api_key"], api_url=authors.server.url)
        with Sandbox.create(built.template_id, timeout=60, **team) as sandbox:
            zones.append(zone_of(authors.server, sandbox.sandbox_id))
    assert len(set(zones)) == 2


def test_template_cannot_touch_the_servers_processes_beside_it(authors: Authors, spy: Sandbox) -> None:
    """Code in the kernel zygote, all powerful in the sandboxes of its team, cannot see, signal, trace or read slot maker and agent zygote."""
    attacked = look_again(spy)["neighbours"]
    beside = [one for one in outsiders_of(authors.server, spy) if one.kind in OURS]
    assert {one.kind for one in beside} == OURS
    assert {one.kind: attacked[str(one.number)] for one in beside} == {kind: [] for kind in OURS}


def test_root_of_a_sandbox_cannot_trace_what_makes_it(authors: Authors, spy: Sandbox) -> None:
    """A process in the sandbox's user namespace briefly shares memory of slot maker and zygotes. None is dumpable.

    A process that is its equal in every other respect stands for that one.
    """
    for one in outsiders_of(authors.server, spy):
        if one.kind in OURS:
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{one.pid}/status").read_text().splitlines() if ":\t" in line)
            command = [sys.executable, "-c", EQUAL, str(one.pid), status["CapPrm"]]
            read = subprocess.run(command, capture_output=True, text=True, check=True)
            assert read.stdout == "root of the zone: refused\n", one


def test_template_cannot_run_code_in_the_agent_zygote(authors: Authors, spy: Sandbox) -> None:
    """The loader follows a file of the template in the template's own processes, but in none of the server's."""
    assert PRELOADED in python(spy, "print(open('/proc/self/maps').read())")
    looked_at = set()
    for one in outsiders_of(authors.server, spy):
        try:
            maps = Path(f"/proc/{one.pid}/maps").read_text()
        except (FileNotFoundError, ProcessLookupError):  # a process of the template, such as an unfit zygote, that ended meanwhile
            assert one.kind == "template", one
            continue
        assert (PRELOADED in maps) == (one.kind == "template"), one
        looked_at.add(one.kind)
    assert looked_at >= OURS


def test_api_process_cannot_give_a_team_what_was_made_ahead_for_the_author(authors: Authors, spy: Sandbox) -> None:
    """It reserves a sandbox in the author's zone, and creates with its id for another team. The server creates a new one elsewhere."""
    author = entry_of(authors.server, spy.sandbox_id)["record"]["team_id"]

    async def steal(node: NodeClient) -> str:
        while True:
            sandbox_id = await reserve_id(node, authors.build_id, author)
            if (authors.server.data_dir / "node" / "sandboxes" / sandbox_id).exists():
                break
            await asyncio.sleep(0.1)
        assert zone_of(authors.server, sandbox_id) == zone_of(authors.server, spy.sandbox_id), "the attack itself works"
        await node.create(SandboxRequest(sandbox_id=sandbox_id, template=authors.build_id, end_at=time.time() + 60, team_id="spied"))
        return sandbox_id

    peer = NodePeer(authors.server)
    sandbox_id = peer.call(lambda node: asyncio.wait_for(steal(node), 60))
    assert zone_of(authors.server, sandbox_id) != zone_of(authors.server, spy.sandbox_id)
    peer.call(lambda node: node.kill(Kill(sandbox_id)))


def groups_of(sandbox_id: str) -> list[Path]:
    """The control groups of a sandbox, of every controller."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob(f"*/cloister/*/{sandbox_id}"), *root.glob(f"cloister/*/{sandbox_id}")]


def stowed_in(server: Server, sandbox: Sandbox) -> set[int]:
    """Processes in the sandbox's control groups that are not in its namespaces; the helper puts them there beside the creation."""
    inside = {int(pid) for group in groups_of(sandbox.sandbox_id) for pid in (group / "cgroup.procs").read_text().split()}
    return inside & {one.pid for one in outsiders_of(server, sandbox)}


def test_template_cannot_leave_a_process_in_the_group_of_a_sandbox_that_ended(authors: Authors, spy: Sandbox) -> None:
    """A helper that hides in a sandbox's control group ends with the sandbox. No object of the sandbox stays."""
    with Sandbox.create(authors.template, timeout=60, **authors.server.sdk) as sandbox:
        assert python(sandbox, "print(6 * 7)") == "42"
        assert creation_of(authors.server, sandbox)["cold"] == []
        stowed = eventually(lambda: stowed_in(authors.server, sandbox), 30)  # the attack itself works
    eventually(lambda: not groups_of(sandbox.sandbox_id), 30)
    assert not any(Path(f"/proc/{pid}").exists() for pid in stowed)
    assert "sandbox.release_failed" not in authors.server.log.read_text()


def test_template_cannot_outlive_its_zygote(authors: Authors, spy: Sandbox) -> None:
    """When the kernel zygote ends, all that it has left behind ends before there is another; sandboxes are made meanwhile."""
    left = [one for one in outsiders_of(authors.server, spy) if one.kind == "template"]
    assert len(left) > 1, "the attack itself works"
    own = [one.pid for one in left if "/zone-" in Path(f"/proc/{one.pid}/cgroup").read_text()]
    os.kill(min(left, key=lambda one: one.number).pid, signal.SIGKILL)

    def is_over() -> bool:
        with Sandbox.create(authors.template, timeout=60, **authors.server.sdk) as sandbox:
            assert python(sandbox, "print(6 * 7)") == "42"
        return not any(Path(f"/proc/{pid}").exists() for pid in own)

    eventually(is_over, 60)
