-- A build stays as long as a sandbox stands on it: also one that no client can reach any more, such as the capture of a fork.
ALTER TABLE sandboxes ADD COLUMN build_id TEXT;  -- the build of a team's template; NULL: a stock template, or a row of an older release
CREATE INDEX sandboxes_by_build ON sandboxes (build_id) WHERE build_id IS NOT NULL AND state <> 'ended';
