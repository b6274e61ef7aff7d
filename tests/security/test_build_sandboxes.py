"""Attacks of build steps and live sandboxes on the host through layers and the copier."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import BuildError, NoCapacityError, RuntimeFailedError
from cloister.model.template import Template
from cloister.node.snapshots import Snapshots
from cloister.runtime.namespace.runtime import NamespaceRuntime
from cloister.runtime.spec import AGENT_PYTHON
from cloister.template.building import copier
from cloister.template.building.buildsandboxes import NodeBuildSandbox
from cloister.template.building.copier import Copier
from cloister.template.interfaces import BuildSandboxSpec, ShellCommand
from cloister.template.layers import Layer
from framework.build_node import LIMITS, BuildNode, NoCancellation, build_node

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module", params=["forked", "cold"])
def node(request: pytest.FixtureRequest, stock_templates: None) -> Iterator[BuildNode]:
    """A node whose build sandboxes' agents are forked from a zygote, and one whose are started by exec."""
    with build_node(zygotes=request.param == "forked") as made:
        yield made


@contextmanager
def box(node: BuildNode, *above: str, context: Path | None = None) -> Iterator[NodeBuildSandbox]:
    """A build sandbox on the base template, started as the node says."""
    with node.build_sandboxes.open((*node.base.layers, *above), BuildSandboxSpec(limits=LIMITS, context=context), NoCancellation()) as sandbox:
        yield sandbox


def run(sandbox: NodeBuildSandbox, text: str) -> str:
    """What ``text`` writes; it must succeed."""
    parts: list[bytes] = []
    assert sandbox.run(ShellCommand(text=text, user="root"), lambda _kind, data: parts.append(data)) == 0, b"".join(parts)
    return b"".join(parts).decode()


def named() -> Template:
    """What a snapshot is to be called."""
    return Template(template_id="t", name="of-mine", build_id=secrets.token_hex(8), layers=())


def test_step_cannot_fill_the_hosts_disk(node: BuildNode) -> None:
    """A step that writes without end fails at its own limit, which the error names. The host gets the space back."""
    before = shutil.disk_usage(node.store.root).free
    fill = ShellCommand(text="cat /dev/zero > /opt/x", user="root")
    with box(node) as sandbox:
        with pytest.raises(BuildError, match=f"the disk is full: the build has {LIMITS.disk_mib} MiB"):
            sandbox.run(fill, lambda _kind, _data: None)
        image = next(node.build_sandboxes.directory.glob("*/disk.img"))
        assert image.stat().st_blocks * 512 <= (LIMITS.disk_mib + 1) << 20
        assert before - shutil.disk_usage(node.store.root).free < (LIMITS.disk_mib + 300) << 20  # others write meanwhile
    assert not image.exists()


def test_step_cannot_fill_the_store_beyond_its_reserve(node: BuildNode) -> None:
    """A layer that would leave less than the reserve is refused before anything of it is written."""
    free_mib = shutil.disk_usage(node.store.root).free >> 20
    place = replace(node.place, disk_reserve_mib=free_mib - 50)
    with box(node) as sandbox:
        run(sandbox, "head -c 200M /dev/zero > /opt/x")
        sandbox._copier = Copier(place)
        with pytest.raises(NoCapacityError, match=r"there is no room for a layer of up to 2\d\d MiB"):
            sandbox.publish(secrets.token_hex(32), "test")
    assert list((node.store.root / "tmp").iterdir()) == []


