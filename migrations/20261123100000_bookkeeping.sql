-- Bookkeeping of the sync: the guard, the ledger of events, the audit log. The schema itself is made by
-- the migrator, which keeps its own table here too.

-- One sequence for every question ever asked: a higher number was asked later. It must not cache, or
-- two connections would hand out numbers out of order.
CREATE SEQUENCE workos_sync.fence AS bigint CACHE 1;

CREATE TABLE workos_sync.objects (
    env           text        NOT NULL,
    kind          text        NOT NULL,
    id            text        NOT NULL,
    fence         bigint      NOT NULL,
    stream        timestamptz,
    covers        bigint      NOT NULL DEFAULT 0,
    asked_at      timestamptz,
    updated_at    timestamptz,
    missing_since timestamptz,
    deleted_at    timestamptz,
    deleted_by    text        CHECK (deleted_by IN ('event', 'answer', 'cascade')),
    has_row       boolean     NOT NULL DEFAULT false,
    outcome       text,
    PRIMARY KEY (env, kind, id),
    CHECK ((deleted_at IS NULL) = (deleted_by IS NULL))
) WITH (fillfactor = 70);

COMMENT ON SEQUENCE workos_sync.fence IS 'A number per question to WorkOS, taken before the question leaves: a higher one was asked later.';
COMMENT ON TABLE workos_sync.objects IS 'The guard: one row for everything that can be asked of WorkOS. A write claims its objects here first, and wins only with a higher fence.';
COMMENT ON COLUMN workos_sync.objects.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.objects.kind IS 'Kind of object, e.g. user.';
COMMENT ON COLUMN workos_sync.objects.id IS 'WorkOS id of the object.';
COMMENT ON COLUMN workos_sync.objects.fence IS 'Fence of the newest question whose answer was taken; 0 when nothing was answered yet.';
COMMENT ON COLUMN workos_sync.objects.stream IS 'Creation time of the event stream that covers counts in; sequences of another stream say nothing.';
COMMENT ON COLUMN workos_sync.objects.covers IS 'Events of this object up to this stream sequence are answered by the answer that was taken.';
COMMENT ON COLUMN workos_sync.objects.asked_at IS 'When the answer that was taken was written.';
COMMENT ON COLUMN workos_sync.objects.updated_at IS 'updated_at of the answer that was taken: an older answer is a stale read.';
COMMENT ON COLUMN workos_sync.objects.missing_since IS 'When WorkOS first answered 404 without a deletion event; it counts as gone when it repeats after a delay.';
COMMENT ON COLUMN workos_sync.objects.deleted_at IS 'When we learned that the object is gone.';
COMMENT ON COLUMN workos_sync.objects.deleted_by IS 'How we learned it: event (a verified deletion), answer (404, repeated), cascade (its parent is gone).';
COMMENT ON COLUMN workos_sync.objects.has_row IS 'Whether the mirror has a row for it, live or tombstone.';
COMMENT ON COLUMN workos_sync.objects.outcome IS 'What the last answer did: applied, unchanged or deleted.';

CREATE TABLE workos_sync.events (
    env             text        NOT NULL,
    id              text        NOT NULL,
    type            text        NOT NULL,
    kind            text,
    object_id       text,
    organization_id text,
    first_channel   text        NOT NULL,
    created_at      timestamptz,
    updated_at      timestamptz,
    received_at     timestamptz NOT NULL,
    webhook_at      timestamptz,
    tail_at         timestamptz,
    stream_seq      bigint,
    attempts        integer     NOT NULL DEFAULT 1,
    outcome         text        CHECK (outcome IN ('applied', 'unchanged', 'superseded', 'deleted', 'ignored', 'dead')),
    reason          text,
    fence           bigint,
    settled_at      timestamptz,
    PRIMARY KEY (env, id)
) WITH (fillfactor = 85);

-- Not by environment first: the lookup by event id must never find this index as good as its own.
CREATE INDEX events_by_object ON workos_sync.events (object_id);
CREATE INDEX events_open ON workos_sync.events (env, received_at) WHERE outcome IS NULL;

