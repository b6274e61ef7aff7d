-- A key has a scope. Keys of the scope "team" belong to a team; the others are the operator's and belong to none.
CREATE TABLE scoped_keys (
    key_id       TEXT PRIMARY KEY,
    scope        TEXT NOT NULL,         -- team, metrics
    team_id      TEXT REFERENCES teams (team_id),
    name         TEXT NOT NULL,
    key_hash     TEXT NOT NULL UNIQUE,  -- sha256 of the key, hex; keys are 160 random bits, so no salt is needed
    hint         TEXT NOT NULL,         -- first and last characters, for people to tell keys apart
    created_at   REAL NOT NULL,
    revoked_at   REAL,
    CHECK ((scope = 'team') = (team_id IS NOT NULL))
);

INSERT INTO scoped_keys (key_id, scope, team_id, name, key_hash, hint, created_at, revoked_at)
    SELECT key_id, 'team', team_id, name, key_hash, hint, created_at, revoked_at FROM api_keys;
DROP TABLE api_keys;
ALTER TABLE scoped_keys RENAME TO api_keys;
