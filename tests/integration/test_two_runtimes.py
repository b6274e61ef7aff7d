"""Two runtimes side by side in one supervisor: creation, adoption after a crash, sweep, census, stop. Neither touches the other's (I8)."""

from __future__ import annotations

import json
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.cluster.base import NodeClient, ends_of, live_sandboxes
from cloister.errors import InvalidRequestError, PermissionDeniedError
from cloister.ids import is_sandbox_id, new_sandbox_id
from cloister.linux.cgroup import CgroupTree, find_tree
from cloister.linux.process import start_ticks
from cloister.model.sandbox import SandboxRecord, SandboxRequest
from cloister.node.journal import Journal
from cloister.nodewire.requests import Kill, TakeSnapshot
from framework.two_runtimes import TwoRuntimes
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]
GUARDED, TIED = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


@pytest.fixture
def default() -> str:
    """The runtime for requests that name none."""
    return "namespace"


@pytest.fixture
def rules() -> dict[str, tuple[str, ...]]:
    """The operator's decisions about runtimes, as settings."""
    return {}


@pytest.fixture
def node(tmp_path: Path, stock_templates: None, default: str, rules: dict[str, tuple[str, ...]]) -> Iterator[TwoRuntimes]:
    """A node process that serves; at its end it is stopped, and nothing is left of it on the host."""
    made = TwoRuntimes(tmp_path, default, rules)
    made.start()
    yield made
    sandboxes = {name for name in groups_of(made).names() if is_sandbox_id(name)}
    assert made.end(signal.SIGTERM) == 0, made.log
    assert not sandboxes & groups_of(made).names()  # another server may have the instance number by now, and zones of its own
    assert not (Path(made.said["run_dir"]) / "fake").exists()
    census = made.census()
    assert census.returncode == 0, census.stdout


def groups_of(node: TwoRuntimes) -> CgroupTree:
    """The control groups of all sandboxes of the node."""
    return find_tree(node.said["instance"])


def is_alive(node: TwoRuntimes, record: SandboxRecord) -> bool:
    """Whether the process lives that the journal names, in the control group that bears the sandbox's name."""
    pids = groups_of(node).pids(record.sandbox_id)
    return bool(pids) and all(start_ticks(pid) is not None for pid in pids)


async def create(client: NodeClient, runtime: str | None, team: str = "") -> SandboxRecord:
    """A sandbox of the base template on a runtime."""
    request = SandboxRequest(sandbox_id=new_sandbox_id(), template="base", end_at=time.time() + 600, runtime=runtime, team_id=team)
    return await client.create(request)


def forget(node: TwoRuntimes, record: SandboxRecord) -> None:
    """Take a sandbox out of the journal: what is left of it on the host is a leftover then."""
    shutil.rmtree(node.data_dir / "node" / "sandboxes" / record.sandbox_id)
    (Path(node.said["run_dir"]) / "records" / f"{record.sandbox_id}.json").unlink()


async def test_a_request_chooses_its_runtime(node: TwoRuntimes) -> None:
    """By name, or the default; a name that the node does not know is refused, with the names that it knows."""
    async with node.client() as client:
        assert (await create(client, None)).runtime == "namespace"
        assert (await create(client, "namespace")).runtime == "namespace"
        assert (await create(client, "fake")).runtime == "fake"
        with pytest.raises(InvalidRequestError, match="'microvm' is not available") as refused:
            await create(client, "microvm")
        assert refused.value.hint == "available: namespace, gvisor, fake"


@pytest.mark.parametrize("default", ["fake"])
async def test_the_setting_chooses_the_default(node: TwoRuntimes, default: str) -> None:
    """A request without a runtime gets it. It can hand over no sandbox, so none is made ahead; the other one is still there by its name."""
    async with node.client() as client:
        assert (await create(client, None)).runtime == default
        assert (await create(client, "namespace")).runtime == "namespace"
        assert "made_ahead" not in (await client.ping()).creations
        assert len(await live_sandboxes(client)) == 2
    assert "cannot create a sandbox before its request" not in node.log


@pytest.mark.parametrize("rules", [{"forbidden_runtimes": ("fake", "gvisor"), "team_runtimes": (f"{GUARDED}=namespace", f"{TIED}=fake")}])
async def test_the_operator_decides_on_runtimes(node: TwoRuntimes) -> None:
    """A forbidden one is refused by name, also to a team that must have it, and is never what ``auto`` finds."""
    async with node.client() as client:
        assert (await create(client, "auto")).runtime == "namespace"
        assert (await create(client, None, GUARDED)).runtime == "namespace"
        for runtime, team in (("fake", ""), ("fake", GUARDED), (None, TIED), ("namespace", TIED)):
            with pytest.raises(PermissionDeniedError, match="forbidden the runtime 'fake'"):
                await create(client, runtime, team)
        assert len(await live_sandboxes(client)) == 2


