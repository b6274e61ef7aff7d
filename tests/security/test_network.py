"""A sandbox against the networks around it (I3, I4, I5). The rules one by one: tests/integration/test_network_*."""

from __future__ import annotations

import http.server
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from framework.attack_table import held_by
from framework.inside import address_of, python, shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture
def host_listener() -> Iterator[int]:
    """A web server on every address of the host."""
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def host_addresses() -> list[str]:
    """Every IPv4 address of the host, loopback and Cloister's own included."""
    listed = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return [line.split()[3].split("/")[0] for line in listed.splitlines()]


def connect(sandbox: Sandbox, address: str, port: int, user: str = "user") -> str:
    """``open`` or the reason why not."""
    code = (
        "import socket, sys\ns = socket.socket()\ns.settimeout(1.5)\n"
        f"try:\n s.connect(('{address}', {port})); print('open')\nexcept OSError as e: print('closed', e)"
    )
    return shell(sandbox, f"python3 -c {shlex.quote(code)}", user=user).text


@held_by(namespace="rules of the router's namespace", gvisor="rules of the router's namespace")
def test_sandbox_cannot_reach_the_host(attacker: Sandbox, host_listener: int, user: str) -> None:
    """No address of the host answers, though a server listens on all of them."""
    with socket.create_connection(("127.0.0.1", host_listener), 2):
        pass
    for address in [*host_addresses(), "0.0.0.0"]:
        assert connect(attacker, address, host_listener, user).startswith("closed"), address


@held_by(namespace="rules of the router's namespace", gvisor="rules of the router's namespace")
def test_sandbox_cannot_reach_the_api_or_ingress(server: Server, attacker: Sandbox) -> None:
    """The server's own port is not reachable from inside."""
    port = int(server.url.rpartition(":")[2])
    for address in host_addresses():
        assert connect(attacker, address, port).startswith("closed"), address


@held_by(namespace="rules of the router's namespace", gvisor="rules of the router's namespace")
def test_sandbox_cannot_reach_its_gateway(attacker: Sandbox) -> None:
    """Of the gateway only the resolver's port answers."""
    gateway = shell(attacker, "ip route | awk '/default/ {print $3}'").text
    assert connect(attacker, gateway, 53).startswith("open")
    for port in (22, 80, 3000, 49983):
        assert connect(attacker, gateway, port).startswith("closed")


@held_by(namespace="rules of the router's namespace", gvisor="rules of the router's namespace")
def test_sandbox_cannot_reach_another_sandbox(attacker: Sandbox, neighbour: Sandbox, user: str) -> None:
    """A server that a neighbour runs on all its addresses, and its agent, do not answer."""
    neighbour.run_code("import subprocess; subprocess.Popen(['python3', '-m', 'http.server', '8000', '--bind', '0.0.0.0'])")
    address = address_of(neighbour)
    assert python(neighbour, f"import time, socket\ntime.sleep(1)\nsocket.create_connection(('{address}', 8000), 2); print('up')") == "up"
    for port in (8000, 49983, 49999):
        assert connect(attacker, address, port, user).startswith("closed")


@held_by(namespace="rules of the router's namespace", gvisor="rules of the router's namespace")
def test_sandbox_cannot_reach_private_addresses(server: Server, attacker: Sandbox) -> None:
    """Metadata, private and shared addresses are refused by the policy, as the log says, and not because nothing answers there."""
    addresses = {"169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1"}
    for address in addresses:
        assert connect(attacker, address, 80).startswith("closed"), address
    told: dict[str, str] = {}
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not addresses <= told.keys():
        time.sleep(0.5)
        told = {one["destination"]: one["reason"] for one in _refused(server, attacker) if "destination" in one}
    assert {told.get(address) for address in addresses} == {"not_public"}


@held_by(namespace="network namespace", gvisor="sockets of gVisor's own")
def test_sandbox_cannot_use_abstract_sockets_of_the_host(attacker: Sandbox) -> None:
    """An abstract unix socket of the host does not exist inside."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0cloister-attack-test")
        listener.listen()
        code = "import socket\ntry:\n socket.socket(socket.AF_UNIX).connect('\\0cloister-attack-test'); print('open')\nexcept OSError: print('closed')"
        assert python(attacker, code) == "closed"


@held_by(namespace="rules of the router's namespace", gvisor="rules of the router's namespace")
def test_sandbox_without_internet_has_none(server: Server) -> None:
    """allow_internet_access=False: the resolver, which answers every other sandbox, is closed, and so no name is found."""
    sandbox = Sandbox.create(timeout=120, allow_internet_access=False, **server.sdk)
    try:
        gateway = shell(sandbox, "ip route | awk '/default/ {print $3}'").text
        with Sandbox.create(timeout=120, **server.sdk) as online:
            assert connect(online, gateway, 53).startswith("open")
        assert connect(sandbox, gateway, 53).startswith("closed")
        code = "import socket\ntry:\n print(socket.getaddrinfo('httpbin.org', 443))\nexcept OSError as e: print('closed')"
        assert python(sandbox, code) == "closed"
    finally:
        sandbox.kill()


@held_by(namespace="the ingress and the agent", gvisor="the ingress and the agent")
def test_stranger_cannot_run_code_without_the_token(server: Server, attacker: Sandbox) -> None:
    """Knowing a sandbox's id is not enough to run code in it (I5)."""
    headers = {"E2b-Sandbox-Id": attacker.sandbox_id, "E2b-Sandbox-Port": "49999"}
    for token in ({}, {"X-Access-Token": "0" * 64}):
        answer = httpx.post(server.url + "/execute", headers=headers | token, json={"code": "1"})
        assert answer.status_code == 401


def _refused(server: Server, sandbox: Sandbox) -> list[dict[str, str]]:
    answer = httpx.get(f"{server.url}/v2/sandboxes/{sandbox.sandbox_id}/logs", headers={"X-API-KEY": server.api_key})
    return [entry["fields"] for entry in answer.json()["logs"] if entry["fields"]["event"].startswith("network.")]


def test_sandbox_cannot_fill_its_log_by_a_scan(server: Server, attacker: Sandbox, neighbour: Sandbox) -> None:
    """A scan of every port of a refused address is a few lines and one number; a neighbour's one try beside it is told whole."""
    scan = """
import socket
sent = 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for port in range(1, 65536):
        try:
            sock.sendto(b'x', ('169.254.169.254', port)); sent += 1
        except OSError:
            pass
print(sent)
"""
    sent = int(python(attacker, scan))
    assert connect(neighbour, "169.254.169.254", 80).startswith("closed")
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and not _refused(server, neighbour):
        time.sleep(0.5)
    assert [(one["destination"], one["port"]) for one in _refused(server, neighbour)][-1:] == [("169.254.169.254", "80")]
    attacker.kill()  # its log tells the rest of the number then
    found = _refused(server, attacker)
    assert len([one for one in found if one.get("destination") == "169.254.169.254"]) <= 16
    assert len(found) <= 20
    assert 0.9 * sent <= sum(int(one["count"]) for one in found) <= sent
