"""Attacks of a sandbox on the dumper that reads its processes, and the power that the dumper has."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import CloisterError, ConflictError, RuntimeFailedError
from cloister.linux.seccomp import compile_bpf
from cloister.runtime.namespace.checkpoint.criu import find_criu
from cloister.runtime.namespace.checkpoint.dump import DUMP_CAPABILITIES, Dumper, Subject
from cloister.runtime.namespace.checkpoint.filter import compile_dump_filter
from cloister.runtime.namespace.profile import default_profile
from framework import filtered
from framework.checkpoint_lab import CheckpointLab, Held, checkpoint_lab

pytestmark = [pytest.mark.root, pytest.mark.templates]

_EVIL = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) {
    char text[4096];
    int from = open("/proc/self/cmdline", O_RDONLY), to = open("/root/pwned", O_CREAT | O_APPEND | O_WRONLY, 0666);
    long size = read(from, text, sizeof text);
    if (size > 0 && write(to, text, (unsigned long)size) > 0 && write(to, "\\n", 1) > 0) close(to);
    close(from);
}
"""


@pytest.fixture(scope="module")
def lab(criu: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointLab]:
    """One node for all tests of this file."""
    with checkpoint_lab(tmp_path_factory.mktemp("checkpoints")) as made:
        assert made.runtime.capabilities.checkpoint
        yield made


@pytest.fixture
def held(lab: CheckpointLab) -> Iterator[Held]:
    """A sandbox, which the test may end."""
    made = lab.create()
    made.run("1")
    yield made
    for one in [*lab.held]:
        lab.end(one)


def dumper_of(lab: CheckpointLab, held: Held, capabilities: int) -> tuple[Dumper, Subject]:
    """A dumper with other capabilities than usual, and the sandbox for it."""
    state = held.sandbox.state()
    subject = Subject(
        sandbox_id=held.spec.sandbox_id,
        hostname=held.spec.hostname,
        boot_id=state["boot_id"],
        mem_mib=512,
        pid=state["pid"],
        restored=state["restored"],
        trees=held.sandbox.trees,
        pidfd=held.sandbox.pidfd,
    )
    made = Dumper(
        criu=find_criu("auto", lab.host.resources.store_dir),
        groups=lab.host.resources.groups.tree,
        own_filter=compile_dump_filter(),
        sandbox_filter=compile_bpf(default_profile()),
        capabilities=capabilities,
    )
    return made, subject


@pytest.mark.parametrize("name", [*DUMP_CAPABILITIES, None])
def test_a_dumper_has_no_capability_too_many(lab: CheckpointLab, held: Held, name: str | None) -> None:
    """Without any one of its capabilities a dump fails, and with all of them it succeeds."""
    mask = sum(1 << number for one, number in DUMP_CAPABILITIES.items() if one != name)
    held.run("import os, subprocess\nopen('/root/secret', 'w').close(); os.chmod('/root/secret', 0)\np = subprocess.Popen(['sleep', '999'])")
    held.sandbox.freeze()
    dumper, subject = dumper_of(lab, held, mask)
    if name is None:
        dumper.dump(subject, held.spec.directory / "image")
    else:
        with pytest.raises(CloisterError):
            dumper.dump(subject, held.spec.directory / "image")
    held.sandbox.thaw()
    assert held.run("print(p.poll())") == "None"


def test_a_sandbox_cannot_load_code_into_the_dumper(lab: CheckpointLab, held: Held, tmp_path: Path) -> None:
    """Neither by what its root preloads, nor by plug-ins, libraries or settings of CRIU in its file system."""
    source, library = tmp_path / "evil.c", tmp_path / "evil.so"
    source.write_text(_EVIL)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    code = f"""
import base64, os
def put(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, 'wb').write(data)
evil = base64.b64decode({base64.b64encode(library.read_bytes()).decode()!r})
for path in ('/root/evil.so', '/usr/lib/criu/evil.so', '/var/lib/criu/evil.so'):
    put(path, evil)
put('/etc/criu/default.conf', b'no-such-option\\naction-script /root/evil.so\\n')
put('/root/.criu/default.conf', b'no-such-option\\n')
put('/run/criu.kdat', b'x' * 4096)
put('/etc/ld.so.preload', b'/root/evil.so\\n')
"""
    held.run(code)
    restored = lab.restore(held, lab.save(held))
    said = restored.run("print(open('/root/pwned', 'rb').read() if os.path.exists('/root/pwned') else b'')")
    assert said == "b''"


