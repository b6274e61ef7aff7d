"""The documents by which a sandbox is started on gVisor, and the names of saved ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cloister.model.resources import Limits
from cloister.protocol.init_document import InitDocument
from cloister.runtime.blocks import SLOTS_PER_BLOCK, Blocks
from cloister.runtime.gvisor.bootimages import BootImages, booted_spec, can_be_booted, key_of
from cloister.runtime.gvisor.bundle import config, global_flags
from cloister.runtime.gvisor.launch import choose_place
from cloister.runtime.gvisor.slots import Slots
from cloister.runtime.spec import AgentTree, SandboxSpec, Sharing


def _spec(**changes: object) -> SandboxSpec:
    document = InitDocument(sandbox_id="one", envs={"A": "1"}, access_token="secret", languages=("python",))
    spec = SandboxSpec(
        sandbox_id="one",
        sharing=Sharing(key="k"),
        directory=Path("/d"),
        layers=(Path("/l/1"), Path("/l/2")),
        agent=AgentTree((Path("/l/1"),), Path("/agent")),
        limits=Limits(),
        hostname="one",
        init_document=document.to_json(),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]  # each test gives fields of the right types


def test_a_sandbox_has_few_powers() -> None:
    """No capability over networks or mounts, ids of its own range alone, and no place but its own to write to."""
    document = config(_spec(), "/mnt", 5_000_000)
    for held in document["process"]["capabilities"].values():
        assert not {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_MKNOD", "CAP_DAC_READ_SEARCH"} & set(held)
    assert document["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 5_000_000, "size": 65_536}]
    assert all("ro" in mount["options"] for mount in document["mounts"] if mount["type"] == "bind")
    assert "secret" not in str(document)
    assert {"--network=sandbox", "--directfs=false", "--ignore-cgroups"} <= set(global_flags(Path("/runsc"), Path("/r")))


def test_an_image_is_named_by_all_that_must_be_equal() -> None:
    """Another client's facts do not change the name; another template, size, range of ids or release does."""
    base = key_of(_spec(), "v1", 1)
    theirs = InitDocument(sandbox_id="two", envs={"B": "2"}, access_token="other", ca_bundle="c", languages=("python",))
    assert key_of(_spec(sandbox_id="two", hostname="two", init_document=theirs.to_json()), "v1", 1) == base
    others = [
        key_of(_spec(), "v2", 1),
        key_of(_spec(), "v1", 2),
        key_of(_spec(), "v1", 1, ("java",)),
        key_of(_spec(layers=(Path("/l/1"),)), "v1", 1),
        key_of(_spec(limits=Limits(mem_mib=512)), "v1", 1),
        key_of(_spec(envs={"X": "1"}), "v1", 1),
        key_of(_spec(init_document=InitDocument(sandbox_id="one", workdir="/w").to_json()), "v1", 1),
    ]
    assert len({base, *others}) == len(others) + 1


def test_a_booted_sandbox_has_no_clients_facts() -> None:
    """Neither a token nor variables of a request are in an image."""
    booted = InitDocument.from_json(booted_spec(_spec(), "image", Path("/i")).init_document)
    assert (booted.sandbox_id, booted.access_token, booted.envs) == ("image", None, {})


@pytest.mark.parametrize("changes", [{"has_disk": True}, {"start_timeout_s": 5.0}, {"agent": None}])
def test_not_every_sandbox_begins_from_an_image(changes: dict[str, object]) -> None:
    """One with a disk, with a start command or without an agent begins cold."""
    assert can_be_booted(_spec())
    assert not can_be_booted(_spec(**changes))


def test_images_are_whole_and_few(tmp_path: Path) -> None:
    """An image that a failure or a crash cut off is never found, and the least recently used images go."""
    images = BootImages(tmp_path / "images")

    def fail(_directory: Path) -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - the one above
        images.make("torn", fail)
    assert images.find("torn") is None
    for number in range(8):
        images.make(str(number), lambda directory: (directory / "file").touch())
    assert images.find("0") is None
    assert images.find("7") == tmp_path / "images" / "7"
    (tmp_path / "images" / "9.partial").mkdir()
    BootImages(tmp_path / "images")
    assert not (tmp_path / "images" / "9.partial").exists()


def test_slots_of_a_block_share_their_ids() -> None:
    """A saved sandbox needs the ids that it had; the last slot of a block gives it back."""
    blocks = Blocks(1_000_000)
    slots = Slots(blocks, "gvisor")
    first, second = slots.take(), slots.take()
    assert (first, second) == (2, 3)
    assert slots.first_id(first) == slots.first_id(second) == slots.a_first_id()
    free = blocks.free()
    slots.free(first)
    slots.free(second)
    assert blocks.free() == free + 1
    for _ in range(SLOTS_PER_BLOCK + 1):
        last = slots.take()
    assert slots.first_id(last) != slots.first_id(first)


def test_a_place_hides_nothing_that_is_needed() -> None:
    """The directory at which files are mounted is above neither the bundle nor the program."""
    assert choose_place(Path("/run/x")) == "/mnt"
    assert choose_place(Path("/mnt/data/bundle"), Path("/media/runsc")) == "/opt"
