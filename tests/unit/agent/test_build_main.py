"""The entry point of build operations: one object in, one object out, and nothing else on standard output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cloister.agent.build.main as entry

_OPERATIONS = {
    "echo": "def run(params):\n    return {'seen': params}\n",
    "noisy": "import subprocess\ndef run(params):\n    print('a line')\n    subprocess.run(['/bin/echo', 'a program'])\n    return {}\n",
    "refusing": "from cloister.errors import BuildError\ndef run(params):\n    raise BuildError('not like this')\n",
    "full": "import errno, os\ndef run(params):\n    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/a/file')\n",
    "helper": "A_PART_OF_OTHERS = 1\n",
    "broken": "def run(params):\n    return params['absent']\n",
}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The entry point in a tree as in a sandbox, with operations of this test beside it."""
    package = tmp_path / "site" / "cloister" / "agent" / "build"
    package.mkdir(parents=True)
    source = Path(entry.__file__)
    (tmp_path / "site" / "cloister" / "errors.py").write_text((source.parents[2] / "errors.py").read_text())
    (package / "main.py").write_text(source.read_text())
    for name, text in _OPERATIONS.items():
        (package / f"{name}.py").write_text(text)
    return package / "main.py"


def _perform(program: Path, *arguments: str, params: str = "{}") -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", program, *arguments], input=params, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def test_result_comes_as_one_object(program: Path) -> None:
    """Parameters reach the operation, and what it returns comes back."""
    assert _perform(program, "echo", params='{"a": ["\\u00e9"]}') == (0, {"result": {"seen": {"a": ["é"]}}}, "")


def test_standard_output_is_for_the_answer_alone(program: Path) -> None:
    """The log gets output of an operation, and of a program that it runs."""
    code, answer, log = _perform(program, "noisy")
    assert (code, answer) == (0, {"result": {}})
    assert set(log.split("\n")) == {"a line", "a program", ""}


@pytest.mark.parametrize(
    ("operation", "told"),
    [("refusing", "not like this"), ("full", "/a/file: no space left on device"), ("broken", "internal error: 'absent'")],
)
def test_errors_are_told(program: Path, operation: str, told: str) -> None:
    """A failure has exit status 1 and says what it was; a fault of ours leaves its trace in the log."""
    code, answer, log = _perform(program, operation)
    assert (code, answer) == (1, {"error": told})
    assert ("KeyError" in log) == (operation == "broken")


@pytest.mark.parametrize("arguments", [(), ("main",), ("__init__",), ("absent",), ("helper",), ("../main",), ("os",), ("echo.run",)])
def test_only_modules_beside_it_are_operations(program: Path, arguments: tuple[str, ...]) -> None:
    """A name that is no operation is refused before anything is imported."""
    code, answer, _ = _perform(program, *arguments)
    assert code == 1
    assert "there is no build operation" in answer["error"]


def test_parameters_that_are_no_json_are_an_error(program: Path) -> None:
    """Also then there is an answer."""
    code, answer, _ = _perform(program, "echo", params="{")
    assert code == 1
    assert "error" in answer
