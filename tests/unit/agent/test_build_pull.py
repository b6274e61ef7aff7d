"""The program that fetches images, with a skopeo that is played: what it asks for, what it makes of the answers, where the password is."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from cloister.agent.build import pull

_PASSWORD = "hunter two"


class Skopeo:
    """Notes how it was called; ``answers`` are by a word of the command line, ``error`` is what it says when it fails."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answers: dict[str, str] = {}
        self.error = ""
        self.program = directory / "skopeo"

    def write(self) -> None:
        """The program, as a script."""
        cases = "\n".join(f"*{word}*) cat <<'EOT'\n{text}\nEOT\n;;" for word, text in self.answers.items())
        seen = self.directory / "seen"
        self.program.write_text(
            f'#!/bin/sh\necho "$@" >> {seen}\nfor word in "$@"; do\n  case $word in */auth.json) cat "$word" > {seen}.auth ;; esac\ndone\n'
            f"if [ -s {self.directory}/error ]; then cat {self.directory}/error >&2; exit 1; fi\n"
            f'case "$*" in\n{cases}\nesac\n'
        )
        self.program.chmod(0o755)
        (self.directory / "error").write_text(self.error)

    def calls(self) -> str:
        """All command lines."""
        return (self.directory / "seen").read_text()


@pytest.fixture
def skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Skopeo:
    """In place of the real one; memory is a directory of the test."""
    memory = tmp_path / "memory"
    memory.mkdir()
    made = Skopeo(tmp_path)
    monkeypatch.setattr(pull, "_SKOPEO", str(made.program))
    monkeypatch.setattr(pull, "_MEMORY", memory)
    return made


def config(**changes: Any) -> str:
    """An image's configuration."""
    return json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": ["sha256:1"]}, **changes})


def inspect(**more: str) -> dict[str, Any]:
    """What the program makes of the image."""
    return pull.run({"action": "inspect", "reference": "r.example.com:5000/x:1", **more})


def test_password_is_in_no_argument_and_gone_afterwards(skopeo: Skopeo) -> None:
    """It lies in a file in memory, for the registry's host alone, as long as skopeo runs."""
    skopeo.answers = {"--raw": '{"schemaVersion": 2}', "--config": config()}
    skopeo.write()
    assert inspect(username="me", password=_PASSWORD)["diff_ids"] == ["sha256:1"]
    assert _PASSWORD not in skopeo.calls()
    written = json.loads((skopeo.directory / "seen.auth").read_text())
    assert written == {"auths": {"r.example.com:5000": {"auth": base64.b64encode(f"me:{_PASSWORD}".encode()).decode()}}}
    assert list((skopeo.directory / "memory").iterdir()) == []


def test_what_is_read_of_an_image(skopeo: Skopeo) -> None:
    """The configuration is that of the very manifest that was seen first."""
    inner = {"Env": ["A=b=c", "broken"], "User": "web", "WorkingDir": "/w", "Entrypoint": ["/e"], "Cmd": ["c"]}
    skopeo.answers = {"--raw": '{"schemaVersion": 2}', "--config": config(config=inner)}
    skopeo.write()
    found = inspect()
    assert (found["envs"], found["user"], found["workdir"], found["starts"]) == ({"A": "b=c"}, "web", "/w", ["/e", "c"])
    assert f"--config docker://r.example.com:5000/x@{found['digest']}" in skopeo.calls()
    assert "--override-arch amd64" in skopeo.calls()


@pytest.mark.parametrize(
    ("manifest", "image", "words"),
    [
        ({"schemaVersion": 1}, config(), "schema 1"),
        ({"manifests": [{"platform": {"os": "linux", "architecture": "arm64"}}]}, config(), "it is for linux/arm64;"),
        ({}, config(architecture="arm64"), "it is for linux/arm64;"),
        ({}, config(os="windows"), "it is for windows/amd64;"),
        ({}, config(rootfs={"diff_ids": ["x"] * 101}), "101 layers"),
    ],
)
def test_images_that_do_not_fit(skopeo: Skopeo, manifest: dict[str, Any], image: str, words: str) -> None:
    """Are refused, and why."""
    skopeo.answers = {"--raw": json.dumps(manifest), "--config": image}
    skopeo.write()
    found = inspect()
    assert found["failed"] == "unfit"
    assert words in found["message"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('pinging container registry r: Get "https://r/v2/": dial tcp: lookup r: no such host', "unreached"),
        ('pinging container registry r: Get "https://r/v2/": dial tcp 192.0.2.1:443: i/o timeout', "unreached"),
        ('pinging container registry r: Get "https://r/v2/": dial tcp 192.0.2.1:443: connect: connection refused', "unreached"),
        ('pinging container registry r: Get "https://r/v2/": Forbidden', "unreached"),
        ("pinging container registry r: received unexpected HTTP status: 503 Service Unavailable", "unreached"),
        ("reading manifest 1 in r/x: toomanyrequests: You have reached your pull rate limit", "unreached"),
        ("reading manifest 1 in r/x: manifest unknown", "missing"),
        ("reading manifest 1 in r/x: name unknown: repository name not known to registry", "missing"),
        ("reading manifest 1 in r/x: requested access to the resource is denied", "denied"),
        ("reading manifest 1 in r/x: unauthorized: authentication required", "denied"),
        ("unable to retrieve auth token: invalid username/password: unauthorized: incorrect", "denied"),
        ("writing blob: write /.image/x: no space left on device", "full"),
        ("pinging container registry r: tls: failed to verify certificate: x509: certificate signed by unknown authority", "untrusted"),
    ],
)
def test_failures_have_kinds(skopeo: Skopeo, said: str, kind: str) -> None:
    """An answer of a proxy is not taken for the registry's, and the other way round."""
    quoted = said.replace('"', '\\"')
    skopeo.error = f'time="2026-01-01T00:00:00Z" level=fatal msg="Error parsing image name \\"docker://r/x\\": {quoted}"\n'
    skopeo.write()
    assert inspect() == {"failed": kind, "message": said}


@pytest.mark.parametrize("answer", ["", "[]", "nonsense", "{"])
def test_answer_that_is_no_manifest(skopeo: Skopeo, answer: str) -> None:
    """Is told as that."""
    skopeo.answers = {"--raw": answer}
    skopeo.write()
    assert inspect()["failed"] == "other"
