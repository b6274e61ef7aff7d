"""Builds the slot maker, a small static C program, beside the Python package. See docs/decisions/0003-slot-maker-in-c.md."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "src/cloister"


class BuildWithSlotMaker(build_py):
    """``build_py`` that compiles the slot maker first; also run by an editable install."""

    def run(self) -> None:
        """Compile, then copy the package."""
        binary = SOURCE / "bin/cloister-slotmaker"
        binary.parent.mkdir(exist_ok=True)
        subprocess.run(["sh", str(SOURCE / "runtime/namespace/native/build.sh"), str(binary)], check=True)
        super().run()


setup(cmdclass={"build_py": BuildWithSlotMaker})
