-- The nodes of a cluster, and the tokens by which they joined: each token is for one node, for ever.
CREATE TABLE nodes (
    node_id          TEXT PRIMARY KEY,
    address          TEXT NOT NULL,     -- host:port of its gate
    joined_at        REAL NOT NULL,
    token_id         TEXT NOT NULL,
    is_draining      INTEGER NOT NULL
);

CREATE TABLE used_join_tokens (
    token_id         TEXT PRIMARY KEY,
    node_id          TEXT NOT NULL,
    UNIQUE (token_id, node_id)
);

ALTER TABLE volumes ADD COLUMN node_id TEXT;  -- NULL: made when there was one node
