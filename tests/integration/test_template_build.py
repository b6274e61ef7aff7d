"""Template builds in real sandboxes, on the stock base template; and what the stock layers must not hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.config.load import load
from cloister.errors import BuildError
from cloister.linux.cgroup import find_tree
from cloister.model.template import Template
from cloister.network.dns_relay import host_nameservers
from cloister.node.host import build_host
from cloister.runtime.spec import StepSpec
from cloister.template.layers import LayerStore
from cloister.template.progress import PlainProgress
from cloister.template.stock import StockDefinition, StockStep
from cloister.template.stockbuilder import StockBuildContext, build_layers

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def stock(stock_templates: None) -> LayerStore:
    """The store that holds the stock templates."""
    return LayerStore(load(None, os.environ).store_dir)


@pytest.fixture(scope="module")
def base(stock: LayerStore) -> Template:
    """The built base template."""
    return stock.template("base")


@contextmanager
def _context(stock: LayerStore, base: Template) -> Iterator[StockBuildContext]:
    """A build in a store of its own, whose layers are those of the base."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-", dir=stock.root) as directory:
        store = LayerStore(Path(directory) / "store")
        for key in base.layers:
            (store.root / "layers" / key).symlink_to(stock.root / "layers" / key)
        settings = replace(load(None, os.environ), data_dir=Path(directory) / "data")
        with build_host(settings, host_nameservers()) as host, Path(os.devnull).open("w") as sink:
            run_step = host.run_step
            yield StockBuildContext(store=store, run_step=run_step, progress=PlainProgress(sink), host_layer=host.host_layer)


@pytest.fixture(scope="module")
def context(stock: LayerStore, base: Template) -> Iterator[StockBuildContext]:
    """One build context for all tests of this file."""
    with _context(stock, base) as made:
        yield made


def _definition(script: str, *, online: bool = False, timeout_s: float = 60) -> StockDefinition:
    step = StockStep(name="s", kind="run", title="s", script=script, online=online, timeout_s=timeout_s)
    return StockDefinition(name="t", parent="base", steps=(step,))


def _build(script: str, base: Template, context: StockBuildContext, *, online: bool = False, timeout_s: float = 60) -> Path:
    keys = build_layers(_definition(script, online=online, timeout_s=timeout_s), base.layers, context)
    return context.store.rootfs(keys[-1])


def test_a_layer_holds_what_the_step_wrote_and_nothing_else_of_ours(context: StockBuildContext, base: Template) -> None:
    """A step's files are in its layer with the owners it gave them, and its scripts are not."""
    layer = _build("echo hello > /opt/new; chown user:user /opt/new; rm /etc/hostname\n", base, context)
    assert (layer / "opt/new").read_text() == "hello\n"
    assert ((layer / "opt/new").stat().st_uid, (layer / "opt/new").stat().st_gid) == (1000, 1000)
    assert not (layer / ".build").exists()
    assert (layer / "etc/hostname").is_char_device()  # a whiteout


def test_a_step_has_a_name_that_every_build_has(context: StockBuildContext, base: Template) -> None:
    """A layer depends on no name of the machine or sandbox that built it, and none of a sandbox's own files is in it."""
    layer = _build("hostname > /opt/names; cat /etc/hostname >> /opt/names\n", base, context)
    assert (layer / "opt/names").read_text() == "cloister\ncloister\n"
    assert not (layer / "etc").exists()


def test_a_step_is_nobody_on_the_host(context: StockBuildContext, base: Template) -> None:
    """Root of a step is an id of the host's sandbox range; it makes no device node, mounts nothing and sees no process of the host."""
    seen: list[int] = []

    def spy(spec: StepSpec, log: Callable[[bytes], None]) -> int:
        def look(chunk: bytes) -> None:
            log(chunk)
            if b"look" in chunk:
                found = subprocess.run(["pgrep", "-f", "^sleep 77.25$"], capture_output=True, text=True, check=True)
                seen.extend(Path(f"/proc/{pid}").stat().st_uid for pid in found.stdout.split())

        return context.run_step(spec, look)

    script = "sleep 77.25 & sleep 0.3; echo look; sleep 1; ls -d /proc/[0-9]* | wc -l > /opt/count\n"
    script += "! mknod /opt/disk b 8 0; ! mount -t tmpfs x /mnt\n"
    layer = _build(script, base, replace(context, run_step=spy))
    assert len(seen) == 1
    assert seen[0] >= 0x1000_0000
    assert int((layer / "opt/count").read_text()) < 10
    assert not (layer / "opt/disk").exists()