COMMENT ON TABLE workos_sync.events IS 'The ledger: one row per event id. Every event ends in exactly one outcome.';
COMMENT ON COLUMN workos_sync.events.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.events.id IS 'WorkOS id of the event.';
COMMENT ON COLUMN workos_sync.events.type IS 'WorkOS name of the event, e.g. user.updated.';
COMMENT ON COLUMN workos_sync.events.kind IS 'Kind of the object it is about; null when the type is not mirrored.';
COMMENT ON COLUMN workos_sync.events.object_id IS 'WorkOS id of the object it is about.';
COMMENT ON COLUMN workos_sync.events.organization_id IS 'Organization it belongs to, where the event tells.';
COMMENT ON COLUMN workos_sync.events.first_channel IS 'Channel that brought it first: webhook, tail, sync or replay.';
COMMENT ON COLUMN workos_sync.events.created_at IS 'When WorkOS made the event.';
COMMENT ON COLUMN workos_sync.events.updated_at IS 'updated_at of the object in the event payload.';
COMMENT ON COLUMN workos_sync.events.received_at IS 'When it first reached us.';
COMMENT ON COLUMN workos_sync.events.webhook_at IS 'When it arrived as a webhook.';
COMMENT ON COLUMN workos_sync.events.tail_at IS 'When it was read from the Events API.';
COMMENT ON COLUMN workos_sync.events.stream_seq IS 'Its sequence in the event stream.';
COMMENT ON COLUMN workos_sync.events.attempts IS 'Deliveries to a worker so far.';
COMMENT ON COLUMN workos_sync.events.outcome IS 'How it ended: applied, unchanged, superseded, deleted, ignored or dead; null while it is being retried.';
COMMENT ON COLUMN workos_sync.events.reason IS 'Why it is being retried, or why it ended so.';
COMMENT ON COLUMN workos_sync.events.fence IS 'Fence of the question that settled it.';
COMMENT ON COLUMN workos_sync.events.settled_at IS 'When the outcome was committed.';

CREATE TABLE workos_sync.audit_log (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    env       text        NOT NULL,
    kind      text        NOT NULL,
    object_id text        NOT NULL,
    action    text        NOT NULL CHECK (action IN ('created', 'updated', 'deleted', 'revived')),
    changes   jsonb       NOT NULL DEFAULT '{}',
    fence     bigint      NOT NULL,
    event_id  text,
    channel   text        NOT NULL,
    actor     text,
    cause     text
);

CREATE INDEX audit_log_by_object ON workos_sync.audit_log (object_id, id);

COMMENT ON TABLE workos_sync.audit_log IS 'One row per real change of the mirror. The application reads, the sync writes, nobody updates.';
COMMENT ON COLUMN workos_sync.audit_log.id IS 'Order of the changes.';
COMMENT ON COLUMN workos_sync.audit_log.at IS 'When the change was written.';
COMMENT ON COLUMN workos_sync.audit_log.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.audit_log.kind IS 'Kind of the object.';
COMMENT ON COLUMN workos_sync.audit_log.object_id IS 'WorkOS id of the object.';
COMMENT ON COLUMN workos_sync.audit_log.action IS 'created, updated, deleted or revived.';
COMMENT ON COLUMN workos_sync.audit_log.changes IS 'Changed columns, each with old and new; personal values are redacted unless SYNC_AUDIT_PII=keep.';
COMMENT ON COLUMN workos_sync.audit_log.fence IS 'Fence of the question that brought the change.';
COMMENT ON COLUMN workos_sync.audit_log.event_id IS 'The event that led to it, if one did.';
COMMENT ON COLUMN workos_sync.audit_log.channel IS 'How that event came: webhook, tail, sync, replay; or backfill, verify.';
COMMENT ON COLUMN workos_sync.audit_log.actor IS 'Who did it, where WorkOS names one: source and id.';
COMMENT ON COLUMN workos_sync.audit_log.cause IS 'Why, when the object itself did not change: the parent that took it along.';
