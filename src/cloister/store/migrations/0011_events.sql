-- What happened to sandboxes, and where it is to be told (src/cloister/store/events.py).
CREATE TABLE sandbox_events (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id      TEXT NOT NULL UNIQUE,
    team_id       TEXT NOT NULL,
    sandbox_id    TEXT NOT NULL,
    type          TEXT NOT NULL,
    at            REAL NOT NULL,
    template_id   TEXT NOT NULL,
    build_id      TEXT NOT NULL,
    execution_id  TEXT NOT NULL,
    data          TEXT NOT NULL      -- JSON
);
CREATE INDEX sandbox_events_by_team ON sandbox_events (team_id, number);
CREATE INDEX sandbox_events_by_sandbox ON sandbox_events (sandbox_id, number);

CREATE TABLE webhooks (
    webhook_id    TEXT PRIMARY KEY,
    team_id       TEXT NOT NULL REFERENCES teams (team_id),
    name          TEXT NOT NULL,
    url           TEXT NOT NULL,
    events        TEXT NOT NULL,     -- JSON list of types
    enabled       INTEGER NOT NULL,
    created_at    REAL NOT NULL,
    version       INTEGER NOT NULL,  -- raised by every change; compare-and-set
    key_id        TEXT NOT NULL,     -- the key that the secret is encrypted with
    sealed        BLOB NOT NULL      -- nonce and ciphertext
);
CREATE INDEX webhooks_by_team ON webhooks (team_id, created_at);
CREATE TRIGGER no_webhook_of_a_removed_team BEFORE INSERT ON webhooks
WHEN (SELECT removed_at FROM teams WHERE team_id = NEW.team_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the team was removed');
END;

CREATE TABLE webhook_deliveries (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id    TEXT NOT NULL REFERENCES webhooks (webhook_id) ON DELETE CASCADE,
    event_number  INTEGER NOT NULL REFERENCES sandbox_events (number),
    sandbox_id    TEXT NOT NULL,
    attempts      INTEGER NOT NULL,
    next_at       REAL NOT NULL,
    is_dead       INTEGER NOT NULL,
    status        INTEGER,
    error         TEXT NOT NULL,
    UNIQUE (webhook_id, event_number)
);
CREATE INDEX webhook_deliveries_in_order ON webhook_deliveries (webhook_id, is_dead, sandbox_id, number);
CREATE INDEX webhook_deliveries_by_event ON webhook_deliveries (event_number);
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (is_dead, next_at);
