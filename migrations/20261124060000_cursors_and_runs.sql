-- Where the reading of the Events API stands, and what was done by command: backfills, verifies, replays and
-- discards. Both are few rows, read by people.

CREATE TABLE workos_sync.cursors (
    env        text        NOT NULL,
    name       text        NOT NULL,
    cursor     text,
    event_at   timestamptz,
    moved_at   timestamptz NOT NULL DEFAULT now(),
    checked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (env, name)
);

COMMENT ON TABLE workos_sync.cursors IS 'How far a list of WorkOS that only grows was read.';
COMMENT ON COLUMN workos_sync.cursors.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.cursors.name IS 'Which list: events, the Events API.';
COMMENT ON COLUMN workos_sync.cursors.cursor IS 'WorkOS id of the last item that was read and stored; null when nothing was read yet.';
COMMENT ON COLUMN workos_sync.cursors.event_at IS 'When WorkOS made that item; when the reading began, before the first one.';
COMMENT ON COLUMN workos_sync.cursors.moved_at IS 'When the cursor last moved.';
COMMENT ON COLUMN workos_sync.cursors.checked_at IS 'When WorkOS was last asked for what comes after it, successfully.';

CREATE TABLE workos_sync.runs (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    env         text        NOT NULL,
    command     text        NOT NULL CHECK (command IN ('backfill', 'verify', 'replay', 'discard')),
    actor       text,
    reason      text,
    arguments   jsonb       NOT NULL DEFAULT '{}',
    checkpoint  jsonb       NOT NULL DEFAULT '{}',
    counts      jsonb       NOT NULL DEFAULT '{}',
    started_at  timestamptz NOT NULL DEFAULT now(),
    moved_at    timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    result      text
);

CREATE INDEX runs_by_command ON workos_sync.runs (env, command, started_at);

COMMENT ON TABLE workos_sync.runs IS 'What was done by command or on schedule: backfills, verifies, replays and discards.';
COMMENT ON COLUMN workos_sync.runs.id IS 'Order of the runs.';
COMMENT ON COLUMN workos_sync.runs.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.runs.command IS 'backfill, verify, replay or discard.';
COMMENT ON COLUMN workos_sync.runs.actor IS 'Who ran it: a name given with the command, else user and host; schedule when the worker ran it by itself.';
COMMENT ON COLUMN workos_sync.runs.reason IS 'Why, as that person said.';
COMMENT ON COLUMN workos_sync.runs.arguments IS 'What it was to cover: kinds and filters, never values of people.';
COMMENT ON COLUMN workos_sync.runs.checkpoint IS 'Where it stands, for a run that is resumed.';
COMMENT ON COLUMN workos_sync.runs.counts IS 'What it did, by name.';
COMMENT ON COLUMN workos_sync.runs.started_at IS 'When it began.';
COMMENT ON COLUMN workos_sync.runs.moved_at IS 'When it last got further.';
COMMENT ON COLUMN workos_sync.runs.finished_at IS 'When it ended; null while it runs, or when it was interrupted.';
COMMENT ON COLUMN workos_sync.runs.result IS 'How it ended: done, drift, failed; null while it runs.';
