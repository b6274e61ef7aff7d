"""Volumes that a sandbox gets when it is handed over: its template's programs run already, and may be hostile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox, SandboxException, Template, Volume

from cloister.linux.ext4live import frozen
from cloister.model.volume import VolumeMount
from framework.checkpoint_lab import CheckpointLab, checkpoint_lab
from framework.server import Server, running_server
from framework.starts import creation_of
from framework.template_requests import new_name
from framework.volumes import fresh_volume, mounted
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]

_VOLUME_ID = "6a3d9c1e-0000-4000-8000-000000000001"
_POWER = 1 << 21 | 1 << 1
"""CAP_SYS_ADMIN and CAP_DAC_OVERRIDE, of the sandbox's user namespace."""
_START = (
    "rm -rf /link /full /stand; ln -s /etc /link; mkdir -p /full /stand; touch /full/x; "
    "(cd /stand && exec sleep infinity) & python3 -m http.server 8000"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointLab]:
    """One node in this process."""
    with checkpoint_lab(tmp_path_factory.mktemp("volumes")) as made:
        made.host.resources.volumes.make(_VOLUME_ID, 64, 4096)
        yield made


def status_of(pid: int) -> dict[str, str]:
    """``/proc/<pid>/status``."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def in_namespace(kind: str, link: str) -> list[int]:
    """The processes of this host whose namespace of that kind it is."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "ns" / kind).readlink() == Path(link):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_process_that_mounts_volumes_has_little_power(lab: CheckpointLab) -> None:
    """While it is at work: it can mount and pass over modes in the sandbox, is not to be seen from there, and holds nothing else."""
    held = lab.create("base")
    try:
        pid1 = held.sandbox._started.pid
        user, pids = (str(Path(f"/proc/{pid1}/ns/{kind}").readlink()) for kind in ("user", "pid"))
        volumes = (VolumeMount(volume_id=_VOLUME_ID, name="v", path="/v"),)
        done: list[Any] = []
        worker = threading.Thread(target=lambda: done.append(held.sandbox.mount_volumes(volumes, has_run=False)))
        assert held.sandbox._disk_fd is not None
        with frozen(held.sandbox._disk_fd):  # so it waits where it makes the place
            worker.start()
            (mounter,) = eventually(lambda: [pid for pid in in_namespace("user", user) if pid not in in_namespace("pid", pids)])
            status = eventually(lambda: found if (found := status_of(mounter))["State"].startswith("D") else None)
            own = Path(f"/proc/{pid1}").stat().st_uid
            open_there = sorted(str(entry.readlink()).split(":")[0] for entry in Path(f"/proc/{mounter}/fd").iterdir())
        worker.join(30)
        assert done == [True]
        assert status["Uid"].split() == [str(own)] * 4
        assert {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {
            "CapEff": _POWER, "CapPrm": _POWER, "CapBnd": _POWER, "CapInh": 0, "CapAmb": 0,
        }  # fmt: skip
        assert open_there == ["/", "/", "mnt", "socket", "user"]  # two are the volume's root and the sandbox's
        eventually(lambda: not Path(f"/proc/{mounter}").exists())
    finally:
        lab.end(held)


@pytest.fixture(scope="module")
def own_server(stock_templates: None) -> Iterator[Server]:
    """A server with a template whose start command is hostile."""
    with running_server() as running:
        yield running


def test_programs_of_a_template_cannot_stand_below_a_volume(own_server: Server) -> None:
    """A volume over a link is refused, and one over what the programs have seen is there before they start."""
    server, name = own_server, new_name()
    template = Template().from_template("base").set_user("root").set_start_cmd(_START, "curl -sf http://127.0.0.1:8000")
    Template.build(template, name, cpu_count=1, memory_mb=512, api_key=server.api_key, api_url=server.url)
    with fresh_volume(server) as volume:
        with mounted(server, {"/new": volume.name}, made_ahead=True, template=name) as sandbox:
            assert sandbox.commands.run("touch /new/here; ls /stand /full").stdout.split() == ["/full:", "x", "/stand:"]
        with pytest.raises(SandboxException, match="a link is not followed"):
            mounted(server, {"/link/x": volume.name}, made_ahead=True, template=name)
        for place in ("/full", "/stand"):
            mounts: dict[str, Volume | str] = {place: volume.name}
            with Sandbox.create(name, timeout=300, volume_mounts=mounts, **server.sdk) as sandbox:
                assert not creation_of(server, sandbox)["made_ahead"]
                stands = "stat -L -c %d /proc/$(pgrep -x sleep)/cwd; stat -c %d /stand"
                said = sandbox.commands.run(stands, user="root").stdout.split()
                assert said[0] == said[1], (place, said)
