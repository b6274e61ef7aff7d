"""Bounds of one sandbox's packets, new connections and volume, as nftables text. Pure: no I/O.

Owns: the sets ``packets_*``, ``openings_*`` and ``volume_*`` of the router, and the rules that use them. Each set's name has its bound
in it, because an element keeps the bound that it was made with. A full set ends the rule, so a bound is lost then, and never a refusal.
Runs in: supervisor. Needs: no capability.
Source: nft(8), net/netfilter/nft_limit.c and nft_quota.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister.network.refusals import because

__all__ = ["NO_BOUNDS", "TrafficBounds"]

_BURST_S = 4
"""Seconds of new connections that a sandbox may open at once. A package installation opens a few hundred, and then few."""


@dataclass(frozen=True, kw_only=True)
class TrafficBounds:
    """Bounds of one sandbox; None: no bound."""

    packets_per_s: int | None = None
    """Packets that it sends."""
    connections_per_s: int | None = None
    """New connections, questions to the resolver included."""
    volume_mib: int | None = None
    """All that it sends to the internet and gets from there, as long as it has its slot."""

    def sets(self) -> str:
        """The sets."""
        bounds = {"packets": self.packets_per_s, "openings": self.connections_per_s, "volume": self.volume_mib}
        kept = "type ifname; size 65535; flags dynamic;"
        return "".join(f"  set {name}_{bound} {{ {kept} }}\n" for name, bound in bounds.items() if bound is not None)

    @property
    def volume_set(self) -> str | None:
        """The set with what each sandbox has used of its volume."""
        return None if self.volume_mib is None else f"volume_{self.volume_mib}"

    def packets(self) -> str:
        """The rule for every packet of a sandbox."""
        if self.packets_per_s is None:
            return ""
        limit = f"limit rate over {self.packets_per_s}/second burst {self.packets_per_s} packets"
        refuse = f'counter {because("too_many_packets")} goto discard comment "packet-rate"'
        return f"    update @packets_{self.packets_per_s} {{ iifname {limit} }} {refuse}\n"

    def openings(self) -> str:
        """The rule for packets that may open a connection. One is new until its first packet has passed all rules."""
        if self.connections_per_s is None:
            return ""
        limit = f"limit rate over {self.connections_per_s}/second burst {_BURST_S * self.connections_per_s} packets"
        refuse = f'counter {because("too_many_new_connections")} goto refuse comment "connection-rate"'
        return f"    ct state new ct status & confirmed == 0 update @openings_{self.connections_per_s} {{ iifname {limit} }} {refuse}\n"

    def volume_outward(self) -> str:
        """The rule for packets from a sandbox."""
        refuse = f'counter {because("volume_used_up")} goto refuse comment "volume"'
        return "" if self.volume_mib is None else f"    update @{self.volume_set} {{ iifname {self._quota} }} {refuse}\n"

    def volume_inward(self) -> str:
        """The rule for packets to a sandbox."""
        drop = 'counter drop comment "volume-inward"'
        return "" if self.volume_mib is None else f"    update @{self.volume_set} {{ oifname {self._quota} }} {drop}\n"

    @property
    def _quota(self) -> str:
        return f"quota over {(self.volume_mib or 0) * 1024} kbytes"


NO_BOUNDS = TrafficBounds()
