"""A build's log: exact indexes, bounds, and plain text whatever a program prints."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from cloister.model.build import BuildLogEntry
from cloister.node.builds import log as build_log
from cloister.node.builds.log import BuildLogFile, BuildLogLimits, plain_lines


def messages(log: BuildLogFile, offset: int = 0, limit: int = 1000) -> list[str]:
    """The texts of a window."""
    return [entry.message for entry in log.read(offset, limit)[0]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be."""
    return tmp_path / "log.jsonl"


def test_windows_are_exact(path: Path) -> None:
    """Every window equals a slice of a list, across the marks of the index, in a growing and in a closed log."""
    log = BuildLogFile(path, clock=lambda: 5.0)
    for number in range(700):
        log.add("info", f"line {number}", "1")
        if number in {0, 255, 256, 511}:
            assert log.read(number, 5) == ((BuildLogEntry(at=5.0, level="info", message=f"line {number}", step="1"),), number + 1)
    log.close()
    for read in (log, BuildLogFile(path)):
        for offset in (0, 1, 255, 256, 257, 511, 512, 698, 699, 700, 5000):
            for limit in (0, 1, 3, 300, 1000):
                assert messages(read, offset, limit) == [f"line {number}" for number in range(700)][offset : offset + limit]
    assert BuildLogFile(path).read(0, 0) == ((), 700)
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_log_yet(path: Path) -> None:
    """A build that has said nothing has an empty log."""
    assert BuildLogFile(path).read(0, 10) == ((), 0)
    assert BuildLogFile(path).size_bytes == 0


def test_an_entry_keeps_its_index_over_a_crash(path: Path) -> None:
    """A torn line is no entry. The next entry takes its index, and earlier entries keep theirs."""
    log = BuildLogFile(path)
    log.add("info", "one\ntwo")
    log.close()
    with path.open("ab") as file:
        file.write(b'[5,"info","to')
    log = BuildLogFile(path)
    assert messages(log) == ["one", "two"]
    log.add("info", "three")
    assert messages(log) == messages(BuildLogFile(path)) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ("one", ["one"]),
        ("one\n", ["one"]),
        ("one\r\ntwo\n\nthree", ["one", "two", "", "three"]),
        ("", [""]),
        ("10 %\r20 %\r100 %\r", ["100 %"]),
        ("a\tb", ["a\tb"]),
        ("\x1b[31mred\x1b[0m", ["red"]),
        ("\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link", ["textlink"]),
        ("\x1bPq#0\x1b\\after\x1b(Bx\x1bcy\x1b", ["afterxy"]),
        ("bell\x07 back\x08 null\0 del\x7f csi\x9b31m nel\x85", ["bell back null del csi31m nel"]),
        ("\x1b[3\x1b[1m1mx", ["31mx"]),
        ("u\u2028v", ["u\u2028v"]),
        ("lone \ud800", ["lone ?"]),
    ],
)
def test_what_a_program_prints_becomes_plain(path: Path, message: str, lines: list[str]) -> None:
    """Lines end where a terminal would end them, and nothing is left that would steer one."""
    log = BuildLogFile(path)
    log.add("info", message)
    assert messages(log) == lines
    assert not any((ord(char) < 0x20 and char != "\t") or 0x7F <= ord(char) < 0xA0 for line in messages(log) for char in line)


def test_a_line_is_bounded() -> None:
    """A long line is cut between characters and says by how much."""
    assert plain_lines("x" * 30, 10) == ["x" * 10 + "… (20 more bytes)"]
    assert plain_lines("äöüäöü", 11) == ["äöüäö… (2 more bytes)"]
    assert plain_lines("äöüäöü", 12) == ["äöüäöü"]


def test_a_flood_ends_with_one_entry_that_says_so(path: Path) -> None:
    """A full log takes no more output and says so once. It still takes the server's own entries."""
    for bounds in (BuildLogLimits(lines=10), BuildLogLimits(size_bytes=500)):
        path.unlink(missing_ok=True)
        log = BuildLogFile(path, bounds, clock=lambda: 1.5)
        for number in range(100):
            log.add("info", f"{number} " + "x" * 20 + "\nand more")
        said = messages(log)
        assert said[-1] == "the log is full: what follows is left out"
        assert [entry.level for entry in log.read(0, 1000)[0]].count("warn") == 1
        assert len(said) <= 15
        assert log.size_bytes <= 600
        log.note("error", "it failed")
        assert messages(log)[len(said) :] == ["it failed"]


def test_a_full_log_is_full_after_a_restart(path: Path) -> None:
    """A restart gives a flood no second bound."""
    log = BuildLogFile(path, BuildLogLimits(lines=10))
    log.add("info", "\n".join("x" * 20))
    log = BuildLogFile(path, BuildLogLimits(lines=10))
    log.add("info", "more")
    assert len(messages(log)) == 11


def test_an_exact_fit_is_not_full(path: Path) -> None:
    """The notice comes with the first line that is left out, not before."""
    log = BuildLogFile(path, BuildLogLimits(lines=3))
    log.add("info", "1\n2\n3")
    assert messages(log) == ["1", "2", "3"]
    log.add("info", "4")
    assert messages(log) == ["1", "2", "3", "the log is full: what follows is left out"]


def test_an_answer_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of long lines ends early, but has one entry at least, so that a reader gets on."""
    monkeypatch.setattr(build_log, "_MAX_WINDOW_BYTES", 1000)
    log = BuildLogFile(path)
    for number in range(300):
        log.add("info", f"{number} " + "x" * 300)
    assert len(messages(log, 290)) == 2
    log.add("info", "y" * 5000)
    assert [text[0] for text in messages(log, 300)] == ["y"]


def test_a_full_disk_tears_no_entry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-written entry is removed. The build goes on, and earlier entries stay readable."""
    log = BuildLogFile(path)
    log.add("info", "before")
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:30])

    monkeypatch.setattr(os, "write", half)
    log.add("info", "x" * 40)
    monkeypatch.undo()
    log.add("info", "after")
    log.note("error", "the end")
    assert messages(log) == messages(BuildLogFile(path)) == ["before", "the end"]


def test_many_threads_write_whole_entries(path: Path) -> None:
    """Entries of threads that write at once are each whole, and none is lost."""
    log = BuildLogFile(path)

    def write(name: str) -> None:
        for number in range(200):
            log.add("info", f"{name} {number}\n{name} {number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(messages(log, 0, 5000)) == sorted(f"{name} {number}" for name in "abcd" for number in range(200) for _ in range(2))
    assert messages(log, 600, 200) == messages(BuildLogFile(path), 600, 200)
