-- API keys of organizations and users: what they are called and may do, never a value. WorkOS lists the keys of one owner as
-- a whole and has no other way to ask for one.

CREATE TABLE workos.api_keys (
    id               text        PRIMARY KEY,
    owner            jsonb,
    organization_id  text        REFERENCES workos.organizations (id),
    user_id          text        REFERENCES workos.users (id),
    name             text,
    obfuscated_value text,
    last_used_at     timestamptz,
    expires_at       timestamptz,
    permissions      text[],
    created_at       timestamptz,
    updated_at       timestamptz,
    _env             text        NOT NULL,
    _raw             jsonb       NOT NULL,
    _synced_at       timestamptz NOT NULL,
    _deleted_at      timestamptz
) WITH (fillfactor = 70);

CREATE INDEX api_keys_by_organization ON workos.api_keys (organization_id);
CREATE INDEX api_keys_by_user ON workos.api_keys (user_id);

CREATE VIEW workos.api_keys_live AS SELECT * FROM workos.api_keys WHERE _deleted_at IS NULL;

COMMENT ON VIEW workos.api_keys_live IS 'API keys that WorkOS still has; see expires_at.';
COMMENT ON TABLE workos.api_keys IS 'API keys, without their values.';
COMMENT ON COLUMN workos.api_keys.id IS 'WorkOS id, api_key_...';
COMMENT ON COLUMN workos.api_keys.owner IS 'Whose key it is, as WorkOS writes it: a type and an id, and for a user the organization that it is for.';
COMMENT ON COLUMN workos.api_keys.organization_id IS 'The owner, if that is an organization.';
COMMENT ON COLUMN workos.api_keys.user_id IS 'The owner, if that is a user.';
COMMENT ON COLUMN workos.api_keys.name IS 'Name.';
COMMENT ON COLUMN workos.api_keys.obfuscated_value IS 'What WorkOS shows of the value: its first and last characters.';
COMMENT ON COLUMN workos.api_keys.last_used_at IS 'When it was last used, as of the last sync: it changes without an event.';
COMMENT ON COLUMN workos.api_keys.expires_at IS 'When it stops to work; null when it does not.';
COMMENT ON COLUMN workos.api_keys.permissions IS 'Slugs of what it may do.';
COMMENT ON COLUMN workos.api_keys.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.api_keys.updated_at IS 'When WorkOS last changed it.';
COMMENT ON COLUMN workos.api_keys._env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos.api_keys._raw IS 'The object as WorkOS listed it.';
COMMENT ON COLUMN workos.api_keys._synced_at IS 'When the sync last wrote this row.';
COMMENT ON COLUMN workos.api_keys._deleted_at IS 'When the sync learned that WorkOS no longer has it; null while it lives.';