async def test_each_sandbox_is_adopted_by_its_own_runtime(node: TwoRuntimes) -> None:
    """After kill -9 the next supervisor has both; the end of one leaves the other; both have host ids and addresses of their own."""
    async with node.client() as client:
        made = [await create(client, name) for name in ("namespace", "fake", "fake")]
        assert all(is_alive(node, record) for record in made)
    node.end(signal.SIGKILL)
    assert node.census().returncode == 0  # what lives without its supervisor is no leftover, whatever its runtime
    node.start()
    async with node.client() as client:
        found = {record.sandbox_id: record.runtime for record in await live_sandboxes(client)}
        assert found == {record.sandbox_id: record.runtime for record in made}
        assert all(is_alive(node, record) for record in made)
        made.append(await create(client, "namespace"))  # another zone may need a block: not the one that the fake runtime has
        blocks = {json.loads(note.read_text())["block"] for note in (Path(node.said["run_dir"]) / "fake").iterdir()}
        zones = {int(path.name) for path in (Path(node.said["run_dir"]) / "zones").iterdir()}
        assert len(blocks) == 1
        assert not blocks & zones
        assert await client.kill(Kill(made[1].sandbox_id))
        eventually(lambda: made[1].sandbox_id not in groups_of(node).names())
        assert all(is_alive(node, record) for record in (made[0], made[2], made[3]))
        assert await client.kill(Kill(made[0].sandbox_id))
        eventually(lambda: made[0].sandbox_id not in groups_of(node).names())
        assert {record.sandbox_id for record in await live_sandboxes(client)} == {made[2].sandbox_id, made[3].sandbox_id}
        assert node.census().returncode == 0


async def test_leftovers_of_both_are_swept_and_the_others_stay(node: TwoRuntimes) -> None:
    """Each runtime ends what it made and the journal does not know; a control group that no runtime claims is the node's to end."""
    async with node.client() as client:
        kept = [await create(client, name) for name in ("namespace", "fake")]
        lost = [await create(client, name) for name in ("namespace", "fake")]
    node.end(signal.SIGKILL)
    for record in lost:
        forget(node, record)
    groups_of(node).create("stray", None)
    census = node.census()
    assert census.returncode == 1
    for name in ("stray", *(record.sandbox_id for record in lost)):
        assert f"LEFT OVER control group {name}" in census.stdout
    node.start()
    assert all(is_alive(node, record) for record in kept)
    assert not {record.sandbox_id for record in lost} & groups_of(node).names()
    assert "stray" not in groups_of(node).names()
    assert f"fake sandbox {lost[1].sandbox_id}" in node.log
    assert node.census().returncode == 0
    async with node.client() as client:
        assert {record.sandbox_id for record in await live_sandboxes(client)} == {record.sandbox_id for record in kept}


async def test_a_runtime_without_a_capability_says_so(node: TwoRuntimes) -> None:
    """A snapshot of its sandbox is refused with what the runtime lacks, and the sandbox goes on."""
    async with node.client() as client:
        record = await create(client, "fake")
        with pytest.raises(InvalidRequestError, match="the runtime 'fake' cannot freeze a sandbox or read the disk of a sandbox"):
            await client.snapshot(TakeSnapshot(record.sandbox_id, str(uuid.uuid4()), "0" * 20, "team/name"))
        assert is_alive(node, record)


async def test_a_sandbox_of_an_unknown_runtime_ends(node: TwoRuntimes) -> None:
    """A release without its runtime notes the true cause of its end, and leaves nothing of it."""
    async with node.client() as client:
        record = await create(client, "fake")
    node.end(signal.SIGKILL)
    journal = Journal(node.data_dir / "node" / "sandboxes", Path(node.said["run_dir"]) / "records")
    entry = journal.entries().entries[0]
    journal.write(replace(entry.record, runtime="gone"), entry.runtime_state)
    node.start()
    async with node.client() as client:
        assert await live_sandboxes(client) == []
        ended = await ends_of(client, [record.sandbox_id])
        assert "runtime 'gone' is not available" in ended[0].message
    assert record.sandbox_id not in groups_of(node).names()


async def test_a_sandbox_that_two_runtimes_would_share_a_block_with_ends_alone(node: TwoRuntimes) -> None:
    """Its block of host ids belongs to the other runtime: it ends with the cause, and the others are adopted (I1)."""
    async with node.client() as client:
        kept, lost = [await create(client, name) for name in ("namespace", "fake")]
    node.end(signal.SIGKILL)
    journal = Journal(node.data_dir / "node" / "sandboxes", Path(node.said["run_dir"]) / "records")
    states = {entry.record.sandbox_id: entry for entry in journal.entries().entries}
    zone = int(next((Path(node.said["run_dir"]) / "zones").iterdir()).name)
    entry = states[lost.sandbox_id]
    assert entry.runtime_state is not None
    journal.write(entry.record, {**entry.runtime_state, "block": zone})
    node.start()
    async with node.client() as client:
        assert [record.sandbox_id for record in await live_sandboxes(client)] == [kept.sandbox_id]
        assert f"block {zone} of host ids belongs to the runtime 'namespace'" in (await ends_of(client, [lost.sandbox_id]))[0].message
    assert is_alive(node, kept)
    eventually(lambda: lost.sandbox_id not in groups_of(node).names())


async def test_a_runtime_that_cannot_stop_does_not_keep_the_rest(node: TwoRuntimes) -> None:
    """The other's sandboxes, the network and the control groups go. The stop says that it failed, and the next one removes the rest."""
    async with node.client() as client:
        made = [await create(client, name) for name in ("namespace", "fake")]
    obstacle = Path(node.said["run_dir"]) / "fake" / "0"
    obstacle.mkdir()
    assert node.end(signal.SIGTERM) != 0
    assert "Is a directory" in node.log
    assert not {record.sandbox_id for record in made} & groups_of(node).names()
    assert not Path(f"/sys/class/net/cl{node.said['instance']}up").exists()
    obstacle.rmdir()
    node.start()
