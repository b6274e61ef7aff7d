"""The agent's small parts: cgroup numbers, the init document, languages, results."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.kernel import Cost, Display, Finished
from cloister.agent.interpreter.languages import LANGUAGES, LanguageContext, find_language
from cloister.agent.interpreter.messages import MessageReader, MessageTooLongError
from cloister.agent.interpreter.results import encode_events, result_fields
from cloister.agent.state import read_init
from cloister.errors import NotFoundError

ALL = tuple(language.name for language in LANGUAGES)


def test_cgroup_v1(tmp_path: Path) -> None:
    """Numbers of a v1 hierarchy are read from its controllers' directories."""
    for name, text in (
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ("memory/memory.usage_in_bytes", "5\n"),
        ("memory/memory.stat", "cache 1\ntotal_cache 2\n"),
        ("cpuacct/cpuacct.usage", "9\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    cgroup = Cgroup(tmp_path)
    numbers = (
        cgroup.oom_kills(),
        cgroup.memory_used_bytes(),
        cgroup.memory_cache_bytes(),
        cgroup.cpu_used_ns(),
    )
    assert numbers == (3, 5, 2, 9)


def test_cgroup_v2(tmp_path: Path) -> None:
    """Numbers of a v2 hierarchy lie in the directory itself."""
    for name, text in (
        ("memory.events", "low 0\noom 1\noom_kill 3\n"),
        ("memory.current", "5\n"),
        ("memory.stat", "anon 1\nfile 2\n"),
        ("cpu.stat", "usage_usec 9\n"),
    ):
        (tmp_path / name).write_text(text, encoding="ascii")
    cgroup = Cgroup(tmp_path)
    numbers = (
        cgroup.oom_kills(),
        cgroup.memory_used_bytes(),
        cgroup.memory_cache_bytes(),
        cgroup.cpu_used_ns(),
    )
    assert numbers == (3, 5, 2, 9000)


def test_missing_cgroup_is_unknown_not_zero(tmp_path: Path) -> None:
    """Without files the numbers are unknown."""
    assert Cgroup(tmp_path / "none").oom_kills() is None


def test_init_document_is_read_without_moving(tmp_path: Path) -> None:
    """The document can be read again by the next agent from the same descriptor."""
    text = {"sandbox_id": "s", "languages": ["python"], "limits": {"mem_mib": 5, "disk_mib": 6}, "access_token": None, "later": 1}
    (tmp_path / "init").write_text(json.dumps(text), encoding="utf-8")
    fd = os.open(tmp_path / "init", os.O_RDONLY)
    try:
        first, second = read_init(fd), read_init(fd)
    finally:
        os.close(fd)
    assert first == second
    assert (first.languages, first.limits.mem_mib, first.limits.output_mib, first.access_token) == (("python",), 5, 256, None)


@pytest.mark.parametrize(
    ("name", "found"), [("Python", "python"), ("js", "javascript"), ("TS", "typescript"), ("R", "r"), ("sh", "bash"), (" java ", "java")]
)
def test_language_names(name: str, found: str) -> None:
    """Languages are found by name and alias in any case."""
    assert find_language(name, ALL).name == found


def test_language_of_another_template() -> None:
    """A language that the sandbox does not have is unknown, however well we know it."""
    with pytest.raises(NotFoundError, match="Available: python"):
        find_language("r", ("python",))


def test_every_language_has_a_command() -> None:
    """Each row of the table gives an absolute command, its driver named in it."""
    for language in LANGUAGES:
        argv = language.argv(LanguageContext(Path("/d"), 1024))
        assert argv[0].startswith("/")
        assert language.interrupt in ("signal", "message")


def test_java_heap_follows_the_limit() -> None:
    """The JVM may take only a part of the sandbox's memory."""
    argv = find_language("java", ALL).argv(LanguageContext(Path("/d"), 1000))
    assert "-Xmx500m" in argv


def test_result_fields() -> None:
    """MIME types become the SDKs' fields, unknown ones and wrong shapes go to extra, one pair of quotes is taken off."""
    data = {
        "text/plain": "'Hello'",
        "image/png": "iVB",
        "application/json": [1],
        "application/x-own": 5,
        "application/vnd.e2b.data": "no",
        "text/html": ["<b>", "x"],
    }
    fields, extra = result_fields(data, {"k": "v"})
    assert fields == {"text": "Hello", "png": "iVB", "json": [1], "html": "<b>x"}
    assert extra == {"k": "v", "application/x-own": 5, "application/vnd.e2b.data": "no"}


@pytest.mark.parametrize(("text", "shown"), [("'", "'"), ("''", ""), ('"a"', "a"), ("'a\"", "'a\""), ("''a''", "'a'"), ("5", "5")])
def test_only_one_pair_of_quotes_is_taken_off(text: str, shown: str) -> None:
    """Quotes come off in pairs of one kind, once."""
    assert result_fields({"text/plain": text}, {})[0]["text"] == shown


def test_empty_results_are_not_sent() -> None:
    """A bundle with nothing in it gives no event."""
    assert encode_events([Display({}), Display({"text/plain": None})]) == b""


def test_end_without_a_count() -> None:
    """When the kernel died the run ends without a counter, and unknown costs are left out."""
    assert json.loads(encode_events([Finished(None, Cost(5))])) == {"type": "end_of_execution", "cost": {"wall_ms": 5}}


def test_reader_joins_pieces_and_recovers() -> None:
    """Lines cut anywhere are joined; after one that is too long the next is read."""
    reader = MessageReader(100)
    whole = b'{"op":"stdout","text":"a"}\n'
    assert reader.feed(whole[:5], 1) == []
    assert len(reader.feed(whole[5:] + whole, 1)) == 2
    with pytest.raises(MessageTooLongError):
        reader.feed(b"x" * 101, 1)
    assert len(reader.feed(b"xxx\n" + whole, 1)) == 1


def test_version_is_looked_up_where_the_directory_is(tmp_path: Path) -> None:
    """A cgroup that was asked while its directory was empty, as in a zygote, still finds out which version it is."""
    cgroup = Cgroup(tmp_path / "cgroup")
    (tmp_path / "cgroup").mkdir()
    assert cgroup.oom_kills() is None
    (tmp_path / "cgroup" / "memory").mkdir()
    (tmp_path / "cgroup" / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert cgroup.oom_kills() == 3
