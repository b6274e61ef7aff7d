"""Attacks on secrets by the server of header values, which the egress process asks; and the places where no value is found."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.egresswire.values import MAX_LINE_BYTES, VALUES_SOCKET, AskValues, render_request
from cloister.errors import InvalidRequestError
from cloister.processes.launcher import listen_for_values
from framework.control_plane import ControlPlane, running_control_plane
from framework.http import call
from framework.requests import ask, create
from framework.values import ask_values, exchange, secret_rule

pytestmark = pytest.mark.root
VALUE = "sk-4f1c-the-value-itself"
TEXT = "Bearer ${e2b.secrets.key}"
HOST = "api.example.com"
REFUSED = "the sandbox has no such rule for this host"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane, with a secret."""
    with running_control_plane(tmp_path_factory.mktemp("plane")) as found:
        store(found, "key", VALUE)
        yield found


def store(plane: ControlPlane, name: str, value: str, key: str | None = None) -> dict[str, Any]:
    """A new secret of the team of ``key``, or of the default team."""
    headers = {"X-API-KEY": plane.api_key if key is None else key}
    answer = call(plane.url, "POST", "/secrets", body={"name": name, "value": value}, headers=headers)
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    return made


def user(plane: ControlPlane, text: str = TEXT, host: str = HOST) -> str:
    """A sandbox that has a rule with this text."""
    sandbox_id: str = create(plane, network=secret_rule(text, host))["sandboxID"]
    return sandbox_id


def other_team(plane: ControlPlane, name: str) -> str:
    """A key of another team."""
    _, key = plane.with_keys(lambda keys: keys.create(name, "test"))
    return key


def test_a_rule_is_filled(plane: ControlPlane) -> None:
    """Texts come filled in their order; a changed secret counts from then on; other texts stay as they are."""
    sandbox_id = create(plane, network=secret_rule(TEXT, X_Two="${e2b.secrets. KEY }+${e2b.secrets.key} ${HOME}"))["sandboxID"]
    texts = (TEXT, "${e2b.secrets. KEY }+${e2b.secrets.key} ${HOME}", TEXT)
    assert ask_values(plane, sandbox_id, HOST, *texts) == (f"Bearer {VALUE}", f"{VALUE}+{VALUE} ${{HOME}}", f"Bearer {VALUE}")
    assert ask_values(plane, sandbox_id, HOST.upper(), TEXT) == (f"Bearer {VALUE}",)
    assert ask(plane, "POST", "/secrets/key", {"value": "changed"}).status == 200
    assert ask_values(plane, sandbox_id, HOST, TEXT) == ("Bearer changed",)
    assert ask(plane, "POST", "/secrets/key", {"value": VALUE}).status == 200


def test_sandbox_cannot_get_another_teams_secret(plane: ControlPlane) -> None:
    """A name means the secret of the sandbox's own team. An id is no name."""
    key = other_team(plane, "secretive")
    theirs = store(plane, "theirs", "sk-theirs", key)
    for text in ("${e2b.secrets.theirs}", "${e2b.secrets.THEIRS}"):
        with pytest.raises(InvalidRequestError, match="there is no secret theirs"):
            ask_values(plane, user(plane, text), HOST, text)
    refused = ask(plane, "POST", "/v2/sandboxes", {"templateID": "base", "network": secret_rule(f"${{e2b.secrets.{theirs['secretID']}}}")})
    assert (refused.status, "malformed E2B placeholder" in refused.json()["message"]) == (400, True)
    store(plane, "both", "sk-ours")
    store(plane, "both", "sk-theirs", key)
    text = "${e2b.secrets.both}"
    assert ask_values(plane, user(plane, text), HOST, text) == ("sk-ours",)


def test_team_cannot_reach_another_teams_secret_by_the_api(plane: ControlPlane) -> None:
    """By name and by id it looks like none, for every call, and no listing has it."""
    key = other_team(plane, "curious")
    secret_id = ask(plane, "GET", "/secrets/key").json()["secretID"]
    for selector in ("key", secret_id, secret_id.upper(), "..%2fsecrets%2fkey", "%20key"):
        for method, body in (("GET", None), ("POST", {"value": "x"}), ("DELETE", None)):
            answer = call(plane.url, method, f"/secrets/{selector}", body=body, headers={"X-API-KEY": key})
            assert (answer.status, answer.json()["message"]) == (404, "Secret not found")
    assert call(plane.url, "GET", "/secrets", headers={"X-API-KEY": key}).json() == []
    assert ask(plane, "GET", "/secrets/key").status == 200


