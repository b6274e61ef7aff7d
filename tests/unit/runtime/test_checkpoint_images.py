"""The changes to CRIU's images, and the manifest that says whether an image can be restored here."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.errors import RuntimeFailedError, UnavailableError
from cloister.runtime.namespace.checkpoint.images import adopt_tree, highest_pid
from cloister.runtime.namespace.checkpoint.manifest import MANIFEST, Manifest, cpu_features, digest_of, read_manifest
from cloister.runtime.namespace.checkpoint.mapped import MappedFile

_HEAD = b"\x19\x43\x56\x54magc"


def number(field: int, value: int) -> bytes:
    """A field with a number below 16384."""
    low = bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80, value >> 7])
    tag = field << 3
    return (bytes([tag]) if tag < 0x80 else bytes([tag & 0x7F | 0x80, tag >> 7])) + low


def message(field: int, content: bytes) -> bytes:
    """A field with a message."""
    return bytes([field << 3 | 2, len(content)]) + content


def write(path: Path, *entries: bytes) -> None:
    """An image of these entries."""
    path.write_bytes(_HEAD + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries))


def entries(path: Path) -> list[bytes]:
    """The entries of an image."""
    data, found = path.read_bytes()[len(_HEAD) :], []
    while data:
        size = struct.unpack("<I", data[:4])[0]
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of a tree of two processes, 1 and 2, where 2 has the threads 2 and 300."""
    write(tmp_path / "inventory.img", number(1, 2) + message(3, number(1, 7) + number(10, 55)))
    (tmp_path / "inventory.img").write_bytes((tmp_path / "inventory.img").read_bytes()[4:])  # it has one magic number only
    write(tmp_path / "pstree.img", *(
        number(1, 1) + number(2, 0) + number(3, 1) + number(4, 1) + number(5, 1),
        number(1, 2) + number(2, 1) + number(3, 2) + number(4, 1) + number(5, 2) + number(5, 300),
    ))  # fmt: skip
    for pid in (1, 2):
        write(tmp_path / f"ids-{pid}.img", number(9, 4) + number(10, 56) + number(11, 3))
        for kind in ("fs", "mm", "pagemap"):
            write(tmp_path / f"{kind}-{pid}.img", b"")
        write(tmp_path / f"core-{pid}.img", number(1, 1) + message(3, number(1, 1) + number(20, 5)) + message(5, b""))
    write(tmp_path / "userns-11.img", b"")
    write(tmp_path / "memfd.img", number(1, 9) + number(2, 300) + number(3, 300) + number(4, 1))
    return tmp_path


def test_pid_1_becomes_a_process_that_gets_orphans(image: Path) -> None:
    """It takes a number that is free, in every place that names it, and nothing else changes."""
    assert adopt_tree(image, 1) == 3
    first, second = entries(image / "pstree.img")
    assert first == number(1, 3) + number(2, 0) + number(3, 3) + number(4, 3) + number(5, 3)
    assert second == number(1, 2) + number(2, 3) + number(3, 2) + number(4, 3) + number(5, 2) + number(5, 300)
    assert not list(image.glob("*-1.img"))
    assert entries(image / "core-3.img") == [number(1, 1) + message(3, number(1, 1) + number(18, 1) + number(20, 5)) + message(5, b"")]
    assert entries(image / "core-2.img") == [number(1, 1) + message(3, number(1, 1) + number(20, 5)) + message(5, b"")]
    assert highest_pid(image) == 300


def test_a_tree_that_was_restored_before_keeps_its_numbers(image: Path) -> None:
    """Its first process is ordinary already."""
    names = {path.name for path in image.iterdir()} - {"userns-11.img"}
    assert adopt_tree(image, 2) == 2
    assert {path.name for path in image.iterdir()} == names


def test_the_image_asks_for_no_user_namespace(image: Path) -> None:
    """Every process is in the one that the restore runs in, and files in memory belong to its root."""
    adopt_tree(image, 1)
    assert entries(image / "ids-2.img") == entries(image / "ids-3.img") == [number(9, 4) + number(10, 55) + number(11, 3)]
    assert not list(image.glob("userns-*"))
    assert entries(image / "memfd.img") == [number(1, 9) + number(2, 0) + number(3, 0) + number(4, 1)]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xff\xff\x7f",
        b"\x02\x00\x00\x00\x08",
        b"\x01\x00\x00\x00\x80",
        b"\x02\x00\x00\x00\x1a\x7f",
        b"\x0b\x00\x00\x00\x08" + b"\xff" * 10,
    ],
)
def test_a_damaged_image_is_refused(image: Path, content: bytes) -> None:
    """Lengths and numbers that lead out of the file end in an error, whoever wrote them."""
    (image / "pstree.img").write_bytes(_HEAD + content)
    with pytest.raises(RuntimeFailedError):
        adopt_tree(image, 1)


def test_a_link_in_an_image_is_not_followed(image: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A dumper that was taken over could leave one."""
    target = tmp_path_factory.mktemp("host") / "file"
    target.write_bytes((image / "memfd.img").read_bytes())
    (image / "memfd.img").unlink()
    (image / "memfd.img").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        adopt_tree(image, 1)


@pytest.fixture
def written(image: Path) -> Manifest:
    """The manifest of the image, in its place."""
    files = [path for path in image.iterdir() if path.name != MANIFEST]
    made = Manifest(
        criu="4.2.1",
        features=cpu_features()[:3],
        trees=(str(image),),
        mapped=(MappedFile(mount_id=3, inode=4, tree=str(image), path="usr/lib/x"),),
        sandbox_id="i1",
        hostname="i1",
        boot_id="b",
        mem_mib=512,
        root=3,
        last_pid=300,
        clock_s=77,
        sizes={path.name: path.stat().st_size for path in files},
        digest=digest_of(image),
    )
    (image / MANIFEST).write_text(made.to_json())
    return made


def test_a_manifest_is_read_as_it_was_written(image: Path, written: Manifest) -> None:
    """And accepts its own image."""
    assert read_manifest(image) == written
    written.check(image)


def test_an_image_of_another_processor_is_refused(image: Path, written: Manifest) -> None:
    """The error names a feature that is lacking, and says what to do."""
    with pytest.raises(UnavailableError, match="has no avx9999") as refused:
        replace(written, features=(*written.features, "avx9999")).check(image)
    assert refused.value.hint == "resume it without its memory (memory=false)"


def test_an_image_whose_layer_is_gone_is_refused(image: Path, written: Manifest) -> None:
    """The error names the directory."""
    with pytest.raises(UnavailableError, match=r"a layer of its template is gone: /nowhere"):
        replace(written, trees=("/nowhere",)).check(image)


@pytest.mark.parametrize("change", ["larger", "other", "more", "fewer"])
def test_an_image_that_has_changed_is_refused(image: Path, written: Manifest, change: str) -> None:
    """By size, by content, by another file, and by one that is missing."""
    path = image / "mm-2.img"
    if change == "larger":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "other":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif change == "more":
        (image / "new.img").touch()
    else:
        path.unlink()
    with pytest.raises(UnavailableError, match="not those that were written"):
        written.check(image)


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"format": 99})])
def test_a_manifest_that_cannot_be_read_is_an_error(image: Path, text: str) -> None:
    """With the way out."""
    (image / MANIFEST).write_text(text)
    with pytest.raises(UnavailableError) as refused:
        read_manifest(image)
    assert refused.value.hint == "resume it without its memory (memory=false)"
