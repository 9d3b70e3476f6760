-- The mirror of Directory Sync. Users and groups hang on their directory, and a directory on its organization, if it
-- has one.

CREATE TABLE workos.directories (
    id              text        PRIMARY KEY,
    organization_id text        REFERENCES workos.organizations (id),
    external_key    text,
    type            text,
    state           text,
    name            text,
    domain          text,
    metadata        jsonb,
    created_at      timestamptz,
    updated_at      timestamptz,
    _env            text        NOT NULL,
    _raw            jsonb       NOT NULL,
    _synced_at      timestamptz NOT NULL,
    _deleted_at     timestamptz
) WITH (fillfactor = 70);

CREATE INDEX directories_by_organization ON workos.directories (organization_id);

CREATE TABLE workos.directory_users (
    id                text        PRIMARY KEY,
    directory_id      text        REFERENCES workos.directories (id),
    organization_id   text,
    idp_id            text,
    email             text,
    first_name        text,
    last_name         text,
    name              text,
    emails            jsonb,
    job_title         text,
    username          text,
    state             text,
    raw_attributes    jsonb,
    custom_attributes jsonb,
    role              jsonb,
    roles             jsonb,
    created_at        timestamptz,
    updated_at        timestamptz,
    _env              text        NOT NULL,
    _raw              jsonb       NOT NULL,
    _synced_at        timestamptz NOT NULL,
    _deleted_at       timestamptz
) WITH (fillfactor = 70);

CREATE INDEX directory_users_by_directory ON workos.directory_users (directory_id);
CREATE INDEX directory_users_by_organization ON workos.directory_users (organization_id);
CREATE INDEX directory_users_by_email ON workos.directory_users (email);

CREATE TABLE workos.directory_groups (
    id              text        PRIMARY KEY,
    idp_id          text,
    directory_id    text        REFERENCES workos.directories (id),
    organization_id text,
    name            text,
    raw_attributes  jsonb,
    created_at      timestamptz,
    updated_at      timestamptz,
    _env            text        NOT NULL,
    _raw            jsonb       NOT NULL,
    _synced_at      timestamptz NOT NULL,
    _deleted_at     timestamptz
) WITH (fillfactor = 70);

CREATE INDEX directory_groups_by_directory ON workos.directory_groups (directory_id);
CREATE INDEX directory_groups_by_organization ON workos.directory_groups (organization_id);

CREATE VIEW workos.directories_live AS SELECT * FROM workos.directories WHERE _deleted_at IS NULL;
CREATE VIEW workos.directory_users_live AS SELECT * FROM workos.directory_users WHERE _deleted_at IS NULL;
CREATE VIEW workos.directory_groups_live AS SELECT * FROM workos.directory_groups WHERE _deleted_at IS NULL;

COMMENT ON VIEW workos.directories_live IS 'Directories that WorkOS still has.';
COMMENT ON VIEW workos.directory_users_live IS 'Directory users that WorkOS still has.';
COMMENT ON VIEW workos.directory_groups_live IS 'Directory groups that WorkOS still has.';

COMMENT ON TABLE workos.directories IS 'Directories: what provides an organizations users and groups.';
COMMENT ON COLUMN workos.directories.id IS 'WorkOS id, directory_...';
COMMENT ON COLUMN workos.directories.organization_id IS 'Organization it belongs to; null when it has none.';
COMMENT ON COLUMN workos.directories.external_key IS 'External key.';
COMMENT ON COLUMN workos.directories.type IS 'Provider, e.g. okta scim v2.0; new values pass.';
COMMENT ON COLUMN workos.directories.state IS 'linked, validating, invalid_credentials, unlinked or deleting, in the words of the API; the words of events, active and inactive, become linked and unlinked. New values pass.';
COMMENT ON COLUMN workos.directories.name IS 'Name.';
COMMENT ON COLUMN workos.directories.domain IS 'Domain, where WorkOS gives one.';
COMMENT ON COLUMN workos.directories.metadata IS 'Counts of users and groups. They change without an event, so they are as of the last sync.';
COMMENT ON COLUMN workos.directories.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.directories.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.directory_users IS 'Users of directories. One whom the provider deactivated is inactive, or deleted, as the environment is set up.';
COMMENT ON COLUMN workos.directory_users.id IS 'WorkOS id, directory_user_...';
COMMENT ON COLUMN workos.directory_users.directory_id IS 'Directory it belongs to.';
COMMENT ON COLUMN workos.directory_users.organization_id IS 'Organization of the directory.';
COMMENT ON COLUMN workos.directory_users.idp_id IS 'Id that the provider gave.';
COMMENT ON COLUMN workos.directory_users.email IS 'Primary e-mail address; may be null.';
COMMENT ON COLUMN workos.directory_users.first_name IS 'First name.';
COMMENT ON COLUMN workos.directory_users.last_name IS 'Last name.';
COMMENT ON COLUMN workos.directory_users.name IS 'Full name.';
COMMENT ON COLUMN workos.directory_users.emails IS 'Deprecated by WorkOS, null or empty by now: see custom_attributes.';
COMMENT ON COLUMN workos.directory_users.job_title IS 'Deprecated by WorkOS, null by now: see custom_attributes.';
COMMENT ON COLUMN workos.directory_users.username IS 'Deprecated by WorkOS, null by now: see custom_attributes.';
COMMENT ON COLUMN workos.directory_users.state IS 'active, suspended or inactive; new values pass.';
COMMENT ON COLUMN workos.directory_users.raw_attributes IS 'Deprecated by WorkOS, empty by now.';
COMMENT ON COLUMN workos.directory_users.custom_attributes IS 'Attributes as they are mapped in WorkOS.';
COMMENT ON COLUMN workos.directory_users.role IS 'Role, from the mapping of groups to roles.';
COMMENT ON COLUMN workos.directory_users.roles IS 'All roles, from the mapping of groups to roles.';
COMMENT ON COLUMN workos.directory_users.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.directory_users.updated_at IS 'When WorkOS last changed it. A change of groups does not move it.';

COMMENT ON TABLE workos.directory_groups IS 'Groups of directories.';
COMMENT ON COLUMN workos.directory_groups.id IS 'WorkOS id, directory_group_...';
COMMENT ON COLUMN workos.directory_groups.idp_id IS 'Id that the provider gave.';
COMMENT ON COLUMN workos.directory_groups.directory_id IS 'Directory it belongs to.';
COMMENT ON COLUMN workos.directory_groups.organization_id IS 'Organization of the directory.';
COMMENT ON COLUMN workos.directory_groups.name IS 'Name.';
COMMENT ON COLUMN workos.directory_groups.raw_attributes IS 'Deprecated by WorkOS, empty by now.';
COMMENT ON COLUMN workos.directory_groups.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.directory_groups.updated_at IS 'When WorkOS last changed it. A change of members does not move it.';

-- What the underscore columns mean is the same everywhere; said once here, in a loop.
DO $$
DECLARE
    mirrored text;
BEGIN
    FOREACH mirrored IN ARRAY ARRAY['directories', 'directory_users', 'directory_groups'] LOOP
        EXECUTE format('COMMENT ON COLUMN workos.%I._env IS %L', mirrored, 'Label of the WorkOS environment.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._raw IS %L', mirrored, 'The object as WorkOS answered it, without secrets and without copies of other objects.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._synced_at IS %L', mirrored, 'When the sync last wrote this row.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._deleted_at IS %L', mirrored, 'When the sync learned that WorkOS no longer has it; null while it lives.');
    END LOOP;
END
$$;
