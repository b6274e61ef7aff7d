"""Questions for values of headers: kept for seconds, asked anew after an error, and never for longer than a bound."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cloister.egress.intercept import values_client
from cloister.egress.intercept.values_client import KEPT_S, ValuesClient
from cloister.egresswire.values import parse_request, render_answer, render_error
from cloister.errors import CloisterError, InvalidRequestError, UnavailableError

TEXTS = ("Bearer ${e2b.secrets.key}",)


@contextlib.asynccontextmanager
async def served(directory: Path, answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[Path, list[bytes]]]:
    """A socket that answers lines, and the lines."""
    asked: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while line := await reader.readline():
            asked.append(line)
            writer.write(answer(line))
        writer.close()

    path = directory / "values.sock"
    server = await asyncio.start_unix_server(serve, path)
    try:
        yield path, asked
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_an_answer_is_kept_for_seconds(tmp_path: Path) -> None:
    """Then it is asked for again, on the same connection."""
    now = [0.0]
    async with served(tmp_path, lambda _line: render_answer(("Bearer x",))) as (path, asked):
        client = ValuesClient(path, lambda: now[0])
        for at in (0.0, KEPT_S, KEPT_S + 0.1):
            now[0] = at
            assert await client.values("s", "h", TEXTS) == ("Bearer x",)
        assert len(asked) == 2
        assert parse_request(asked[0]).host == "h"
        client.close()


async def test_an_answer_is_for_its_sandbox_and_host_alone(tmp_path: Path) -> None:
    """Another one is asked for by itself."""
    async with served(tmp_path, lambda line: render_answer((parse_request(line).sandbox_id,))) as (path, _):
        client = ValuesClient(path)
        assert [await client.values(name, "h", TEXTS) for name in "ab"] == [("a",), ("b",)]
        client.close()


async def test_a_refusal_is_told_and_not_kept(tmp_path: Path) -> None:
    """A secret that is made later is found."""
    answers = [render_error("not_found", "there is no secret 'key'"), render_answer(("v",))]
    async with served(tmp_path, lambda _line: answers.pop(0)) as (path, _):
        client = ValuesClient(path)
        with pytest.raises(InvalidRequestError, match="there is no secret 'key'"):
            await client.values("s", "h", TEXTS)
        assert await client.values("s", "h", TEXTS) == ("v",)
        client.close()


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b'{"texts": [1]}\n', b"x" * (1 << 21)])
async def test_a_malformed_answer_is_an_error(tmp_path: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is none in time."""
    monkeypatch.setattr(values_client, "_TIMEOUT_S", 0.3)
    async with served(tmp_path, lambda _line: answer) as (path, _):
        client = ValuesClient(path)
        with pytest.raises(CloisterError):
            await client.values("s", "h", TEXTS)
        client.close()


async def test_no_server_is_an_error(tmp_path: Path) -> None:
    """Without a secret in its text."""
    with pytest.raises(UnavailableError, match="does not give them now"):
        await ValuesClient(tmp_path / "none").values("s", "h", TEXTS)


async def test_a_connection_that_has_ended_is_replaced(tmp_path: Path) -> None:
    """The api process may have been started anew."""
    client = ValuesClient(tmp_path / "values.sock", lambda: 0.0)
    async with served(tmp_path, lambda _line: render_answer(("1",))):
        assert await client.values("s", "h", TEXTS) == ("1",)
        for _, writer in client._idle:
            writer.transport.abort()
    (tmp_path / "values.sock").unlink(missing_ok=True)
    async with served(tmp_path, lambda _line: render_answer(("2",))):
        assert await client.values("other", "h", TEXTS) == ("2",)
    client.close()
