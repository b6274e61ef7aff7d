"""Forks and snapshots of real sandboxes, by the official Python SDK: files, names, networks, independence, restarts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from e2b import SandboxException, SandboxNotFoundException
from e2b_code_interpreter import Sandbox

from cloister.linux.cgroup import find_tree
from cloister.node.instance import instance_of
from framework.http import call
from framework.server import Server
from framework.waiting import eventually

FILES: Any = {"api_headers": {"X-Fork-Memory": "false"}}
_LOOK_UP = """
import socket, sys
def code(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(10)
    sock.connect(([line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver")][0], 53))
    sock.send(bytes.fromhex("123401000001000000000000") + labels + bytes.fromhex("00001c0001"))
    return sock.recv(4096)[3] & 15
print([code(name) for name in sys.argv[1:]])
"""
"""Prints the response codes of questions for AAAA records: 0 for an allowed name, which is asked of no resolver, and 5 (REFUSED)."""
pytestmark = pytest.mark.root


def sdk(server: Server) -> Any:
    """Keyword arguments that point the SDK at the server."""
    return server.sdk


@pytest.fixture
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox whose copies a test may make."""
    with Sandbox.create("base", timeout=300, metadata={"of": "forks"}, envs={"GIVEN": "by the client"}, **sdk(server)) as sandbox:
        yield sandbox


def fork(sandbox: Sandbox, count: int = 1) -> list[Sandbox]:
    """So many copies, which run."""
    copies = sandbox.fork(count=count, timeout=300, **FILES)
    assert [one for one in copies if not isinstance(one, Sandbox)] == []
    return [one for one in copies if isinstance(one, Sandbox)]


def kill(*sandboxes: Sandbox) -> None:
    """End them at once."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda one: one.kill(), sandboxes))


def test_copies_have_the_files_and_are_independent(sandbox: Sandbox) -> None:
    """Contents, owners, modes, links and deletions are copied; writes afterwards are each sandbox's own."""
    made = "cd /home/user && echo old > f && chmod 750 f && ln -s f l && mkfifo p && sudo rm /etc/issue && sudo touch /srv/roots"
    sandbox.commands.run(made)
    look = "cd /home/user; stat -c '%n %U %a %F' f l p /srv/roots; cat f; ls /etc/issue 2>&1"
    before = sandbox.commands.run(look + " || true").stdout
    copies = fork(sandbox, 3)
    try:
        for number, one in enumerate(copies):
            assert one.commands.run(look + " || true").stdout == before
            one.files.write("/home/user/f", f"copy {number}")
        sandbox.files.write("/home/user/f", "original")
        assert [one.files.read("/home/user/f") for one in (sandbox, *copies)] == ["original", "copy 0", "copy 1", "copy 2"]
    finally:
        kill(*copies)


def test_copies_are_sandboxes_of_their_own(sandbox: Sandbox) -> None:
    """Each has its own host name, id, boot id of processes, machine id, network and token; the original keeps everything."""
    before, job = sandbox.get_info(), sandbox.commands.run("sleep 300", background=True)
    copies = fork(sandbox, 2)
    try:
        everyone = (sandbox, *copies)
        for look in ("hostname", "printenv E2B_SANDBOX_ID", "cat /etc/hostname", "cat /run/e2b/.E2B_SANDBOX_ID"):
            assert [one.commands.run(look).stdout.strip() for one in everyone] == [one.sandbox_id for one in everyone]
        same = '[ "$(cat /run/e2b/.E2B_TEMPLATE_ID)" = "$E2B_TEMPLATE_ID" ] && [ -n "$E2B_TEMPLATE_ID" ]'
        assert [one.commands.run(same).exit_code for one in everyone] == [0, 0, 0]
        assert len({one.commands.run("cat /etc/machine-id").stdout for one in everyone}) == 3
        assert [one.commands.run("pgrep -c sleep || true").stdout.strip() for one in everyone] == ["1", "0", "0"]
        assert sandbox.get_info() == before
        assert job.pid in {one.pid for one in sandbox.commands.list()}
        info = copies[0].get_info()
        assert (info.metadata, info.template_id, info.cpu_count, info.memory_mb) == (
            before.metadata, before.template_id, before.cpu_count, before.memory_mb,
        )  # fmt: skip
        copies[0].commands.run("nohup python3 -m http.server 8000 --bind 127.0.0.1 > /dev/null 2>&1 &")
        eventually(lambda: copies[0].commands.run("curl -s -o /dev/null -w '%{http_code}' 127.0.0.1:8000 || true").stdout == "200")
        for other in (sandbox, copies[1]):
            assert other.commands.run("curl -s -m 2 127.0.0.1:8000; echo $?").stdout.strip() == "7"
    finally:
        kill(*copies)


def test_a_copy_begins_with_the_rules_of_the_network(server: Server) -> None:
    """A copy looks up the names that its original might at the fork; later changes of one do not concern the other."""
    names = ("one.example", "two.example")
    look_up = f"python3 -c {shlex.quote(_LOOK_UP)} {' '.join(names)}"

    def network(name: str) -> Any:
        return {"allow_out": [name], "deny_out": ["0.0.0.0/0"]}

    with Sandbox.create("base", timeout=300, network=network(names[0]), **sdk(server)) as original:
        (copy,) = fork(original)
        try:
            assert [one.commands.run(look_up).stdout for one in (original, copy)] == ["[0, 5]\n"] * 2
            original.update_network(network(names[1]))
            assert [one.commands.run(look_up).stdout for one in (original, copy)] == ["[5, 0]\n", "[0, 5]\n"]
            copy.update_network(network(names[1]))
            assert copy.commands.run(look_up).stdout == "[5, 0]\n"
        finally:
            kill(copy)


def test_tokens_of_the_original_open_no_copy(server: Server, sandbox: Sandbox) -> None:
    """Each token opens one sandbox only."""
    (copy,) = fork(sandbox)
    tokens = {one.sandbox_id: one._envd_access_token or "" for one in (sandbox, copy)}
    try:
        for sandbox_id in tokens:
            for owner, token in tokens.items():
                headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": token}
                answer = call(server.url, "GET", "/files?path=/etc/hostname&username=root", headers=headers)
                assert (answer.status == 200) is (owner == sandbox_id), answer.body
    finally:
        kill(copy)


def test_a_copy_runs_code_anew(server: Server) -> None:
    """A kernel of a copy knows no variable of the original's, and finds its files."""
    with Sandbox.create(timeout=300, **sdk(server)) as original:
        original.run_code("x = 1; open('/home/user/f', 'w').write('kept')")
        (copy,) = fork(original)
        try:
            assert copy.run_code("open('/home/user/f').read()").text == "kept"
            error = copy.run_code("x").error
            assert error is not None
            assert error.name == "NameError"
            assert original.run_code("x").text == "1"
        finally:
            kill(copy)


def test_copies_of_copies(sandbox: Sandbox) -> None:
    """A chain of forks has all files; the ends of the elders take nothing away."""
    chain = [sandbox]
    for number in range(4):
        chain[-1].files.write(f"/home/user/f{number}", str(number))
        chain += fork(chain[-1])
    kill(*chain[1:-1])
    last = chain[-1]
    try:
        assert last.commands.run("cat f0 f1 f2 f3").stdout == "0123"
    finally:
        kill(last)


def test_variables_of_the_client_are_the_copies_too(sandbox: Sandbox, server: Server) -> None:
    """Commands of a copy have them, and so has a sandbox of a snapshot, unless its own client gives some."""
    (copy,) = fork(sandbox)
    snapshot = sandbox.create_snapshot()
    try:
        for one in (copy, *fork(copy)):
            assert one.commands.run("echo $GIVEN").stdout.strip() == "by the client"
        with Sandbox.create(snapshot.snapshot_id, timeout=60, **sdk(server)) as same:
            assert same.commands.run("echo $GIVEN").stdout.strip() == "by the client"
        with Sandbox.create(snapshot.snapshot_id, timeout=60, envs={"OTHER": "o"}, **sdk(server)) as other:
            assert other.commands.run("echo $GIVEN$OTHER").stdout.strip() == "o"
    finally:
        for entry in Sandbox.list(api_key=server.api_key, api_url=server.url).next_items():
            if entry.sandbox_id != sandbox.sandbox_id and entry.metadata == {"of": "forks"}:
                Sandbox.kill(entry.sandbox_id, api_key=server.api_key, api_url=server.url)
        Sandbox.delete_snapshot(snapshot.snapshot_id, api_key=server.api_key, api_url=server.url)


def test_a_fork_during_a_busy_loop_of_writes_is_of_one_moment(sandbox: Sandbox) -> None:
    """Two files that are written in turn differ by one step at most in every copy, although the sandbox writes all the time."""
    loop = "i=0; while :; do i=$((i+1)); echo $i > a; echo $i > b; done"
    sandbox.commands.run(loop, background=True, timeout=0)
    eventually(lambda: sandbox.commands.run("cat a 2>/dev/null || true").stdout.strip() not in ("", "1"))
    for _ in range(3):
        (copy,) = fork(sandbox)
        try:
            first, second = (int(copy.files.read(f"/home/user/{name}") or -1) for name in "ab")
            assert -1 in (first, second) or first - second in (0, 1)  # a file that was just truncated is empty
        finally:
            kill(copy)
    before = sandbox.files.read("/home/user/a")
    eventually(lambda: sandbox.files.read("/home/user/a") != before)


def test_forks_outlive_a_death_of_the_supervisor(server: Server, sandbox: Sandbox) -> None:
    """A copy lives on, and can be forked again, after the process that made it was killed."""
    sandbox.files.write("/home/user/f", "x")
    (copy,) = fork(sandbox)
    server.kill_child("node")
    eventually(copy.is_running)
    (again,) = fork(copy)
    try:
        assert again.files.read("/home/user/f") == "x"
    finally:
        kill(copy, again)


def has_begun(server: Server, sandbox: Sandbox, forking: Future[list[Sandbox]]) -> None:
    """Return when the sandbox stands still for its capture, or the fork has ended."""
    instance = instance_of(server.data_dir)
    assert instance is not None
    groups = find_tree(instance)
    eventually(lambda: forking.done() or groups.is_frozen(sandbox.sandbox_id))


def test_a_kill_during_a_capture(server: Server) -> None:
    """The capture is whole, the original ends, and the copies live."""
    with Sandbox.create("base", timeout=300, **sdk(server)) as original:
        original.commands.run("head -c 100M /dev/urandom > big; sha256sum big > sum")
        with ThreadPoolExecutor(1) as threads:
            forking = threads.submit(fork, original, 2)
            has_begun(server, original, forking)
            original.kill()
            copies = forking.result()
        try:
            for one in copies:
                assert one.commands.run("sha256sum -c sum").stdout.strip() == "big: OK"
            with pytest.raises(SandboxNotFoundException):
                original.get_info()
        finally:
            kill(*copies)


def test_pauses_of_originals_and_copies(server: Server, sandbox: Sandbox) -> None:
    """A paused sandbox cannot be captured; a copy is paused with and without memory and comes back with its files."""
    sandbox.files.write("/home/user/f", "x")
    (copy,) = fork(sandbox)
    try:
        assert sandbox.pause()
        with pytest.raises(SandboxException, match=r"409.*resume it first"):
            sandbox.fork(**FILES)
        with pytest.raises(SandboxNotFoundException):
            sandbox.create_snapshot()
        sandbox.kill()
        assert copy.pause()
        assert copy.connect(timeout=300).files.read("/home/user/f") == "x"
        copy.files.write("/home/user/g", "y")
        assert copy.pause(mode="filesystem")
        copy.connect(timeout=300)
        assert copy.commands.run("cat f g; echo $GIVEN").stdout == "xyby the client\n"
        (again,) = fork(copy)
        assert again.commands.run("cat f g; echo $GIVEN").stdout == "xyby the client\n"
        kill(again)
    finally:
        kill(copy)


def test_a_pause_waits_for_a_capture(server: Server, sandbox: Sandbox) -> None:
    """Both succeed, whichever is first; the sandbox is paused at the end and comes back as it was."""
    sandbox.commands.run("head -c 100M /dev/urandom > big; sha256sum big > sum")
    with ThreadPoolExecutor(1) as threads:
        forking = threads.submit(fork, sandbox)
        has_begun(server, sandbox, forking)
        assert sandbox.pause()
        (copy,) = forking.result()
    try:
        assert not sandbox.is_running()
        assert copy.commands.run("sha256sum -c sum").stdout.strip() == "big: OK"
        sandbox.connect(timeout=300)
        assert sandbox.commands.run("sha256sum -c sum").stdout.strip() == "big: OK"
    finally:
        kill(copy)


def test_a_snapshot_of_a_paused_sandbox_is_not_deleted(server: Server, sandbox: Sandbox) -> None:
    """The sandbox that stands on it, and is paused without memory, comes back; afterwards the snapshot goes."""
    sandbox.files.write("/home/user/f", "x")
    snapshot = sandbox.create_snapshot()
    api: Any = {"api_key": server.api_key, "api_url": server.url}
    with Sandbox.create(snapshot.snapshot_id, timeout=300, **sdk(server)) as user:
        assert user.pause(mode="filesystem")
        with pytest.raises(SandboxException, match="running or paused sandboxes using it"):
            Sandbox.delete_snapshot(snapshot.snapshot_id, **api)
        user.connect(timeout=300)
        assert user.files.read("/home/user/f") == "x"
    assert Sandbox.delete_snapshot(snapshot.snapshot_id, **api)
