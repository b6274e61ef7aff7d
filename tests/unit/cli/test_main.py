"""The ``cloister`` command itself: quick where nothing is to be done, and every mistake on the command line is one line."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys

import pytest

from cloister.cli.main import COMMANDS, main

HEAVY = ("aiohttp", "asyncio", "structlog", "cryptography", "sqlite3", "cloister.config.settings")


@pytest.mark.parametrize("word", ["--version", "--help"])
def test_version_and_help_import_no_command(word: str) -> None:
    """Commands that answer from a table import none of the server's libraries."""
    program = f"import sys\nfrom cloister.cli.main import main\ntry: main([{word!r}])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cloister" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "cloister.cli.main" in loaded
    assert not loaded.intersection(HEAVY)


def test_a_command_imports_only_itself() -> None:
    """``cloister env`` does not import the server."""
    program = "import sys\nfrom cloister.cli.main import main\ntry: main(['env', '--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "cloister.cli.env" in loaded
    assert not loaded.intersection({"aiohttp", "structlog", "cryptography", "cloister.processes.launcher"})


def _commands() -> list[tuple[str, ...]]:
    """Every command with options of its own here, and every action of those that have some."""
    found: list[tuple[str, ...]] = []
    for name, (module, _text) in COMMANDS.items():
        if name == "mcp":
            continue  # a program of another environment reads its options
        parser = argparse.ArgumentParser()
        importlib.import_module(module).add_options(parser)
        found.append((name,))
        actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        found += [(name, choice) for action in actions for choice in action.choices]
    return found


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_command_has_help_and_refuses_what_it_does_not_know(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` names the command and exits with 0; an unknown option is one line that leads to the help, and exit code 2."""
    with pytest.raises(SystemExit) as helped:
        main([*command, "--help"])
    assert helped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cloister {' '.join(command)}")
    needed = {"api": ["--listen-fd", "0", "--node-socket", "/x"], "run": ["x.py"], "key": ["list"], "template": ["list"], "ca": ["show"]}
    needed |= {"backup": ["b"], "restore": ["b"]}
    needed |= {"template pull": ["b", "--from", "h"], "template offer": ["b"], "template send": ["s"]}
    needed |= {"team": ["list"], "team create": ["t"], "team show": ["t"], "team limit": ["t"], "team remove": ["t"]}
    needed |= {"checkpoint": ["show"], "runtime": ["show"], "secret-key": ["rotate"], "key revoke": ["k"], "runtime install": ["gvisor"]}
    needed |= {"exec": ["i", "--", "true"], "shell": ["i"], "cp": ["a", "b"], "logs": ["i"], "template rm": ["t"], "config": ["show"]}
    needed |= {"connections": ["i"], "volume": ["list"], "volume create": ["v"], "volume show": ["v"], "volume token": ["v"]}
    needed |= {"volume copy": ["v", "w"], "volume backup": ["v", "f"], "volume restore": ["v", "f"], "volume rm": ["v"]}
    needed |= {"bundle": ["show", "x"], "bundle export": ["x"], "bundle import": ["x"], "bundle show": ["x"]}
    needed |= {"agent": ["--listen-fd", "0", "--node-socket", "/x"], "cluster": ["token"]}
    needed |= {"node join": ["--api", "u", "--address", "a:1"], **{f"node {one}": ["n"] for one in ("drain", "undrain", "remove")}}
    words = [*command, *needed.get(" ".join(command), [])]
    takes_words = command[0] in {"run", "exec"}  # what follows is the program's
    with pytest.raises(SystemExit) as refused:
        main([*command, "--data-dri=/x", *words[1:]] if takes_words else [*words, "--data-dri=/x"])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--data-dri" in said
    assert "--help" in said


def test_options_are_not_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    """A part of an option's name is an error that names the nearest option, not a guess."""
    with pytest.raises(SystemExit) as refused:
        main(["serve", "--data-di", "/x"])
    assert refused.value.code == 2
    assert "did you mean --data-dir?" in capsys.readouterr().err


def test_a_metrics_key_has_no_team(capsys: pytest.CaptureFixture[str]) -> None:
    """A key for the whole server's numbers that also names a team is refused, not made without the team."""
    with pytest.raises(SystemExit) as refused:
        main(["key", "create", "--metrics", "--team", "t1"])
    assert refused.value.code == 2
    assert "not allowed with argument --metrics" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["bogus"], ["key"], ["key", "bogus"], ["template", "build", "bogus"]], ids=" ".join)
def test_a_missing_or_unknown_word_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command line without a known command or action is one line and exit code 2."""
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
