"""Attacks by images and their registries: on the host, on the company's network, on other teams' images, on the store."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.agent.build import image as image_operation
from cloister.errors import BuildError, InvalidRequestError
from framework.image_node import ImageNode, image_node
from framework.pretend_internet import PRIVATE_ADDRESS, PretendInternet
from framework.registry import PASSWORD, USER, Image, Registry, entry, layer, registry

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def hub(internet: PretendInternet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The attacker's registry."""
    with registry(internet, tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def node(internet: PretendInternet, hub: Registry) -> Iterator[ImageNode]:
    """One node for all attacks of this file."""
    with image_node(internet) as made:
        yield made


@pytest.mark.parametrize(
    ("attack", "entries"),
    [
        ("dotdot", [entry("../../../../../../{outside}/made", data=b"x")]),
        ("dots-inside", [entry("a/../../../../../../{outside}/made", data=b"x")]),
        ("link-then-file", [entry("way", tarfile.SYMTYPE, linkname="{outside}"), entry("way/made", data=b"x")]),
        ("link-then-whiteout", [entry("way", tarfile.SYMTYPE, linkname="{outside}"), entry("way/.wh.canary")]),
        ("link-then-opaque", [entry("way", tarfile.SYMTYPE, linkname="{outside}"), entry("way/.wh..wh..opq")]),
        ("hard-link", [entry("got", tarfile.LNKTYPE, linkname="../../../../../../{outside}/canary")]),
        ("hard-link-to-the-agent", [entry("got", tarfile.LNKTYPE, linkname=".cloister/agent/site/cloister/errors.py")]),
        ("through-proc", [entry("way", tarfile.SYMTYPE, linkname="/proc/1/root/{outside}"), entry("way/made", data=b"x")]),
        ("deep", [entry("d/" * 2040 + "made", data=b"x")]),
    ],
)
def test_image_cannot_touch_a_host_file(
    attack: str, entries: list[tuple[tarfile.TarInfo, bytes]], hub: Registry, node: ImageNode, tmp_path: Path
) -> None:
    """Whatever its layer names: it is refused, or what it names is in the image itself."""
    (tmp_path / "canary").write_text("canary")
    for member, _data in entries:
        member.name = member.name.replace("{outside}", str(tmp_path).lstrip("/"))
        member.linkname = member.linkname.replace("{outside}", str(tmp_path).lstrip("/") if ".." in member.linkname else str(tmp_path))
    hub.push("attack", attack, Image(layers=[layer(*entries), layer(entry("ok"))]))
    try:
        base = node.base(f"{hub.open}/attack:{attack}")
    except BuildError:
        pass
    else:
        assert node.run(base, f"cat {tmp_path}/canary got 2> /dev/null; echo end") == "end\n"
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert (tmp_path / "canary").read_text() == "canary"
    assert (tmp_path / "canary").stat().st_nlink == 1


def test_image_cannot_bring_a_device(hub: Registry, node: ImageNode) -> None:
    """No layer of the store has one but overlay's own whiteouts, and none can be opened inside."""
    devices = [entry("sda", tarfile.BLKTYPE, devmajor=8), entry("mem", tarfile.CHRTYPE, devmajor=1, devminor=1)]
    hub.push("devices", "1", Image(layers=[layer(*devices, entry("hidden", tarfile.CHRTYPE), entry("ok"))]))
    base = node.base(f"{hub.open}/devices:1")
    for key in base.layers:
        for path in node.node.store.rootfs(key).rglob("*"):
            assert not stat.S_ISBLK(path.lstat().st_mode)
            assert not stat.S_ISCHR(path.lstat().st_mode)
    assert node.run(base, "ls /ok; ls /sda /mem /hidden 2> /dev/null; true") == "/ok\n"


def test_image_cannot_fill_the_host_by_many_files(hub: Registry, node: ImageNode) -> None:
    """The template's disk has a number of files; the error says that it is full, and the store keeps nothing."""
    hub.push("many", "1", Image(layers=[layer(*(entry(f"{number % 100}/{number}") for number in range(50_001)))]))
    before = {path.name for path in (node.node.store.root / "layers").iterdir()}
    with pytest.raises(BuildError, match=r"does not fit: .*50\d\d\d files"):
        node.base(f"{hub.open}/many:1")
    assert {path.name for path in (node.node.store.root / "layers").iterdir()} == before


def test_image_cannot_have_entries_without_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not even of one name, which no disk would notice."""
    assert image_operation.MAX_ENTRIES <= 1_000_000
    path = tmp_path / "tar"
    path.write_bytes(layer(*[entry("same")] * 1001))
    with path.open("rb") as file, pytest.raises(InvalidRequestError, match="more than 1000 entries"):
        image_operation.Unpacker(tmp_path, max_entries=1000).unpack(file)


def test_image_cannot_poison_anothers_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A layer is unpacked only if its bytes have the digest by which others would find it."""
    (tmp_path / "blob").write_bytes(layer(entry("evil")))
    monkeypatch.setattr(image_operation, "_CONTEXT", tmp_path)
    honest = "sha256:" + hashlib.sha256(b"python").hexdigest()
    with pytest.raises(InvalidRequestError, match="damaged"):
        image_operation.run({"blob": "blob", "diff_id": honest})


def test_image_cannot_name_layers_that_it_does_not_have(hub: Registry, node: ImageNode) -> None:
    """Its configuration lies about what is in it: refused."""
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    hub.push("lie", "1", Image(layers=[layer(entry("x"))], diff_ids=[other]))
    with pytest.raises(BuildError):
        node.base(f"{hub.open}/lie:1")


def test_team_cannot_take_anothers_layers_by_their_digests(hub: Registry, node: ImageNode) -> None:
    """Knowing what a private image is made of does not give it away."""
    secret = layer(entry("secret", data=b"of team one"))
    hub.push("private", "1", Image(layers=[secret]))
    mine = node.base(f"{hub.closed}/private:1", username=USER, password=PASSWORD, team="one")
    assert node.run(mine, "cat /secret") == "of team one"
    known = "sha256:" + hashlib.sha256(secret).hexdigest()
    hub.push("thief", "1", Image(layers=[layer(entry("nothing"))], diff_ids=[known]))
    with pytest.raises(BuildError):
        node.base(f"{hub.open}/thief:1", team="two")
    with pytest.raises(BuildError):
        node.base(f"{hub.closed}/thief:1", username=USER, password=PASSWORD, team="two")


def test_registry_cannot_send_the_host_to_a_private_address(internet: PretendInternet, hub: Registry, node: ImageNode) -> None:
    """An image may say that its layers are elsewhere; there the policy of sandboxes holds."""
    hub.push("elsewhere", "1", Image(layers=[layer(entry("x"))], elsewhere=f"https://{PRIVATE_ADDRESS}:5000/v2/"))
    before = internet.packets(destination=PRIVATE_ADDRESS)
    with pytest.raises(BuildError):
        node.base(f"{hub.open}/elsewhere:1")
    assert internet.packets(destination=PRIVATE_ADDRESS) == before
    with image_node(internet, allow_private=(f"{PRIVATE_ADDRESS}/32",)) as allowed, pytest.raises(BuildError):
        allowed.base(f"{hub.open}/elsewhere:1")
    assert internet.packets(destination=PRIVATE_ADDRESS) > before  # so it would have gone there


_USERADD = b"""#!/bin/sh
cat /etc/ssl/certs/ca-certificates.crt > /of-the-host 2> /dev/null
for name; do :; done
echo "$name:x:1000:1000::/home/$name:/bin/sh" >> /etc/passwd
touch /ran
"""


def test_image_cannot_use_what_prepares_it(hub: Registry, node: ImageNode) -> None:
    """Its own useradd is run where there is no file of the host, and marks of overlayfs that it brings are dropped."""
    programs = ("sh", "cat", "touch", "ls")
    marks = {f"SCHILY.xattr.user.overlay.{name}": "y" for name in ("opaque", "metacopy", "redirect", "whiteout")}
    hub.push("useradd", "1", Image(layers=[layer(
        entry("bin", tarfile.DIRTYPE), entry("bin/busybox", data=Path("/bin/busybox").resolve().read_bytes(), mode=0o755),
        *(entry(f"bin/{name}", tarfile.SYMTYPE, linkname="busybox") for name in programs),
        entry("etc", tarfile.DIRTYPE, pax_headers=marks), entry("etc/passwd", data=b"root:x:0:0::/root:/bin/sh\n", pax_headers=marks),
        entry("usr/sbin/useradd", data=_USERADD, mode=0o755),
    )]))  # fmt: skip
    base = node.base(f"{hub.open}/useradd:1")
    trees = [node.node.store.rootfs(key) for key in base.layers]
    assert (trees[-1] / "ran").exists()
    assert (trees[-1] / "of-the-host").read_bytes() == b""
    for path in (path for tree in trees for path in (tree, *tree.rglob("*"))):
        assert [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user.overlay.")] == []
