"""Parsers of what others send, fed with mutated and random input for a few seconds each: only their own errors may come out.

``CLOISTER_FUZZ_SEED`` repeats a run; every failure names its seed and its input.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from cloister.agent.interpreter.messages import MessageReader, MessageTooLongError
from cloister.agent.interpreter.messages import ProtocolError as KernelProtocolError
from cloister.agent.transfer.compose import parse_compose
from cloister.agent.transfer.disposition import parse_disposition
from cloister.agent.transfer.encoding import choose_encoding
from cloister.agent.transfer.form import FormReader, boundary_of
from cloister.api.listing import parse_list_query, parse_metadata
from cloister.api.schemas import parse_connect, parse_idempotency_key, parse_new_sandbox, parse_refresh, parse_timeout
from cloister.errors import CloisterError
from cloister.nodewire.framing import ChannelClosedError, NodeChannel, ProtocolError
from cloister.protocol import connect, filesystem, process
from cloister.protocol.execution import parse_context_request, parse_execute_request
from cloister.protocol.message import MessageError, schema_of
from cloister.protocol.message_binary import from_binary, to_binary
from cloister.protocol.message_json import from_json, to_json
from cloister.proxy.address import AddressError, find_address
from cloister.proxy.signed import find_signer, signed_request
from framework.fuzz import Mutator, any_json

_SECONDS = 2.0
_SEED = int(os.environ.get("CLOISTER_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
MESSAGES = [
    kind
    for module in (process, filesystem)
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == module.__name__ and hasattr(kind, "__dataclass_fields__")
]

_PAGES = (b'[1.5, "abc"]', b"[" * 9000, b"[" + b"9" * 400 + b', "a"]', b'[1e999, "a"]')
TOKENS = [base64.urlsafe_b64encode(text).decode() for text in _PAGES]
TEXTS = ["application/connect+json; a=b", "15000", "gzip;q=0.5, *", 'form-data; name="a"; filename="b%22"']
SIGNED_NAMES = ["path", "signature", "username", "signature_expiration"]
BODY_NAMES = ["templateID", "timeout", "metadata", "envVars", "secure", "network", "autoPause", "allow_internet_access", "duration"]


def rounds(seconds: float = _SECONDS) -> Iterator[Mutator]:
    """Mutators, one a round, until the time is over; at least some hundred rounds must fit."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        count += 1
        yield Mutator(random.Random(f"{_SEED}-{count}"))
    assert count > 100


def only(errors: tuple[type[Exception], ...], call: Callable[..., Any], *args: Any) -> Any:
    """The result of ``call``, or None if it raises one of ``errors``. Any other exception fails and names the input."""
    try:
        return call(*args)
    except errors:
        return None
    except Exception as error:
        raise AssertionError(f"seed {_SEED}: {call} raised {error!r} for {args!r:.2000}") from error


def on_the_wire(text: str) -> str:
    """As an HTTP parser hands it on: bytes that are no UTF-8 become surrogates of their own."""
    return text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape").decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("codec", ["json", "binary"])
def test_messages(codec: str) -> None:
    """Whatever is taken as a message can be written again and is the same then; everything else is a MessageError."""
    read, write = (from_json, to_json) if codec == "json" else (from_binary, to_binary)
    taken = 0
    for mutator in rounds():
        kind = mutator.chance.choice(MESSAGES)
        schema_of(kind)
        start = json.dumps(any_json(mutator.chance)).encode() if codec == "json" else write(kind())
        data = mutator.bytes(start) if mutator.chance.random() < 0.7 else start
        message = only((MessageError,), read, kind, data)
        if message is not None:
            taken += 1
            assert read(kind, write(message)) == message, (_SEED, kind, data)
    assert taken > 50


def test_envelopes() -> None:
    """A stream of envelopes that is cut, torn and lied about ends in an error of ours or in its messages, and is never hoarded."""
    said: set[connect.Code] = set()
    for mutator in rounds():
        chance = mutator.chance
        parser = connect.EnvelopeParser(1000)
        stream = b"".join(connect.encode_envelope(chance.randbytes(chance.randrange(1200))) for _ in range(3))
        stream = mutator.bytes(stream)
        try:
            while stream:
                size = chance.randrange(1, 700)
                for envelope in parser.feed(stream[:size]):
                    assert len(envelope.data) <= 1000
                stream = stream[size:]
                assert len(parser._buffer) <= 1000 + 700
            parser.finish()
        except CloisterError as error:
            said.add(connect.code_of(error))
    assert said == {connect.Code.INVALID_ARGUMENT, connect.Code.UNIMPLEMENTED}


def test_headers() -> None:
    """Headers of the RPC protocol, of uploads and of downloads."""
    for mutator in rounds():
        text = mutator.text(mutator.chance.choice(TEXTS))
        connect.codec_of(text, stream=True)
        only((CloisterError,), connect.parse_timeout_s, text)
        only((CloisterError,), connect.refuse_compression, text)
        only((), parse_disposition, text)
        only((), choose_encoding, text)


