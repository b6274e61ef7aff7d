"""Content that the repository must not have, and files that it must have."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from .sources import ROOT, text_files

_WORD = "TO" + "DO|FIX" + "ME|X{3}"
_FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"""(?<![\w.<>/$}-])/(?:work/|tmp/scratch)"""),
    "a package registry": re.compile(
        r"deb\.deb" + r"ian|registry\.npm" + r"js|pypi\." + r"org|python" + r"hosted|cran\.r-" + r"project", re.IGNORECASE
    ),
    "a debt without an issue": re.compile(rf"\b(?:{_WORD})\b(?!\(#\d+\))"),
    "a secret": re.compile(r"(?:e2b|clm)_[0-9a-f]{40}\b(?<!_0{40})|-----BEGIN (?:RSA |EC )?PRIVATE KEY-----"),
}
_BINARY = {".png", ".ico", ".jar"}
_APACHE_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def _lines(path: Path) -> list[str]:
    return [] if path.suffix in _BINARY else path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("what", _FORBIDDEN)
def test_repository_does_not_carry(what: str) -> None:
    """No file holds what means nothing to, or is not meant for, whoever clones it."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        if path != Path(__file__) and path.name != "package-lock.json"
        for number, line in enumerate(_lines(path), 1)
        if _FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_lock_files_name_no_host() -> None:
    """Lock files pin by content; where packages come from is the user's configuration."""
    wrong = [path.relative_to(ROOT) for path in text_files() if path.name == "package-lock.json" and "://" in _resolved(path)]
    assert not wrong, wrong


def _resolved(path: Path) -> str:
    return "\n".join(line for line in _lines(path) if '"resolved"' in line)


def test_licence_is_apache() -> None:
    """LICENSE is the text of Apache-2.0, and the package says the same."""
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == _APACHE_SHA256
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"


_DOCUMENTS = (
    *("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *("docs/architecture.md", "docs/threat-model.md", "docs/glossary.md"),
)


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_documents_are_there(name: str) -> None:
    """The documents that people look for exist and have something to say."""
    assert (ROOT / name).stat().st_size > 500


def test_readme_names_both_commands() -> None:
    """README tells how to set up and how to test, with scripts that exist and can be run."""
    text = (ROOT / "README.md").read_text()
    for command in ("scripts/quickstart", "scripts/test"):
        assert command in text
        assert (ROOT / command).stat().st_mode & 0o111


@pytest.mark.parametrize("path", [path for path in text_files() if path.suffix == ".md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_in_documents_lead_somewhere(path: Path) -> None:
    """Relative links, and quoted paths of sources and tests, name files that exist."""
    text = path.read_text(encoding="utf-8")
    links = [target.split("#")[0] for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)\s]+)\)", text)]
    missing = [target for target in links if target and not (path.parent / target).exists()]
    quoted = re.findall(r"`((?:src|tests|scripts|bench|docs)/[\w./-]+)`", text)
    missing += [target for target in quoted if not (ROOT / target).exists() and not target.startswith("bench/results")]
    assert not missing, missing


@pytest.mark.parametrize("name", ["docs/threat-model.md", "docs/threat-model-clients.md", "SECURITY.md"])
def test_named_tests_exist(name: str) -> None:
    """A test that a security document points to as its proof is there."""
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))) | {path.stem}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / name).read_text(encoding="utf-8")))
    assert not named - defined


def test_decisions_are_numbered_and_complete() -> None:
    """Each decision has a number of its own and every part that makes it a decision."""
    paths = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in paths]
    assert all(number.isdecimal() for number in numbers)
    assert len(numbers) == len(set(numbers))
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for part in ("Context", "Choice", "Consequences"):
            assert re.search(rf"(?m)^(## {part}|\*\*{part}\.?\*\*)", text), f"{path.name}: no {part!r}"
