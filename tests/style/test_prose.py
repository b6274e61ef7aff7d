"""Prose is plain: bounded sentences, narrow Markdown, and words that every engineer knows.

The rules are in ``prose.py``. ``not_yet_plain.txt`` lists the files that are older than the rules; it may only become shorter.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from .prose import faults, markdown_sentences, python_sentences
from .sources import ROOT, parse, text_files

_NOT_YET_FILE = Path(__file__).with_name("not_yet_plain.txt")
_NOT_YET = frozenset(line for line in _NOT_YET_FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
_FIRST_PLAIN_DECISION = 950
"""Decisions are never rewritten, so the rules hold for those from this number on."""


def _is_measured(path: Path) -> bool:
    if path.suffix not in {".py", ".md"} or path.name == "CHANGELOG.md":
        return False
    is_decision = path.parent.name == "decisions"
    return not is_decision or int(path.name[:4]) >= _FIRST_PLAIN_DECISION


@cache
def _faults() -> dict[str, list[str]]:
    """The faults of every file that has some, by its path."""
    measured = [path for path in text_files() if _is_measured(path)]
    found = {str(path.relative_to(ROOT)): faults(path, parse(path) if path.suffix == ".py" else None) for path in measured}
    return {name: wrong for name, wrong in found.items() if wrong}


def test_prose_is_plain() -> None:
    """Sentences, columns and words keep the bounds of ``prose.py``, except in the files that are listed as not yet plain."""
    wrong = [f"{name}:{fault}" for name, found in _faults().items() if name not in _NOT_YET for fault in found]
    assert not wrong, "\n".join(["plain English please (docs: CONTRIBUTING.md, rules: tests/style/prose.py):", *wrong])


def test_list_of_files_that_are_not_yet_plain_shrinks() -> None:
    """A listed file still has a fault; one that is plain now, or gone, leaves the list."""
    plain = sorted(_NOT_YET - set(_faults()))
    assert not plain, "\n".join([f"remove these lines from {_NOT_YET_FILE.relative_to(ROOT)}, the files are plain now or gone:", *plain])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Every word counts, and `code in backticks` is one.", 7),
        ("A [link](https://example.com/a-b-c) counts by its text.", 6),
        ("Marks such as -> or = are no words.", 7),
    ],
)
def test_words_of_a_sentence(line: str, words: int) -> None:
    """The counter sees words as a reader does."""
    (sentence,) = markdown_sentences(line)
    assert sentence.words == words


def test_code_and_tables_are_no_prose() -> None:
    """Markdown's code, tables and headings, and literal blocks of docstrings, are not measured."""
    text = "# A heading\n\nOne sentence. Another one.\n\n    code that nobody reads\n\n| a | table |\n\n- an item\n- another\n"
    assert [sentence.text for sentence in markdown_sentences(text)] == ["One sentence.", "Another one.", "an item", "another"]
    source = '"""First line::\n\n    drawn by nobody\n\nLast line.\n"""\nx = 1  # noqa: F401 - a reason\n'
    assert [sentence.text for sentence in python_sentences(source)] == ["First line::", "Last line.", "a reason"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Nobody knows.\n", "'Nobody': write"),
        ("What the sandbox of a client may come to see is bounded here.\n", "what-clause"),
        ("word " * 60 + "end.\n", "61 words in a sentence"),
        (("One " + "word " * 25 + "end. ") * 9, "split those of lines"),
        ("x" * 120 + "\n", "120 columns"),
    ],
)
def test_faults_are_found(text: str, says: str, tmp_path: Path) -> None:
    """Each rule finds its fault and says what to do."""
    path = tmp_path / "a.md"
    path.write_text(text, encoding="utf-8")
    assert says in "\n".join(faults(path))


def test_plain_text_has_no_fault(tmp_path: Path) -> None:
    """A short active sentence passes, and so does a question that begins with "What"."""
    path = tmp_path / "a.md"
    path.write_text("The server stops the sandbox. What does the client see in this rare and unlucky case?\n", encoding="utf-8")
    assert not faults(path)
