-- What only processes that share a database need (src/cloister/store/postgres_sharing.py). PostgreSQL's own SQL.
-- Executed after all migrations, at every start of a newer release: every statement may be repeated.
CREATE TABLE IF NOT EXISTS creations (      -- under way; a row goes when its sandbox runs
    sandbox_id  TEXT COLLATE "C" PRIMARY KEY REFERENCES sandboxes (sandbox_id) ON DELETE CASCADE,
    process     BIGINT NOT NULL             -- number of the api process that makes it
);
CREATE TABLE IF NOT EXISTS creation_rates ( -- a token bucket for each team
    team_id     TEXT COLLATE "C" PRIMARY KEY REFERENCES teams (team_id),
    tokens      DOUBLE PRECISION NOT NULL,
    at          DOUBLE PRECISION NOT NULL
);
CREATE SEQUENCE IF NOT EXISTS api_processes AS INTEGER CYCLE;
CREATE INDEX IF NOT EXISTS live_sandboxes_by_team ON sandboxes (team_id) WHERE state <> 'ended';

CREATE OR REPLACE FUNCTION tell_sandbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('cloister_sandboxes', NEW.sandbox_id || ' ' || NEW.version);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER tell_sandbox AFTER INSERT OR UPDATE ON sandboxes FOR EACH ROW EXECUTE FUNCTION tell_sandbox();

CREATE OR REPLACE FUNCTION tell_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('cloister_deliveries', '');
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER tell_deliveries AFTER INSERT OR UPDATE OF is_dead ON webhook_deliveries FOR EACH STATEMENT EXECUTE FUNCTION tell_deliveries();
