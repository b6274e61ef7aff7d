"""A store from which templates come brings nothing but what the receiver expects, and a tree that is offered shows nothing of the host."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import CloisterError, InvalidRequestError, NoCapacityError, UnavailableError
from cloister.model.template import Template
from cloister.template.bundle.packing import UNPRIVILEGED, Tree, pack_tree
from cloister.template.layers import LayerStore
from cloister.template.transfer.offer import digest_of
from cloister.template.transfer.receiving import Readable, pull
from framework.bundles import KEY, LAYER, Entry, archive, described, entry

pytestmark = pytest.mark.root

_AGENT = f"agent/{KEY}.tar.gz"
_FILE = entry("./file", b"of the layer")


class _Endless:
    """A stream of zeros that counts what was read."""

    def __init__(self) -> None:
        self.bytes = 0

    def read(self, size: int, /) -> bytes:
        self.bytes += size
        return bytes(size)


class Sender:
    """A hostile store with one template."""

    def __init__(self, *rows: tuple[dict[str, Any], bytes]) -> None:
        self.archives = {row["sha256"]: packed for row, packed in rows}
        template = Template(template_id="base", name="base", build_id="b-1", layers=(KEY,), authors=())
        parts = [row for row, _ in rows]
        self.document: dict[str, Any] = {"format": 1, "version": "0", "machine": "x86_64", "is_build": False, "parts": parts}
        self.document["template"] = template.to_json()
        self.opened = 0
        self.stream: Callable[[bytes], Readable] = io.BytesIO

    def offer(self, name: str) -> bytes:
        """The document, whatever is asked for."""
        return json.dumps(self.document).encode()

    @contextlib.contextmanager
    def open(self, sha256: str, offset: int) -> Iterator[Readable]:
        """What the attack makes of the archive."""
        self.opened += 1
        yield self.stream(self.archives[sha256][offset:])


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    """An empty one."""
    return LayerStore(tmp_path / "store")


def _sender(*given: Entry, name: str = LAYER, **claims: Any) -> Sender:
    entries = given or (_FILE,)
    return Sender(described(name, archive(*entries), len(entries) + 1, sum(len(content) for _, content in entries), **claims))


def _refuses(store: LayerStore, sender: Sender, match: str, name: str = "base", error: type[CloisterError] = InvalidRequestError) -> None:
    """The pull fails for this reason, and the store has no trace of the template."""
    document = sender.offer(name)
    with pytest.raises(error, match=match):
        pull(sender, name, store, digest_of(document), document)
    for part in ("layers", "agent", "templates", "builds", "tmp"):
        assert not list((store.root / part).iterdir()), part


def test_the_layer_of_an_honest_sender_arrives(store: LayerStore) -> None:
    """The attacks below fail for their own reasons."""
    sender = _sender()
    document = sender.offer("base")
    assert pull(sender, "base", store, digest_of(document), document) == 1
    assert (store.rootfs(KEY) / "file").read_bytes() == b"of the layer"
    assert store.template("base").authors == ()


def test_sender_cannot_bring_another_template_than_expected(store: LayerStore) -> None:
    """Not by one changed byte of the offer."""
    sender = _sender()
    document = sender.offer("base")
    with pytest.raises(InvalidRequestError, match="was expected"):
        pull(sender, "base", store, digest_of(document), document + b" ")
    with pytest.raises(InvalidRequestError, match="too long"):
        pull(sender, "base", store, digest_of(document), document + b" " * (4 << 20))
    assert sender.opened == 0


def test_sender_cannot_replace_an_archive(store: LayerStore) -> None:
    """Bytes with another digest are dropped before any of them is unpacked, so that the next attempt begins anew."""
    sender = _sender()
    ((sha256, packed),) = sender.archives.items()
    other = _sender(entry("./file", b"of an attack"))
    sender.archives[sha256] = next(iter(other.archives.values()))[: len(packed)].ljust(len(packed), b"\0")
    _refuses(store, sender, "does not have the offer's digest")
    assert not list((store.root / "incoming").iterdir())


def test_sender_cannot_fill_the_disk(store: LayerStore) -> None:
    """It is not read beyond the size in the offer, and a size for which there is no room is refused before."""
    sender = _sender()
    zeros = _Endless()
    sender.stream = lambda _packed: zeros
    _refuses(store, sender, "does not have the offer's digest")
    assert zeros.bytes <= len(next(iter(sender.archives.values())))
    _refuses(store, _sender(size_bytes=1 << 43), "has", error=NoCapacityError)


def test_sender_cannot_keep_a_receiver_busy(store: LayerStore) -> None:
    """A byte for each connection ends the transfer, and is no reason to connect again."""
    sender = _sender()
    sender.stream = lambda packed: io.BytesIO(packed[:1])
    _refuses(store, sender, "cut off", error=UnavailableError)
    assert sender.opened == 1


def test_sender_cannot_write_outside_of_a_tree(store: LayerStore, tmp_path: Path) -> None:
    """The archive that the offer names is itself an attack."""
    link = entry("./a", kind=tarfile.SYMTYPE, target=str(tmp_path))
    _refuses(store, _sender(link, entry("./a/secret", b"x")), "outside")
    assert not (tmp_path / "secret").exists()
    assert not list((store.root / "incoming").iterdir())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"template": {"name": "other"}}, "and not of 'base'"),
        ({"template": {"has_memory": True}}, "stays on its node"),
        ({"template": {"layers": [KEY, "cd" * 32]}}, "other layers than its template"),
        ({"template": {"layers": []}}, "other layers than its template"),
        ({"machine": "vax"}, "this machine is"),
        ({"machine": "\033[2J"}, "is no word"),
        ({"format": 2}, "format is 2"),
        ({"parts": 1}, "malformed"),
    ],
)
def test_sender_cannot_lie_about_a_template(store: LayerStore, change: dict[str, Any], match: str) -> None:
    """Each claim is refused, also if its digest was trusted."""
    sender = _sender()
    changed = {**change, "template": {**sender.document["template"], **change.get("template", {})}}
    sender.document.update(changed)
    _refuses(store, sender, match)


@pytest.mark.parametrize(
    ("build_id", "authors", "match"),
    [("b-1", [], "no code of any team"), ("../templates/base", ["red"], "neither a stock template's name"), ("x" * 65, ["red"], "neither")],
)
def test_sender_cannot_pass_off_a_build(store: LayerStore, build_id: str, authors: list[str], match: str) -> None:
    """A team's build is no stock template, and its record is a file of its own."""
    sender = _sender()
    sender.document["is_build"] = True
    sender.document["template"].update(build_id=build_id, authors=authors)
    _refuses(store, sender, match, name=build_id)


