-- Volumes of teams. Their files are in images on the node; a volume outlives the sandboxes that mount it.
CREATE TABLE volumes (
    volume_id        TEXT PRIMARY KEY,
    team_id          TEXT NOT NULL REFERENCES teams (team_id),
    name             TEXT NOT NULL,
    size_mib         INTEGER NOT NULL,
    created_at       REAL NOT NULL,
    is_ready         INTEGER NOT NULL,  -- 0: its image is being made, or removed; after a crash it is removed
    UNIQUE (team_id, name)
);

CREATE TRIGGER no_volume_of_a_removed_team BEFORE INSERT ON volumes
WHEN (SELECT removed_at FROM teams WHERE team_id = NEW.team_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the team was removed');
END;

ALTER TABLE sandboxes ADD COLUMN volumes TEXT NOT NULL DEFAULT '[]';  -- JSON of VolumeMount (src/cloister/model/volume.py)
