-- Rows belong to a node, and a sandbox has an egress policy instead of a boolean.
-- SQLite before 3.35 cannot drop a column, so the table is copied.
CREATE TABLE new_sandboxes (
    sandbox_id       TEXT PRIMARY KEY,
    team_id          TEXT NOT NULL REFERENCES teams (team_id),
    template_id      TEXT NOT NULL,
    template         TEXT NOT NULL,
    state            TEXT NOT NULL,     -- src/cloister/model/sandbox.py
    started_at       REAL NOT NULL,
    end_at           REAL NOT NULL,
    cpu_count        REAL NOT NULL,
    mem_mib          INTEGER NOT NULL,
    disk_mib         INTEGER NOT NULL,
    metadata         TEXT NOT NULL,     -- JSON
    access_token     TEXT,
    traffic_token    TEXT,
    egress           TEXT,              -- JSON of an EgressPolicy; NULL: the client did not choose
    network          TEXT NOT NULL,     -- JSON of NetworkOptions
    idempotency_key  TEXT,
    node_id          TEXT,              -- NULL: written before nodes had ids; the first node that connects takes it
    end_reason       TEXT,
    end_message      TEXT,
    ended_at         REAL,
    version          INTEGER NOT NULL   -- raised by every change; compare-and-set
);

INSERT INTO new_sandboxes (sandbox_id, team_id, template_id, template, state, started_at, end_at, cpu_count, mem_mib, disk_mib,
        metadata, access_token, traffic_token, egress, network, idempotency_key, end_reason, end_message, ended_at, version)
    SELECT sandbox_id, team_id, template_id, template, state, started_at, end_at, cpu_count, mem_mib, disk_mib,
        metadata, access_token, traffic_token,
        CASE WHEN allow_internet IS NULL THEN NULL WHEN allow_internet THEN '{"public": true}' ELSE '{"public": false}' END,
        network, idempotency_key, end_reason, end_message, ended_at, version
    FROM sandboxes;
DROP TABLE sandboxes;
ALTER TABLE new_sandboxes RENAME TO sandboxes;
CREATE INDEX sandboxes_by_state ON sandboxes (state, ended_at);
CREATE UNIQUE INDEX sandboxes_by_idempotency_key ON sandboxes (team_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND state <> 'ended';

ALTER TABLE builds ADD COLUMN node_id TEXT;  -- the node that runs it, or ran it; NULL: none yet, or as above
