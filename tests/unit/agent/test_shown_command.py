"""How commands stand in a sandbox's log."""

from __future__ import annotations

import pytest

from cloister.agent.process.shown import shown_command
from cloister.protocol.process import ProcessConfig


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("/bin/bash", "-l", "-c", "echo hi"), "echo hi"),
        (("/bin/sh", "-c", "exit 3"), "exit 3"),
        (("/bin/bash", "-i", "-l"), "/bin/bash -i -l"),
        (("/usr/bin/env", "a b"), "/usr/bin/env 'a b'"),
        (("/bin/bash", "-l", "-c", "cat > f <<'X'\nline\nX"), "cat > f <<'X' line X"),
        (("/bin/bash", "-l", "-c", "TOKEN='a b' KEY=c run --as=me"), "TOKEN=… KEY=… run --as=me"),
        (("/bin/bash", "-l", "-c", 'export PASSWORD="x y"; go'), "export PASSWORD=…; go"),
        (("/bin/bash", "-l", "-c", "git clone https://me:secret@git.example/x"), "git clone https://…@git.example/x"),
        (("/bin/sh", "-c", "printf 'password=hunter2' | git credential approve"), "printf 'password=…"),
        (("/bin/sh", "-c", "login --password=x --api-key=y access_token=z"), "login --password=… --api-key=… access_token=…"),
        (("/bin/bash", "-l", "-c", "x" * 500), "x" * 199 + "…"),
    ],
)
def test_commands(words: tuple[str, ...], shown: str) -> None:
    """The text that a shell runs, or program and arguments: on one line, bounded, without what its form says to be secret."""
    assert shown_command(ProcessConfig(cmd=words[0], args=words[1:])) == shown
