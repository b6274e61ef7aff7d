"""``COPY`` unpacks an archive as Docker does, into a tree of this test."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from cloister.agent.build.copy import Copy, source_base
from cloister.errors import InvalidArchiveError, InvalidRequestError
from cloister.protocol.archive import ArchiveReader

_OWNER = (os.getuid(), os.getgid())
_Tree = dict[str, str | None]
"""Path to content of a file, ``-> target`` of a symlink, None of a directory."""

_PROJECT: _Tree = {"app": None, "app/main.py": "main", "app/lib": None, "app/lib/a.py": "a", "app/link": "-> main.py", "readme": "read"}


def _archive(tree: _Tree, mode: int = 0o644, kind: str = "w") -> ArchiveReader:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=kind) as tar:  # type: ignore[call-overload]  # the mode is a parameter
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.mode = mode
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o750
                tar.addfile(info)
            elif content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
                tar.addfile(info)
            elif content.startswith("== "):
                info.type, info.linkname = tarfile.LNKTYPE, content[3:]
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content.encode()))
    made.seek(0)
    return ArchiveReader(made)


def _copy(tree: _Tree, source: str, target: Path, *, into: bool = False, mode: int | None = None) -> int:
    copy = Copy(base=source_base(source), target=str(target), into=into, owner=_OWNER, mode=mode)
    return copy.take(_archive(tree))


def _seen(root: Path) -> _Tree:
    found: _Tree = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = None if path.is_dir() else path.read_text()
    return found


@pytest.mark.parametrize(
    ("source", "base"),
    [
        ("app", "app"), ("app/", "app"), ("./app", "app"), ("app/../app/lib", "app/lib"), (".", "."), ("./", "."), ("*.py", "."),
        ("app/*.py", "app"), ("app/**/x.py", "app"), ("app/li[bx]/a", "app"), ("app/{a,b}", "app"), ("a?", "."), ("/app", "app"),
    ],
)  # fmt: skip
def test_source_is_the_part_before_the_first_wildcard(source: str, base: str) -> None:
    """The client has chosen the files; what is left is where their names begin."""
    assert source_base(source) == base


@pytest.mark.parametrize(
    ("source", "target", "into", "expected"),
    [
        ("readme", "x", False, {"x": "read"}),
        ("readme", "deep/er/x", False, {"deep": None, "deep/er": None, "deep/er/x": "read"}),
        ("readme", "x", True, {"x": None, "x/readme": "read"}),
        ("readme", ".", False, {"readme": "read"}),
        ("app/link", "x", False, {"x": "-> main.py"}),
        ("app/lib", "x", False, {"x": None, "x/a.py": "a"}),
        ("app/lib", "x", True, {"x": None, "x/a.py": "a"}),
        ("app/l*", "x", False, {"x": None, "x/main.py": "main", "x/lib": None, "x/lib/a.py": "a", "x/link": "-> main.py"}),
        (".", ".", False, _PROJECT),
    ],
    ids=["file", "parents", "into", "directory", "symlink", "tree", "tree-into", "pattern", "all"],
)
def test_what_goes_where(tmp_path: Path, source: str, target: str, into: bool, expected: _Tree) -> None:
    """A directory's content goes into the destination, a file to it or into it."""
    root = tmp_path / "root"
    root.mkdir()
    assert _copy(_PROJECT, source, root / target, into=into) > 0
    assert _seen(root) == expected


def test_absent_source_copies_nothing(tmp_path: Path) -> None:
    """A name that merely begins with the source's is another one."""
    assert _copy({"application": "x", "ap": "y"}, "app", tmp_path / "x") == 0
    assert _seen(tmp_path) == {}