def test_host_settings_are_seen_online_and_not_kept(context: StockBuildContext, base: Template) -> None:
    """An online step finds the host's certificates and resolver; its layer holds none of the files."""
    script = "test -s /etc/pip.conf; test -s /etc/ssl/certs/java/cacerts; grep nameserver /etc/resolv.conf > /opt/seen\n"
    layer = _build(script, base, context, online=True)
    assert (layer / "opt/seen").read_text().startswith("nameserver ")
    assert not (layer / "etc").exists() or not list((layer / "etc").rglob("*.*"))


def test_an_offline_step_has_no_network(context: StockBuildContext, base: Template) -> None:
    """Without ``online`` a step resolves no name and reaches no address."""
    _build("! getent hosts example.org; ! timeout 3 bash -c 'echo > /dev/tcp/198.51.100.1/80'\n", base, context)


def test_a_failed_step_tells_why(context: StockBuildContext, base: Template) -> None:
    """The error carries the exit code, the last output and the log's path."""
    with pytest.raises(BuildError, match="exit code 3") as caught:
        _build("echo out; echo err >&2; exit 3\n", base, context)
    assert caught.value.log_tail == "out\nerr"
    assert Path(str(caught.value.hint).removeprefix("the whole log: ")).read_text() == "out\nerr\n"


def test_a_step_that_hangs_is_ended(context: StockBuildContext, base: Template) -> None:
    """A step is killed at its deadline, children included."""
    started = time.monotonic()
    with pytest.raises(BuildError, match="longer than 2 s"):
        _build("sleep 1234.5 & sleep 1234.5\n", base, context, timeout_s=2)
    assert time.monotonic() - started < 20
    assert subprocess.run(["pgrep", "-f", "^sleep 1234.5$"], capture_output=True, check=False).returncode == 1


def test_a_killed_build_leaves_nothing_after_the_next_one(stock: LayerStore) -> None:
    """After kill -9 of a build the next command ends its sandbox, sweeps its directory and frees its instance number."""
    with tempfile.TemporaryDirectory(prefix="cloister-test-", dir=stock.root) as directory:
        command = [sys.executable, "-m", "cloister.cli.main", "template", "build", "base", "--store-dir", directory]
        environ = {**os.environ, "CLOISTER_STORE_DIR": directory}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ) as process:
            deadline = time.monotonic() + 120
            while not list(Path(directory).glob("tmp/*/layer/.rootfs.pair")):  # the sandbox is being made
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            (number,) = (path.name for path in Path("/run/cloister/instances").iterdir() if directory in path.read_text())
            groups = find_tree(int(number))
            while not (sandboxes := [name for name in groups.names() if not name.startswith("zone-")]):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            (sandbox,) = sandboxes
            process.send_signal(signal.SIGKILL)
        dead = set(Path(directory).glob("tmp/*"))
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ) as second:
            while set(Path(directory).glob("tmp/*")) & dead or not list(Path(directory).glob("tmp/*")):  # swept, and at work itself
                assert second.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert sandbox not in groups.names(), "what it wrote would come back behind the sweep"
            second.send_signal(signal.SIGTERM)
            assert second.wait(60) == 130
        assert list(Path(directory).glob("tmp/*")) == []
        claims = [path for path in Path("/run/cloister/instances").iterdir() if directory in path.read_text()]
        assert claims == []
        assert subprocess.run(["pgrep", "-f", directory], capture_output=True, check=False).returncode == 1


def test_stock_layers_hold_nothing_of_the_host(stock: LayerStore) -> None:
    """No layer has pip, npm or apt settings of the host, its certificates, its name or its resolver."""
    local = [path.read_bytes() for path in Path("/usr/local/share/ca-certificates").rglob("*.crt")]
    unwanted = ("etc/pip.conf", "etc/npmrc", "etc/apt/apt.conf.d/99cloister-host", "etc/ca-certificates/host", ".cloister", ".build")
    for key in stock.template("code-interpreter-v1").layers:
        root = stock.rootfs(key)
        for name in unwanted:
            assert not (root / name).exists(), f"{stock.layer(key).name}: {name}"
        bundle = root / "etc/ssl/certs/ca-certificates.crt"
        if bundle.is_file():
            assert not [text for text in local if text.strip() in bundle.read_bytes()]
    lowest = stock.rootfs(stock.template("base").layers[0])
    assert (lowest / "etc/hostname").read_text() == "cloister\n"
    assert (lowest / "etc/resolv.conf").read_text() == ""
