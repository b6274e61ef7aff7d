-- Secrets of teams. Their values are encrypted (src/cloister/store/sealing.py); only the present one is kept.
CREATE TABLE IF NOT EXISTS secrets (  -- for a time, migration 8 made it
    secret_id        TEXT PRIMARY KEY,
    team_id          TEXT NOT NULL REFERENCES teams (team_id),
    name             TEXT NOT NULL,     -- in lower case
    metadata         TEXT NOT NULL,     -- JSON
    created_at       REAL NOT NULL,
    updated_at       REAL NOT NULL,
    version          INTEGER NOT NULL,  -- of the value, raised by every change; compare-and-set
    key_id           TEXT NOT NULL,     -- the key that the value is encrypted with
    sealed           BLOB NOT NULL,     -- nonce and ciphertext
    UNIQUE (team_id, name)
);
