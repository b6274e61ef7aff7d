"""Measures the network of sandboxes: connections past each kind of policy, live changes, and 1,000 sandboxes with 100 rules each.

See README.md. Everything runs on a pretend internet on this machine, so the numbers have no wire in them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.stats import Samples, percentile, print_samples, timed, write_results
from e2b import Sandbox

from cloister.linux.meminfo import host_memory
from cloister.model.network import PUBLIC_EGRESS, EgressPolicy
from framework.network_lab import FAR, Namespace, can_connect, lab, running_node
from framework.pretend_internet import pretend_internet
from framework.server import Server, running_server

_NAME, _ALL = "api.example.net", "0.0.0.0/0"
_FLOOR = "https, no rules"
_MIB = 1 << 20
_DOWNLOAD_MIB = 64
_LIST = [f"203.0.{number}.0/25" for number in range(100)]
_HEADER = {_NAME: [{"transform": {"headers": {"X-Bench": "1"}}}]}
POLICIES: dict[str, dict[str, Any]] = {
    "no rules": {},
    "100 addresses": {"deny_out": _LIST},
    "a name": {"allow_out": [_NAME], "deny_out": [_ALL]},
    "a header rule": {"rules": _HEADER},
}
_INSIDE = f"""
import json, socket, ssl, sys, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
def opened(port):
    sock = socket.create_connection(({_NAME!r}, port), 10)
    return context.wrap_socket(sock, server_hostname={_NAME!r}) if port == 443 else sock
def fetch(port, path):
    with opened(port) as sock:
        sock.sendall(b'GET ' + path + b' HTTP/1.1\\r\\nHost: {_NAME}\\r\\nConnection: close\\r\\n\\r\\n')
        total = 0
        while part := sock.recv(1 << 20):
            total += len(part)
    return total
found = {{}}
for port, name in ((80, 'http'), (443, 'https')):
    fetch(port, b'/headers')
    times = []
    for _ in range(int(sys.argv[1])):
        began = time.perf_counter()
        fetch(port, b'/headers')
        times.append((time.perf_counter() - began) * 1000)
    began = time.perf_counter()
    size = fetch(port, b'/bytes?n=' + sys.argv[2].encode())
    assert size > int(sys.argv[2]), size
    found[name] = {{'times': times, 'bytes_per_s': size / (time.perf_counter() - began)}}
print(json.dumps(found))
"""


@contextmanager
def _online_server() -> Iterator[Server]:
    """A server on a pretend internet."""
    with tempfile.TemporaryDirectory() as directory, pretend_internet(Path(directory)) as internet:
        assert internet.hosts
        options = ("--dns-upstreams", internet.dns_address, "--extra-ca-file", str(internet.ca_file))
        with running_server(*options) as server:
            yield server


def measure_connections(samples: Samples, server: Server, rounds: int) -> dict[str, float]:
    """Whole connections (TCP, TLS, a small request) and a download, past each kind of policy. Returns MiB a second by row."""
    speeds: dict[str, float] = {}
    with Sandbox.create(timeout=3600, **server.sdk) as sandbox:
        sandbox.files.write("/tmp/bench.py", _INSIDE)
        for kind, network in POLICIES.items():
            sandbox.update_network(network)
            done = sandbox.commands.run(f"python3 /tmp/bench.py {rounds} {_DOWNLOAD_MIB * _MIB}", timeout=600)
            for name, found in json.loads(done.stdout).items():
                samples[f"{name}, {kind}"] = found["times"]
                speeds[f"{name}, {kind}"] = found["bytes_per_s"] / _MIB
    return speeds


def measure_changes(samples: Samples, server: Server, rounds: int) -> None:
    """Changes of the policy of a sandbox that runs, by the SDK: until the new one is in force."""
    with Sandbox.create(timeout=3600, **server.sdk) as sandbox:
        for _ in range(rounds):
            for kind, network in POLICIES.items():
                timed(samples, f"change to {kind}", partial(sandbox.update_network, network))


def measure_rules(samples: Samples, count: int) -> dict[str, float]:
    """``count`` sandboxes' networks, first without rules, then with 100 each. Returns KiB of the host's memory for each."""
    with tempfile.TemporaryDirectory() as directory, lab(Path(directory)) as made, ExitStack() as stack:
        listener = stack.enter_context(made.far.listen(FAR))
        listener.listen(1024)
        node = stack.enter_context(running_node(made))
        spaces = [stack.enter_context(_namespace(Path(directory) / str(number))) for number in range(count)]
        empty = _available()
        for slot, space in enumerate(spaces, 1):
            timed(samples, "attach", partial(node.attach, slot, space.fd, PUBLIC_EGRESS))
        attached = _available()
        _connect(samples, "connect, no rules", spaces)
        for slot in range(1, count + 1):
            policy = EgressPolicy(public=True, deny=_rules(slot))
            timed(samples, "100 rules", partial(node.set_egress, slot, policy))
        ruled = _available()
        _connect(samples, "connect, 100 rules", spaces)
        for slot in range(1, count + 1):
            policy = EgressPolicy(public=True, deny=_rules(slot + 1))
            timed(samples, "100 other rules", partial(node.set_egress, slot, policy))
        return {"an attached sandbox": (empty - attached) / count / 1024, "its 100 rules": (attached - ruled) / count / 1024}


@contextmanager
def _namespace(path: Path) -> Iterator[Namespace]:
    made = Namespace(path)
    try:
        yield made
    finally:
        made.close()


def _rules(seed: int) -> tuple[str, ...]:
    """A hundred networks that hold no address of the laboratory."""
    first = int(IPv4Address("20.0.0.0")) + (seed % 256) * 65536
    return tuple(f"{IPv4Address(first + number * 512)}/24" for number in range(100))


def _connect(samples: Samples, name: str, spaces: list[Namespace]) -> None:
    for space in spaces[:: max(1, len(spaces) // 100)]:
        assert timed(samples, name, partial(can_connect, space, FAR))


def _available() -> int:
    time.sleep(1)  # freed memory comes back a little later
    return host_memory().available


def main() -> None:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--sandboxes", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "network.json")
    args = parser.parse_args()
    kernel: Samples = {}
    memory = measure_rules(kernel, args.sandboxes)
    samples: Samples = {}
    with _online_server() as server:
        speeds = measure_connections(samples, server, args.rounds)
        measure_changes(samples, server, max(1, args.rounds // 10))
    rows = {**print_samples(samples, _FLOOR), **print_samples(kernel, "attach")}
    for name, speed in speeds.items():
        print(f"{name:24}{speed:9.0f} MiB/s")
    for name, size in memory.items():
        print(f"{name:24}{size:9.1f} KiB")
    print(f"p99 of a live change: {max(percentile(values, 0.99) for name, values in samples.items() if name.startswith('change')):.1f} ms")
    write_results(args.output, rows, mib_per_s=speeds, kib=memory)


if __name__ == "__main__":
    main()
