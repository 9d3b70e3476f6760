-- Attempts are those that an event used up, not deliveries: what the world did wrong does not count. A try that
-- began and never ended leaves a trace, so that an event that kills the worker is found. And what was done with
-- dead letters, by whom and why: one row each, so that nothing is done twice.

ALTER TABLE workos_sync.events ADD COLUMN begun integer NOT NULL DEFAULT 0;

COMMENT ON COLUMN workos_sync.events.attempts IS 'Attempts used up so far, the one that settled it included. What the world did wrong (WorkOS down or limiting, a refused key, Postgres away) uses up none.';
COMMENT ON COLUMN workos_sync.events.begun IS 'Redeliveries that were begun since the last one that ended: more than a few, and the event kills the worker.';

CREATE TABLE workos_sync.dead_letter_actions (
    env      text        NOT NULL,
    stream   timestamptz NOT NULL,
    seq      bigint      NOT NULL,
    event_id text        NOT NULL,
    reason   text        NOT NULL,
    action   text        NOT NULL CHECK (action IN ('replayed', 'discarded')),
    run_id   bigint      NOT NULL REFERENCES workos_sync.runs (id),
    at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (env, stream, seq)
);

CREATE INDEX dead_letter_actions_by_event ON workos_sync.dead_letter_actions (event_id);
CREATE INDEX dead_letter_actions_by_run ON workos_sync.dead_letter_actions (run_id);

COMMENT ON TABLE workos_sync.dead_letter_actions IS 'What was done with each dead letter. One row each: what is replayed or discarded twice is done once.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.stream IS 'Creation time of the stream WORKOS_DLQ that the sequence counts in.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.seq IS 'Sequence of the dead letter in that stream.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.event_id IS 'Id of the event.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.reason IS 'Class of the failure that made it a dead letter.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.action IS 'replayed or discarded.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.run_id IS 'The run that did it: who, and why.';
COMMENT ON COLUMN workos_sync.dead_letter_actions.at IS 'When.';
