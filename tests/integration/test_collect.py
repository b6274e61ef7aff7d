"""``cloister template gc`` on a store that servers use: what sandboxes stand on stays, also when no supervisor lives to hold it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b import Sandbox

from cloister.config.load import load
from cloister.template.agenttree import agent_tree
from cloister.template.layers import LayerStore
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def store(stock_templates: None) -> Iterator[LayerStore]:
    """A store with the base template alone, in separate directories, and an unused layer."""
    stock = LayerStore(load(None, os.environ).store_dir)
    base = stock.template("base")
    with tempfile.TemporaryDirectory(prefix="cloister-test-", dir=stock.root) as directory:
        made = LayerStore(Path(directory))
        for key in base.layers:
            subprocess.run(["cp", "-al", stock.root / "layers" / key, made.root / "layers" / key], check=True)  # directories of its own
        tree = agent_tree(stock.root, base)
        (made.root / "agent" / tree.name).symlink_to(tree)
        made.write_template(base)
        with made.workspace("f" * 64) as workspace:
            made.publish(workspace, "f" * 64, "nobodys", None, 0.0)
        yield made


def collect(server: Server, store: LayerStore) -> set[str]:
    """The layers that are left when all were used long ago."""
    for path in (store.root / "layers").iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    done = server.cli("template", "gc", env={"CLOISTER_STORE_DIR": str(store.root)})
    assert done.stdout.splitlines()[-1].startswith("removed ")
    return {path.name for path in (store.root / "layers").iterdir()}


def test_what_a_live_sandbox_stands_on_stays(store: LayerStore) -> None:
    """The layers' template is gone: they stay for a sandbox, with its supervisor and without, and go with the sandbox."""
    record = store.root / "templates" / "base.json"
    base = store.template("base")
    options = ("--store-dir", str(store.root), "--pool-templates", "", "--pool-size", "0")
    with running_server(*options) as first:
        sandbox = Sandbox.create(template="base", timeout=600, **first.sdk)
        text = record.read_text()
        record.unlink()
        assert collect(first, store) == set(base.layers)
        node = first.child("node")
        first.process.kill()
        first.process.wait()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{node}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert collect(first, store) == set(base.layers)
        record.write_text(text)
        with running_server("--listen", first.url.removeprefix("http://"), *options, data_dir=first.data_dir) as second:
            assert sandbox.commands.run("echo alive; ls /usr/bin | wc -l").stdout.startswith("alive")
            assert sandbox.kill()
            assert collect(second, store) == set(base.layers)
        record.unlink()
        assert collect(first, store) == set()
