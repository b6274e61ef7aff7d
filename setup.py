"""Builds the C programs beside the Python package (docs/decisions/0003, 0014), and names the machine in the wheel's tag."""

import platform
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "src/cloister"
GENERATED = Path(__file__).parent / "build/generated"
SHARED = {
    "share/man/man1": "cloister.1",
    "share/bash-completion/completions": "cloister",
    "share/zsh/site-functions": "_cloister",
    "share/fish/vendor_completions.d": "cloister.fish",
}


class BuildWithNative(build_py):
    """``build_py`` that compiles the C programs first; also run by an editable install."""

    def run(self) -> None:
        """Compile, then copy the package."""
        binaries = SOURCE / "bin"
        binaries.mkdir(exist_ok=True)
        subprocess.run(["sh", str(SOURCE / "runtime/namespace/native/build.sh"), str(binaries)], check=True)
        super().run()


class WheelOfMachine(bdist_wheel):
    """The programs are static or need glibc 2.17 at most, and no Python: the wheel fits every CPython on this kind of machine."""

    def get_tag(self) -> tuple[str, str, str]:
        """Interpreter, ABI and platform."""
        return "py3", "none", f"manylinux_2_17_{platform.machine()}"


class DistributionWithPrograms(Distribution):
    """Belongs below ``platlib``, as one with extension modules."""

    def has_ext_modules(self) -> bool:
        """The programs count as such."""
        return True


shared = [(place, [f"build/generated/{name}"]) for place, name in SHARED.items() if (GENERATED / name).exists()]
setup(distclass=DistributionWithPrograms, cmdclass={"build_py": BuildWithNative, "bdist_wheel": WheelOfMachine}, data_files=shared)