def test_sandbox_cannot_use_the_rules_of_another(plane: ControlPlane) -> None:
    """A text is filled for the sandbox whose rules have it, for the host of that rule, and only while it lives."""
    sandbox_id, other = user(plane), user(plane, "plain")
    for who, host, text in (
        (other, HOST, TEXT),
        (sandbox_id, "evil.example.com", TEXT),
        (sandbox_id, f"x.{HOST}", TEXT),
        (sandbox_id, f"{HOST}.", TEXT),
        (sandbox_id, f"{HOST}:443", TEXT),
        (sandbox_id, "", TEXT),
        (sandbox_id, HOST, "${e2b.secrets.key}"),
        (sandbox_id, HOST, f"{TEXT} "),
    ):
        with pytest.raises(InvalidRequestError, match=REFUSED):
            ask_values(plane, who, host, text)
    with pytest.raises(InvalidRequestError, match=REFUSED):
        ask_values(plane, sandbox_id, HOST, TEXT, "another")
    ask(plane, "POST", f"/sandboxes/{sandbox_id}/pause")
    with pytest.raises(InvalidRequestError, match="no such sandbox"):
        ask_values(plane, sandbox_id, HOST, TEXT)
    ask(plane, "DELETE", f"/sandboxes/{sandbox_id}")
    for who in (sandbox_id, "a" * 20, "", "../x"):
        with pytest.raises(InvalidRequestError, match="no such sandbox"):
            ask_values(plane, who, HOST, TEXT)


def test_the_best_rule_alone_counts(plane: ControlPlane) -> None:
    """A host with a rule of its own does not get the texts of a wildcard."""
    rules = {"*.example.com": [{"transform": {"headers": {"a": TEXT}}}], HOST: [{"transform": {"headers": {"a": "own"}}}]}
    sandbox_id = create(plane, network={"rules": rules})["sandboxID"]
    assert ask_values(plane, sandbox_id, f"www.{HOST}", TEXT) == (f"Bearer {VALUE}",)
    assert ask_values(plane, sandbox_id, HOST, "own") == ("own",)
    with pytest.raises(InvalidRequestError, match=REFUSED):
        ask_values(plane, sandbox_id, HOST, TEXT)


def test_a_rule_that_was_taken_away_is_not_filled(plane: ControlPlane) -> None:
    """A change of the network counts at once."""
    sandbox_id = user(plane)
    assert ask(plane, "PUT", f"/sandboxes/{sandbox_id}/network", {}).status == 204
    with pytest.raises(InvalidRequestError, match=REFUSED):
        ask_values(plane, sandbox_id, HOST, TEXT)
    assert ask(plane, "PUT", f"/sandboxes/{sandbox_id}/network", secret_rule(TEXT)).status == 204
    assert ask_values(plane, sandbox_id, HOST, TEXT) == (f"Bearer {VALUE}",)


def test_a_deleted_secret_is_an_error(plane: ControlPlane) -> None:
    """No request leaves with a placeholder or a former value in it."""
    store(plane, "short-lived", "x")
    text = "${e2b.secrets.short-lived}"
    sandbox_id = user(plane, text)
    assert ask_values(plane, sandbox_id, HOST, text) == ("x",)
    assert ask(plane, "DELETE", "/secrets/short-lived").status == 204
    with pytest.raises(InvalidRequestError, match="there is no secret short-lived"):
        ask_values(plane, sandbox_id, HOST, text)


def test_broken_egress_process_cannot_break_the_server(plane: ControlPlane) -> None:
    """Malformed lines are answered; a line without end closes its connection; other connections go on."""
    good = render_request(AskValues(user(plane), HOST, (TEXT,)))
    lines = [b"\n", b"x\n", b"[]\n", b'{"sandbox_id": 1, "host": "x", "texts": []}\n', b"\xff\n", b"[" * 5000 + b"\n", good]
    answers = exchange(plane, *lines)
    assert [b'"error"' in answer for answer in answers] == [True] * 6 + [False]
    with contextlib.suppress(ConnectionError):
        assert exchange(plane, b"x" * (MAX_LINE_BYTES + (1 << 20)) + b"\n") == []
    assert len(exchange(plane, good, good)) == 2


