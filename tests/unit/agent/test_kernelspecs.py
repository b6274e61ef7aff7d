"""Which Jupyter kernels are found, how they are named, and what a hostile directory can do: nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cloister.agent.cgroup import Cgroup
from cloister.agent.interpreter.kernelspecs import find_kernelspecs, kernelspec_directories
from cloister.agent.interpreter.languages import LanguageContext, find_language
from cloister.agent.interpreter.launch import KernelLauncher
from cloister.agent.state import AgentState
from cloister.errors import NotFoundError
from cloister.protocol.init_document import InitDocument

NATIVE = ("python", "bash")


def install(root: Path, name: str, **fields: object) -> Path:
    """A kernelspec."""
    place = root / name
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps({"argv": ["k", "{connection_file}"], **fields}), encoding="utf-8")
    return place


def test_a_kernel_is_named_by_its_directory_and_by_its_language(tmp_path: Path) -> None:
    """Both names work, in any case; the directory's comes first, and among equals the first by place and name."""
    install(tmp_path / "b", "ir", language="R")
    install(tmp_path / "a", "xc17", language="C++")
    install(tmp_path / "a", "xc14", language="c++")
    install(tmp_path / "b", "XC14", language="other")

    def find(name: str) -> str:
        return find_language(name, NATIVE, lambda: find_kernelspecs([tmp_path / "a", tmp_path / "b"])).name

    assert [find(name) for name in ("IR", "r", "C++", "xc17", "xc14")] == ["ir", "ir", "xc14", "xc17", "xc14"]


def test_native_languages_win(tmp_path: Path) -> None:
    """A kernelspec cannot take a native language's name; with another name it exists beside it."""
    install(tmp_path, "python3", language="python")
    install(tmp_path, "mine", language="python")

    def others() -> list:  # type: ignore[type-arg]  # of anything
        return find_kernelspecs([tmp_path])

    assert find_language("Python3", NATIVE, others).interrupt == "signal"
    assert find_language("mine", NATIVE, others).name == "mine"
    assert find_language("python", ("bash",), others).name == "mine"  # where there is no native one
    with pytest.raises(NotFoundError, match=r"Available: python, bash, mine$"):
        find_language("cobol", NATIVE, others)


def test_the_command_names_the_bridge_and_the_kernelspec(tmp_path: Path) -> None:
    """The agent starts its own driver, which starts the kernel."""
    place = install(tmp_path, "lua")
    (language,) = find_kernelspecs([tmp_path])
    argv = language.argv(LanguageContext(Path("/drivers"), 100))
    assert argv[-2:] == ["/drivers/jupyter/main.py", str(place)]
    assert not language.takes_envs


def test_directories_of_jupyter_and_of_the_template_s_programs() -> None:
    """JUPYTER_PATH, homes, an active environment, the prefixes of PATH and the system, each once; relative ones never."""
    envs = {"JUPYTER_PATH": "/j:relative:", "VIRTUAL_ENV": "/venv"}
    found = kernelspec_directories(envs, "/venv/bin:/usr/local/bin:/usr/bin:/bin:bin:", ["/root", "/home/user"])
    places = [str(place).removesuffix("/kernels") for place in found]
    wanted = ["/j", "/root/.local/share/jupyter", "/home/user/.local/share/jupyter", "/venv/share/jupyter", "/usr/local/share/jupyter"]
    assert places[:6] == [*wanted, "/usr/share/jupyter"]
    assert len(places) == len(set(places))


def test_hostile_kernelspecs_are_left_aside(tmp_path: Path) -> None:
    """Pipes, devices, /proc, loops, gigabytes, deep and wrong JSON neither hold nor hurt the agent; a good one beside them is found."""
    kernels = tmp_path / "kernels"
    for name in ("fifo", "proc", "loop", "huge", "deep", "wrong", "binary", "dir", "null"):
        (kernels / name).mkdir(parents=True)
    os.mkfifo(kernels / "fifo" / "kernel.json")
    (kernels / "proc" / "kernel.json").symlink_to("/proc/self/mem")
    (kernels / "loop" / "kernel.json").symlink_to("kernel.json")
    with (kernels / "huge" / "kernel.json").open("wb") as file:
        file.truncate(1 << 40)
    (kernels / "deep" / "kernel.json").write_text("[" * 200_000)
    (kernels / "wrong" / "kernel.json").write_text('{"argv": "rm -rf /", "language": "wrong"}')
    (kernels / "binary" / "kernel.json").write_bytes(os.urandom(1000))
    (kernels / "dir" / "kernel.json").mkdir()
    (kernels / "null" / "kernel.json").symlink_to("/dev/zero")
    (kernels / "link").symlink_to("/proc")
    install(kernels, "odd\nname", language="odd")
    install(kernels, "good", language=["no", "text"])
    began = time.monotonic()
    assert [language.name for language in find_kernelspecs([kernels, tmp_path / "absent", kernels / "fifo"])] == ["good"]
    assert time.monotonic() - began < 10


def test_a_directory_of_many_is_not_read_whole(tmp_path: Path) -> None:
    """Of thousands of kernelspecs a bounded number is looked at."""
    for number in range(1000):
        (tmp_path / f"k{number}").mkdir()
        (tmp_path / f"k{number}" / "kernel.json").write_text('{"argv": []}')
    assert 0 < len(find_kernelspecs([tmp_path])) <= 200


def test_the_zygote_finds_no_kernel(tmp_path: Path) -> None:
    """The exercise of the agent before there is a sandbox cannot start a kernel of the template."""
    install(tmp_path / "kernels", "python3", language="python")
    launcher = KernelLauncher(AgentState.blank(), tmp_path, Cgroup(tmp_path))
    launcher.state.envs["JUPYTER_PATH"] = str(tmp_path)
    assert launcher.kernelspecs() == []
    launcher.state.become(InitDocument(sandbox_id="s", envs={"JUPYTER_PATH": str(tmp_path)}, kernel_user="root"))
    assert "python3" in [language.name for language in launcher.kernelspecs()]
