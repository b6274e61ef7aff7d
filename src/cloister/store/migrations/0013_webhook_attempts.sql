-- Counts of attempts to deliver events, in spans of five minutes (src/cloister/store/events.py).
CREATE TABLE webhook_attempts (
    webhook_id    TEXT NOT NULL REFERENCES webhooks (webhook_id) ON DELETE CASCADE,
    began_at      INTEGER NOT NULL,  -- of the span
    total         INTEGER NOT NULL,
    failed        INTEGER NOT NULL,
    least_ms      INTEGER NOT NULL,
    most_ms       INTEGER NOT NULL,
    sum_ms        INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, began_at)
);
CREATE INDEX webhook_attempts_by_time ON webhook_attempts (began_at);
