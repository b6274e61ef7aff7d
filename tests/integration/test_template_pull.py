"""A template goes from one store to another by the commands: the trees are equal, only missing ones go, and a cut transfer goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.template.agenttree import agent_tree
from cloister.template.garbage import GarbageCollector, TreesInUse
from cloister.template.layers import LayerStore
from cloister.template.stock import STOCK_NAMES
from cloister.template.transfer.offer import Offer, digest_of, read_offer
from cloister.template.transfer.packs import Packs
from framework.small_store import contents_of, make_small_store

pytestmark = [pytest.mark.root, pytest.mark.templates]

_COMMAND = f"{sys.executable} -m cloister.cli.main"


class _Machines:
    """A store with templates, an empty one, and a program in place of ssh, which runs its words on the first."""

    def __init__(self, root: Path) -> None:
        self.full = make_small_store(root / "full")
        self.empty = LayerStore(root / "empty")
        self.calls = root / "calls"
        self.ssh = root / "ssh"
        self.reach()

    def reach(self, after: str = "cat") -> None:
        """Let the program write the words it is given to a file, and pass the output of an archive through ``after``."""
        text = f"""#!/bin/sh
[ "$1" = -- ] || exit 9
shift 2
echo "$*" >> {self.calls}
case "$*" in *" send "*) "$@" --store-dir {self.full.root} | {after};; *) exec "$@" --store-dir {self.full.root};; esac
"""
        self.ssh.write_text(text)
        self.ssh.chmod(0o755)
        self.calls.write_text("")

    def sent(self) -> list[str]:
        """The words after ``send`` of each transfer of an archive."""
        return [line.partition(" send ")[2] for line in self.calls.read_text().splitlines() if " send " in line]

    def pull(self, *words: str, name: str = "base") -> subprocess.CompletedProcess[str]:
        """Run the command for the empty store."""
        command = [*_COMMAND.split(), "template", "pull", name, "--from", "peer", "--ssh", str(self.ssh), "--remote-command", _COMMAND]
        command += [*words, "--store-dir", str(self.empty.root)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def check_equal(self) -> None:
        """The second store has the template of the first, and nothing of the transfer is left."""
        template = self.full.template("base")
        assert self.empty.template("base").layers == template.layers
        for key in template.layers:
            assert contents_of(self.empty.rootfs(key)) == contents_of(self.full.rootfs(key))
            assert self.empty.layer(key).parent == self.full.layer(key).parent
        assert contents_of(agent_tree(self.empty.root, template)) == contents_of(agent_tree(self.full.root, template))
        assert not list((self.empty.root / "tmp").iterdir())
        assert not list((self.empty.root / "incoming").iterdir())


@pytest.fixture
def machines(stock_templates: None, tmp_path: Path) -> _Machines:
    """Two of them."""
    return _Machines(tmp_path)


def _digest(store: LayerStore) -> str:
    command = [*_COMMAND.split(), "template", "offer", "base", "--digest", "--store-dir", str(store.root)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_pulled_template_is_the_same(machines: _Machines) -> None:
    """Trees, records and the agent; its authors are no team. A second pull fetches nothing."""
    done = machines.pull("--expect-digest", _digest(machines.full))
    assert done.returncode == 0, done.stderr
    machines.check_equal()
    assert len(machines.sent()) == len(machines.full.template("base").layers) + 1
    assert machines.empty.template("base").authors == ()
    machines.reach()
    again = machines.pull("--trust")
    assert "0 trees were new" in again.stdout, again.stderr
    assert not machines.sent()


def test_only_missing_trees_are_fetched(machines: _Machines) -> None:
    """A layer that is there stays as it is."""
    template = machines.full.template("base")
    assert machines.pull("--trust").returncode == 0
    kept, *lost = template.layers
    before = machines.empty.rootfs(kept).stat().st_ino
    for key in lost:
        (machines.empty.root / "layers" / key).rename(machines.empty.root / f"lost-{key}")
    machines.reach()
    assert machines.pull("--trust").returncode == 0
    assert len(machines.sent()) == len(lost)
    assert machines.empty.rootfs(kept).stat().st_ino == before
    machines.check_equal()


def test_all_templates_come_by_one_command(machines: _Machines) -> None:
    """The base template first. A layer that two templates share comes once."""
    base = machines.full.template("base")
    for name in STOCK_NAMES[1:]:
        machines.full.write_template(replace(base, name=name, template_id=f"tpl{name.replace('-', '')}"))
    done = machines.pull("--trust", name="all")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines() if ": pulled" in line] == list(STOCK_NAMES)
    assert len(machines.sent()) == len(base.layers) + 1
    assert {one.name for one in machines.empty.templates()} == set(STOCK_NAMES)
    machines.check_equal()


def test_a_cut_transfer_goes_on(machines: _Machines) -> None:
    """The next attempt asks for the rest alone."""
    machines.reach("head -c 700")
    assert machines.pull("--trust").returncode != 0
    partial = next((machines.empty.root / "incoming").iterdir())
    assert partial.stat().st_size == 700
    assert not list((machines.empty.root / "layers").iterdir())
    machines.reach()
    assert machines.pull("--trust").returncode == 0
    assert f"{partial.name} --from-byte 700" in machines.sent()
    machines.check_equal()


def test_a_pull_says_what_failed(machines: _Machines) -> None:
    """The machine has no such template, another one than expected, or needs to be trusted first."""
    for words, name, match in (
        (("--trust",), "missing", "failed with exit code"),
        (("--expect-digest", f"sha256:{'0' * 64}"), "base", "was expected"),
        ((), "base", "must be one that you know"),
        (("--trust",), "../base", "no name of a stock template"),
        (("--expect-digest", f"sha256:{'0' * 64}"), "all", "for one template"),
    ):
        done = machines.pull(*words, name=name)
        assert done.returncode != 0
        assert match in done.stderr
    assert not list((machines.empty.root / "layers").iterdir())


def test_a_build_of_a_client_is_offered_with_its_authors(machines: _Machines, tmp_path: Path) -> None:
    """Its id names it. An offer does not change as long as its trees do not, and survives the loss of the archives."""
    base = machines.full.template("base")
    record = {**base.to_json(), "build_id": "1d9c7a40", "name": "mine", "authors": ["team-1"]}
    (machines.full.root / "builds" / "1d9c7a40.json").write_text(json.dumps(record))
    document = Packs(machines.full).offer("1d9c7a40")
    offer: Offer = read_offer(document, "1d9c7a40", digest_of(document))
    assert offer.is_build
    assert offer.template.authors == ("team-1",)
    assert {part.kind for part in offer.parts} == {"layers"}
    for path in (machines.full.root / "packed").iterdir():
        path.unlink()
    assert Packs(machines.full).offer("1d9c7a40") == document


def test_the_collector_removes_archives_that_were_not_used(machines: _Machines) -> None:
    """Those for others, and those whose transfer was given up."""
    Packs(machines.full).offer("base")
    (machines.full.root / "incoming").mkdir()
    (machines.full.root / "incoming" / ("0" * 64)).write_bytes(b"begun")
    collector = GarbageCollector(machines.full, lambda: TreesInUse(frozenset()))
    assert not [one for one in collector.collect(3600) if one.kind == "archives"]
    for path in [*(machines.full.root / "packed").iterdir(), *(machines.full.root / "incoming").iterdir()]:
        os.utime(path, (time.time() - 7200,) * 2)
    assert [one.kind for one in collector.collect(3600)] == ["archives"]
    assert not [*(machines.full.root / "packed").iterdir(), *(machines.full.root / "incoming").iterdir()]
