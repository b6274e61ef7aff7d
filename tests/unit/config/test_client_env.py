"""The file and the commands by which clients learn how to reach the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.cli.main import main
from cloister.config.client_env import ClientEnv, read_client_env, server_url, write_client_env
from cloister.errors import NotFoundError

_READ_BY_CLIENTS = (
    "E2B_API_KEY",
    "E2B_ACCESS_TOKEN",
    "E2B_API_URL",
    "E2B_SANDBOX_URL",
    "E2B_VOLUME_API_URL",
    "E2B_DOMAIN",
    "E2B_DEBUG",
    "E2B_TEAM_ID",
    "E2B_PROJECT_ID",
)
"""Variables by which some release of the SDKs or of the E2B command line chooses where it sends what, or as whom."""


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("::1", "http://[::1]:80")],
)
def test_urls(host: str, url: str) -> None:
    """A listener on all addresses is reached by loopback; IPv6 addresses get brackets."""
    assert server_url(host, 80) == url


def test_the_file_is_private_and_comes_back(tmp_path: Path) -> None:
    """The file is read back as written, and only its owner can read it."""
    (tmp_path / "api").mkdir()
    env = ClientEnv("http://127.0.0.1:1", "e2b_x", "sbx.test", is_public=True)
    write_client_env(tmp_path, env)
    write_client_env(tmp_path, env)
    assert read_client_env(tmp_path) == env
    by_tls = ClientEnv("http://127.0.0.1:1", "e2b_x", "sbx.test", is_public=True, by_tls=True, ca_dir=tmp_path / "ca")
    write_client_env(tmp_path, by_tls)
    assert read_client_env(tmp_path) == by_tls
    assert (tmp_path / "api" / "client.env").stat().st_mode & 0o777 == 0o600


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """The api process, whose directory it is, cannot make root read another file by a link."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "client.env").symlink_to("/etc/passwd")
    with pytest.raises(NotFoundError, match="symbolic links"):
        read_client_env(tmp_path)


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    """Nor a socket or a directory: root's commands end with an error."""
    path = tmp_path / "api" / "client.env"
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(NotFoundError, match=r"client\.env"):
        read_client_env(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(NotFoundError, match=r"client\.env"):
        read_client_env(tmp_path)


def test_env_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``cloister env`` prints exports that a shell evaluates to the SDKs' variables."""
    (tmp_path / "api").mkdir()
    write_client_env(tmp_path, ClientEnv("http://127.0.0.1:1", "e2b_x", "a'b"))
    assert main(["env", "--data-dir", str(tmp_path)]) == 0
    script = capsys.readouterr().out + 'echo "$E2B_API_URL $E2B_SANDBOX_URL $E2B_API_KEY $E2B_DOMAIN"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "http://127.0.0.1:1 http://127.0.0.1:1 e2b_x a'b\n"


def test_env_command_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After the default key was revoked the exports leave the caller's own key alone, and the command says how to make one."""
    (tmp_path / "api").mkdir()
    write_client_env(tmp_path, ClientEnv("http://127.0.0.1:1", ""))
    assert main(["env", "--data-dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "E2B_API_KEY" not in said.out
    assert "cloister key create" in said.err


@pytest.mark.parametrize(
    ("env", "options", "expected"),
    [
        (ClientEnv("http://h:1", "k"), [], "api=http://h:1 sandbox=http://h:1 domain=no-domain.invalid ca=old"),
        (ClientEnv("http://h:1", "k", "localhost:1"), [], "api=http://h:1 sandbox=http://h:1 domain=localhost:1 ca=old"),
        (ClientEnv("http://h:1", "k", "d.test", is_public=True), [], "api=http://h:1 sandbox=http://h:1 domain=d.test ca=old"),
        (ClientEnv("http://h:1", "k", "d.test", is_public=True), ["--public"], "api=https://api.d.test sandbox= domain=d.test ca=old"),
        (
            ClientEnv("http://h:1", "k", "d.test:8443", is_public=True, by_tls=True),
            [],
            "api=https://api.d.test:8443 sandbox= domain=d.test:8443 ca=old",
        ),
        (
            ClientEnv("http://h:1", "k", "d.test", is_public=True, by_tls=True, ca_dir=Path("/c")),
            [],
            "api=https://api.d.test sandbox= domain=d.test ca=/c/ca.crt",
        ),
        (
            ClientEnv("http://h:1", "k", "d.test", is_public=True, by_tls=True),
            ["--local"],
            "api=http://h:1 sandbox=http://h:1 domain=d.test ca=old",
        ),
    ],
)
def test_env_by_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str], env: ClientEnv, options: list[str], expected: str) -> None:
    """The exports fit how the server is reached: in clear text, by its own TLS, or by a proxy's; E2B_SANDBOX_URL never hides a domain."""
    (tmp_path / "api").mkdir()
    write_client_env(tmp_path, env)
    assert main(["env", *options, "--data-dir", str(tmp_path)]) == 0
    echo = 'echo "api=$E2B_API_URL sandbox=$E2B_SANDBOX_URL domain=$E2B_DOMAIN ca=$NODE_EXTRA_CA_CERTS"'
    before = {"E2B_SANDBOX_URL": "old", "E2B_DOMAIN": "old", "NODE_EXTRA_CA_CERTS": "old", "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", capsys.readouterr().out + echo], capture_output=True, text=True, check=True, env=before)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("option", ["--local", "--public"])
def test_env_leaves_nothing_of_another_service(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    """Whatever the shell's variables were before, none that an SDK or the E2B command line reads leads elsewhere afterwards."""
    (tmp_path / "api").mkdir()
    write_client_env(tmp_path, ClientEnv("http://h:1", "k", "d.test", is_public=True))
    assert main(["env", option, "--data-dir", str(tmp_path)]) == 0
    before = dict.fromkeys(_READ_BY_CLIENTS, "elsewhere") | {"PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", capsys.readouterr().out + "env"], capture_output=True, text=True, check=True, env=before)
    assert "elsewhere" not in done.stdout


def test_file_of_an_older_server_is_read(tmp_path: Path) -> None:
    """The default key survives an upgrade from a release that wrote fewer lines."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "client.env").write_text("E2B_API_URL=http://h:1\nE2B_API_KEY=k\nBY_TLS=0\n")
    assert read_client_env(tmp_path) == ClientEnv("http://h:1", "k")


def test_public_without_a_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Public exports are refused where there is no domain."""
    (tmp_path / "api").mkdir()
    write_client_env(tmp_path, ClientEnv("http://h:1", "k"))
    assert main(["env", "--public", "--data-dir", str(tmp_path)]) == 1
    assert "no public domain" in capsys.readouterr().err


def test_commands_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no server has run, commands say so in one line and exit with 1."""
    with pytest.raises(NotFoundError):
        read_client_env(tmp_path)
    for words in (["env"], ["key", "list"]):
        assert main([*words, "--data-dir", str(tmp_path)]) == 1
        assert "cloister serve" in capsys.readouterr().err


def test_help_lists_every_command() -> None:
    """``cloister --help`` imports and names all subcommands."""
    done = subprocess.run([sys.executable, "-m", "cloister.cli.main", "--help"], capture_output=True, text=True, check=True)
    for name in ("serve", "env", "key", "run", "doctor"):
        assert f"\n  {name} " in done.stdout
