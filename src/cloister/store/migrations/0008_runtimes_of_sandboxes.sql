-- A sandbox is in one of several runtimes.
ALTER TABLE sandboxes ADD COLUMN runtime TEXT;  -- its name; NULL: not known yet, or a row of an older release
