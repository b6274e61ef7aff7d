"""Installing packages inside a sandbox, with the host's mirrors and certificates; each sandbox starts clean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox

from framework.inside import shell
from framework.server import Server

pytestmark = [pytest.mark.root, pytest.mark.templates]


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    """A sandbox to install into."""
    made = Sandbox.create(timeout=600, **server.sdk)
    yield made
    made.kill()


INSTALLS = {
    "pip": ("%pip install -q cowsay", "import cowsay; print('installed')", "python"),
    "shell-pip": ("!pip install -q tinydb", "import tinydb; print('installed')", "python"),
    "npm": (
        "cd /home/user && npm install left-pad",
        "console.log(require('left-pad')('x', 2) === ' x' ? 'installed' : 'no')",
        "bash javascript",
    ),
    "apt": ("sudo apt-get update -q && sudo apt-get install -y -q cowsay", "test -x /usr/games/cowsay && echo installed", "bash"),
}


@pytest.mark.parametrize("name", INSTALLS)
def test_package_is_installed_here_and_gone_in_the_next_sandbox(server: Server, sandbox: Sandbox, name: str) -> None:
    """The package works after its installation, and another sandbox does not have it."""
    install, check, languages = INSTALLS[name]
    first, last = languages.split()[0], languages.split()[-1]
    done = sandbox.run_code(install, language=first, timeout=240)
    assert done.error is None, (done.error, done.logs)
    used = sandbox.run_code(check, language=last, timeout=60)
    assert "installed" in "".join(used.logs.stdout), (used, done.logs)
    other = Sandbox.create(timeout=120, **server.sdk)
    try:
        assert "installed" not in "".join(other.run_code(check, language=last, timeout=60).logs.stdout)
    finally:
        other.kill()


def test_apt_keeps_no_second_copy_of_packages(sandbox: Sandbox) -> None:
    """Downloaded packages are removed after their installation, so no layer of a template has them twice."""
    done = shell(sandbox, "apt-get update -q && apt-get install -y -q hello && hello && ls /var/cache/apt/archives/*.deb | wc -l", timeout=240)
    assert "Hello, world!" in done.text, done.text
    assert done.text.split()[-1] == "0", done.text


def test_pip_works_for_the_ordinary_user(sandbox: Sandbox) -> None:
    """``pip install`` as ``user`` works too."""
    done = shell(
        sandbox,
        "pip install -q --no-warn-script-location pyjokes && python3 -c 'import pyjokes; print(\"installed\")'",
        user="user",
        timeout=240,
    )
    assert done.text.endswith("installed"), done.text


def test_stock_packages_import(sandbox: Sandbox) -> None:
    """Every Python package that the template promises can be imported."""
    names = (
        "numpy pandas scipy matplotlib seaborn sklearn plotly bokeh sympy PIL requests httpx bs4 openpyxl docx pytest xarray numba skimage cv2 networkx"
        " orjson ipykernel"
    )
    code = f"import importlib\nfor name in {names.split()!r}: importlib.import_module(name)\nprint('all')"
    done = sandbox.run_code(code, timeout=240)
    assert (done.error, "".join(done.logs.stdout)) == (None, "all\n")


def test_stock_programs_are_there(sandbox: Sandbox) -> None:
    """The command line tools, R packages and compilers that the template promises."""
    programs = "python3.13 pip node npm tsc R Rscript java javac bash curl wget git jq sudo gcc make ps rg"
    done = shell(sandbox, f"for p in {programs}; do command -v $p > /dev/null || echo missing $p; done; id user", user="user")
    assert "missing" not in done.text
    assert "uid=1000(user)" in done.text
    loaded = sandbox.run_code(
        "for (p in c('httr', 'jsonlite', 'ggplot2', 'dplyr')) library(p, character.only = TRUE); cat('all')", language="r", timeout=120
    )
    assert "all" in "".join(loaded.logs.stdout)
    assert "Noto" in shell(sandbox, "fc-list :lang=zh | head -3").text
