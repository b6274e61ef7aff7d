"""The defences of egress policies, and the rows of the table of bypasses that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["BYPASS_STEPS"]

_EGRESS, _NETWORK = "src/cloister/egress", "src/cloister/network"

BYPASS_STEPS = (
    Step(
        "denied addresses are denied by the egress process too",
        f"{_EGRESS}/verdicts.py",
        "if found := self._deny.find(address):",
        "if name is None and (found := self._deny.find(address)):",
        "cannot_use and a_hard_coded_address",
    ),
    Step(
        "a name is connected to at its own address",
        f"{_EGRESS}/dialing.py",
        "name = connection.name if verdict.is_by_name or connection.rule is not None else None",
        "name = None",
        "cannot_use and (an_address_under_an_allowed_host_header or an_address_under_an_allowed_sni)",
    ),
    Step(
        "each request of a connection is for its host",
        f"{_EGRESS}/intercept/requests.py",
        "if not is_same:",
        "if not is_same and not match:",
        "cannot_use and (a_second_request or a_later_request)",
    ),
    Step(
        "a name behind Encrypted Client Hello is refused",
        f"{_EGRESS}/gateway.py",
        "if found.is_encrypted and verdict.is_by_name",
        "if False and verdict.is_by_name",
        "cannot_use and a_name_behind_ech",
    ),
    Step(
        "look-ups of other names are refused",
        f"{_EGRESS}/dns_front.py",
        "if name is None or not admitted.judge.allows_name(name):",
        "if name is None:",
        "cannot_use and a_look_up_of_a_strange_name or carries_nothing_out",
    ),
    Step(
        "answers have no keys of encrypted names",
        f"{_EGRESS}/dns_front.py",
        "if question.kind != A:\n            return render_answer(query, (), 0)",
        "if question.kind != A:\n            return await pass_on(query, self._lookup.resolvers(admitted), ask_udp, LAST_S)",
        "cannot_be_led_by and the_key_of_encrypted_names",
        also=((f"{_EGRESS}/dns_front.py", "import Ask, failure, pass_on", "import Ask, ask_udp, failure, pass_on"),),
    ),
    Step(
        "answers have no private addresses",
        f"{_EGRESS}/lookup.py",
        "if not judge.is_private(address))",
        "if address)",
        "cannot_be_led_by and an_answer_with_a_private_address",
    ),
    Step(
        "a sandbox's lists are rules of the router",
        f"{_NETWORK}/slot_rules.py",
        "            yield add_rule(ROUTER_TABLE, name, outward)\n",
        "",
        "cannot_reach and (an_address_that_a_list_denies or a_denied_address_by_udp)",
    ),
    Step(
        "only redirected packets come to the egress process",
        f"{_NETWORK}/egress.py",
        "ip daddr {plan.gateway} ct status dnat goto by_gate",
        "ip daddr {plan.gateway} goto by_gate",
        "cannot_reach and the_egress_processs_port_by_udp",
    ),
    Step(
        "no list of a client opens private addresses",
        f"{_NETWORK}/egress.py",
        'ip daddr @refused counter {because("not_public")} goto refuse comment "refused"',
        "",
        "cannot_reach and a_private_address_that_it_allows",
        also=((f"{_NETWORK}/egress.py", 'ip daddr @refused counter {because("not_public")} goto discard comment "refused"', ""),),
    ),
    Step(
        "a proxy is not passed by",
        f"{_EGRESS}/dialing.py",
        "if judge.policy.proxy is None:",
        "if judge.policy.proxy is None or not judge.policy.proxy.username:",
        "a_socks_proxy_that_is_down",
    ),
)
