-- The tables as the migrations of SQLite up to this number make them; see there for the columns. It is SQLite's SQL as
-- src/cloister/store/postgres_migrate.py translates it, and later migrations have one form for both databases.
CREATE TABLE teams (
    team_id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at REAL NOT NULL, limits TEXT NOT NULL DEFAULT '{}', removed_at REAL
);
CREATE TABLE api_keys (
    key_id TEXT PRIMARY KEY, scope TEXT NOT NULL, team_id TEXT REFERENCES teams (team_id), name TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE, hint TEXT NOT NULL, created_at REAL NOT NULL, revoked_at REAL,
    expires_at REAL, last_used_at REAL, created_by TEXT,
    CHECK ((scope = 'team') = (team_id IS NOT NULL))
);
CREATE INDEX api_keys_by_team ON api_keys (team_id);

CREATE TABLE sandboxes (
    sandbox_id TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams (team_id), template_id TEXT NOT NULL, template TEXT NOT NULL,
    state TEXT NOT NULL, started_at REAL NOT NULL, end_at REAL NOT NULL, cpu_count REAL NOT NULL, mem_mib INTEGER NOT NULL,
    disk_mib INTEGER NOT NULL, metadata TEXT NOT NULL, access_token TEXT, traffic_token TEXT, egress TEXT, network TEXT NOT NULL,
    idempotency_key TEXT, node_id TEXT, end_reason TEXT, end_message TEXT, ended_at REAL, version INTEGER NOT NULL,
    lifecycle TEXT NOT NULL DEFAULT '{}', pause TEXT, build_id TEXT, runtime TEXT
);
CREATE INDEX sandboxes_by_state ON sandboxes (state, ended_at);
CREATE UNIQUE INDEX sandboxes_by_idempotency_key ON sandboxes (team_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND state <> 'ended';
CREATE INDEX sandboxes_by_build ON sandboxes (build_id) WHERE build_id IS NOT NULL AND state <> 'ended';

CREATE TABLE templates (
    template_id TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams (team_id), name TEXT, kind TEXT NOT NULL,
    public INTEGER NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, spawn_count INTEGER NOT NULL,
    last_spawned_at REAL, deleted_at REAL
);
CREATE UNIQUE INDEX templates_by_name ON templates (team_id, name) WHERE name IS NOT NULL AND deleted_at IS NULL;
CREATE TABLE builds (
    build_id TEXT PRIMARY KEY, template_id TEXT NOT NULL REFERENCES templates (template_id) ON DELETE CASCADE, status TEXT NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL, started_at REAL, finished_at REAL, cpu_count REAL NOT NULL,
    mem_mib INTEGER NOT NULL, disk_mib INTEGER NOT NULL, message TEXT NOT NULL, step TEXT, sandbox_id TEXT, parent TEXT,
    uploads TEXT NOT NULL, version INTEGER NOT NULL, node_id TEXT
);
CREATE INDEX builds_by_template ON builds (template_id, created_at);
CREATE INDEX builds_by_status ON builds (status);
CREATE TABLE tag_assignments (
    number INTEGER PRIMARY KEY AUTOINCREMENT, assignment_id TEXT NOT NULL UNIQUE,
    template_id TEXT NOT NULL REFERENCES templates (template_id) ON DELETE CASCADE, tag TEXT NOT NULL,
    build_id TEXT NOT NULL REFERENCES builds (build_id) ON DELETE CASCADE, assigned_at REAL NOT NULL
);
CREATE INDEX tag_assignments_by_tag ON tag_assignments (template_id, tag, number);
CREATE INDEX tag_assignments_by_build ON tag_assignments (build_id);
CREATE TABLE uploads (
    team_id TEXT NOT NULL REFERENCES teams (team_id), hash TEXT NOT NULL, size_bytes INTEGER NOT NULL, digest TEXT,
    created_at REAL NOT NULL, used_at REAL NOT NULL, PRIMARY KEY (team_id, hash)
);
CREATE TABLE secrets (
    secret_id TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams (team_id), name TEXT NOT NULL, metadata TEXT NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL, version INTEGER NOT NULL, key_id TEXT NOT NULL, sealed BLOB NOT NULL,
    UNIQUE (team_id, name)
);
CREATE TABLE team_metrics (
    team_id TEXT NOT NULL REFERENCES teams (team_id), at REAL NOT NULL, peak INTEGER NOT NULL, starts INTEGER NOT NULL,
    PRIMARY KEY (team_id, at)
) WITHOUT ROWID;

CREATE TABLE sandbox_events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, team_id TEXT NOT NULL, sandbox_id TEXT NOT NULL,
    type TEXT NOT NULL, at REAL NOT NULL, template_id TEXT NOT NULL, build_id TEXT NOT NULL, execution_id TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX sandbox_events_by_team ON sandbox_events (team_id, number);
CREATE INDEX sandbox_events_by_sandbox ON sandbox_events (sandbox_id, number);
CREATE TABLE webhooks (
    webhook_id TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams (team_id), name TEXT NOT NULL, url TEXT NOT NULL,
    events TEXT NOT NULL, enabled INTEGER NOT NULL, created_at REAL NOT NULL, version INTEGER NOT NULL, key_id TEXT NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX webhooks_by_team ON webhooks (team_id, created_at);
CREATE TABLE webhook_deliveries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, webhook_id TEXT NOT NULL REFERENCES webhooks (webhook_id) ON DELETE CASCADE,
    event_number INTEGER NOT NULL REFERENCES sandbox_events (number), sandbox_id TEXT NOT NULL, attempts INTEGER NOT NULL,
    next_at REAL NOT NULL, is_dead INTEGER NOT NULL, status INTEGER, error TEXT NOT NULL, UNIQUE (webhook_id, event_number)
);
CREATE INDEX webhook_deliveries_in_order ON webhook_deliveries (webhook_id, is_dead, sandbox_id, number);
CREATE INDEX webhook_deliveries_by_event ON webhook_deliveries (event_number);
CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (is_dead, next_at);

CREATE TRIGGER no_sandbox_of_a_removed_team BEFORE INSERT ON sandboxes
WHEN (SELECT removed_at FROM teams WHERE team_id = NEW.team_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the team was removed');
END;
CREATE TRIGGER no_template_of_a_removed_team BEFORE INSERT ON templates
WHEN (SELECT removed_at FROM teams WHERE team_id = NEW.team_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the team was removed');
END;
CREATE TRIGGER no_secret_of_a_removed_team BEFORE INSERT ON secrets
WHEN (SELECT removed_at FROM teams WHERE team_id = NEW.team_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the team was removed');
END;
CREATE TRIGGER no_webhook_of_a_removed_team BEFORE INSERT ON webhooks
WHEN (SELECT removed_at FROM teams WHERE team_id = NEW.team_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the team was removed');
END;
