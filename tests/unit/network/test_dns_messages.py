"""DNS messages of the egress process: read strictly, whatever a resolver or a sandbox sends."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest
from dnslib import CNAME, QTYPE, RR, TXT, DNSRecord
from dnslib import A as AData

from cloister.network.dns_messages import (
    HTTPS,
    MAX_ADDRESSES,
    NXDOMAIN,
    A,
    MessageError,
    make_query,
    parse_answer,
    parse_question,
    render_answer,
)


def _reply(name: str = "api.example.com") -> DNSRecord:
    return DNSRecord.parse(make_query(7, name, A)).reply()


def test_a_query_asks_for_the_name() -> None:
    """A query has the id, one question and the wish for recursion, as another library reads it."""
    query = make_query(4711, "api.example.com", HTTPS)
    found = DNSRecord.parse(query)
    assert (found.header.id, str(found.q.qname), found.q.qtype, found.header.rd) == (4711, "api.example.com.", HTTPS, 1)
    question = parse_question(query)
    assert (question.name, question.kind) == ("api.example.com", HTTPS)


def test_aliases_lead_to_addresses() -> None:
    """Addresses at the end of a chain of aliases count, with the shortest lifetime of the chain; others do not."""
    reply = _reply()
    reply.add_answer(RR("API.example.com", QTYPE.CNAME, rdata=CNAME("b.example"), ttl=90))
    reply.add_answer(RR("b.example", QTYPE.CNAME, rdata=CNAME("c.example"), ttl=600))
    reply.add_answer(RR("c.example", QTYPE.A, rdata=AData("198.51.100.1"), ttl=300))
    reply.add_answer(RR("c.example", QTYPE.TXT, rdata=TXT("x"), ttl=1))
    reply.add_answer(RR("evil.example", QTYPE.A, rdata=AData("198.51.100.9"), ttl=300))
    found = parse_answer(bytes(reply.pack()), "api.example.com")
    assert (found.addresses, found.lifetime_s, found.code) == ((IPv4Address("198.51.100.1"),), 90, 0)


def test_a_loop_of_aliases_ends() -> None:
    """Aliases that lead back to the name give no address."""
    reply = _reply()
    reply.add_answer(RR("api.example.com", QTYPE.CNAME, rdata=CNAME("b.example"), ttl=90))
    reply.add_answer(RR("b.example", QTYPE.CNAME, rdata=CNAME("api.example.com"), ttl=90))
    assert parse_answer(bytes(reply.pack()), "api.example.com").addresses == ()


def test_an_answer_to_another_question_is_refused() -> None:
    """The question in an answer must be the one that was asked."""
    reply = _reply("evil.example")
    reply.add_answer(RR("api.example.com", QTYPE.A, rdata=AData("198.51.100.1"), ttl=300))
    with pytest.raises(MessageError):
        parse_answer(bytes(reply.pack()), "api.example.com")
    with pytest.raises(MessageError):
        parse_answer(make_query(7, "api.example.com", A), "api.example.com")


def test_a_loop_of_pointers_ends() -> None:
    """A compressed name that points to itself is a fault."""
    with pytest.raises(MessageError):
        parse_answer(bytes(_reply().pack())[:12] + b"\xc0\x0c" + b"\0\1\0\1", "api.example.com")


@pytest.mark.parametrize("label", [b"a.b", b"a\0b", b"a b", b"\xc3\xa9", b"-a"])
def test_a_question_for_no_host_name_has_none(label: bytes) -> None:
    """A label with a dot, a null byte or other characters that host names lack is not taken for a name."""
    query = make_query(7, "x", A)[:12] + bytes([len(label)]) + label + b"\7example\0" + b"\0\1\0\1"
    try:
        name = parse_question(query).name
    except MessageError:
        return
    assert name is None


def test_an_answer_is_as_another_library_reads_it() -> None:
    """Our answer has the query's id and question, the addresses and their lifetime, in less than 512 bytes."""
    name = ".".join(["a" * 60] * 4)
    query = make_query(4711, name, A)
    answer = render_answer(query, [IPv4Address(number) for number in range(MAX_ADDRESSES)], 42)
    found = DNSRecord.parse(answer)
    assert (found.header.id, found.header.qr, found.header.rcode, len(found.rr)) == (4711, 1, 0, MAX_ADDRESSES)
    assert {(str(record.rname), record.ttl) for record in found.rr} == {(name + ".", 42)}
    assert len(answer) < 512
    assert DNSRecord.parse(render_answer(query, (), 0, NXDOMAIN)).header.rcode == NXDOMAIN


def test_random_damage_raises_nothing_else() -> None:
    """Damaged messages are read or give MessageError; never another exception, and never an endless loop."""
    chosen = random.Random(3)
    reply = _reply()
    reply.add_answer(RR("api.example.com", QTYPE.CNAME, rdata=CNAME("b.example"), ttl=90))
    reply.add_answer(RR("b.example", QTYPE.A, rdata=AData("198.51.100.1"), ttl=300))
    sample, faults = bytes(reply.pack()), 0
    for _ in range(20_000):
        data = bytearray(sample)
        for _ in range(chosen.randrange(1, 4)):
            data[chosen.randrange(len(data))] = chosen.choice((0, 1, 0xC0, 0x3F, 0xFF, chosen.randrange(256)))
        cut = bytes(data[: chosen.randrange(len(data) + 1)])
        for read in (lambda message: parse_answer(message, "api.example.com"), parse_question):
            try:
                read(cut)
            except MessageError:
                faults += 1
    assert faults > 1000
