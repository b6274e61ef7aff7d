"""Attacks by answers of resolvers: names below wild.example, which a policy allows, and whose answers are the attacker's."""

from __future__ import annotations

from framework.bypass_lab import Attack
from framework.pretend_internet import PRIVATE_ADDRESS

__all__ = ["ANSWER_ATTACKS"]

ANSWER_ATTACKS = (
    Attack("a_name_of_a_private_address", "tcp('{SHARED}', 80, get('private.wild.example', PATH))", unseen=PRIVATE_ADDRESS),
    Attack("a_name_of_the_host", "tcp('{SHARED}', 80, get('host.wild.example', PATH))"),
    Attack("a_name_of_the_metadata_service", "tcp('{SHARED}', 80, get('metadata.wild.example', PATH))"),
    Attack("a_name_of_the_loopback", "tcp('{SHARED}', 80, get('loopback.wild.example', PATH))"),
    Attack("a_name_of_a_neighbour", "tcp('{SHARED}', 80, get('neighbour.wild.example', PATH))"),
    Attack("a_name_of_the_gateway", "tcp('{SHARED}', 80, get('gateway.wild.example', PATH))"),
    Attack(
        "a_private_name_by_tls",
        "tls('{SHARED}', 'private.wild.example', get('x', PATH))",
        unseen=PRIVATE_ADDRESS,
    ),
    Attack("an_answer_with_a_private_address", "dns(resolver(), 'private.wild.example')", answer=r"code|closed"),
    Attack("an_answer_for_another_question", "tcp('{SHARED}', 80, get('forged.wild.example', PATH))"),
    Attack("an_answer_with_a_wrong_id", "tcp('{SHARED}', 80, get('wrong.wild.example', PATH))"),
    Attack("the_key_of_encrypted_names", "'fe0d' in dns(resolver(), 'ech.wild.example', kind=65)", answer=r"False"),
)