def test_a_sandbox_that_forks_and_starts_threads_is_whole(lab: CheckpointLab, held: Held) -> None:
    """A storm of processes and threads at the moment of the freeze is saved or refused, and goes on in either case."""
    held.run("n = 41")
    held.run("""
import subprocess
storm = subprocess.Popen(['python3', '-c', '''
import os, threading, time
while True:
    for _ in range(8):
        threading.Thread(target=time.sleep, args=(0.01,)).start()
    if os.fork() == 0: os._exit(0)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
'''])""")
    for turn in range(5):
        held.sandbox.freeze()
        try:
            held.sandbox.checkpoint(held.spec.directory / f"image{turn}")
        except CloisterError:
            assert not list(held.spec.directory.glob(f"image{turn}*"))
        assert lab.host.resources.groups.tree.is_frozen(held.spec.sandbox_id)
        held.sandbox.thaw()
        assert held.run("print(n + 1, storm.poll())") == "42 None"


def test_a_sandbox_cannot_fill_the_disk_by_memory_that_its_processes_share(lab: CheckpointLab, held: Held) -> None:
    """CRIU would write it once for each of them; the sandbox is refused before, and goes on."""
    held.run("""
import os, subprocess
storm = subprocess.Popen(['python3', '-c', '''
import os, time
memory = bytearray(os.urandom(1 << 20) * 60)
for _ in range(50):
    if os.fork() == 0: time.sleep(999)
print("made", flush=True)
time.sleep(999)
'''], stdout=subprocess.PIPE)
storm.stdout.readline()""")
    held.sandbox.freeze()
    assert held.sandbox.usage().mem_used_bytes < 400 << 20
    with pytest.raises(ConflictError, match="its processes share much of it"):
        held.sandbox.checkpoint(held.spec.directory / "image")
    assert not list(held.spec.directory.glob("image*"))
    held.sandbox.thaw()
    assert held.run("print(storm.poll())") == "None"


def test_a_sandbox_cannot_end_the_dumper_by_deep_directories(lab: CheckpointLab, held: Held) -> None:
    """The dumper walks those of /dev/shm, and no program can make it run out of memory: it refuses, and the sandbox goes on."""
    held.run("import os\nos.chdir('/dev/shm')\nfor _ in range(5000): os.mkdir('d'); os.chdir('d')\nos.chdir('/')")
    held.sandbox.freeze()
    with pytest.raises(RuntimeFailedError, match="too deep"):
        held.sandbox.checkpoint(held.spec.directory / "image")
    held.sandbox.thaw()
    assert held.run("print(41 + 1)") == "42"


def test_a_dumper_can_neither_start_nor_map_code() -> None:
    """Its seccomp filter refuses both, and every call that would lead out of the sandbox."""
    code = f"""
import sys, mmap, os
sys.path.insert(0, {str(Path(filtered.__file__).parent.parent)!r})
from framework.filtered import install, syscall
install(open(0, 'rb').read())
answers = [syscall(59, b'/bin/true', 0, 0), syscall(9, 0, 4096, 5, 34, (1 << 64) - 1, 0), syscall(9, 0, 4096, 3, 34, (1 << 64) - 1, 0),
           syscall(308, 0, 0), syscall(165, b'x', b'/', b'tmpfs', 0, 0), syscall(161, b'/')]
print(answers)
"""
    done = subprocess.run([sys.executable, "-c", code], input=compile_dump_filter(), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[1, 1, 0, 1, 1, 1]"