def test_step_cannot_take_the_files_that_the_hosts_disk_may_have(node: BuildNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files take no bytes, but a disk has a limit of files. A layer with too many is refused and not written."""
    disk = os.statvfs(node.store.root)
    if not disk.f_files:
        pytest.skip("this machine's file system has files without a bound")
    monkeypatch.setattr(copier, "_RESERVED_FILES", disk.f_files / (disk.f_favail - 15_000))
    with box(node) as sandbox:
        run(sandbox, "mkdir /opt/many && cd /opt/many && seq 20000 | xargs touch")
        with pytest.raises(NoCapacityError, match=r"there is no room for a layer of up to (19|20)\d\d\d files"):
            sandbox.publish(secrets.token_hex(32), "test")
    assert list((node.store.root / "tmp").iterdir()) == []
    with box(node) as sandbox:
        run(sandbox, "touch /opt/one")
        assert sandbox.publish(secrets.token_hex(32), "test") is not None


_MARKS = """
import os, stat
for path, names in (("/opt/m", ("opaque", "redirect", "metacopy", "origin", "whiteout")), ("/opt/m/f", ("metacopy", "redirect", "whiteout"))):
    for name in names:
        for prefix in ("user.overlay.", "trusted.overlay.", "user.overlay.overlay."):
            try:
                os.setxattr(path, prefix + name, b"/etc" if name == "redirect" else b"y")
            except OSError:
                pass
for make in (lambda: os.mknod("/opt/m/w", 0o666 | stat.S_IFCHR, 0), lambda: os.mknod("/opt/m/d", 0o666 | stat.S_IFCHR, os.makedev(1, 1)),
             lambda: os.mknod("/opt/m/b", 0o666 | stat.S_IFBLK, os.makedev(254, 0))):
    try:
        make()
    except OSError:
        pass
"""


def test_step_cannot_forge_what_overlayfs_notes_in_layers(node: BuildNode) -> None:
    """Programs cannot set the overlay marks by which a layer hides or replaces others. No device stays in a layer."""
    with box(node) as sandbox:
        run(sandbox, f"mkdir /opt/m && touch /opt/m/f && python3 - <<'END'\n{_MARKS}END")
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert layer is not None
    tree = node.store.rootfs(layer.key)
    forged = ("user.overlay.", "trusted.overlay.")
    for path in (tree, *tree.rglob("*")):
        names = os.listxattr(path, follow_symlinks=False)
        assert [name for name in names if name.startswith(forged) and not name.startswith("user.overlay.overlay.")] == []
        assert stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFDIR, stat.S_IFREG)
    with box(node, layer.key) as above:
        assert run(above, "ls /opt/m; ls /etc | wc -l").split()[0] == "f"


def test_user_of_the_host_cannot_run_a_privileged_program_of_a_layer(node: BuildNode) -> None:
    """Layers keep the owners that files have inside, so files of root belong to root: only root of the host reaches them."""
    with box(node) as sandbox:
        run(sandbox, "cp /bin/true /opt/tool && chmod 6755 /opt/tool && setcap cap_sys_admin+ep /bin/ls 2> /dev/null; true")
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert layer is not None
    tool = node.store.rootfs(layer.key) / "opt/tool"
    info = tool.stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o6755)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$0"', tool], check=False, capture_output=True
    )
    assert done.returncode != 0
    assert b"ermission" in done.stderr


def test_step_cannot_reach_the_host_by_the_network(node: BuildNode) -> None:
    """A build has the network policy of sandboxes. It reaches neither the host's loopback nor an address of the host."""
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} | {"127.0.0.1", "169.254.169.254"}
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(0.5)
        with box(node) as sandbox:
            assert run(sandbox, "command -v timeout bash ip | wc -l") == "3\n", "a probe of a program that is not there proves nothing"
            gateway = "$(ip route 2> /dev/null | sed -n 's/default via \\([^ ]*\\).*/\\1/p')"
            tries = "; ".join(f"timeout 2 bash -c 'echo x > /dev/tcp/{address}/{port}'" for address in sorted(map(str, addresses)))
            run(sandbox, f'({tries}; g={gateway}; timeout 2 bash -c "echo x > /dev/tcp/${{g:-10.0.0.1}}/{port}") 2> /dev/null; true')
        with pytest.raises(TimeoutError):
            listener.accept()


_ON_A_CONTEXT = (
    "echo x >> file", "touch new", "rm file", "chmod 777 file", "chown user file", "ln file other", "mv file /opt/", "truncate -s 0 file",
    "./tool", "cat null", "setpriv --reuid 1000 ./tool", "echo x > /opt/link/file", "ln file /opt/hard", "mount -o remount,rw /.cloister/context",
    "mount --bind /tmp /.cloister/context", "umount /.cloister/context", "mv /.cloister/context /.cloister/other",
)  # fmt: skip


