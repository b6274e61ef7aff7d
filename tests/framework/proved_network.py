"""The hardening steps of sandboxes' own network policies and of the egress process's way out."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["NETWORK_STEPS"]

_EGRESS, _GATE, _BOUNDS = (f"src/cloister/network/{name}.py" for name in ("egress", "gate_rules", "bounds"))

NETWORK_STEPS = (
    Step(
        "lists of addresses outward",
        _EGRESS,
        """    counter {because("denied")} goto refuse comment "denied"\n""",
        """    counter comment "denied"\n""",
        "reach_a_denied_address",
        also=((_EGRESS, """    counter drop comment "denied-inward"\n""", """    counter comment "denied-inward"\n"""),),
    ),
    Step(
        "lists of addresses inward",
        _EGRESS,
        """    counter drop comment "denied-inward"\n""",
        """    counter comment "denied-inward"\n""",
        "denied_address_cannot_send",
    ),
    Step(
        "look at a sandbox's own lists",
        _EGRESS,
        "    iifname vmap @listed\n    goto outbound\n",
        "    goto outbound\n",
        "reach_a_denied_address",
        also=((_EGRESS, "    oifname vmap @listed\n", ""),),
    ),
    Step(
        "questions of those who may not ask",
        _GATE,
        """    counter {because("denied")} goto refuse comment "no-questions"\n""",
        """    accept comment "no-questions"\n""",
        "cannot_ask_the_resolver",
    ),
    Step(
        "connections past the egress process",
        _GATE,
        """    oifname "{uplink}" {refuse} comment "past-gate"\n    counter drop comment "past-gate-inward"\n""",
        "    return\n",
        "past_the_egress_process",
    ),
    Step(
        "sandboxes that the egress process may not reach",
        _GATE,
        """    oifname != "{uplink}" counter goto refuse_gate comment "gate-neighbour"\n""",
        "",
        "egress_process_cannot_reach_a_sandbox",
        also=((_GATE, """    ip daddr @refused counter goto refuse_gate comment "gate-refused"\n""", ""),),
    ),
    Step(
        "strangers in the router's namespace",
        _GATE,
        """    oifname "{uplink}" ct state != {{ established, related }} counter drop comment "router-outward"\n""",
        "",
        "stranger_in_the_router",
    ),
    Step("packets of a sandbox", _BOUNDS, "        if self.packets_per_s is None:\n", "        if True:\n", "more_packets_than_its_bound"),
    Step(
        "new connections of a sandbox",
        _BOUNDS,
        "        if self.connections_per_s is None:\n",
        "        if True:\n",
        "open_connections_faster",
    ),
    Step(
        "volume of a sandbox",
        _BOUNDS,
        'return "" if self.volume_mib is None else f"    update @{self.volume_set} {{ iifname',
        'return "" if True else f"    update @{self.volume_set} {{ iifname',
        "exceed_its_volume",
    ),
)
