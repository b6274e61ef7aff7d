"""The completions and the man page that packages have: shells load them, and they know the commands; ``man`` renders the page."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cloister.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / ".venv-package").is_dir(), reason="this machine has no environment for scripts/package")
_BASH = """
source "$1/cloister"
function=$(complete -p cloister | sed -nE 's/.*-F ([^ ]+) .*/\\1/p')
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"$function" cloister "${!#}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""
_ZSH = "fpath=($1 $fpath); autoload -Uz compinit; compinit -u -d $2; print $_comps[cloister]; autoload +X _cloister"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``scripts/package docs``."""
    made = tmp_path_factory.mktemp("documents")
    subprocess.run([ROOT / "scripts" / "package", "docs", made], check=True, capture_output=True, timeout=300)
    return made


@pytest.mark.parametrize(
    ("words", "offered"),
    [(["te"], {"team", "template"}), (["template", "refr"], {"refresh"}), (["run", "--sa"], {"--save"})],
)
def test_bash_completes(documents: Path, words: list[str], offered: set[str]) -> None:
    """Commands, actions and options."""
    command = ["bash", "--norc", "-c", _BASH, "bash", str(documents), "cloister", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (set(done.stdout.split()), done.stderr) == (offered, "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="this machine has no zsh")
def test_zsh_loads_the_completion(documents: Path, tmp_path: Path) -> None:
    """The file is the function of the command, without a fault of syntax."""
    done = subprocess.run(["zsh", "-fc", _ZSH, "zsh", documents, tmp_path / "dump"], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("_cloister", "")


@pytest.mark.skipif(shutil.which("man") is None, reason="this machine has no man")
def test_man_renders_the_page(documents: Path) -> None:
    """Without a warning, and with each command."""
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MAN_KEEP_FORMATTING": ""}
    command = ["man", "--warnings", "-l", str(documents / "cloister.1")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ, timeout=60)
    assert done.stderr == ""
    assert not [name for name in COMMANDS if name != "mcp" and f"cloister {name}" not in done.stdout]
