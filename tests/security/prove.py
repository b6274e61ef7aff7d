"""Proves that the attack tests can fail: takes one hardening step away at a time and runs the attacks.

Run as root: ``.venv-dev/bin/python tests/security/prove.py``. Prints a line for each step; exit code 1 when a step can be removed unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from framework.proved_step import NATIVE, Step, all_steps  # noqa: E402 - after the path is set


def prove(step: Step, tree: Path) -> bool:
    """Whether the attacks notice that ``step`` is gone, or it has nothing to hide here; restores the file."""
    if step.needs is not None and not Path(step.needs).exists():
        print(f"--  {step.name}: not to be proved here, since this kernel has no {step.needs}", flush=True)
        return True
    originals: dict[Path, str] = {}
    try:
        for name, old, new in ((step.file, step.old, step.new), *step.also):
            path = tree / name
            text = path.read_text()
            originals.setdefault(path, text)
            if old not in text:
                print(f"??  {step.name}: its text is not in {name} any more")
                return False
            path.write_text(text.replace(old, new))
        subprocess.run(["sh", str(tree / NATIVE / "build.sh"), str(tree / "src/cloister/bin")], check=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/security", "-k", step.attacks]
        done = subprocess.run(command, check=False, cwd=tree, env=_environ(tree), capture_output=True, text=True)
    finally:
        for path, text in originals.items():
            path.write_text(text)
    noticed = done.returncode == 1 and " failed" in done.stdout
    lines = done.stdout.strip().splitlines()
    why = next((line[1:].strip()[:100] for line in lines if line.startswith("E ")), "")
    print(f"{'ok ' if noticed else 'BAD'} {step.name}: {lines[-1]}; {why}", flush=True)
    return noticed


def _environ(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{tree / 'src'}:{tree / 'tests'}"}


def main() -> int:
    """Every step, or those whose names hold a word of the command line."""
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="cloister-prove-") as name:
        tree = Path(name)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        chosen = [step for step in all_steps() if not words or any(word in step.name for word in words)]
        unnoticed = [step.name for step in chosen if not prove(step, tree)]
    return int(bool(unnoticed))


if __name__ == "__main__":
    sys.exit(main())
