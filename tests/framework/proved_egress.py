"""The hardening steps of the egress process, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["EGRESS_STEPS"]

_PROCESS = "src/cloister/processes/egress.py"
_GATEWAY = "src/cloister/egress/gateway.py"
_HELLO = "src/cloister/egress/client_hello.py"
_VERDICTS = "src/cloister/egress/verdicts.py"
_FRONT, _LOOKUP = "src/cloister/egress/dns_front.py", "src/cloister/egress/lookup.py"
_OTHER_NAMES = "ask_for_other_names"
_INTERCEPT = "src/cloister/egress/intercept/"
_LIMITS = "src/cloister/network/limits.py"
_POLICIES, _DIALING = "src/cloister/egress/policies.py", "src/cloister/egress/dialing.py"

EGRESS_STEPS = (
    Step("egress: a user without rights", _PROCESS, "    become_unprivileged(uid)\n", "", "egress_process_cannot_use_rights"),
    Step("egress: the router's network", _PROCESS, "    enter_netns(netns)\n", "", "egress_process_cannot_use_rights"),
    Step("egress: encrypted names", _GATEWAY, "if found.is_encrypted and ", "if False and ", "reach_a_name_that_is_not_allowed"),
    Step("egress: a second name", _HELLO, "if not names.is_at_end:", "if False:", "reach_a_name_that_is_not_allowed"),
    Step("egress: a repeated extension", _HELLO, "if kind in found:", "if False:", "reach_a_name_that_is_not_allowed"),
    Step(
        "egress: requests after the first",
        _GATEWAY,
        "elif connection.verdict.is_by_name and not connection.is_tls:",
        "elif False:",
        "name_another_host_later",
    ),
    Step(
        "egress: private destinations",
        _VERDICTS,
        "        if self.is_private(address):\n",
        "        if False:\n",
        "reach_a_private_address",
    ),
    Step(
        "egress: names at other ports",
        _VERDICTS,
        "name is not None and port in NAME_PORTS and",
        "name is not None and",
        "private_address_or_another_port",
        also=(
            (_VERDICTS, "if port not in NAME_PORTS or self.is_private(address):", "if self.is_private(address):"),
            ("src/cloister/egress/inspection.py", 'NAME_PORTS[port] == "tls"', "port != 80"),
        ),
    ),
    Step("egress: live connections", _POLICIES, "if not _still_allowed(one, judge)", "if False", "keep_a_connection"),
    Step("egress: a cut connection", _DIALING, "    if connection.is_cut:", "    if False:", "begin_after_it_was_cut"),
    Step("egress: a former sandbox's connections", _POLICIES, "            self.forget(address)\n", "", "keep_a_connection"),
    Step(
        "egress: bound of connections",
        _GATEWAY,
        "self._bound.take(source, partial(_give_up, connection))",
        "object()",
        "have_more_connections",
    ),
    Step(
        "egress: intercepted connections",
        _GATEWAY,
        "self._intercepted.take(connection.source, partial(_give_up, connection))",
        "object()",
        "more_intercepted_connections",
    ),
    Step("egress: connections of neighbours", _LIMITS, "if most <= count:", "if True:", "keep_a_neighbour_from_connecting"),
    Step("egress: intercepted connections of neighbours", _LIMITS, "if most <= count:", "if True:", "keep_a_neighbours_requests"),
    Step("egress: addresses tried at once", _DIALING, "if tasks and use is None:", "if False:", "try_all_addresses_at_once"),
    Step("egress: questions for secrets", _INTERCEPT + "values_client.py", "turn(sandbox_id)", 'turn("")', "from_the_values_of_secrets"),
    Step("egress: rate of handshakes", "src/cloister/egress/pace.py", "max(self._begun_until, now) + 1", "now + 1", "by_handshakes"),
    Step(
        "egress: memory",
        "src/cloister/node/egress_process.py",
        "            self._config.group.take(process.pid)\n",
        "",
        "hosts_memory_by_a_policy",
    ),
    Step(
        "egress: questions for other names",
        _FRONT,
        "if name is None or not admitted.judge.allows_name(name):",
        "if name is None:",
        _OTHER_NAMES,
    ),
    Step("egress: other types of questions", _FRONT, "if question.kind not in (A, AAAA, HTTPS, SVCB):", "if False:", _OTHER_NAMES),
    Step("egress: keys of encrypted names", _FRONT, "if question.kind in (HTTPS, SVCB):", "if False:", "learn_keys_of_encrypted"),
    Step("egress: private answers", _LOOKUP, "if not judge.is_private(address)", "if True", "bind_a_name_to_a_private"),
    Step("egress: pins", _LOOKUP, "if found is not None and found.until > time.monotonic():", "if False:", "change_a_pinned_name"),
    Step(
        "egress: addresses of header rules",
        "src/cloister/egress/dialing.py",
        "if judge.judge(address, port, name).is_allowed]",
        "]",
        "reach_a_denied_address_by_a_header_rule",
        also=(("src/cloister/egress/dialing.py", "        if not allowed:\n", "        if not found:\n"),),
    ),
    Step(
        "egress: live connections of header rules",
        _POLICIES,
        "and not _is_destination_allowed(connection, judge)",
        "and False",
        "keep_a_header_rules_connection",
    ),
    Step("egress: protocols of a hello", _INTERCEPT + "interceptor.py", "tuple(dict.fromkeys(", "tuple((", "context_for_each_list"),
    Step("egress: tables of headers", _INTERCEPT + "http2_side.py", "self._bound_table()\n", "pass\n", "remember_its_headers"),
    Step("egress: heads in parts", _INTERCEPT + "http1.py", "max(0, seen - len(_BLANK_LINE))", "0", "read_a_head_again"),
    Step("egress: turns in HTTP/1", _INTERCEPT + "http1.py", "await self._exchange.pace.turn()", "pass", "small_parts_of_a_body"),
    Step("egress: turns", "src/cloister/egress/pace.py", "async with self._turn:", "if True:", "connections_of_a_sandbox_take_turns"),
    Step("egress: size of questions", "src/cloister/network/dns_messages.py", " <= _MAX_QUERY_BYTES", "", "thousands_of_questions"),
    Step("egress: room of HTTP/2", _INTERCEPT + "http2_side.py", "if is_wide:", "if True:", "gets_less_room"),
    Step(
        "egress: forged answers",
        "src/cloister/network/dns_exchange.py",
        "    if len(answer) < HEADER_BYTES or answer[:2] != query[:2] or not answer[2] & 0x80:\n        return False\n",
        "    return True\n",
        "forger_cannot_answer",
    ),
)
