"""Effects of a server's network on its host, beside other servers; it leaves no changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import InvalidRequestError, IsolationError
from cloister.model.network import NO_EGRESS, PUBLIC_EGRESS
from cloister.network.plan import NetworkConfig
from cloister.network.slots import NetworkNode
from framework.network_lab import FAR, GATEWAY, Lab, can_connect, lab, running_node

pytestmark = pytest.mark.root


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    """A host and a far machine."""
    with lab(tmp_path) as found:
        yield found


@pytest.fixture
def node(made: Lab) -> Iterator[NetworkNode]:
    """A running node on that host."""
    with running_node(made) as found:
        yield found


def _host_objects(made: Lab) -> str:
    return made.host.run("ip -o link; ip route; nft list tables; cat /proc/sys/net/ipv4/conf/*/forwarding /proc/sys/net/ipv4/ip_forward")


def test_stop_leaves_the_host_as_it_was(made: Lab) -> None:
    """After stop, the host's interfaces, routes, tables and forwarding flags are those of before, and the survey is empty."""
    before = _host_objects(made)
    node = made.node()
    assert node.survey() == []
    node.start()
    one, two = made.sandbox(), made.sandbox()
    node.attach(1, one.fd, PUBLIC_EGRESS)
    node.attach(2, two.fd, NO_EGRESS)
    kinds = {line.rsplit(" ", 1)[0] for line in node.survey()}
    assert kinds == {"network namespace", "router interface", "host interface", "host route", "host nftables table inet"}
    node.stop()
    assert node.survey() == []
    assert _host_objects(made) == before
    assert not list((made.directory / "run" / "0" / "netns").iterdir())
    for sandbox in (one, two):
        assert "eth0" not in sandbox.run_as(0, "ip -o link").stdout
    node.stop()


def test_the_global_forwarding_switch_is_left_alone(made: Lab, node: NetworkNode) -> None:
    """Forwarding is on for the uplink and for the interface of the default route, and for nothing else."""
    made.host.run("ip link add idle0 type veth peer name idle1")
    flags = made.host.run("cd /proc/sys/net/ipv4/conf; grep -l 1 */forwarding").split()
    assert flags == ["cl0up/forwarding", "wan0/forwarding"]
    assert made.host.run("cat /proc/sys/net/ipv4/ip_forward").strip() == "0"


def test_a_host_that_forwards_already_is_neither_guarded_nor_changed(made: Lab) -> None:
    """If the administrator turned forwarding on, stop leaves it on. Other forwarding of the host works while a server runs."""
    made.host.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
    with running_node(made):
        assert "elements" not in made.host.run("nft list set inet cloister0 guarded")
    assert made.host.run("cat /proc/sys/net/ipv4/conf/wan0/forwarding /proc/sys/net/ipv4/ip_forward").split() == ["1", "1"]


def test_refresh_follows_the_hosts_routes(made: Lab, node: NetworkNode) -> None:
    """A refresh opens and guards an uplink that appears later. Turning on the global switch later ends the guard."""
    made.host.run("ip link add vpn0 type veth peer name vpn1", "ip link set vpn0 up")
    made.host.run("ip route add 203.0.113.0/24 via 172.31.9.2 dev vpn0 onlink")
    node.refresh()
    assert made.host.run("cat /proc/sys/net/ipv4/conf/vpn0/forwarding").strip() == "1"
    assert "vpn0" in made.host.run("nft list set inet cloister0 guarded")
    made.host.run("echo 1 > /proc/sys/net/ipv4/ip_forward")
    node.refresh()
    assert "elements" not in made.host.run("nft list set inet cloister0 guarded")


