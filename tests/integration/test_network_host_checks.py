"""Findings of ``doctor`` about a host's firewall and limits, on firewalls in a namespace of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.model.network import PUBLIC_EGRESS
from cloister.network.host_checks import check_host
from framework.network_lab import FAR, Namespace, can_connect, lab, running_node

pytestmark = pytest.mark.root


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Namespace]:
    """A namespace that plays the host."""
    made = Namespace(tmp_path / "host")
    yield made
    made.close()


def _fatal(host: Namespace) -> list[str]:
    return [finding.remedy for finding in host.call(check_host) if finding.is_fatal]


def test_a_host_without_a_firewall_has_nothing_fatal(host: Namespace) -> None:
    """An empty ruleset, and one that only filters input, are no obstacle."""
    assert _fatal(host) == []
    host.run("nft add table inet mine", "nft add chain inet mine in '{ type filter hook input priority 0; policy drop; }'")
    assert _fatal(host) == []


def test_a_forward_chain_of_docker_is_found_with_its_remedy(host: Namespace) -> None:
    """Docker's drop policy on forwarding is fatal, and the remedy names the chain that Docker leaves to users."""
    host.run("nft add table ip filter", "nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'")
    assert "iptables -I FORWARD" in _fatal(host)[0]
    host.run("nft add chain ip filter DOCKER-USER")
    assert "iptables -I DOCKER-USER" in _fatal(host)[0]


def test_the_remedy_for_a_foreign_chain_works(tmp_path: Path) -> None:
    """Under a foreign drop policy a sandbox is cut off; the remedy's own two commands bring it back; our own tables are no finding."""
    with lab(tmp_path) as made:
        made.host.run("nft add table inet mine", "nft add chain inet mine fwd_all '{ type filter hook forward priority 0; policy drop; }'")
        with running_node(made) as node, made.far.listen(FAR):
            sandbox = made.sandbox()
            node.attach(1, sandbox.fd, PUBLIC_EGRESS)
            assert not can_connect(sandbox, FAR, timeout_s=0.3)
            remedies = _fatal(made.host)
            assert len(remedies) == 1
            made.host.run(remedies[0].split(" (and")[0])
            assert can_connect(sandbox, FAR)
