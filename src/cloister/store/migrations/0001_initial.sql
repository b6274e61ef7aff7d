-- Times are seconds since the epoch, UTC. JSON columns hold objects.
CREATE TABLE teams (
    team_id      TEXT PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    created_at   REAL NOT NULL
);

CREATE TABLE api_keys (
    key_id       TEXT PRIMARY KEY,
    team_id      TEXT NOT NULL REFERENCES teams (team_id),
    name         TEXT NOT NULL,
    key_hash     TEXT NOT NULL UNIQUE,  -- sha256 of the key, hex; keys are 160 random bits, so no salt is needed
    hint         TEXT NOT NULL,         -- first and last characters, for people to tell keys apart
    created_at   REAL NOT NULL,
    revoked_at   REAL
);

CREATE TABLE sandboxes (
    sandbox_id       TEXT PRIMARY KEY,
    team_id          TEXT NOT NULL REFERENCES teams (team_id),
    template_id      TEXT NOT NULL,
    template         TEXT NOT NULL,
    state            TEXT NOT NULL,     -- creating, running, ended
    started_at       REAL NOT NULL,
    end_at           REAL NOT NULL,
    cpu_count        REAL NOT NULL,
    mem_mib          INTEGER NOT NULL,
    disk_mib         INTEGER NOT NULL,
    metadata         TEXT NOT NULL,     -- JSON
    access_token     TEXT,
    traffic_token    TEXT,
    allow_internet   INTEGER,           -- NULL: the client did not say
    idempotency_key  TEXT,
    end_reason       TEXT,
    end_message      TEXT,
    ended_at         REAL,
    version          INTEGER NOT NULL   -- raised by every change; compare-and-set
);

CREATE INDEX sandboxes_by_state ON sandboxes (state, ended_at);
CREATE UNIQUE INDEX sandboxes_by_idempotency_key ON sandboxes (team_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND state <> 'ended';
