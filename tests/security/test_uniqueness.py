"""Sandboxes forked from the same zygotes cannot draw, or be named, alike: what programs take for unpredictable or unique differs in each.

The hash secret, the layout of memory and stack canaries are common to the sandboxes of a zygote (docs/threat-model.md, I3): not asserted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2b_code_interpreter import Sandbox

from framework.inside import python, shell
from framework.server import Server
from framework.starts import creation_of, make_started

pytestmark = [pytest.mark.root, pytest.mark.templates, pytest.mark.parametrize("server_tier", ["forked"], indirect=True)]

COUNT = 6
PYTHON = """
import json, multiprocessing, os, platform, random, secrets, socket, ssl, tempfile, time, uuid
import numpy as np
drawn = {
    "random.random": random.random(), "random.getrandbits": random.getrandbits(64), "random.Random": random.Random().random(),
    "random.shuffle": random.sample(range(10**6), 4), "uuid1": str(uuid.uuid1()), "uuid1 node and clock": uuid.uuid1().hex[16:],
    "uuid4": str(uuid.uuid4()), "secrets.token_hex": secrets.token_hex(16), "secrets.randbelow": secrets.randbelow(2**64),
    "os.urandom": os.urandom(16).hex(), "os.getrandom": os.getrandom(16).hex(), "tempfile.mktemp": tempfile.mktemp(), "mkdtemp": tempfile.mkdtemp(),
    "NamedTemporaryFile": tempfile.NamedTemporaryFile().name, "ssl.RAND_bytes": ssl.RAND_bytes(16).hex(), "authkey": bytes(multiprocessing.current_process().authkey).hex(),
    "numpy legacy": np.random.rand(), "numpy randn": np.random.randn(), "numpy randint": int(np.random.randint(2**62)),
    "numpy RandomState": np.random.RandomState().rand(), "numpy default_rng": np.random.default_rng().random(),
    "numpy SeedSequence": str(np.random.SeedSequence().entropy), "socket.gethostname": socket.gethostname(), "platform.node": platform.node(),
    "boot id": open("/proc/sys/kernel/random/boot_id").read(), "kernel's uuid": open("/proc/sys/kernel/random/uuid").read(), "machine id": open("/etc/machine-id").read(),
    "/etc/hostname": open("/etc/hostname").read(), "E2B_SANDBOX_ID": os.environ["E2B_SANDBOX_ID"],
}
with multiprocessing.get_context("fork").Pool(1) as pool:
    drawn["random in a forked child"] = pool.apply(random.random)
print(json.dumps(drawn))
"""
IMPORTED_LATER = "import json, sklearn.utils, scipy.stats; print(json.dumps([float(scipy.stats.norm.rvs()), sklearn.utils.check_random_state(None).rand()]))"
OTHERS = {
    "javascript": "console.log([Math.random(), crypto.randomUUID(), require('crypto').randomBytes(8).toString('hex'), require('os').hostname()].join(' '))",
    "bash": 'echo "$RANDOM-$RANDOM-$RANDOM $SRANDOM $(mktemp -u) $HOSTNAME"',
    "r": "cat(runif(1), sample.int(.Machine$integer.max, 1), basename(tempfile()), Sys.info()[['nodename']])",
    "java": 'System.out.println(Math.random() + " " + java.util.UUID.randomUUID() + " " + new java.util.Random().nextLong())',
}


def burst(server: Server, count: int) -> list[Sandbox]:
    """Sandboxes created at the same moment."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _number: Sandbox.create(timeout=300, **server.sdk), range(count)))


@pytest.fixture(scope="module")
def forked(server: Server) -> Iterator[list[Sandbox]]:
    """Six sandboxes, some made ahead and some not, all forked, and most of them created at the same moment."""
    made = [make_started(server, [])]  # the zygotes are ready
    try:
        for _ in range(10):
            made += burst(server, COUNT)
            ways = {sandbox.sandbox_id: creation_of(server, sandbox) for sandbox in made}
            chosen = [sandbox for sandbox in made if not ways[sandbox.sandbox_id]["cold"]]
            chosen.sort(key=lambda sandbox: not ways[sandbox.sandbox_id]["made_ahead"])
            picked = [*chosen[:2], *chosen[2 - COUNT :]]
            if {ways[sandbox.sandbox_id]["made_ahead"] for sandbox in picked} == {True, False} and len(picked) == COUNT:
                break
        else:
            pytest.fail(f"no {COUNT} forked sandboxes of both kinds: {ways}")
        yield picked
    finally:
        for sandbox in made:
            sandbox.kill()