def test_directories_are_merged_and_files_replaced(tmp_path: Path) -> None:
    """Existing files that are not in the archive stay; an existing directory keeps its mode."""
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    (root / "lib").chmod(0o701)
    (root / "lib" / "kept").write_text("kept")
    (root / "main.py").write_text("old")
    other = root / "other-name"
    other.hardlink_to(root / "main.py")
    _copy(_PROJECT, "app", root)
    assert _seen(root) == {
        "lib": None, "lib/a.py": "a", "lib/kept": "kept", "link": "-> main.py", "main.py": "main", "other-name": "old",
    }  # fmt: skip
    assert stat.S_IMODE((root / "lib").stat().st_mode) == 0o701


def test_symlinks_in_the_way(tmp_path: Path) -> None:
    """A symlink to a directory is gone through, also to one that is missing; one to a file is replaced, not written through."""
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "lib").symlink_to("real")
    (root / "precious").write_text("precious")
    (root / "main.py").symlink_to("precious")
    _copy(_PROJECT, "app", root)
    assert (root / "lib").readlink() == Path("real")
    assert (root / "real" / "a.py").read_text() == "a"
    assert (root / "precious").read_text() == "precious"
    assert not (root / "main.py").is_symlink()
    (root / "dangling").symlink_to("made/by/copy")
    _copy(_PROJECT, "readme", root / "dangling" / "readme")
    assert (root / "made" / "by" / "copy" / "readme").read_text() == "read"


@pytest.mark.parametrize(
    ("there", "source", "told"),
    [("main.py/x", "app", "is a directory"), ("lib", "app", "is no directory"), ("", "app/lib", "is no directory")],
    ids=["directory-for-file", "file-for-directory", "destination-is-a-file"],
)
def test_kinds_that_do_not_fit_are_errors(tmp_path: Path, there: str, source: str, told: str) -> None:
    """Neither a directory nor a file disappears because the other is copied over it."""
    path = tmp_path / "root" / there if there else tmp_path / "root"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("there")
    with pytest.raises(InvalidRequestError, match=told):
        _copy(_PROJECT, source, tmp_path / "root")
    assert path.read_text() == "there"


def test_modes(tmp_path: Path) -> None:
    """Modes are the archive's; one that is given is that of files, and of directories with the right to enter where it may be read."""
    _copy(_PROJECT, "app", tmp_path / "as-is")
    _copy(_PROJECT, "app", tmp_path / "given", mode=0o640)
    modes = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("as-is/lib/a.py", "as-is/lib", "given/lib/a.py", "given/lib")
    }
    assert modes == {"as-is/lib/a.py": 0o644, "as-is/lib": 0o750, "given/lib/a.py": 0o640, "given/lib": 0o750}
    assert stat.S_IMODE((tmp_path / "given").stat().st_mode) == 0o755
    late: _Tree = {"d/file": "1", "d": None}
    _copy(late, ".", tmp_path / "late")
    assert stat.S_IMODE((tmp_path / "late/d").stat().st_mode) == 0o750


def test_hard_links_are_kept(tmp_path: Path) -> None:
    """Two names of one file stay that; one whose first name is not in the source is refused."""
    tree: _Tree = {"out": "o", "app/a": "1", "app/b": "== app/a", "app/c": "== out"}
    with pytest.raises(InvalidRequestError, match="hard link 'app/c'"):
        _copy(tree, "app", tmp_path / "x")
    del tree["app/c"]
    _copy(tree, "app", tmp_path / "x")
    assert (tmp_path / "x/a").samefile(tmp_path / "x/b")


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    """An archive names nothing but what is below the destination."""
    with pytest.raises(InvalidArchiveError):
        _copy({"../x": "1"}, ".", tmp_path / "root")
    assert not (tmp_path / "x").exists()


def test_ten_thousand_files(tmp_path: Path) -> None:
    """Many small files arrive whole, and the digest is that of the archive."""
    tree: _Tree = {f"d{number % 100}/f{number}": str(number) for number in range(10_000)}
    reader = _archive(tree)
    copy = Copy(base=".", target=str(tmp_path / "root"), into=False, owner=_OWNER, mode=None)
    assert copy.take(reader) == 10_000
    assert (tmp_path / "root/d99/f9999").read_text() == "9999"
    assert len(reader.digest()) == 64
