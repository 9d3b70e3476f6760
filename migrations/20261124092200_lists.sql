-- When many objects of one directory wait at once, they are not asked for one by one: its list is read. An object that
-- was waiting before and that the list did not show is asked for by itself, so it must be known what was listed.

CREATE TABLE workos_sync.lists (
    env       text        NOT NULL,
    kind      text        NOT NULL,
    holder    text        NOT NULL,
    stream    timestamptz NOT NULL,
    covers    bigint      NOT NULL,
    listed_at timestamptz NOT NULL,
    PRIMARY KEY (env, kind, holder)
);

COMMENT ON TABLE workos_sync.lists IS 'Lists that were read from end to end because many of their objects waited.';
COMMENT ON COLUMN workos_sync.lists.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.lists.kind IS 'Kind of the objects it lists.';
COMMENT ON COLUMN workos_sync.lists.holder IS 'WorkOS id of the directory whose list it is.';
COMMENT ON COLUMN workos_sync.lists.stream IS 'Creation time of the event stream that covers counts in.';
COMMENT ON COLUMN workos_sync.lists.covers IS 'Events up to this stream sequence were published before its first page was asked for.';
COMMENT ON COLUMN workos_sync.lists.listed_at IS 'When it was read to its end.';

COMMENT ON COLUMN workos_sync.audit_log.channel IS 'How that event came: webhook, tail, sync, replay; or backfill, verify; or list, when many objects of a directory waited and were listed.';