def numbered(values: list[Any]) -> dict[str, Any]:
    """Draws without names."""
    return {f"number {number}": value for number, value in enumerate(values)}


def assert_all_differ(drawn: list[dict[str, Any]]) -> None:
    """No source has given the same to two sandboxes."""
    alike = {name: [one[name] for one in drawn] for name in drawn[0] if len({str(one[name]) for one in drawn}) != len(drawn)}
    assert not alike, alike


def test_sandboxes_cannot_draw_alike_in_python(forked: list[Sandbox]) -> None:
    """Each source of the standard library and of numpy, and each name of the machine."""
    with ThreadPoolExecutor(COUNT) as pool:  # at the same moment: a clock is no excuse
        drawn = [json.loads(text) for text in pool.map(lambda sandbox: python(sandbox, PYTHON), forked)]
    assert_all_differ(drawn)
    assert [one["E2B_SANDBOX_ID"] for one in drawn] == [sandbox.sandbox_id for sandbox in forked]
    assert_all_differ([numbered(json.loads(python(sandbox, IMPORTED_LATER))) for sandbox in forked])


@pytest.mark.parametrize("language", OTHERS)
def test_sandboxes_cannot_draw_alike_in(forked: list[Sandbox], language: str) -> None:
    """The sources of the other languages, whose kernels are started by forked agents."""
    drawn = []
    for sandbox in forked:
        execution = sandbox.run_code(OTHERS[language], language=language, timeout=60)
        assert execution.error is None, execution.error
        drawn.append(numbered("".join(execution.logs.stdout).split()))
    assert all(len(one) >= 3 for one in drawn), drawn
    assert_all_differ(drawn)


def test_agents_cannot_give_the_same_ids(forked: list[Sandbox]) -> None:
    """Ids of contexts, also of those that are there from the start, and the names that a command sees."""
    drawn: list[dict[str, Any]] = []
    for sandbox in forked:
        standing = [context.id for context in sandbox.list_code_contexts()]
        drawn.append({"standing": standing, "new": sandbox.create_code_context(language="python").id})
        command = sandbox.commands.run(
            "mktemp -u; hostname; cat /proc/sys/kernel/random/boot_id; echo $E2B_SANDBOX_ID $RANDOM$RANDOM$RANDOM"
        )
        drawn[-1] |= numbered(command.stdout.split())
    assert all(one["standing"] for one in drawn)
    assert_all_differ(drawn)
    ids = [context for one in drawn for context in [*one["standing"], one["new"]]]
    assert len(set(ids)) == len(ids)


def test_names_of_a_sandbox_are_its_own(forked: list[Sandbox]) -> None:
    """The host name is the sandbox's id and leads to the sandbox itself; the boot id stays and cannot be changed; sudo does not complain."""
    for sandbox in forked[:2]:
        name = sandbox.sandbox_id
        said = shell(sandbox, "hostname; hostname -f; cat /etc/hostname; getent hosts $(hostname); getent hosts localhost; sudo -n true")
        assert said.text.split("\n")[:3] == [name] * 3
        assert [line.split() for line in said.text.split("\n")[3:]] == [
            ["127.0.0.1", name],
            ["::1", "localhost", "ip6-localhost", "ip6-loopback"],
        ]
        boot_id = shell(sandbox, "cat /proc/sys/kernel/random/boot_id").text
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", boot_id)
        change = "echo x > /proc/sys/kernel/random/boot_id; umount /proc/sys/kernel/random/boot_id; mount -o remount,rw,bind /proc/sys/kernel/random/boot_id"
        assert shell(sandbox, change).status != 0
        assert shell(sandbox, "cat /proc/sys/kernel/random/boot_id").text == boot_id
        assert boot_id != Path("/proc/sys/kernel/random/boot_id").read_text().strip()  # the host's
        assert re.fullmatch(r"[0-9a-f]{32}", shell(sandbox, "cat /etc/machine-id").text)