def test_addresses() -> None:
    """The ingress's idea of a request's sandbox: nothing, a possible address, or an error of its own."""
    for mutator in rounds():
        chance = mutator.chance
        examples = {"Host": "8000-abc123.example.com", "E2b-Sandbox-Id": "abc123", "E2b-Sandbox-Port": "8000"}
        headers = {name: on_the_wire(mutator.text(value)) for name, value in examples.items()}
        given = CIMultiDict((name, value) for name, value in headers.items() if chance.random() < 0.7)
        found = only((AddressError,), find_address, given, "/files", "api.h")
        if found is not None:
            assert 1 <= found.port <= 65535
            assert found.sandbox_id.isascii()
            assert found.sandbox_id.isalnum()
        query = {name: on_the_wire(mutator.text("abc")) for name in SIGNED_NAMES if chance.random() < 0.8}
        signed = only((), signed_request, chance.choice(["GET", "POST", "OPTIONS", "PUT"]), "/files", query, headers)
        if signed is not None:
            assert only((), find_signer, signed, [("abc", "token")]) is None


def test_rest() -> None:
    """Bodies and queries of the REST API and of the agent's JSON calls: InvalidRequestError, or a value."""
    bodies: list[Callable[[Any], Any]] = [
        lambda body: parse_new_sandbox(body, api_version=1, idempotency_key=None),
        lambda body: parse_new_sandbox(body, api_version=2, idempotency_key="x"),
        lambda body: parse_connect(body, api_version=2),
        parse_timeout,
        parse_refresh,
    ]
    raw: list[Callable[[bytes], Any]] = [parse_execute_request, parse_context_request, parse_compose]
    for mutator in rounds():
        chance = mutator.chance
        body = {chance.choice(BODY_NAMES): any_json(chance) for _ in range(4)} | {"templateID": "base"}
        only((CloisterError,), chance.choice(bodies), body if chance.random() < 0.8 else any_json(chance))
        only((CloisterError,), chance.choice(raw), mutator.bytes(json.dumps(any_json(chance)).encode()))
        only((CloisterError,), parse_idempotency_key, mutator.text("key"))
        only((CloisterError,), parse_metadata, mutator.text("a=b&c=d"))
        query = {
            "nextToken": chance.choice([*TOKENS, mutator.text(TOKENS[0])]),
            "startedAfter": chance.choice(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", mutator.text("2026-01-01T00:00:00Z")]),
            "limit": mutator.text("100"),
            "state": mutator.text("running"),
            "metadata": mutator.text("a=b"),
        }
        only((CloisterError,), parse_list_query, {name: value for name, value in query.items() if chance.random() < 0.5})


def test_forms() -> None:
    """A body that is hardly a form any more: parts that together are no longer than it was, or an error; the same however it was cut."""
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\none\r\n--b'
    for mutator in rounds():
        body = mutator.bytes(part + part.removeprefix(b"--b") + b"--\r\n")
        only((CloisterError,), boundary_of, on_the_wire(mutator.text('multipart/form-data; boundary="b"')))
        size = mutator.chance.randrange(1, 40)
        whole = only((CloisterError,), parts_of, body, len(body) or 1)
        assert only((CloisterError,), parts_of, body, size) == whole, f"seed {_SEED}: {body!r}"
        assert whole is None or sum(map(len, whole)) < len(body)


def parts_of(body: bytes, size: int) -> list[bytes]:
    """The parts of a form that arrives in pieces of ``size`` bytes. Raises: CloisterError."""
    arriving = iter([body[start : start + size] for start in range(0, len(body), size)])

    async def pull() -> bytes:
        return next(arriving, b"")

    async def run() -> list[bytes]:
        form, parts = FormReader(pull, b"b"), []
        while (headers := await form.next()) is not None:
            parse_disposition(headers.get("content-disposition", ""))
            parts.append(b"".join([bytes(piece) async for piece in form.pieces()]))
        return parts

    return asyncio.run(run())


async def test_node_protocol() -> None:
    """A peer on the supervisor's socket that sends anything at all is answered by the end of its channel, and no descriptor stays open."""
    gc.collect()  # what earlier tests have dropped and not closed
    before = len(list(Path("/proc/self/fd").iterdir()))
    for mutator in rounds():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = NodeChannel(ours)
        with theirs, Path(os.devnull).open("rb") as null:
            for _ in range(mutator.chance.randrange(4)):
                packet = mutator.bytes(mutator.chance.choice([b".", b"+", b""]) + json.dumps(any_json(mutator.chance)).encode())
                socket.send_fds(theirs, [packet or b"."], [null.fileno()] * mutator.chance.choice([0, 0, 1, 16, 20]))
        try:
            while True:
                message = await asyncio.wait_for(channel.receive(), 5)
                assert isinstance(message.body, dict)
                message.close_fds()
        except (ProtocolError, ChannelClosedError):
            channel.close()
        except Exception as error:
            raise AssertionError(f"seed {_SEED}: {error!r}") from error
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_kernel_messages() -> None:
    """Any bytes of a kernel, which runs untrusted code, are messages or a ProtocolError."""
    for mutator in rounds():
        reader = MessageReader(100_000)
        said = [{"op": op, "id": 1, "text": "x", "data": any_json(mutator.chance)} for op in ("stdout", "result", "done", "error")]
        data = mutator.bytes(b"\n".join(json.dumps(one).encode() for one in said) + b"\n")
        only((KernelProtocolError, MessageTooLongError), reader.feed, data, 1)
