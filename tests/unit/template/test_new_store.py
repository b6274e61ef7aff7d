"""A store on which the first templates are being built: whose agent its sandboxes run, and how far the build is."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cloister.errors import BuildError, TemplateNotFoundError
from cloister.model.template import STARTER, Template
from cloister.template.absence import told_absence
from cloister.template.agenttree import _tree_path, agent_template, agent_tree
from cloister.template.bootstrap import Bootstrap, fetch, unpack
from cloister.template.layers import LayerStore
from cloister.template.stock import load_stock, with_parents
from cloister.template.stockbuilder import layer_keys, stock_record


def publish(store: LayerStore, keys: tuple[str, ...]) -> None:
    """Layers of these keys, empty ones."""
    for key in keys:
        with store.workspace(key) as workspace:
            store.publish(workspace, key, "a/step", None, 1.0, size_bytes=1)


def record(store: LayerStore, name: str) -> Template:
    """A built template of that name, and its layers."""
    keys = layer_keys(load_stock(name), ())
    publish(store, tuple(key for key in keys if not store.has(key)))
    template = stock_record(load_stock(name), keys, "")
    store.write_template(template)
    return template


def test_the_first_layer_is_shared() -> None:
    """The next build does not make again what the starter's build has made."""
    assert layer_keys(load_stock(STARTER), ())[0] == layer_keys(load_stock("base"), ())[0]
    assert layer_keys(load_stock(STARTER), ())[1] != layer_keys(load_stock("base"), ())[1]


def test_the_agent_of_base_comes_first(tmp_path: Path) -> None:
    """That of the starter serves only until ``base`` is recorded; each tree is at a place of its own."""
    store = LayerStore(tmp_path)
    with pytest.raises(TemplateNotFoundError, match="'base' is not built"):
        agent_template(store)
    starter = record(store, STARTER)
    assert agent_template(store) == starter
    base = record(store, "base")
    assert agent_template(store) == base
    assert len({_tree_path(store.root, one) for one in (starter, base)}) == 2
    with pytest.raises(TemplateNotFoundError, match="not built for this version"):
        agent_tree(store.root, base)


def test_a_build_under_way_is_told_by_its_step(tmp_path: Path) -> None:
    """Of the template and those below it; nothing is told of templates that no living build makes."""
    store = LayerStore(tmp_path)
    name = "code-interpreter-v1"
    assert told_absence(store, name) == ""
    with store.builder_directory(with_parents(name)):
        assert store.wanted_by_builds() == {"base", name}
        assert told_absence(store, name) == "being built: step 1 of 10, Debian base system"
        publish(store, layer_keys(load_stock("base"), ()))
        assert told_absence(store, name) == "being built: step 5 of 10, R, Java and CJK fonts"
        assert told_absence(store, "base") == "being built: the last step is done"
        assert told_absence(store, "mcp-gateway") == ""
    assert told_absence(store, name) == ""
    assert store.wanted_by_builds() == set()


def fake_debootstrap(directory: Path, code: int) -> str:
    """A program that writes its arguments into the file after --make-tarball, or into the target."""
    program = directory / "debootstrap"
    lines = [
        "#!/bin/bash",
        "for word; do case $word in --make-tarball=*) out=${word#*=} ;; esac; done",
        'echo "$@" > "${out:-/dev/stdout}"',
    ]
    program.write_text("\n".join([*lines, f"exit {code}", ""]))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_packages_are_fetched_ahead_with_the_same_checks(tmp_path: Path) -> None:
    """The file appears when all of it is there, and the build unpacks it in place of the mirror."""
    keyring = tmp_path / "keyring"
    keyring.touch()
    step = load_stock("base").steps[0]
    bootstrap = Bootstrap(mirror="http://mirror.test/debian", debootstrap=fake_debootstrap(tmp_path, 0), keyring=keyring)
    fetch(tmp_path / "system.tgz", step, bootstrap, lambda _: None)
    words = (tmp_path / "system.tgz").read_text().split()
    assert {"--force-check-gpg", f"--keyring={keyring}", "--include=ca-certificates,locales,python3", "trixie"} <= set(words)
    assert "--foreign" not in words
    output: list[bytes] = []
    failing = Bootstrap(
        mirror="http://mirror.test/debian", debootstrap=fake_debootstrap(tmp_path, 1), keyring=keyring, tarball=tmp_path / "system.tgz"
    )
    with pytest.raises(BuildError, match="exit code 1"):
        unpack(tmp_path / "tree", step, failing, output.append)
    assert {"--foreign", f"--unpack-tarball={tmp_path}/system.tgz"} <= set(b"".join(output).decode().split())
    with pytest.raises(BuildError, match="exit code 1"):
        fetch(tmp_path / "other.tgz", step, failing, output.append)
    assert not (tmp_path / "other.tgz").exists()
