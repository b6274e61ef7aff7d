-- A sandbox can be paused, at the end of its lifetime too.
ALTER TABLE sandboxes ADD COLUMN lifecycle TEXT NOT NULL DEFAULT '{}';  -- JSON of a Lifecycle
ALTER TABLE sandboxes ADD COLUMN pause TEXT;  -- JSON of a Pause; NULL: it is not paused