def test_step_cannot_change_what_it_is_shown(node: BuildNode, tmp_path: Path) -> None:
    """A step cannot write to a context, mount over it, or gain a privilege or device by it, nor by links to it."""
    (tmp_path / "file").write_text("of the host")
    (tmp_path / "tool").write_bytes(Path("/bin/true").read_bytes())
    (tmp_path / "tool").chmod(0o6755)
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with box(node, context=tmp_path) as sandbox:
        run(sandbox, "ln -s /.cloister/context /opt/link")
        script = "cd /.cloister/context\n" + "\n".join(f"if {attack}; then echo '{attack}'; fi" for attack in _ON_A_CONTEXT)
        assert run(sandbox, f"({script}) 2> /dev/null") == ""
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "null", "tool"]
    assert (tmp_path / "file").read_text() == "of the host"
    assert layer is not None
    assert (node.store.rootfs(layer.key) / "opt/link").is_symlink()


def test_step_cannot_have_a_layer_take_another_place(node: BuildNode) -> None:
    """The copier copies links as links. It neither reads nor writes their targets."""
    with box(node) as sandbox:
        run(
            sandbox, "rm -rf /srv /opt /media; ln -s / /srv; ln -s /.cloister/to /opt; ln -s ../../../../../../etc /media; ln -s /x /home/x"
        )
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert layer is not None
    tree = node.store.rootfs(layer.key)
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == ["home", "home/x", "media", "opt", "srv"]
    assert [str((tree / name).readlink()) for name in ("media", "opt", "srv")] == ["../../../../../../etc", "/.cloister/to", "/"]


_TRAPS = """
mkdir /opt/t; cd /opt/t
ln -s /etc/shadow absolute; ln -s ../../../../../../../../etc/shadow relative; ln -s /proc/self/root/etc/shadow magic
ln -s / root; ln -s /.cloister/from from; ln -s /.cloister/to to; ln -s /proc/1/root/etc proc
cd /opt; (while :; do rm -rf race; mkdir race; echo mine > race/shadow; rm -rf race; ln -s /etc race; done) > /dev/null 2>&1 &
"""


