"""Builds the slot maker, a small static C program, beside the Python package. See docs/decisions/0003-slot-maker-in-c.md."""

import os
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SOURCES = ROOT / "src/cloister/runtime/namespace/native"
BINARY = ROOT / "src/cloister/bin/cloister-slotmaker"
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]


class BuildWithSlotMaker(build_py):
    """``build_py`` that compiles the slot maker first; also run by an editable install."""

    def run(self) -> None:
        """Compile, then copy the package."""
        BINARY.parent.mkdir(exist_ok=True)
        sources = sorted(str(path) for path in SOURCES.glob("*.c"))
        subprocess.run([os.environ.get("CC", "cc"), *FLAGS, "-o", str(BINARY), *sources], check=True)
        super().run()


setup(cmdclass={"build_py": BuildWithSlotMaker})
