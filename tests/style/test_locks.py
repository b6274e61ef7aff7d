"""Packages are pinned by content: what is installed is what was reviewed, wherever it comes from."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest

from .sources import ROOT, text_files

_LOCK = ROOT / "requirements" / "server.lock"
_MCP_LOCK = ROOT / "requirements" / "mcp.lock"
_STOCK = ROOT / "src" / "cloister" / "template" / "stock"
_OF_TEMPLATES = (
    "base/pip.txt",
    "agent/requirements.txt",
    "code-interpreter-v1/constraints.txt",
    "mcp-gateway/requirements.txt",
    "starter/requirements.txt",
)
_PYTHON_LOCKS = (*sorted((ROOT / "requirements").rglob("*.lock")), *(_STOCK / name for name in _OF_TEMPLATES))
_RELEASES = tuple(sorted((ROOT / "tests" / "conformance" / "releases").glob("*.lock")))
"""Old SDKs, for one test; they run nothing of the server's."""
_ENTRY = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?P<hashes>( \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
_NPM_LOCKS = [path for path in text_files() if path.name == "package-lock.json"]


def _entries(path: Path) -> dict[str, str]:
    """Versions by name; the file has nothing else than comments and pinned packages with hashes."""
    text = re.sub(r"(?m)^#.*\n", "", path.read_text())
    assert not _ENTRY.sub("", text), f"{path.relative_to(ROOT)}: {_ENTRY.sub('', text)!r}"
    return {found["name"]: found["version"] for found in _ENTRY.finditer(text)}


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", requirement)[0]).lower()


@pytest.mark.parametrize("path", [*_PYTHON_LOCKS, *_RELEASES], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_python_packages_are_pinned_with_hashes(path: Path) -> None:
    """Every line is one exact version with the hashes of its wheels."""
    assert _entries(path)


@pytest.mark.parametrize(("lock", "directory"), [(_LOCK, ROOT), (_MCP_LOCK, ROOT / "clients" / "mcp")], ids=["server", "mcp"])
def test_a_lock_has_what_its_project_asks_for(lock: Path, directory: Path) -> None:
    """It has every dependency, and what builds the package, so that nothing is fetched beside it."""
    project = tomllib.loads((directory / "pyproject.toml").read_text())
    wanted = {_name(text) for text in (*project["project"]["dependencies"], *project["build-system"]["requires"])}
    assert wanted <= set(_entries(lock))


def test_these_tests_run_with_the_locked_versions() -> None:
    """The server under test has the libraries that users get. Setuptools builds it only, and a machine may have brought its own."""
    versions = {name: version for name, version in _entries(_LOCK).items() if name != "setuptools"}
    installed = {name: importlib.metadata.version(name) for name in versions if _is_installed(name)}
    assert installed == {name: versions[name] for name in installed}
    assert {"aiohttp", "cryptography", "pyseccomp", "structlog"} <= set(installed)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def test_servers_environment_is_the_lock() -> None:
    """.venv holds cloister, the locked packages and pip, and nothing of a demo or a test."""
    if not (ROOT / ".venv" / ".cloister-lock").exists():
        pytest.skip("the server's environment is not there: run make install")
    places = [str(path) for path in (ROOT / ".venv" / "lib").glob("python3.*/site-packages")]
    found = {_name(item.metadata["Name"]): item.version for item in importlib.metadata.distributions(path=places)}
    assert found.pop("cloister")
    assert found.pop("pip")
    locked = _entries(_LOCK)
    assert found == {name: version for name, version in locked.items() if name in found}
    assert {"aiohttp", "cryptography", "pyseccomp", "structlog"} <= set(found)


@pytest.mark.parametrize("path", _NPM_LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_node_packages_are_pinned_with_hashes(path: Path) -> None:
    """Every package of a lock file of npm's has the hash by which ``npm ci`` checks it."""
    packages = json.loads(path.read_text())["packages"]
    assert [name for name, entry in packages.items() if name and not entry.get("link") and "integrity" not in entry] == []
    assert len(packages) > 1


def test_pip_is_told_to_check() -> None:
    """Every command of the stock templates' steps, and the one of the set-up, refuses what has no hash, or another."""
    scripts = [path.read_text().replace("\\\n", " ").splitlines() for path in (ROOT / "scripts" / "lib.sh", *_STOCK.glob("*/*.sh"))]
    asks = re.compile(r"-m pip .*\binstall .*-r |pip_install .*--only-binary .*-r ")
    commands = [line for lines in scripts for line in lines if asks.search(line)]
    assert len(commands) == 2 + len(_OF_TEMPLATES)  # of the set-up: one for locks, one for the releases
    assert [line for line in commands if "--require-hashes" not in line] == []
