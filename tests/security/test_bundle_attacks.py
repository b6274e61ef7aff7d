"""A bundle from elsewhere writes nothing outside of its trees, whatever it says, and a refused one leaves nothing behind."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import CloisterError, InvalidRequestError, NoCapacityError
from cloister.template.layers import LayerStore
from framework.bundles import KEY, LAYER, archive, described, entry, import_file, write_bundle

pytestmark = pytest.mark.root

_DIRECTORY = tarfile.DIRTYPE
_AGENT = f"agent/{KEY}.tar.gz"


class Victim:
    """A store beside a file of the host's that an attack may reach."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = LayerStore(root / "store")
        self.bundle = root / "hostile.bundle"
        (root / "secret").write_text("of the host")
        self._before = self._files()

    def _files(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in self.root.rglob("*"):
            if path != self.bundle and path.parent != self.store.root / "locks":
                status = path.lstat()
                found[str(path)] = (status.st_mode, status.st_nlink, status.st_size)
        return {name: status for name, status in found.items() if not (Path(name).is_dir())}

    def refuses(self, match: str, expected: str | None = None, error: type[CloisterError] = InvalidRequestError) -> None:
        """The import fails for this reason, and every file is as before."""
        with pytest.raises(error, match=match):
            import_file(self.bundle, self.store, expected)
        self.is_unchanged()

    def is_unchanged(self) -> None:
        """Nothing came into the store, and every file is as before."""
        assert self._files() == self._before
        assert not list((self.store.root / "layers").iterdir())
        assert not list((self.store.root / "tmp").iterdir())


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    """One, in a directory whose other files must stay as they are."""
    return Victim(tmp_path)


def _outside(root: str) -> dict[str, tuple[list[Any], str]]:
    return {
        "parent": ([entry("./../../../../secret", b"x")], "outside"),
        "parent at the end": ([entry("./..", kind=_DIRECTORY)], "outside"),
        "absolute": ([entry(f"{root}/secret", b"x")], "outside"),
        "other spelling": ([entry("./a", kind=_DIRECTORY), entry("./a/../b", b"x")], "outside"),
        "no directory": ([entry("./missing/b", b"x")], "outside"),
        "below a symlink": ([entry("./a", kind=tarfile.SYMTYPE, target=root), entry("./a/secret", b"x")], "outside"),
        "symlink replaces a directory": (
            [entry("./a", kind=_DIRECTORY), entry("./a", kind=tarfile.SYMTYPE, target=root), entry("./a/secret", b"x")],
            "twice",
        ),
        "through a symlink": ([entry("./a", kind=tarfile.SYMTYPE, target=f"{root}/secret"), entry("./a", b"x")], "twice"),
        "hard link": ([entry("./a", kind=tarfile.LNKTYPE, target=f"{root}/secret"), entry("./b", b"x")], "no file of its archive"),
        "hard link upwards": ([entry("./a", kind=tarfile.LNKTYPE, target="./../../../../secret")], "no file of its archive"),
        "hard link to a symlink": (
            [entry("./a", kind=tarfile.SYMTYPE, target=f"{root}/secret"), entry("./b", kind=tarfile.LNKTYPE, target="./a")],
            "no file of its archive",
        ),
    }


@pytest.mark.parametrize("name", _outside(""))
def test_bundle_cannot_write_outside_its_tree(victim: Victim, name: str) -> None:
    """By no name and no link."""
    entries, match = _outside(str(victim.root))[name]
    size = sum(len(content) for _, content in entries)
    write_bundle(victim.bundle, described(LAYER, archive(*entries), len(entries) + 1, size))
    victim.refuses(match)


@pytest.mark.parametrize(
    ("attacked", "match"),
    [
        (entry("./disk", kind=tarfile.BLKTYPE, devmajor=8), "kind"),
        (entry("./mem", kind=tarfile.CHRTYPE, devmajor=1, devminor=1), "is a device"),
        (entry("./fifo", kind=tarfile.FIFOTYPE), "kind"),
        (entry("./owner", b"", uid=70_000), "belongs to user"),
        (entry("./cap", b"", pax_headers={"SCHILY.xattr.security.capability": "x"}), "attribute"),
        (entry("./dir", kind=_DIRECTORY, pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"}), "attribute"),
        (entry("./sparse", b"", pax_headers={"GNU.sparse.major": "1"}), "attribute"),
        (entry("./long", b"", pax_headers={"SCHILY.xattr.user.overlay.opaque": "y" * 70_000}), "extended header has"),
    ],
    ids=lambda value: value[0].name if isinstance(value, tuple) else "",
)
def test_bundle_cannot_bring_devices_or_rights(victim: Victim, attacked: Any, match: str) -> None:
    """No device but a whiteout, no owner beyond a sandbox's ids, and no attribute that grants or redirects."""
    write_bundle(victim.bundle, described(LAYER, archive(attacked), 2, 0))
    victim.refuses(match)


@pytest.mark.parametrize(
    ("attacked", "match"),
    [
        (entry("./criu", b"#!", mode=0o4755), "setuid"),
        (entry("./criu", b"#!", mode=0o2755), "setgid"),
        (entry("./criu", b"#!", mode=0o777), "writable"),
        (entry("./criu", b"#!", uid=1000), "not root's"),
        (entry("./lib", kind=tarfile.SYMTYPE, target="/tmp"), "leads out"),
        (entry("./lib", kind=tarfile.SYMTYPE, target="../../x"), "leads out"),
        (entry("./lib", kind=tarfile.SYMTYPE, target="a/../../../x"), "leads out"),
    ],
)
def test_bundle_cannot_bring_a_program_that_others_can_change(victim: Victim, attacked: Any, match: str) -> None:
    """The tree of CRIU has files of root's alone, also in a bundle whose digest was expected."""
    digest = write_bundle(victim.bundle, described("criu.tar.gz", archive(attacked), 2, len(attacked[1])))
    victim.refuses(match, expected=digest)


def test_bundle_cannot_be_imported_unknown(victim: Victim) -> None:
    """Its templates and its agent would run for all teams: the administrator gives its digest, or says that it is trusted."""
    digest = write_bundle(victim.bundle, described(LAYER, archive(), 1, 0))
    with pytest.raises(InvalidRequestError, match=f"all teams.*sha256:{digest}.*--trust"):
        import_file(victim.bundle, victim.store, is_trusted=False)
    victim.is_unchanged()
    assert import_file(victim.bundle, victim.store, digest, is_trusted=False).new_trees == 1


@pytest.mark.parametrize("name", ["runsc", "criu.tar.gz"])
def test_bundle_cannot_have_root_run_its_programs_unknown(victim: Victim, name: str) -> None:
    """They are taken from a bundle whose digest the administrator gave."""
    row, packed = described(name, archive(), 1, 0)
    plain = {**row, "entries": 0, "content_bytes": 0, "stream_bytes": 0} if name == "runsc" else row
    write_bundle(victim.bundle, (plain, packed))
    victim.refuses("must be one that you know")


@pytest.mark.parametrize(
    ("claims", "match"),
    [
        ({"content_bytes": 1000}, "more entries or content"),
        ({"entries": 1}, "more entries or content"),
        ({"stream_bytes": 4096}, "unpacks to more"),
        ({"entries": 3}, "fewer entries"),
        ({"content_bytes": 1 << 43}, "unpack to"),
    ],
)
def test_bundle_cannot_unpack_to_more_than_it_says(victim: Victim, claims: dict[str, int], match: str) -> None:
    """Nor to more than there is room for."""
    content = bytes(1 << 20)
    write_bundle(victim.bundle, described(LAYER, archive(entry("./zeros", content)), 2, len(content), **claims))
    victim.refuses(match, error=NoCapacityError if max(claims.values()) > 1 << 40 else InvalidRequestError)


def test_bomb_cannot_hide_behind_the_end_of_an_archive(victim: Victim) -> None:
    """Zeros behind the last entry are refused before they are all unpacked."""
    write_bundle(victim.bundle, described(LAYER, archive() + bytes(64 << 20), 1, 0))
    victim.refuses("goes on behind its end")


@pytest.mark.parametrize("where", [700, -12_000, -1])
def test_changed_bundle_cannot_be_imported(victim: Victim, where: int) -> None:
    """One other byte, in the manifest, a part or the end of the file, is noticed before anything is unpacked."""
    write_bundle(victim.bundle, described(LAYER, archive(entry("./file", os.urandom(20_000))), 2, 20_000))
    content = bytearray(victim.bundle.read_bytes())
    content[where] ^= 1
    victim.bundle.write_bytes(content)
    victim.refuses("refused")


def test_another_part_cannot_take_the_place_of_one(victim: Victim) -> None:
    """A whole archive with another digest than the manifest's."""
    write_bundle(victim.bundle, described(LAYER, archive(entry("./file", b"evil")), 2, 4, sha256="00" * 32))
    victim.refuses("does not have the manifest's digest")


@pytest.mark.parametrize("size", [0, 100, 3000, 12_000])
def test_truncated_bundle_cannot_be_imported(victim: Victim, size: int) -> None:
    """At any place."""
    write_bundle(victim.bundle, described(LAYER, archive(entry("./file", os.urandom(20_000))), 2, 20_000))
    os.truncate(victim.bundle, size)
    victim.refuses("refused")


def test_another_bundle_cannot_pass_for_the_expected_one(victim: Victim) -> None:
    """Its own digests fit, but the administrator's does not."""
    digest = write_bundle(victim.bundle, described(LAYER, archive(entry("./file", b"good")), 2, 4))
    write_bundle(victim.bundle, described(LAYER, archive(entry("./file", b"evil")), 2, 4))
    victim.refuses("was expected", expected=f"sha256:{digest}")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda document: document["parts"].clear(), "does not name"),
        (lambda document: document["parts"].append(dict(document["parts"][0], name=_AGENT, layer=None)), "not in its place"),
        (lambda document: document["parts"][0].update(name="../../etc/cron.d/x.tar.gz"), "no part of a bundle"),
        (lambda document: document["parts"][0]["layer"].update(parent="../x"), "malformed parent"),
        (lambda document: document["parts"][0].update(size_bytes=-1), "out of range"),
        (lambda document: document.update(format=2), "format"),
        (lambda document: document.update(templates=[{"name": "../x"}]), "malformed"),
        (lambda document: document.update(machine="s390x"), "is for s390x"),
    ],
)
def test_manifest_cannot_lead_elsewhere(victim: Victim, change: Any, match: str) -> None:
    """Its names are those of parts, all parts are there, and no others."""
    write_bundle(victim.bundle, described(LAYER, archive(), 1, 0), change=change)
    victim.refuses(match)


def test_good_part_cannot_come_in_before_a_bad_one(victim: Victim) -> None:
    """All trees are unpacked before the first is published."""
    good = described(LAYER, archive(entry("./file", b"good")), 2, 4)
    bad = described(f"layers/{'cd' * 32}.tar.gz", archive(entry("./../x", b"evil")), 2, 4)
    write_bundle(victim.bundle, good, bad)
    victim.refuses("outside")


def test_bundle_cannot_replace_a_layer(victim: Victim) -> None:
    """A layer that the store has stays as it is, since its templates are in use."""
    write_bundle(victim.bundle, described(LAYER, archive(entry("./file", b"good")), 2, 4))
    import_file(victim.bundle, victim.store)
    write_bundle(victim.bundle, described(LAYER, archive(entry("./file", b"evil")), 2, 4))
    assert import_file(victim.bundle, victim.store).new_trees == 0
    assert (victim.store.rootfs(KEY) / "file").read_bytes() == b"good"
