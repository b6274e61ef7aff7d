"""Measures prose: sentences of Markdown, docstrings and comments, their length, and words that only insiders understand.

``python tests/style/prose.py FILE...`` prints what is wrong with each file. The rules and their bounds are in this module;
``test_prose.py`` applies them to the repository.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sentence", "faults", "markdown_sentences", "python_sentences"]

MAX_WORDS = 45
LONG_WORDS = 20
MAX_LONG_SHARE = 0.25
MAX_COLUMNS = 100
_FEW = 8
"""A share says nothing about a file with fewer sentences than this, and a what-clause of so few words is a title."""

WORDS = {
    r"anybody|anyone": "client, user, process: the one that acts",
    r"ceilings?": "limit",
    r"doors?": "listener, entry point, interface",
    r"lanes?": "queue, slot",
    r"nobody|no one": "no client, no process; None for a value",
    r"performers?": "executor, runner",
    r"porters?": "forwarder, relay",
    r"somebody|someone": "a client, a process: the one that acts",
}
"""Private or vague words, as patterns, and what to write instead."""
_WORDS = {pattern: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for pattern in WORDS}
_WHAT = re.compile(r"What\b(?!.*\?$)")
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<=[.!?])[)\"'*_]*\s+(?=[\"'(*_A-Z0-9`\[/~])")
_TABLE_RULE = re.compile(r"\s*=+(?:\s+=+)+\s*$")
_TABLE_ROW = re.compile(r"\s*\S+ {3,}\S")
_FENCE = re.compile(r"^(```|~~~)")
_COMMENT_OR_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^'\\\n])*\'|(?P<comment>\#[^\n]*)''', re.DOTALL
)
_DIRECTIVE = re.compile(r"^#!.*|^#+:? ?(?:(?:noqa|type): ?[\w\[\], -]*? - |type: ignore\S* +# ?|noqa: [A-Z0-9, ]+$|fmt: \w+$)?")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")


@dataclass(frozen=True)
class Sentence:
    """One sentence and the line on which its paragraph begins."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """How many words it has; code in backticks is one word."""
        return len([word for word in re.sub(r"`+[^`]*`+", "code", self.text).split() if re.search(r"\w", word)])


def _split(line: int, text: str) -> Iterator[Sentence]:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split()))
    yield from (Sentence(line, part) for part in _END.split(text) if part)


def _paragraphs(text: str, first_line: int) -> Iterator[tuple[int, str]]:
    """Paragraphs and list items of reStructuredText or Markdown; literal blocks, tables and headings are left out."""
    begun, literal, in_table = first_line, False, False
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], first_line):
        if _TABLE_RULE.match(line):
            in_table = True
        in_table = in_table and bool(line.strip())
        if in_table or _TABLE_ROW.match(line):
            continue
        indented = line.startswith("    ")
        if literal and (indented or not line.strip()):
            continue
        literal = False
        starts_item = bool(_ITEM.match(line))
        if not line.strip() or starts_item or (lines and lines[-1].rstrip().endswith("::")):
            if lines:
                literal = lines[-1].rstrip().endswith("::")
                yield begun, " ".join(lines)
            lines = []
        if line.strip() and not literal:
            begun = begun if lines else number
            lines.append(_ITEM.sub("", line))


def markdown_sentences(text: str) -> Iterator[Sentence]:
    """The sentences of a Markdown file outside code, tables and headings."""
    kept, in_fence, in_code, was_blank = [], False, False, True
    for line in text.splitlines():
        fence = bool(_FENCE.match(line.strip()))
        in_fence ^= fence
        in_code = line.startswith("    ") and (was_blank or in_code) and not _ITEM.match(line)
        is_prose = not (fence or in_fence or in_code or line.lstrip().startswith(("|", "#", "<")))
        kept.append(line if is_prose else "")
        was_blank = not line.strip()
    for number, paragraph in _paragraphs("\n".join(kept), 1):
        yield from _split(number, paragraph)


def _docstrings(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Every string that stands alone as a statement: docstrings, also those of constants and fields."""
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, *rest = node.value.value.splitlines() or [""]
            indent = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
            yield node.lineno, "\n".join([first, *(line[indent:] for line in rest)])
        for inner in ("body", "orelse", "finalbody"):
            yield from _docstrings(getattr(node, inner, []))


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Comments; lines of comment that follow each other are one."""
    begun, last, line, seen = 0, -1, 1, 0
    lines: list[str] = []
    for match in _COMMENT_OR_STRING.finditer(source):
        if match["comment"] is None:
            continue
        line += source.count("\n", seen, match.start())
        seen = match.start()
        is_whole_line = not source[source.rfind("\n", 0, seen) + 1 : seen].strip()
        if lines and not (is_whole_line and line == last + 1):
            yield begun, "\n".join(lines)
            lines = []
        begun = begun if lines else line
        lines.append(_DIRECTIVE.sub("", match["comment"]))
        last = line if is_whole_line else -1
    if lines:
        yield begun, "\n".join(lines)


def python_sentences(source: str, tree: ast.Module | None = None) -> Iterator[Sentence]:
    """The sentences of a module's docstrings and comments; ``tree`` spares the parsing."""
    for line, text in (*_docstrings((tree or ast.parse(source)).body), *_comments(source)):
        for number, paragraph in _paragraphs(re.sub(r":(?:\w+):`~?([^`]*)`", r"`\1`", text), line):
            yield from _split(number, paragraph)


def _columns(text: str) -> Iterator[str]:
    in_fence = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = bool(_FENCE.match(line.strip()))
        in_fence ^= fence
        is_free = fence or in_fence or line.startswith(("    ", "|", "[")) or "](" in line or "http" in line
        if len(line) >= MAX_COLUMNS and not is_free:
            yield f"{number}: {len(line)} columns; break the line before column {MAX_COLUMNS}"


def faults(path: Path, tree: ast.Module | None = None) -> list[str]:
    """All faults of one file, each with its line and a remedy; ``tree`` is that of a Python file, if the caller has it."""
    text = path.read_text(encoding="utf-8")
    is_markdown = path.suffix == ".md"
    found = list(_columns(text)) if is_markdown else []
    sentences = list(markdown_sentences(text) if is_markdown else python_sentences(text, tree))
    for sentence in sentences:
        if sentence.words > MAX_WORDS:
            found.append(f"{sentence.line}: {sentence.words} words in a sentence, the limit is {MAX_WORDS}: {sentence.text[:60]}...")
        bare = re.sub(r"`+[^`]*`+", "", sentence.text)
        for pattern, instead in WORDS.items():
            match = _WORDS[pattern].search(bare)
            if match:
                found.append(f"{sentence.line}: {match[0]!r}: write {instead}")
        if _WHAT.match(sentence.text) and sentence.words > _FEW:
            found.append(f"{sentence.line}: begins with a what-clause: name the thing: {sentence.text[:60]}")
    long = [sentence for sentence in sentences if sentence.words > LONG_WORDS]
    if len(sentences) >= _FEW and len(long) > MAX_LONG_SHARE * len(sentences):
        lines = ", ".join(str(sentence.line) for sentence in long)
        share = f"{len(long)} of {len(sentences)} sentences have more than {LONG_WORDS} words, {MAX_LONG_SHARE:.0%} may"
        found.append(f"{share}: split those of lines {lines}")
    return found


if __name__ == "__main__":
    wrong = [f"{name}:{fault}" for name in sys.argv[1:] for fault in faults(Path(name))]
    print("\n".join(wrong))
    sys.exit(bool(wrong))