def test_sender_cannot_bring_an_agent_or_a_program(store: LayerStore) -> None:
    """An agent's tree comes with the base template alone, and what root runs does not come at all."""
    layer = described(LAYER, archive(_FILE), 2, 12)
    sender = Sender(layer, described(_AGENT, archive(_FILE), 2, 12))
    sender.document["template"]["name"] = "other"
    _refuses(store, sender, "base template alone", name="other")
    _refuses(store, Sender(layer, described("criu.tar.gz", archive(_FILE), 2, 12)), "or programs")


def test_tree_cannot_show_files_of_the_host(tmp_path: Path) -> None:
    """Links are archived as links, wherever they lead."""
    secret = tmp_path / "secret"
    secret.write_text("of the host, which no template may have")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    for link, target in (("link", secret), ("deep/up", "../../secret"), ("directory", tmp_path), ("root", "/proc/1/root")):
        (tree / link).symlink_to(target)
    part = pack_tree(Tree(LAYER, tree), tmp_path / "packed", 0)
    assert part.entries == 6
    assert part.content_bytes == 0
    assert b"of the host" not in (tmp_path / "packed").read_bytes()


def test_tar_cannot_change_the_host(tmp_path: Path) -> None:
    """The program that reads a foreign tree may read, and has no other power of root."""
    tmp_path.chmod(0o700)
    secret = tmp_path / "secret"
    secret.write_text("readable\n")
    secret.chmod(0o600)
    attempts = "cat secret; echo x > secret; echo x > new; chown 0 secret; mknod device c 1 3; chroot /"
    script = f"{attempts}; grep -E 'Cap|NoNew' /proc/self/status"
    done = subprocess.run([*UNPRIVILEGED, "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert secret.read_text() == "readable\n"
    assert list(tmp_path.iterdir()) == [secret]
    content, *rows = done.stdout.splitlines()
    assert content == "readable"
    status = dict(row.split() for row in rows)
    assert {status[f"Cap{name}:"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {f"{1 << 2:016x}"}
    assert status["NoNewPrivs:"] == "1"