def test_two_servers_share_a_host(made: Lab) -> None:
    """Two instances work side by side. The first stop keeps the other's sandboxes connected; the last one turns forwarding off."""
    with running_node(made, 0) as first, made.far.listen(FAR):
        with running_node(made, 1) as second:
            one, two = made.sandbox(), made.sandbox()
            assert first.attach(1, one.fd, PUBLIC_EGRESS).address == "10.200.0.1"
            assert second.attach(1, two.fd, PUBLIC_EGRESS).address == "10.201.0.1"
            assert can_connect(one, FAR)
            assert can_connect(two, FAR)
            first.stop()
            assert not can_connect(one, FAR, timeout_s=0.3)
            assert can_connect(two, FAR)
            first.start()
            first.attach(1, one.fd, PUBLIC_EGRESS)
            assert can_connect(one, FAR)
        assert can_connect(one, FAR)
    assert made.host.run("cat /proc/sys/net/ipv4/conf/wan0/forwarding").strip() == "0"


def test_the_mtu_is_that_of_the_way_out(made: Lab) -> None:
    """If the uplink's MTU is 1400 bytes, sandboxes have it too, so that no packet is fragmented."""
    made.host.run("ip link set wan0 mtu 1400")
    with running_node(made) as node:
        sandbox = made.sandbox()
        node.attach(1, sandbox.fd, PUBLIC_EGRESS)
        assert "mtu 1400" in sandbox.run_as(0, "ip link show dev eth0").stdout
        assert "mtu 1400" in made.host.run("ip link show dev cl0up")


@pytest.mark.parametrize("setting", ["rp_filter=1", "send_redirects=0", "accept_redirects=0", "route_localnet=0"])
def test_kernel_settings_of_the_router_and_the_uplink(made: Lab, node: NetworkNode, setting: str) -> None:
    """Reverse-path filter on, redirects and loopback routing off: in the router and, but for the first, at the uplink."""
    name, value = setting.split("=")
    node.attach(1, made.sandbox().fd, PUBLIC_EGRESS)
    for interface in ("all", "default", "cl0s1"):
        assert made.router().run(f"cat /proc/sys/net/ipv4/conf/{interface}/{name}").strip() == value
    if name != "rp_filter":
        assert made.host.run(f"cat /proc/sys/net/ipv4/conf/cl0up/{name}").strip() == value


def test_neighbour_entries_do_not_fill_the_shared_table(made: Lab, node: NetworkNode) -> None:
    """Both ends know each other's hardware address for good: such entries do not count against the limit that all namespaces share."""
    sandbox = made.sandbox()
    slot = node.attach(1, sandbox.fd, PUBLIC_EGRESS)
    assert sandbox.run_as(0, "ip neighbour").stdout.split()[0] == slot.gateway
    assert "PERMANENT" in sandbox.run_as(0, "ip neighbour").stdout
    router = made.router().run("ip neighbour")
    assert router.count("PERMANENT") == router.count("lladdr") == 2


def test_a_range_that_the_host_routes_elsewhere_is_refused(made: Lab) -> None:
    """A sandbox network that overlaps with the host's own is refused with a remedy; a wider route around it is not."""
    made.host.run("ip link add lan0 type veth peer name lan1", "ip address add 10.200.7.1/24 dev lan0", "ip link set lan0 up")
    with pytest.raises(IsolationError, match=r"10\.200\.7\.0/24.*lan0.*choose another"), running_node(made):
        pass
    made.host.run("ip address flush dev lan0", f"ip route add 10.0.0.0/8 via {GATEWAY}")
    with running_node(made), running_node(made, 1, cidr="172.20.0.0/16") as other:
        assert other.gateway_address == "172.20.32.1"


@pytest.mark.parametrize(
    ("field", "value"),
    [("instance", 7), ("cidr", "10.0.0.0/24"), ("cidr", "nonsense"), ("cidr", "10.0.0.1/16"), ("allow_private", ("10.1.2.3/8",))],
)
def test_nonsense_configuration_is_refused(tmp_path: Path, field: str, value: object) -> None:
    """A configuration that makes no sense is refused before anything is made."""
    values: dict[str, object] = {"instance": 0, "run_dir": tmp_path, "cidr": None, "upstream_dns": (), "allow_private": ()}
    values |= {"relay_uid": 1, "egress_uid": 2}
    with pytest.raises(InvalidRequestError):
        NetworkNode(NetworkConfig(**{**values, field: value}))  # type: ignore[arg-type]  # fields by name