def test_other_users_cannot_ask_for_values(plane: ControlPlane, tmp_path: Path) -> None:
    """The socket's mode keeps them out. A process that connects all the same is refused by its uid."""
    path = plane.settings.data_dir / VALUES_SOCKET
    assert path.stat().st_mode & 0o777 == 0o600
    line = render_request(AskValues(user(plane), HOST, (TEXT,)))
    program = (
        "import os, socket, sys\n"
        "os.setresgid(65534, 65534, 65534)\nos.setresuid(65534, 65534, 65534)\n"
        "client = socket.socket(socket.AF_UNIX)\nclient.connect(sys.argv[1])\n"
        "client.sendall(sys.argv[2].encode() + b'\\n')\nprint(client.makefile().readline(), end='')"
    )
    for directory in path.parents:
        if directory != Path("/tmp"):
            with contextlib.suppress(PermissionError):
                directory.chmod(directory.stat().st_mode | 0o011)
    command = [sys.executable, "-c", program, str(path), line.decode().strip()]
    kept_out = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert "PermissionError" in kept_out.stderr
    path.chmod(0o666)
    try:
        refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    finally:
        path.chmod(0o600)
    assert refused.stdout == ""
    assert VALUE not in refused.stderr


def test_the_launchers_socket_belongs_to_the_egress_process(tmp_path: Path) -> None:
    """Its owner is that user, its mode excludes all others, and a former one is replaced."""
    path = tmp_path / "values.sock"
    for uid in (65_534, 65_533):
        with listen_for_values(path, uid) as listener, socket.socket(socket.AF_UNIX) as client:
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (uid, 0o600)
            client.connect(os.fspath(path))
            listener.accept()[0].close()


def test_no_answer_log_or_file_has_a_value(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No answer of the API, no line of the log and no file has a value of a secret that was made, changed, used and refused."""
    values = [VALUE, "sk-second-value-itself", "sk-third-value-itself"]
    with running_control_plane(tmp_path, log_level="debug") as plane:
        answers = [json.dumps(store(plane, "key", values[0]))]
        sandbox_id = user(plane)
        assert ask_values(plane, sandbox_id, HOST, TEXT) == (f"Bearer {values[0]}",)
        first, last = {"value": values[1]}, {"value": values[2]}
        bodies = (first, {**last, "metadata": {"a": 1}}, {**last, "unknown": 1}, {"value": [values[2]]})
        answers += [ask(plane, "POST", "/secrets/key", body).body.decode() for body in bodies]
        answers += [ask(plane, "POST", "/secrets", {"name": "key", **last}).body.decode()]
        paths = ("/secrets", "/secrets/key", f"/sandboxes/{sandbox_id}", "/v2/sandboxes", f"/v2/sandboxes/{sandbox_id}/logs")
        answers += [ask(plane, "GET", path).body.decode() for path in paths]
        with pytest.raises(InvalidRequestError):
            ask_values(plane, sandbox_id, "other.example", TEXT)
        record = json.dumps(plane.node.find(sandbox_id).record.to_json())
        plane.restart_api()
        assert ask_values(plane, sandbox_id, HOST, TEXT) == (f"Bearer {values[1]}",)
    logged = "".join(capfd.readouterr())
    assert "secret.created" in logged
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert tmp_path / "api" / "cloister.db" in kept
    assert tmp_path / "api" / "secrets.key" in kept
    for value in values:
        assert value not in "".join(answers) + logged + record
        assert [path for path, content in kept.items() if value.encode() in content] == []


def test_database_alone_cannot_give_a_secret_to_another_team(tmp_path: Path) -> None:
    """A value that is moved to the row of another team is refused: to write the database is not enough."""
    with running_control_plane(tmp_path) as plane:
        store(plane, "key", VALUE)
        thief = other_team(plane, "thief")
        headers = {"X-API-KEY": thief}
        store(plane, "own", "x", thief)
        text = "${e2b.secrets.own}"
        created = call(plane.url, "POST", "/v2/sandboxes", body={"templateID": "base", "network": secret_rule(text)}, headers=headers)
        sandbox_id = created.json()["sandboxID"]
        assert ask_values(plane, sandbox_id, HOST, text) == ("x",)
        with contextlib.closing(sqlite3.connect(tmp_path / "api" / "cloister.db")) as connection, connection:
            connection.execute("UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'key') WHERE name = 'own'")
        with pytest.raises(InvalidRequestError, match="cannot be decrypted"):
            ask_values(plane, sandbox_id, HOST, text)


def test_client_cannot_add_headers_by_a_value(plane: ControlPlane) -> None:
    """Neither a rule nor a secret holds the end of a line, and no rule sets a header that says where a request ends or goes."""
    refused: list[dict[str, str]] = [{"X": "a\r\nY: b"}, {"X": "a\nb"}, {"Content-Length": "0"}, {"transfer-encoding": "x"}, {"HOST": "x"}]
    for headers in refused:
        network = {"rules": {HOST: [{"transform": {"headers": headers}}]}}
        assert ask(plane, "POST", "/v2/sandboxes", {"templateID": "base", "network": network}).status == 400
    for value in ("a\r\nY: b", "a\n", "\x00"):
        assert ask(plane, "POST", "/secrets", {"name": "injecting", "value": value}).status == 400
