"""The hardening steps of sandboxes' own network policies and of the egress process's way out."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["NETWORK_STEPS"]

_EGRESS, _GATE, _BOUNDS = (f"src/cloister/network/{name}.py" for name in ("egress", "gate_rules", "bounds"))
_TEAM = "src/cloister/network/team_bounds.py"

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
    Step(
        "packets of a sandbox",
        _BOUNDS,
        "        if self.packets_per_s is None:\n",
        "        if True:\n",
        "sandbox_cannot_send_more_packets_than_its_bound",
    ),
    Step(
        "new connections of a sandbox",
        _BOUNDS,
        "        if self.connections_per_s is None:\n",
        "        if True:\n",
        "sandbox_cannot_open_connections_faster",
    ),
    Step(
        "volume of a sandbox",
        _BOUNDS,
        'return "" if self.volume_mib is None else f"    update @{self.volume_set} {{ iifname',
        'return "" if True else f"    update @{self.volume_set} {{ iifname',
        "sandbox_cannot_exceed_its_volume",
    ),
    Step(
        "sandboxes with fewer look-ups come first",
        "src/cloister/network/limits.py",
        "            if most <= count:\n",
        "            if True:\n",
        "cannot_keep_another_from",
    ),
    Step(
        "packets of a team",
        _TEAM,
        'f"    limit name iifname map @team_packets {refuse}\\n"',
        '""',
        "team_cannot_send_more_packets",
    ),
    Step(
        "new connections of a team",
        _TEAM,
        'f"    ct state new ct status & confirmed == 0 limit name iifname map @team_openings {refuse}\\n"',
        '""',
        "team_cannot_open_connections",
    ),
    Step(
        "volume of a team",
        _TEAM,
        """f'    quota name iifname map @team_volume counter {because("team_volume_used_up")} goto refuse comment "team-volume"\\n'""",
        "''",
        "team_cannot_exceed_its_volume",
    ),
    Step(
        "rate of a team",
        _TEAM,
        """f'    limit name {key} map @team_{way} counter drop comment "team-{way}-rate"\\n'""",
        "''",
        "team_cannot_send_or_be_sent_to_faster",
    ),
    Step(
        "bounds of a team for sandboxes that were made ahead",
        "src/cloister/network/team_rules.py",
        "            self._members[slot] = _Member(team_id, dict(wanted))\n",
        "            self._members[slot] = _Member('', dict(wanted))\n",
        "team_cannot_leave_its_bounds",
    ),
)
