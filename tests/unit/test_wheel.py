"""The wheel has everything that an installation needs, and a tag that says where its programs run."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister import __version__

ROOT = Path(__file__).parents[2]
_GLIBC = re.compile(rb"GLIBC_2\.(\d+)")
_TAGGED_GLIBC = 17


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """One built from a copy of the sources, without a network."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copy = f"git ls-files -z setup.py pyproject.toml LICENSE README.md src | tar -c --null -T - | tar -x -C {source}"
    subprocess.run(["bash", "-c", copy], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(made), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(made.glob("*.whl"))) as opened:
        yield opened


def test_its_tag_is_of_the_machine_and_no_python(wheel: zipfile.ZipFile) -> None:
    """An installer refuses it on another machine, and takes it for every CPython."""
    assert re.search(r"-py3-none-manylinux_2_17_x86_64\.whl\Z", str(wheel.filename))
    record = next(name for name in wheel.namelist() if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: false" in wheel.read(record).decode()


def test_its_programs_run_with_the_libc_of_the_tag(wheel: zipfile.ZipFile) -> None:
    """No symbol is newer. Static programs need none, but their libc may name some, so that only shared objects count."""
    programs = [name for name in wheel.namelist() if name.startswith("cloister/bin/")]
    assert {name.rpartition("/")[2] for name in programs} == {"cloister-slotmaker", "cloister-guest", "criu.so", "join.so"}
    for name in programs:
        content = wheel.read(name)
        assert content.startswith(b"\x7fELF")
        if name.endswith(".so"):
            assert max((int(version) for version in _GLIBC.findall(content)), default=0) <= _TAGGED_GLIBC, name


def test_its_programs_can_be_executed(wheel: zipfile.ZipFile) -> None:
    """Their mode comes with them."""
    assert wheel.getinfo("cloister/bin/cloister-slotmaker").external_attr >> 16 & 0o111


def test_it_has_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    """Templates, drivers, migrations and profiles are data, which a wheel leaves out unless it is told."""
    listed = subprocess.run(["git", "ls-files", "src/cloister"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    missing = {name.removeprefix("src/") for name in listed} - set(wheel.namelist())
    assert not {name for name in missing if Path(name).name != ".gitignore"}, missing


def test_it_can_be_installed(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Into an environment of its own, without a network; its command is there and says its version."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel.filename)]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([tmp_path / "venv" / "bin" / "cloister", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"cloister {__version__}\n"
