-- Sessions. WorkOS lists only the active ones of a user; how one ended stands in its last event and nowhere else, so a row
-- says where its state comes from.

CREATE TABLE workos.sessions (
    id              text        PRIMARY KEY,
    user_id         text        REFERENCES workos.users (id),
    organization_id text,
    impersonator    jsonb,
    ip_address      text,
    user_agent      text,
    auth_method     text,
    status          text,
    expires_at      timestamptz,
    ended_at        timestamptz,
    created_at      timestamptz,
    updated_at      timestamptz,
    _source         text        NOT NULL CHECK (_source IN ('list', 'event')),
    _env            text        NOT NULL,
    _raw            jsonb       NOT NULL,
    _synced_at      timestamptz NOT NULL,
    _deleted_at     timestamptz
) WITH (fillfactor = 70);

CREATE INDEX sessions_by_user ON workos.sessions (user_id);
CREATE INDEX sessions_by_organization ON workos.sessions (organization_id);

CREATE VIEW workos.sessions_live AS SELECT * FROM workos.sessions WHERE _deleted_at IS NULL;

COMMENT ON VIEW workos.sessions_live IS 'Sessions that are active, and those that are known to have been revoked or to have expired: see status.';
COMMENT ON TABLE workos.sessions IS 'Sessions of users. One that ended stays, with its status; one that WorkOS no longer lists, and nothing says why, is a tombstone.';
COMMENT ON COLUMN workos.sessions.id IS 'WorkOS id, session_...';
COMMENT ON COLUMN workos.sessions.user_id IS 'Whose session it is.';
COMMENT ON COLUMN workos.sessions.organization_id IS 'Organization that it was begun for.';
COMMENT ON COLUMN workos.sessions.impersonator IS 'Who acts as the user, and why, as WorkOS lists it.';
COMMENT ON COLUMN workos.sessions.ip_address IS 'Address that it was begun from; null if we never saw it active.';
COMMENT ON COLUMN workos.sessions.user_agent IS 'Browser that it was begun from; null if we never saw it active.';
COMMENT ON COLUMN workos.sessions.auth_method IS 'How the user signed in, e.g. password or sso; new values pass.';
COMMENT ON COLUMN workos.sessions.status IS 'active, revoked or expired; new values pass. Sessions expire without an event: one is expired here once a list of its user was read after expires_at.';
COMMENT ON COLUMN workos.sessions.expires_at IS 'When it ends by itself.';
COMMENT ON COLUMN workos.sessions.ended_at IS 'When it was ended.';
COMMENT ON COLUMN workos.sessions.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.sessions.updated_at IS 'When WorkOS last changed it.';
COMMENT ON COLUMN workos.sessions._source IS 'Where the state comes from: list, or the event that ended it.';
COMMENT ON COLUMN workos.sessions._env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos.sessions._raw IS 'The object as WorkOS listed it, or what its last event told.';
COMMENT ON COLUMN workos.sessions._synced_at IS 'When the sync last wrote this row.';
COMMENT ON COLUMN workos.sessions._deleted_at IS 'When the sync learned that WorkOS no longer has it; null while it lives.';
