"""The documentation site: it builds without a warning, asks no other host, and answers the usual questions within two clicks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "scripts" / "site"
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"
QUESTIONS = 10
_LOADS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class _Page(HTMLParser):
    """A page: its loads, its links and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take one element."""
        for name, value in attrs:
            if (tag, name) in _LOADS and value:
                self.loads.append(value)
            if (tag, name) == ("a", "href") and value:
                self.links.add(value)
            if name == "id" and value:
                self.anchors.add(value)


def _build(config: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [str(MKDOCS), "build", "--strict", "--config-file", str(config), "--site-dir", str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if not MKDOCS.exists():
        pytest.skip("the environment of the site is not there: run make docs")
    target = tmp_path_factory.mktemp("site")
    done = _build(SOURCES / "mkdocs.yml", target)
    assert done.returncode == 0, done.stderr
    return target


def test_the_site_has_every_document(site: Path) -> None:
    """Each Markdown file of docs/ is a page; the build is strict, so each link and anchor leads somewhere."""
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    pages = [path.with_name("index.html") if path.name == "README.md" else path.with_suffix(".html") for path in documents]
    assert [str(page) for page in pages if not (site / page).exists()] == []


@pytest.mark.usefixtures("site")
def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    """A link to no file or to no heading is an error, also one to a file outside of docs/."""
    links = ["missing.md", "#no-such-part", "../scripts/missing.sh", "README.md#nor-this"]
    place = tmp_path / "scripts" / "site"
    shutil.copytree(SOURCES, place)
    settings = (place / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[0]
    (place / "mkdocs.yml").write_text(f"{settings}\nnav: [README.md]\n", encoding="utf-8")
    (tmp_path / "docs" / "decisions").mkdir(parents=True)
    for path in ("README.md", "CHANGELOG.md", "docs/README.md"):
        (tmp_path / path).write_text("# Whole\n", encoding="utf-8")
    done = _build(place / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    (tmp_path / "docs" / "README.md").write_text("# Broken\n\n" + "".join(f"A [link]({link}).\n" for link in links), encoding="utf-8")
    done = _build(place / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert [link for link in links if f"'{link}'" not in done.stderr] == []


def test_no_page_loads_from_another_host(site: Path) -> None:
    """Scripts, styles, pictures and fonts are the site's own, and its program knows no address to load from."""
    pages = [*site.rglob("*.html")]
    foreign = {load for path in pages for load in _Page(path).loads if re.match(r"(?:[a-z]+:)?//", load)}
    assert len(pages) > 100
    assert foreign == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)", styles) == []
    programs = "".join(path.read_text(encoding="utf-8") for path in (site / "assets" / "javascripts").glob("bundle.*.js"))
    assert programs
    assert "https://unpkg.com" not in programs


def test_the_search_finds_words_of_pages(site: Path) -> None:
    """The index is a file of the site, with the text of its pages."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    found = {entry["location"].partition("#")[0] for entry in index if "gVisor" in entry["text"]}
    assert {"howto/gvisor.html", "security.html"} <= found
    assert len(index) > 500
    shown_later = {entry["location"].partition("#")[0] for entry in index if entry.get("boost", 1) < 1}
    assert {"decisions/1280-documentation-site.html", "repo/CHANGELOG.html"} <= shown_later
    assert "howto/gvisor.html" not in shown_later


def test_questions_are_answered_within_two_clicks(site: Path) -> None:
    """The front page links to each of ten answers, and each heading of the page of answers is one of them."""
    front, answers = _Page(site / "index.html"), _Page(site / "faq.html")
    asked = {link.partition("#")[2] for link in front.links if link.startswith("faq.html#")}
    assert len(asked) == QUESTIONS
    assert asked <= answers.anchors
    headings = re.findall(r"(?m)^## (.*)$", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"))
    assert len(headings) == QUESTIONS


def test_guides_open_with_what_the_reader_wants() -> None:
    """The first paragraph of a guide addresses its reader."""
    names = ["README", "api", "faq", "comparison", "limits", "security"]
    pages = [*(ROOT / "docs" / "howto").glob("*.md"), *(ROOT / "docs" / f"{name}.md" for name in names)]
    first = {path.name: path.read_text(encoding="utf-8").split("\n\n")[1] for path in pages}
    assert [name for name, text in first.items() if not text.startswith("You ")] == []
