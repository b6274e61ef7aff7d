"""The steps that keep secrets from sandboxes, other teams and the database, and the attacks that notice when one is gone."""

from __future__ import annotations

from framework.proved_step import Step

__all__ = ["SECRET_STEPS"]

_VALUES, _SECRETS = "src/cloister/control/header_values.py", "src/cloister/control/secrets.py"
_SERVER, _LAUNCHER = "src/cloister/processes/api_values.py", "src/cloister/processes/launcher.py"
_STORE = "src/cloister/store/sql_secrets.py"
_HEADERS, _NAMES = "src/cloister/api/header_rules.py", "src/cloister/model/stored_secret.py"

SECRET_STEPS = (
    Step(
        "secrets: texts of the sandbox's own rules",
        _VALUES,
        "if not allowed.issuperset(ask.texts):",
        "if False:",
        "cannot_use_the_rules_of_another",
    ),
    Step(
        "secrets: the best rule alone",
        _VALUES,
        "frozenset(rules[host].values())",
        "frozenset(text for headers in rules.values() for text in headers.values())",
        "best_rule_alone",
    ),
    Step("secrets: a sandbox that runs", _VALUES, "or row.state in _WITHOUT_REQUESTS", "", "cannot_use_the_rules_of_another"),
    Step(
        "secrets: the sandbox's own team",
        _STORE,
        "WHERE team_id = ? AND (secret_id = ? OR name = ?)",
        "WHERE ? <> '' AND (secret_id = ? OR name = ?)",
        "cannot_get_another_teams_secret or cannot_reach_another_teams_secret",
    ),
    Step("secrets: an id is no name", _NAMES, "(?!sec_)[a-z0-9_-]", "[a-z0-9_-]", "cannot_get_another_teams_secret"),
    Step(
        "secrets: a value is bound to its row",
        _SECRETS,
        'json.dumps(["cloister secret", row.team_id, row.secret_id, row.version]).encode()',
        "b''",
        "database_alone",
    ),
    Step(
        "secrets: values are encrypted",
        "src/cloister/store/sealing.py",
        "nonce + self._keys[key_id].encrypt(nonce, value.revealed.encode(), context)",
        "value.revealed.encode()",
        "no_answer_log_or_file",
        also=(
            (
                "src/cloister/store/sealing.py",
                "key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context).decode()",
                "sealed.decode()",
            ),
        ),
    ),
    Step("secrets: uid of who asks for values", _SERVER, "uid != self._uid or", "", "other_users_cannot_ask"),
    Step("secrets: mode of the socket", _LAUNCHER, "path.chmod(0o600)", "path.chmod(0o666)", "other_users_cannot_ask"),
    Step("secrets: owner of the socket", _LAUNCHER, "os.chown(path, uid, uid)", "pass", "belongs_to_the_egress_process"),
    Step(
        "secrets: lines are bounded",
        _SERVER,
        "limit=MAX_LINE_BYTES",
        "limit=1 << 30",
        "broken_egress_process_cannot_break",
    ),
    Step("headers: no end of a line in a value", _HEADERS, "if _CONTROL.search(value):", "if False:", "cannot_add_headers"),
    Step("headers: none that frames a request", _HEADERS, "if name.lower() in FRAMING_HEADERS:", "if False:", "cannot_add_headers"),
    Step(
        "secrets: no end of a line in a value",
        "src/cloister/api/secrets.py",
        "not value or _CONTROL.search(value) or",
        "not value or",
        "cannot_add_headers",
    ),
)
