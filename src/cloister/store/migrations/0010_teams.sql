-- Teams have limits of their own, and can be removed. The row of a removed team stays, so that its id is never another team's.
ALTER TABLE teams ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';  -- JSON of TeamLimits (src/cloister/model/team.py)
ALTER TABLE teams ADD COLUMN removed_at REAL;  -- its name is then its id, so that the name is free

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

-- Keys expire, and clients manage keys by the published API, where ids are UUIDs.
ALTER TABLE api_keys ADD COLUMN expires_at REAL;    -- NULL: never
ALTER TABLE api_keys ADD COLUMN last_used_at REAL;  -- written once a minute at most
ALTER TABLE api_keys ADD COLUMN created_by TEXT;    -- id of the key that made it; NULL: the operator
UPDATE api_keys SET key_id = lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8'
    || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)));
CREATE INDEX api_keys_by_team ON api_keys (team_id);

-- How many sandboxes a team ran, a row for each minute with one.
CREATE TABLE team_metrics (
    team_id      TEXT NOT NULL REFERENCES teams (team_id),
    at           REAL NOT NULL,         -- end of the interval
    peak         INTEGER NOT NULL,      -- most sandboxes at once
    starts       INTEGER NOT NULL,      -- sandboxes that were created
    PRIMARY KEY (team_id, at)
) WITHOUT ROWID;
