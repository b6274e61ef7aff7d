"""Files that say who a sandbox is, seen from the host: its own above whatever its template has in their places."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.config.load import load
from cloister.config.settings import Settings
from cloister.model.resources import Limits
from cloister.network.dns_relay import host_nameservers
from cloister.node.catalog import Catalog
from cloister.node.host import NodeHost, build_host
from cloister.runtime.spec import SandboxSpec, Sharing
from cloister.template.layers import LayerStore

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def host(tmp_path: Path, stock_templates: None) -> Iterator[NodeHost]:
    """A node of its own."""
    with build_host(Settings(data_dir=tmp_path / "data"), host_nameservers()) as made:
        yield made


def spec(host: NodeHost, directory: Path, layer: Path) -> SandboxSpec:
    """A sandbox of the base template with one more layer."""
    store = LayerStore(load(None, os.environ).store_dir)
    template = store.template("base")
    directory.mkdir()
    return SandboxSpec(
        sandbox_id=directory.name,
        sharing=Sharing(key="base"),
        directory=directory,
        layers=(*(store.rootfs(key) for key in template.layers), layer, host.host_layer.path),
        agent=Catalog(store, host.host_layer, Limits()).agent_tree(),
        limits=Limits(),
        hostname=f"name-of-{directory.name}",
        init_document=b'{"sandbox_id": "x", "limits": {"output_mib": 1}}',
    )


def strange_layer(root: Path) -> Path:
    """Links and directories where a sandbox has files of its own."""
    (root / "etc/hostname").mkdir(parents=True)
    (root / "etc/machine-id").symlink_to("/nowhere/machine-id")
    (root / "etc/hosts").symlink_to("/proc/self/mem")
    (root / "etc/kept").write_text("of the template")
    return root


def test_files_of_a_template_are_hidden_by_the_sandboxs_own(host: NodeHost, tmp_path: Path) -> None:
    """Names are the sandbox's, ids differ between two of them, and the rest of the directory is the template's."""
    layer = strange_layer(tmp_path / "layer")
    found = []
    for name in ("first", "second"):
        sandbox = host.runtime.create(spec(host, tmp_path / name, layer), lambda _state: None)
        try:
            root = Path(f"/proc/{sandbox.state()['pid']}/root")
            assert (root / "etc/hostname").read_text() == f"name-of-{name}\n"
            assert f"127.0.0.1 name-of-{name}\n" in (root / "etc/hosts").read_text()
            assert (root / "etc/kept").read_text() == "of the template"
            assert (root / "etc/passwd").exists()
            assert ((root / "etc").stat().st_mode & 0o7777, (root / "etc/hosts").stat().st_mode & 0o7777) == (0o755, 0o644)
            found.append(((root / "etc/machine-id").read_text(), (root / "proc/sys/kernel/random/boot_id").read_text()))
        finally:
            sandbox.kill()
            sandbox.release()
    assert all(re.fullmatch("[0-9a-f]{32}\n", machine) and re.fullmatch("[0-9a-f-]{36}\n", boot) for machine, boot in found), found
    assert len({*found[0], *found[1], Path("/proc/sys/kernel/random/boot_id").read_text()}) == 5
