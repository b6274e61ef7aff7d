"""A sandbox against changes of its policy, and against failures of what enforces it (I4, I8): nothing gets through meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from e2b_code_interpreter import Sandbox

from framework.bypass_lab import NAMED, BypassLab
from framework.pretend_internet import OTHER_HOST, SHARED_HOST, SOCKS_HOST, PretendInternet
from framework.server import Server
from framework.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.templates]
CLOSED = {"deny_out": ["0.0.0.0/0"]}
ONE = {"allow_out": [SHARED_HOST], "deny_out": ["0.0.0.0/0"]}
STRANGE = f"tcp('{OTHER_HOST}', 80, get('evil.example', '/')), tls('{OTHER_HOST}', 'evil.example', get('evil.example', '/'))"
KNOWN = "tcp('api.example.net', 80, get('api.example.net', '/')), tls('api.example.net', 'api.example.net', get('api.example.net', '/'))"
KEPT_OPEN = """
import socket, ssl, sys, time
sock = socket.create_connection(({address!r}, {port}), 5)
if {tls}:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sock = context.wrap_socket(sock, server_hostname='api.example.net')
sock.settimeout(3)
request = {request!r}
while True:
    try:
        sock.sendall(request)
        if not sock.recv(65536):
            break
    except OSError as error:
        break
    print('alive', flush=True)
    time.sleep(0.05)
