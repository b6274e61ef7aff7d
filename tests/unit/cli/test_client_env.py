"""The file and the commands by which clients learn how to reach the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.cli.client_env import ClientEnv, read_client_env, server_url, write_client_env
from cloister.cli.main import main
from cloister.errors import NotFoundError


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("::1", "http://[::1]:80")],
)
def test_urls(host: str, url: str) -> None:
    """A listener on all addresses is reached by loopback; IPv6 addresses get brackets."""
    assert server_url(host, 80) == url


def test_the_file_is_private_and_comes_back(tmp_path: Path) -> None:
    """What is written is read, by its owner only."""
    (tmp_path / "api").mkdir()
    env = ClientEnv("http://127.0.0.1:1", "e2b_x", "sbx.test")
    write_client_env(tmp_path, env)
    write_client_env(tmp_path, env)
    assert read_client_env(tmp_path) == env
    by_tls = ClientEnv("http://127.0.0.1:1", "e2b_x", "sbx.test", by_tls=True, ca_dir=tmp_path / "ca")
    write_client_env(tmp_path, by_tls)
    assert read_client_env(tmp_path) == by_tls
    assert (tmp_path / "api" / "client.env").stat().st_mode & 0o777 == 0o600


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """The api process, whose directory it is, cannot make root read another file by a link."""
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "client.env").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        read_client_env(tmp_path)


def test_env_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``cloister env`` prints exports that a shell evaluates to the SDKs' variables."""
    (tmp_path / "api").mkdir()
    write_client_env(tmp_path, ClientEnv("http://127.0.0.1:1", "e2b_x", "a'b"))
    assert main(["env", "--data-dir", str(tmp_path)]) == 0
    script = capsys.readouterr().out + 'echo "$E2B_API_URL $E2B_SANDBOX_URL $E2B_API_KEY $E2B_DOMAIN"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "http://127.0.0.1:1 http://127.0.0.1:1 e2b_x a'b\n"


@pytest.mark.parametrize(
    ("env", "options", "expected"),
    [
        (ClientEnv("http://h:1", "k"), [], "api=http://h:1 sandbox=http://h:1 domain=old ca=old"),
        (ClientEnv("http://h:1", "k", "d.test"), [], "api=http://h:1 sandbox=http://h:1 domain=d.test ca=old"),
        (ClientEnv("http://h:1", "k", "d.test"), ["--public"], "api=https://api.d.test sandbox= domain=d.test ca=old"),
        (ClientEnv("http://h:1", "k", "d.test:8443", by_tls=True), [], "api=https://api.d.test:8443 sandbox= domain=d.test:8443 ca=old"),
        (
            ClientEnv("http://h:1", "k", "d.test", by_tls=True, ca_dir=Path("/c")),
            [],
            "api=https://api.d.test sandbox= domain=d.test ca=/c/ca.crt",
        ),
        (ClientEnv("http://h:1", "k", "d.test", by_tls=True), ["--local"], "api=http://h:1 sandbox=http://h:1 domain=d.test ca=old"),
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
        assert f"\n    {name} " in done.stdout
