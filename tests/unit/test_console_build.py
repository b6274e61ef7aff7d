"""The built files of the console are those of its sources, and small."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SOURCES, _BUILT = _ROOT / "clients/console", _ROOT / "src/cloister/console"
_MOST_BYTES = 500_000


@pytest.fixture(scope="module")
def node() -> str:
    """Node.js, with the packages of the lock file."""
    program = shutil.which("node")
    if program is None or not (_SOURCES / "node_modules/esbuild").is_dir():
        pytest.skip("the packages of clients/console are not installed; scripts/test does it")
    return program


def test_built_files_are_those_of_the_sources(node: str, tmp_path: Path) -> None:
    """A build of the sources gives the committed files, byte for byte."""
    subprocess.run([node, str(_SOURCES / "build.mjs"), str(tmp_path / "built")], check=True, cwd=_SOURCES)
    built = {path.name: path.read_bytes() for path in (tmp_path / "built").iterdir()}
    shipped = {path.name: path.read_bytes() for path in _BUILT.iterdir()}
    assert built.keys() == shipped.keys(), "run `npm run build` in clients/console and commit its result"
    assert [name for name in built if built[name] != shipped[name]] == []


def test_sources_have_no_wrong_type(node: str) -> None:
    """The TypeScript compiler finds no fault."""
    compiler = _SOURCES / "node_modules/.bin/tsc"
    done = subprocess.run([str(compiler), "--noEmit"], cwd=_SOURCES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_console_is_small() -> None:
    """All files together are below the bound, as browsers get them."""
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in _BUILT.iterdir()) < _MOST_BYTES
