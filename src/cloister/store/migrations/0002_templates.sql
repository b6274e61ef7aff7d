-- Templates of clients. Stock templates are no rows: the node knows them.
CREATE TABLE templates (
    template_id      TEXT PRIMARY KEY,
    team_id          TEXT NOT NULL REFERENCES teams (team_id),
    name             TEXT,              -- NULL: a snapshot without a name
    kind             TEXT NOT NULL,     -- template, snapshot
    public           INTEGER NOT NULL,
    created_at       REAL NOT NULL,
    updated_at       REAL NOT NULL,
    spawn_count      INTEGER NOT NULL,
    last_spawned_at  REAL,
    deleted_at       REAL               -- its builds are still to be dropped by the node; the name is free
);

CREATE UNIQUE INDEX templates_by_name ON templates (team_id, name) WHERE name IS NOT NULL AND deleted_at IS NULL;

CREATE TABLE builds (
    build_id         TEXT PRIMARY KEY,
    template_id      TEXT NOT NULL REFERENCES templates (template_id) ON DELETE CASCADE,
    status           TEXT NOT NULL,     -- waiting, building, ready, error
    created_at       REAL NOT NULL,
    updated_at       REAL NOT NULL,
    started_at       REAL,              -- when the client said what to build
    finished_at      REAL,
    cpu_count        REAL NOT NULL,
    mem_mib          INTEGER NOT NULL,
    disk_mib         INTEGER NOT NULL,
    message          TEXT NOT NULL,     -- why it failed
    step             TEXT,              -- and where
    sandbox_id       TEXT,              -- of a snapshot
    parent           TEXT,              -- build id or stock template that it began with
    uploads          TEXT NOT NULL,     -- JSON list of the hashes of its archives
    version          INTEGER NOT NULL   -- raised by every change; compare-and-set
);

CREATE INDEX builds_by_template ON builds (template_id, created_at);
CREATE INDEX builds_by_status ON builds (status);

-- A tag means the build of its latest assignment that is ready.
CREATE TABLE tag_assignments (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    assignment_id    TEXT NOT NULL UNIQUE,
    template_id      TEXT NOT NULL REFERENCES templates (template_id) ON DELETE CASCADE,
    tag              TEXT NOT NULL,
    build_id         TEXT NOT NULL REFERENCES builds (build_id) ON DELETE CASCADE,
    assigned_at      REAL NOT NULL
);

CREATE INDEX tag_assignments_by_tag ON tag_assignments (template_id, tag, number);
CREATE INDEX tag_assignments_by_build ON tag_assignments (build_id);

CREATE TABLE uploads (
    team_id          TEXT NOT NULL REFERENCES teams (team_id),
    hash             TEXT NOT NULL,     -- the client's word
    size_bytes       INTEGER NOT NULL,
    digest           TEXT,              -- ours; NULL: not looked at yet
    created_at       REAL NOT NULL,
    used_at          REAL NOT NULL,
    PRIMARY KEY (team_id, hash)
);
