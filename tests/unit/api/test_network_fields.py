"""The ``network`` of a request: what is accepted, the policy that it becomes, what answers show, and each refusal by name."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.api.network_fields import NetworkChoice, parse_network, parse_network_update, render_internet, render_network
from cloister.errors import InvalidRequestError
from cloister.model.network import EgressPolicy, EgressProxy, HeaderRule, NetworkOptions
from cloister.model.sandbox import Sandbox, SandboxState
from cloister.model.secret import Secret

ALL = "0.0.0.0/0"


def parsed(network: dict[str, Any] | None, allow_internet: bool | None = None) -> NetworkChoice:
    """The choice in a creation."""
    return parse_network(network, allow_internet)


def egress(**network: Any) -> EgressPolicy:
    """The policy of a creation whose ``network`` is this."""
    found = parsed(network).egress
    assert found is not None
    return found


def row_of(choice: NetworkChoice) -> Sandbox:
    """A sandbox that was created with the choice."""
    return Sandbox(
        sandbox_id="s1",
        team_id="t1",
        template_id="base",
        template="base",
        state=SandboxState.RUNNING,
        started_at=0,
        end_at=1e10,
        cpu_count=1,
        mem_mib=512,
        disk_mib=512,
        egress=choice.egress,
        network=choice.options,
        traffic_token=None if choice.public_traffic else Secret("t"),
    )


def test_lists_become_networks_and_names() -> None:
    """Addresses become networks of one address, host bits are cleared, names are lower case, and repetitions and IPv6 have no effect."""
    found = egress(
        allowOut=["1.1.1.1", "8.8.8.8/24", "Example.COM", "*.Example.com", "example.com", "2001:db8::1", "1.1.1.1/32", "*"],
        denyOut=[ALL, "9.9.9.9", "2001:db8::/32", "::/0", ALL],
    )
    assert found.allow == ("1.1.1.1/32", "8.8.8.0/24")
    assert found.names == ("example.com", "*.example.com", "*")
    assert found.deny == (ALL, "9.9.9.9/32")
    assert found.public


def test_ipv4_in_the_form_of_ipv6_is_denied() -> None:
    """An IPv4 address may be written as IPv6: denying it must not be without effect."""
    assert egress(denyOut=["::ffff:9.9.9.9", "::ffff:8.8.0.0/112"]).deny == ("9.9.9.9/32", "8.8.0.0/16")


@pytest.mark.parametrize(
    "entry", ["0.0.0.0", "0.0.0.0/8", "::", "1.2.3", "a.example", "*", "", "1.1.1.1/33", "1.1.1.1/255.0.0.0", "fe80::1%eth0"]
)
def test_denied_entries_are_networks(entry: str) -> None:
    """Names, netmasks, zones and the unspecified address are no networks to deny."""
    with pytest.raises(InvalidRequestError, match="invalid denied CIDR"):
        egress(denyOut=[entry])


@pytest.mark.parametrize(
    "entry",
    [
        "0.0.0.0",
        "::",
        "1.1.1.1/33",
        "300.1.1.1",
        "1.2.3.4.5",
        "https://a.example",
        "a.example:443",
        "a.example.",
        "a..b",
        "-a.example",
        "*a.example",
        "a.*.example",
        "**",
        "*.",
        "",
        " a.example",
        "ä.example",
        "\u212aelvin.example",
        "a" * 64 + ".example",
        "a." * 127 + "ab",
    ],
)
def test_allowed_entries_are_networks_or_names(entry: str) -> None:
    """An entry that could allow nothing is refused by name."""
    with pytest.raises(InvalidRequestError, match="invalid allowed address"):
        egress(allowOut=[entry], denyOut=[ALL])


@pytest.mark.parametrize("deny", [[], ["1.0.0.0/8", "128.0.0.0/1"], ["::/0"]])
def test_names_need_a_denial_of_all(deny: list[str]) -> None:
    """Names restrict nothing while addresses are open; internet access that is off does not count, as it may be allowed again."""
    for allow_internet in (None, False):
        with pytest.raises(InvalidRequestError, match="ALL_TRAFFIC"):
            parsed({"allowOut": ["a.example"], "denyOut": deny}, allow_internet)
    assert not egress(allowOut=["1.1.1.1"], denyOut=deny).names


def test_internet_access() -> None:
    """Off keeps what is allowed; on and null have no effect; no choice is told from one."""
    assert parsed(None, None).egress is None
    assert parsed({}, None).egress is None
    assert parsed(None, False).egress == EgressPolicy(public=False)
    assert parsed(None, True).egress == EgressPolicy(public=True)
    found = parsed({"allowOut": ["1.1.1.1"]}, False).egress
    assert found == EgressPolicy(public=False, allow=("1.1.1.1/32",))


def test_dns_servers() -> None:
    """None, an empty list and addresses are told apart; anything but an IPv4 address is refused."""
    assert egress(denyOut=[ALL]).dns_servers is None
    assert egress(dnsServers=[]).dns_servers == ()
    assert egress(dnsServers=["1.1.1.1", "1.1.1.1"]).dns_servers == ("1.1.1.1",)
    for wrong in ("::1", "1.1.1.1:53", "dns.example", "1.1.1.0/24"):
        with pytest.raises(InvalidRequestError, match="not an IPv4 address"):
            egress(dnsServers=[wrong])
    with pytest.raises(InvalidRequestError, match="has 11 entries; it may have at most 10"):
        egress(dnsServers=["1.1.1.1"] * 11)


def test_lists_are_bounded() -> None:
    """A thousand entries pass; one more, or a network of more than 128 KiB, is refused."""
    assert len(egress(denyOut=[f"9.{n // 256}.{n % 256}.1" for n in range(1000)]).deny) == 1000
    with pytest.raises(InvalidRequestError, match=r"network.denyOut has 1001 entries; it may have at most 1000"):
        egress(denyOut=["9.9.9.9"] * 1001)
    with pytest.raises(InvalidRequestError, match="network is longer than 131072 bytes"):
        egress(allowOut=[f"{n}." + "a.aaaaaaa" * 26 for n in range(1000)], denyOut=[ALL])


@pytest.mark.parametrize("ports", [[0], [65_536], ["80"], [True], [80.0], [49_983], [49_999], [80, 80], "80"])
def test_https_ports(ports: Any) -> None:
    """Ports are numbers in their range, each once, and not those of the agent."""
    with pytest.raises(InvalidRequestError, match=r"network\.httpsPorts"):
        parsed({"httpsPorts": ports})
    assert parsed({"httpsPorts": [443, 8443]}).options.https_ports == (443, 8443)


def rules_of(headers: Any, host: str = "api.example.com") -> dict[str, Any]:
    """A network with one rule."""
    return {"rules": {host: [{"transform": {"headers": headers}}]}}


def test_rules() -> None:
    """Hosts are lower case; empty rules are kept only where they hide a wildcard; values are kept verbatim."""
    found = parsed(
        {
            "rules": {
                "API.example.com": [{"transform": {"headers": {"X-Key": "a ${e2b.secrets. Key } ${PORT}"}}}],
                "*.example.org": [{"transform": {"headers": {"a": "b"}}}],
                "www.example.org": [],
                "other.example": [{}],
                "third.example": [{"transform": {}}],
            }
        }
    )
    assert found.egress is not None
    assert found.egress.rules == (
        HeaderRule(host="api.example.com", headers={"X-Key": "a ${e2b.secrets. Key } ${PORT}"}),
        HeaderRule(host="*.example.org", headers={"a": "b"}),
        HeaderRule(host="www.example.org", headers={}),
    )
    shown = render_network(row_of(found))
    assert shown is not None
    assert list(shown["rules"]) == ["api.example.com", "*.example.org", "www.example.org", "other.example", "third.example"]
    assert shown["rules"]["www.example.org"] == []


@pytest.mark.parametrize("host", ["*", "1.2.3.4", "::1", "a.example:80", "a.*.b", "", "x" * 60 + "." + "y" * 60 + ".example", "a.example."])
def test_hosts_of_rules(host: str) -> None:
    """A host is a DNS name or a wildcard below one, of at most 128 characters."""
    with pytest.raises(InvalidRequestError, match="invalid host"):
        egress(**rules_of({"a": "b"}, host))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ({"rules": {f"h{n}.example": [] for n in range(11)}}, "has 11 hosts; it may have at most 10"),
        ({"rules": {"a.example": [], "A.example": []}}, "twice"),
        ({"rules": {"a.example": [{}, {}]}}, "at most one rule"),
        ({"rules": {"a.example": {}}}, "at most one rule"),
        ({"rules": {"a.example": [{"allow": True}]}}, r"unknown field: network\.rules\.a\.example\.allow"),
        ({"rules": {"a.example": [{"transform": {"body": "x"}}]}}, r"unknown field: network\.rules\.a\.example\.transform\.body"),
        (rules_of({f"h{n}": "" for n in range(21)}), "has 21 headers; it may have at most 20"),
        (rules_of({"X": "1", "x": "2"}), "twice"),
        (rules_of({"a b": "1"}), "a name is a token"),
        (rules_of({"": "1"}), "a name is a token"),
        (rules_of({"a:": "1"}), "a name is a token"),
        (rules_of({"a\r\nb": "1"}), "a name is a token"),
        (rules_of({"x" * 65: "1"}), "a name is a token"),
        (rules_of({"a": 1}), "must be a string"),
        (rules_of({"a": "x" * 2049}), "at most 2048 bytes"),
        (rules_of({"a": "é" * 1025}), "at most 2048 bytes"),
        (rules_of({"a": "1\r\nb: 2"}), "control characters"),
        (rules_of({"a": "1\x7f"}), "control characters"),
        (rules_of({"Transfer-Encoding": "chunked"}), "frames a request or names its host"),
        (rules_of({"HOST": "x"}), "frames a request or names its host"),
        (rules_of({"a": "".join(f"${{e2b.secrets.s{n}}}" for n in range(33))}), "has 33 secrets; it may have at most 32"),
    ],
)
def test_rules_that_are_refused(network: dict[str, Any], why: str) -> None:
    """Each bound and each form is checked, and the refusal says which."""
    with pytest.raises(InvalidRequestError, match=why):
        parsed(network)


@pytest.mark.parametrize(
    "value",
    [
        "${e2b.secrets.a",
        "${e2b.secrets.}",
        "${e2b.secrets. }",
        "${e2b.secrets.${e2b.secrets.a}}",
        "${e2b.secrets.sec_01}",
        "${e2b.secrets.a b}",
        "${e2b.secrets.a/../b}",
        "${e2b.secrets.SEC_x}",
        "x ${e2b.identity.tokens.",
        "${e2b.identity.tokens.}",
        "${e2b.identity.tokens.a{b}",
    ],
)
def test_malformed_placeholders(value: str) -> None:
    """A placeholder that could never be replaced is refused when it is sent, in the published words."""
    with pytest.raises(InvalidRequestError, match=r"^Network transform header contains a malformed E2B placeholder\.$"):
        egress(**rules_of({"a": value}))
    assert egress(**rules_of({"a": "${e2b.other} ${x} ${ e2b.secrets.a"})).rules


def test_proxy() -> None:
    """A proxy is read whole; neither its password nor its certificates are shown."""
    found = parsed(
        {
            "egressProxy": {
                "address": " Proxy.Example.com:1080 ",
                "username": "u",
                "password": "p",
                "tls": {"enabled": True, "serverName": "x.example"},
            }
        }
    )
    assert found.egress is not None
    assert found.egress.proxy == EgressProxy(
        address="proxy.example.com:1080", username="u", password=Secret("p"), tls=True, server_name="x.example"
    )
    assert render_network(row_of(found)) == {
        "egressProxy": {"address": "proxy.example.com:1080", "username": "u", "tls": {"enabled": True, "serverName": "x.example"}}
    }
    assert egress(egressProxy={"address": "198.51.100.1:1"}).proxy == EgressProxy(address="198.51.100.1:1")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate and a key."""
    directory: Path = tmp_path_factory.mktemp("pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*command, "-keyout", directory / "key", "-out", directory / "cert"], check=True, capture_output=True)
    return (directory / "cert").read_text(), (directory / "key").read_text()


def test_certificates_of_a_proxy(pem: tuple[str, str]) -> None:
    """One or several certificates pass; a key beside them, or anything else, is refused."""
    certificate, key = pem
    proxy = {"address": "198.51.100.1:1", "tls": {"enabled": True, "caCert": certificate * 2}}
    found = parsed({"egressProxy": proxy})
    assert found.egress is not None
    assert found.egress.proxy is not None
    assert found.egress.proxy.ca_certs == certificate * 2
    assert "caCert" not in str(render_network(row_of(found)))
    for wrong in (certificate + key, key, "x", ""):
        with pytest.raises(InvalidRequestError, match=r"tls\.caCert must have certificates"):
            egress(egressProxy={**proxy, "tls": {"enabled": True, "caCert": wrong}})


@pytest.mark.parametrize(
    ("proxy", "why"),
    [
        ({}, r"egressProxy\.address is missing"),
        ({"address": "proxy.example"}, "address is not valid"),
        ({"address": "proxy.example:0"}, "has no port"),
        ({"address": "proxy.example:65536"}, "address is not valid"),
        ({"address": "socks5://proxy.example:1"}, "address is not valid"),
        ({"address": "u@proxy.example:1"}, "address is not valid"),
        ({"address": "1.2.3:1"}, "address is not valid"),
        ({"address": "a.example:1", "password": "p"}, "password needs"),
        ({"address": "a.example:1", "username": "", "password": "p"}, "username is empty"),
        ({"address": "a.example:1", "username": ""}, "username is empty"),
        ({"address": "a.example:1", "username": "u" * 256}, "has 256 bytes; it may have at most 255"),
        ({"address": "a.example:1", "tls": {"serverName": "x"}}, "need tls.enabled"),
        ({"address": "a.example:1", "tls": {"enabled": False, "caCert": "x"}}, "need tls.enabled"),
        ({"address": "a.example:1", "tls": {"enabled": True, "serverName": "a b"}}, "serverName is not a host name"),
        ({"address": "a.example:1", "scheme": "http"}, r"unknown field: network\.egressProxy\.scheme"),
    ],
)
def test_proxies_that_are_refused(proxy: dict[str, Any], why: str) -> None:
    """Each part of a proxy is checked, and the refusal says which."""
    with pytest.raises(InvalidRequestError, match=why):
        parsed({"egressProxy": proxy})


def test_answers_show_what_was_sent() -> None:
    """Nothing without a network; else the fields that were sent, verbatim."""
    assert render_network(row_of(parsed(None))) is None
    assert render_network(row_of(parsed({}))) == {}
    sent = {
        "allowPublicTraffic": False,
        "maskRequestHost": "x:${PORT}",
        "httpsPorts": [443],
        "allowOut": ["A.example", "8.8.8.8/24"],
        "denyOut": [ALL],
        "dnsServers": [],
    }
    found = parsed({**sent, "egressProxy": None, "rules": None}, False)
    assert render_network(row_of(found)) == sent
    assert not found.public_traffic
    assert render_internet(row_of(found)) is False
    assert render_internet(row_of(parsed({"denyOut": [ALL]}))) is None
    assert render_internet(row_of(parsed(None))) is None
    assert render_internet(row_of(parsed(None, True))) is True


def test_rows_of_older_releases_show_their_ingress() -> None:
    """Their rows have no network as it was sent."""
    row = replace(row_of(parsed(None, False)), network=NetworkOptions(host_mask="x"), traffic_token=Secret("t"))
    assert render_network(row) == {"allowPublicTraffic": False, "maskRequestHost": "x"}
    assert render_internet(row) is False


def test_update_replaces_the_egress_and_knows_no_ingress() -> None:
    """An update clears what it leaves out, and refuses fields of the ingress and unknown ones."""
    assert parse_network_update({}).egress == EgressPolicy(public=True)
    update = parse_network_update({"allow_internet_access": False, "allowOut": ["1.1.1.1"]})
    assert update.egress == EgressPolicy(public=False, allow=("1.1.1.1/32",))
    assert update.sent == {"allow_internet_access": False, "allowOut": ["1.1.1.1"]}
    for name in ("httpsPorts", "maskRequestHost", "allowPublicTraffic"):
        with pytest.raises(InvalidRequestError, match=f"network.{name} is fixed at a sandbox's creation"):
            parse_network_update({name: False})
        assert parse_network_update({name: None}).sent == {}
    with pytest.raises(InvalidRequestError, match=r"unknown field: network.x \(this server passes over no unknown field of this object\)"):
        parse_network_update({"x": "x"})
    with pytest.raises(InvalidRequestError, match="JSON object"):
        parse_network_update([])