print('cut', flush=True)
"""
GET = b"GET /headers HTTP/1.1\r\nHost: api.example.net\r\n\r\n"


@pytest.fixture(scope="module")
def lab(online_server: Server, internet: PretendInternet) -> Iterator[BypassLab]:
    """A sandbox that attacks."""
    made = BypassLab(online_server, internet)
    yield made
    made.sandbox.kill()


def holds(lab: BypassLab, sandbox: Sandbox | None = None) -> None:
    """The policy of names is in force: strange hosts see no connection, and the allowed name answers, at once or soon.

    Packets are not counted: the host resets what strange hosts still send to connections that were cut before.
    """
    before = lab.internet.openings(destination=OTHER_HOST)
    answers = lab.run(STRANGE, sandbox=sandbox)
    assert (answers.count("closed"), lab.internet.openings(destination=OTHER_HOST)) == (2, before), answers
    eventually(lambda: lab.run(KNOWN, sandbox=sandbox).count("HTTP/1.1 200") == 2)
    assert lab.internet.openings(destination=OTHER_HOST) == before


@pytest.mark.parametrize(
    ("former", "port", "tls", "request_"),
    [(ONE, 7777, False, b"hello"), (ONE, 80, False, GET), (NAMED, 80, False, GET), (NAMED, 443, True, GET)],
    ids=["kernel", "kernel_web", "names_http", "names_tls"],
)
@pytest.mark.parametrize("later", [CLOSED, {"deny_out": [SHARED_HOST]}], ids=["closed", "denied"])
def test_a_live_change_cuts_an_open_connection(
    lab: BypassLab, former: dict[str, object], port: int, tls: bool, request_: bytes, later: dict[str, object]
) -> None:
    """It works until the new policy is in force, and not a moment longer."""
    lab.follow(former)
    address = SHARED_HOST if former is ONE else "api.example.net"
    lab.sandbox.files.write("/tmp/kept.py", KEPT_OPEN.format(address=address, port=port, tls=tls, request=request_))
    said: list[str] = []
    command = lab.sandbox.commands.run("python3 -u /tmp/kept.py", background=True, user="root")
    reader = threading.Thread(target=lambda: said.extend(out or "" for out, _, _ in command))
    reader.start()
    eventually(lambda: "".join(said).count("alive") >= 3)
    lab.follow(later)
    alive = "".join(said).count("alive")
    reader.join(30)
    assert "cut" in "".join(said), said
    assert "".join(said).count("alive") <= alive + 2, "an answer or two were on their way"


def test_a_race_of_connections_and_changes_lets_none_through_afterwards(lab: BypassLab) -> None:
    """A program connects as fast as it can while the policy changes; after each change to a closed one, none leaves."""
    code = f"import sys; sys.path.insert(0, '/tmp')\nfrom bypasses import *\nwhile True: tcp('{OTHER_HOST}', 80); tcp('{OTHER_HOST}', 7777)"
    lab.sandbox.files.write("/tmp/race.py", code)
    command = lab.sandbox.commands.run("python3 /tmp/race.py", background=True, user="root")
    try:
        for _ in range(5):
            lab.follow({"allow_out": [OTHER_HOST], "deny_out": ["0.0.0.0/0"]})
            eventually(partial(_more_openings, lab, lab.internet.openings(destination=OTHER_HOST)))
            for closed in (CLOSED, NAMED):
                lab.follow(closed)
                before = lab.internet.openings(destination=OTHER_HOST)
                lab.run("tcp('{OTHER}', 80)".replace("{OTHER}", OTHER_HOST))
                assert lab.internet.openings(destination=OTHER_HOST) == before
    finally:
        command.kill()


def test_a_pause_and_a_resume_keep_the_policy(lab: BypassLab) -> None:
    """The policy that was last set, not the one of the creation."""
    sandbox = lab.make(CLOSED)
    sandbox.update_network(NAMED)
    try:
        holds(lab, sandbox)
        sandbox.pause()
        sandbox.connect()
        holds(lab, sandbox)
    finally:
        sandbox.kill()


def test_a_killed_egress_process_lets_nothing_through(lab: BypassLab) -> None:
    """While it is gone, and while it starts again, strange names stay closed; then allowed ones answer."""
    lab.follow(NAMED)
    holds(lab)
    before = lab.internet.openings(destination=OTHER_HOST)
    for _ in range(3):
        os.kill(egress_pid(lab.server), signal.SIGKILL)
        answers = lab.run(STRANGE)
        assert answers.count("closed") == 2, answers
    assert lab.internet.openings(destination=OTHER_HOST) == before
    holds(lab)


def test_a_stopped_egress_process_lets_nothing_through(lab: BypassLab) -> None:
    """It does not answer: connections wait for it in vain."""
    lab.follow(NAMED)
    holds(lab)
    before = lab.internet.openings(destination=OTHER_HOST)
    pid = egress_pid(lab.server)
    os.kill(pid, signal.SIGSTOP)
    try:
        answers = lab.run(STRANGE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert (answers.count("closed"), lab.internet.openings(destination=OTHER_HOST)) == (2, before), answers
    holds(lab)


@pytest.mark.parametrize("child", ["node", "api"])
def test_a_killed_process_of_the_server_lets_nothing_through(lab: BypassLab, child: str) -> None:
    """The supervisor or the api process: the next one enforces the same policy."""
    lab.follow(NAMED)
    holds(lab)
    lab.server.kill_child(child)
    eventually(lab.sandbox.is_running)
    holds(lab)


def test_a_socks_proxy_that_is_down_is_not_passed_by(lab: BypassLab) -> None:
    """A connection that cannot leave through the proxy does not leave at all, and no datagram leaves."""
    lab.follow({"egress_proxy": {"address": f"{SOCKS_HOST}:1080"}})
    assert lab.run(KNOWN).count("HTTP/1.1 200") == 2
    before = lab.internet.packets(destination=SHARED_HOST)
    lab.follow({"egress_proxy": {"address": f"{SOCKS_HOST}:9"}})
    answers = lab.run(f"{KNOWN}, tcp('{SHARED_HOST}', 7777, b'hello'), udp('{SHARED_HOST}', 7777, b'hello')")
    assert (answers.count("closed"), lab.internet.packets(destination=SHARED_HOST)) == (4, before), answers
    lab.follow({"egress_proxy": {"address": f"{SOCKS_HOST}:1081", "username": "user", "password": "wrong"}})
    answers = lab.run(KNOWN)
    assert (answers.count("closed"), lab.internet.packets(destination=SHARED_HOST)) == (2, before), answers


def test_sockets_of_the_server_are_not_inside(lab: BypassLab) -> None:
    """Neither the supervisor's, the api process's nor the egress process's: none of their names is to be seen or opened."""
    found = lab.run("run('cat /proc/net/unix; find / -xdev -type s')")
    assert not [word for word in ("supervisor.sock", "values.sock", "cloister/") if word in found], found


def _more_openings(lab: BypassLab, before: int) -> bool:
    return lab.internet.openings(destination=OTHER_HOST) > before


def egress_pid(server: Server) -> int:
    """The egress process of the server."""
    listed = ["pgrep", "-P", str(server.child("node")), "-f", "cloister.processes.egress"]

    def look() -> list[str]:
        return subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()

    return int(eventually(look)[0])
