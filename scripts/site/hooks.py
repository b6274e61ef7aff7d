"""Hooks of mkdocs: the site also has the repository's files that the documents link to, so that no link needs a host.

Links in the documents are those of a plain git host, relative to the file. A target outside of docs/ becomes a page below ``repo/``:
Markdown as it is, a directory as a list, any other file as code.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE = re.compile(r"(^```.*?^```|^<!--.*?-->)", re.DOTALL | re.MULTILINE)
OUTSIDE = re.compile(r"[a-z]+:|//")
LANGUAGES = {".py": "python", ".mjs": "javascript", ".js": "javascript", ".toml": "toml", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml"}
DOCS = "docs/"
GUIDES = re.compile(r"docs/(?!decisions/|attacks/)|README\.md|SECURITY\.md|examples/README\.md")
"""Pages that answer a reader's question. The search shows others after them."""
SHOWN = {".md", ".py", ".mjs", ".sh", ".toml", ".yml", ".conf", ".service", ".socket", ".timer", ".json"}
"""Files in the list of a directory."""
_pages: dict[str, str] = {}
"""Paths in the repository, by those in the site."""


def place(path: str) -> str:
    """The path in the site, of a file or directory of the repository."""
    target = ROOT / path
    if target.is_dir():
        path = f"{path}/README.md"
    elif not path.startswith(DOCS) and target.suffix != ".md":
        path = f"{path}.md"
    return path.removeprefix(DOCS) if path.startswith(DOCS) else f"repo/{path}"


def resolve(path: str, target: str) -> str | None:
    """The path in the repository that a link of the document at ``path`` means; None if there is nothing."""
    if OUTSIDE.match(target):
        return None
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return found if not found.startswith("..") and (ROOT / found).exists() else None


def text_of(path: str) -> str:
    """The Markdown of a page for a file or directory."""
    target = ROOT / path
    if not target.is_dir():
        text = target.read_text(encoding="utf-8")
        return text if target.suffix == ".md" else f"# {path}\n\n````{LANGUAGES.get(target.suffix, '')}\n{text}````\n"
    if (target / "README.md").exists():
        return (target / "README.md").read_text(encoding="utf-8")
    names = sorted(one.name for one in target.iterdir() if one.suffix in SHOWN or one.name[0].isupper())
    return f"# {path}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)


def base_of(path: str) -> str:
    """The path that links of a page are relative to."""
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def links(path: str) -> list[str]:
    """Paths in the repository that a page links to."""
    if not (ROOT / path).is_dir() and not path.endswith(".md"):
        return []
    parts = FENCE.split(text_of(path))[::2]
    return [found for part in parts for match in LINK.finditer(part) if (found := resolve(base_of(path), match["target"]))]


def on_config(config: Any) -> Any:
    """Let the navigation name files outside of docs/ as seen from there."""

    def placed(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: placed(value) for name, value in item.items()}
        if isinstance(item, list):
            return [placed(one) for one in item]
        return place(item.removeprefix("../")) if item.startswith("../") else item

    config.nav = placed(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of linked files to the site."""
    _pages.clear()
    left = [f"{DOCS}{file.src_uri}" for file in files if file.is_documentation_page()] + ["README.md", "CHANGELOG.md", f"{DOCS}decisions"]
    while left:
        path = left.pop()
        uri = place(path)
        is_there = path.startswith(DOCS) and (ROOT / path).is_file()
        if uri in _pages or (is_there and not path.endswith(".md")):
            continue
        _pages[uri] = path
        if not is_there:
            files.append(File.generated(config, uri, content=text_of(path)))
        left += links(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the repository into those of the site."""
    path = _pages[page.file.src_uri]
    here = posixpath.dirname(page.file.src_uri)
    if not GUIDES.match(path):
        page.meta["search"] = {"boost": 0.2}

    def moved(match: re.Match[str]) -> str:
        found = resolve(base_of(path), match["target"])
        return match[0] if found is None else posixpath.relpath(place(found), here or ".") + (match["anchor"] or "")

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def on_post_build(config: Any) -> None:
    """Take the addresses of other hosts out of the theme's program: it would load parts from there for pages without a server."""
    for path in Path(config.site_dir, "assets", "javascripts").glob("bundle.*.js"):
        path.write_text(path.read_text(encoding="utf-8").replace("https://unpkg.com/", "/"), encoding="utf-8")
