"""A new machine's first minutes: a store with the template ``starter`` alone, while a build makes the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b.exceptions import ServiceBusyException
from e2b_code_interpreter import Sandbox, SandboxException

from cloister.template.layers import LayerStore
from cloister.template.stock import with_parents
from framework.driver_root import store_dir
from framework.server import Server, running_server

pytestmark = [pytest.mark.root, pytest.mark.templates]

DEFAULT = "code-interpreter-v1"


@pytest.fixture(scope="module")
def store() -> Iterator[LayerStore]:
    """A store with ``starter`` and its agent. Its first layer is a copy of the tests', so that no Debian is unpacked again."""
    with tempfile.TemporaryDirectory(prefix="cloister-starter-", dir=store_dir().parent) as directory:
        made = LayerStore(Path(directory))
        first = LayerStore(store_dir(), create=False).template("base").layers[0]
        subprocess.run(["cp", "-al", store_dir() / "layers" / first, made.root / "layers" / first], check=True)
        environ = {**os.environ, "CLOISTER_STORE_DIR": directory}
        words = [sys.executable, "-m", "cloister.cli.main", "template", "build", "starter"]
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "starter [1/4] Debian base system: done (cached" in done.stdout
        yield made
        shutil.rmtree(made.root / "layers", ignore_errors=True)


@pytest.fixture(scope="module")
def server(store: LayerStore) -> Iterator[Server]:
    """A server on it."""
    with running_server("--store-dir", str(store.root)) as made:
        yield made


def test_the_starter_runs_python_and_bash(server: Server) -> None:
    """With state, as `user` with sudo, and with pip; its kernels and commands are those of any template."""
    with Sandbox.create("starter", **server.sdk) as sandbox:
        sandbox.run_code("x = 20")
        assert sandbox.run_code("x + 1").text == "21"
        assert sandbox.run_code("echo $((6 * 7))", language="bash").logs.stdout == ["42\n"]
        assert sandbox.commands.run("id -un; sudo id -un; pip --version | cut -d' ' -f1; python --version").stdout.split()[:3] == [
            "user",
            "root",
            "pip",
        ]
        sandbox.files.write("hello.txt", "hello")
        assert sandbox.files.read("hello.txt") == "hello"


def test_clients_are_told_how_far_the_default_template_is(server: Server, store: LayerStore) -> None:
    """While a build makes it: its step, and what there is until then. Without a build: how to make it."""
    with store.builder_directory(with_parents(DEFAULT)):
        told = (
            rf"503: .*template '{DEFAULT}' is being built: step 2 of 10, command line tools.*until then there is the template 'starter', with Python and bash"
        )
        with pytest.raises(ServiceBusyException, match=told):
            Sandbox.create(**server.sdk)
        listed = server.cli("template", "list", "--store-dir", str(store.root)).stdout
        assert f"{DEFAULT:24}being built: step 2 of 10, command line tools" in listed
        check = server.cli("template", "check", DEFAULT, "--store-dir", str(store.root), check=False)
        assert check.returncode == 3
    with pytest.raises(SandboxException, match=r"404: .*cloister template build all"):
        Sandbox.create(**server.sdk)
    assert server.cli("template", "check", "starter", "--store-dir", str(store.root)).returncode == 0


def test_cloister_run_takes_the_starter_for_programs_that_it_can_run(server: Server, tmp_path: Path) -> None:
    """And says so; a program that needs more, or asks for the template, is refused as before."""
    program = tmp_path / "hello.py"
    program.write_text("import sys\nprint('hello', *sys.argv[1:])")
    done = server.cli("run", str(program), "you")
    assert done.stdout == "hello you\n"
    assert done.stderr == f"cloister: {DEFAULT} is not built yet; hello.py runs in starter, with Python's standard library and bash\n"
    for words in (["--template", DEFAULT, str(program)], [str(tmp_path / "needy.py")]):
        (tmp_path / "needy.py").write_text("import numpy")
        refused = server.cli("run", *words, check=False)
        assert refused.returncode == 125
        assert f"template '{DEFAULT}' not found" in refused.stderr