def test_sandbox_cannot_get_other_files_into_its_snapshot(node: BuildNode, tmp_path: Path) -> None:
    """Links to files of the host or the copier stay links, also ones that come and go. Mounts are not copied."""
    secret = tmp_path / "host-file"
    secret.write_text("of the host")
    inodes = {secret.stat().st_ino, Path("/etc/shadow").stat().st_ino}
    with box(node) as sandbox:
        run(sandbox, f"{_TRAPS}\nln -s {secret} host; sleep 0.3; echo x > /dev/shm/x")
        for _ in range(5):
            template = Snapshots(node.place, node.catalog.find).take(sandbox.sandbox, named())
            tree = node.store.rootfs(template.layers[-1])
            assert all(path.is_symlink() for path in (tree / "opt/t").iterdir())
            found = [path for path in tree.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
            assert {path.stat().st_ino for path in found}.isdisjoint(inodes)
            assert {path.read_text() for path in found} <= {"mine\n", ""}
            assert not any((tree / name).exists() for name in ("proc", "dev", "sys", ".cloister"))


def test_sandbox_cannot_write_while_it_is_copied(node: BuildNode) -> None:
    """Nothing of it runs during the copy, so nothing it is asked for can change under the copier."""
    with box(node) as sandbox:
        run(sandbox, "(while :; do date +%s%N > /opt/clock; done) > /dev/null 2>&1 &")
        used: list[float] = []
        snapshots = Snapshots(node.place, node.catalog.find)
        publish = snapshots._copier.publish

        def watched(*given: Any, on_ready: Callable[[], None], on_copied: Callable[[], None]) -> Layer | None:
            def stand_still() -> None:
                on_ready()
                used.append(sandbox.sandbox.cpu_used_s())

            def go_on() -> None:
                used.append(sandbox.sandbox.cpu_used_s())
                on_copied()

            return publish(*given, on_ready=stand_still, on_copied=go_on)

        snapshots._copier.publish = watched  # type: ignore[assignment,method-assign]  # replaced on purpose
        snapshots.take(sandbox.sandbox, named())
    assert used[0] == used[1]


_OVERTAKEN = """
import json, os, socket, sys
found = {"ids": [os.getuid(), open("/proc/self/uid_map").read().split()[1]]}
def attempt(name, what):
    try: found[name] = what() or "done"
    except OSError as error: found[name] = f"refused: {error.strerror}"
def write(path):
    with open(path, "w") as file: file.write("x")
attempt("write the disk", lambda: write("/.cloister/from/u/opt/mine"))
attempt("remove from the disk", lambda: os.unlink("/.cloister/from/u/opt/mine"))
attempt("own the disk", lambda: os.chown("/.cloister/from/u/opt/mine", 5, 5))
attempt("mark the disk", lambda: os.setxattr("/.cloister/from/u/opt/mine", "user.x", b"y"))
attempt("write the agent", lambda: write("/.cloister/agent/site/x"))
attempt("make a device", lambda: os.mknod("/.cloister/to/disk", 0o60666, os.makedev(8, 0)))
attempt("reach the internet", lambda: socket.create_connection(("GATEWAY", 53), 3))
attempt("enter a namespace", lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else None)
loader = open("/.cloister/rt/lib64/ld-linux-x86-64.so.2", "rb").read()
with open("/.cloister/to/program", "wb") as file: file.write(loader)
os.chmod("/.cloister/to/program", 0o4755)
attempt("run what it copied", lambda: os.posix_spawn("/.cloister/to/program", ["x", "--help"], {}))
found["owner of the disk"] = os.stat("/.cloister/from/u/opt/mine").st_uid
found["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
found["places"] = sorted(name for name in os.listdir("/") if name not in ("proc", "dev", "sys", ".cloister"))
print(json.dumps({"error": json.dumps(found), "errno": 0}))
"""


def test_copier_cannot_be_used_by_what_it_copies(node: BuildNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compromised copier could change only its own layer. It cannot change the disk, see the host, or reach a network."""
    gateway = node.host.network.gateway_address
    monkeypatch.setattr("cloister.template.building.copier.AGENT_PYTHON", (*AGENT_PYTHON, "-c", _OVERTAKEN.replace("GATEWAY", gateway)))
    udp, tcp = node.host.network.dns_sockets()  # which answer every sandbox with internet
    with udp, tcp, box(node) as sandbox:
        assert run(sandbox, f"timeout 5 bash -c 'echo > /dev/tcp/{gateway}/53' && echo open") == "open\n"
        run(sandbox, "echo mine > /opt/mine; chown 1000 /opt/mine; chmod 600 /opt/mine")
        with pytest.raises(RuntimeFailedError) as caught:
            sandbox.publish(secrets.token_hex(32), "test")
    found = json.loads(caught.value.message.partition("copied: ")[2])
    uid, host_uid = found.pop("ids")
    assert (uid, found.pop("owner of the disk")) == (0, 1000)
    assert int(host_uid) >= 65_536  # as the zone sees it, whose own first id is far above those of the host
    assert found.pop("processes") <= 3
    assert found.pop("places") == []
    assert {name for name, outcome in found.items() if not str(outcome).startswith("refused")} == set()
    assert list((node.store.root / "tmp").iterdir()) == []


def test_step_cannot_run_in_a_zygote_that_others_share(node: BuildNode) -> None:
    """The zone of all builds forks only from the base template. A layer's own interpreter runs only in the step's sandbox."""
    with box(node) as sandbox:
        run(
            sandbox,
            "echo 'echo stolen > /tmp/stolen' > /etc/ld.so.preload.sh; cp /bin/false /usr/bin/python3.13; rm -f /lib64/ld-linux-x86-64.so.2.x",
        )
        layer = sandbox.publish(secrets.token_hex(32), "test")
    assert layer is not None
    assert isinstance(node.host.runtime, NamespaceRuntime)
    for zygotes in node.host.runtime._zygotes.values():
        assert zygotes._places.keys() <= {"agent"}
        assert zygotes._layers("agent") == node.place.agent_tree().interpreter
    with box(node, layer.key) as sandbox:
        assert run(sandbox, "echo alive") == "alive\n"


def test_step_cannot_leave_a_process(node: BuildNode) -> None:
    """Processes that a step leaves are dead before its layer is made, and write no more."""
    with box(node) as sandbox:
        run(sandbox, "(trap '' TERM HUP; while :; do date +%s%N >> /opt/clock; done) > /dev/null 2>&1 & sleep 0.2")
        layer = sandbox.publish(secrets.token_hex(32), "test")
        assert layer is not None
        assert sandbox.sandbox.has_ended()
        with pytest.raises(BuildError, match="its sandbox ended"):
            run(sandbox, "true")
