"""Builds the slot maker and join.so, small C programs, beside the Python package. See docs/decisions/0003 and 0014."""

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "src/cloister"


class BuildWithNative(build_py):
    """``build_py`` that compiles the C programs first; also run by an editable install."""

    def run(self) -> None:
        """Compile, then copy the package."""
        binaries = SOURCE / "bin"
        binaries.mkdir(exist_ok=True)
        subprocess.run(["sh", str(SOURCE / "runtime/namespace/native/build.sh"), str(binaries)], check=True)
        super().run()


setup(cmdclass={"build_py": BuildWithNative})
