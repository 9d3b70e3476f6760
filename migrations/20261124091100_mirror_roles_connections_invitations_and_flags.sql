-- The mirror of what is one question each: roles, permissions, connections, invitations, feature flags; and what
-- the roles of a member add up to.

CREATE TABLE workos.roles (
    id                 text        PRIMARY KEY,
    slug               text,
    organization_id    text        REFERENCES workos.organizations (id),
    name               text,
    description        text,
    type               text,
    resource_type_slug text,
    permissions        text[],
    created_at         timestamptz,
    updated_at         timestamptz,
    _env               text        NOT NULL,
    _raw               jsonb       NOT NULL,
    _synced_at         timestamptz NOT NULL,
    _deleted_at        timestamptz
) WITH (fillfactor = 70);

CREATE INDEX roles_by_slug ON workos.roles (_env, slug);
CREATE INDEX roles_by_organization_and_slug ON workos.roles (_env, (organization_id || '/' || slug));
CREATE INDEX roles_by_organization ON workos.roles (organization_id);

CREATE TABLE workos.permissions (
    id                 text        PRIMARY KEY,
    slug               text,
    name               text,
    description        text,
    system             boolean,
    resource_type_slug text,
    created_at         timestamptz,
    updated_at         timestamptz,
    _env               text        NOT NULL,
    _raw               jsonb       NOT NULL,
    _synced_at         timestamptz NOT NULL,
    _deleted_at        timestamptz
) WITH (fillfactor = 70);

CREATE INDEX permissions_by_slug ON workos.permissions (_env, slug);

CREATE TABLE workos.connections (
    id              text        PRIMARY KEY,
    organization_id text        REFERENCES workos.organizations (id),
    connection_type text,
    name            text,
    state           text,
    status          text,
    domains         jsonb,
    created_at      timestamptz,
    updated_at      timestamptz,
    _env            text        NOT NULL,
    _raw            jsonb       NOT NULL,
    _synced_at      timestamptz NOT NULL,
    _deleted_at     timestamptz
) WITH (fillfactor = 70);

CREATE INDEX connections_by_organization ON workos.connections (organization_id);

CREATE TABLE workos.invitations (
    id               text        PRIMARY KEY,
    email            text,
    state            text,
    accepted_at      timestamptz,
    revoked_at       timestamptz,
    expires_at       timestamptz,
    organization_id  text        REFERENCES workos.organizations (id),
    inviter_user_id  text,
    accepted_user_id text,
    role_slug        text,
    created_at       timestamptz,
    updated_at       timestamptz,
    _env             text        NOT NULL,
    _raw             jsonb       NOT NULL,
    _synced_at       timestamptz NOT NULL,
    _deleted_at      timestamptz
) WITH (fillfactor = 70);

CREATE INDEX invitations_by_email ON workos.invitations (email);
CREATE INDEX invitations_by_organization ON workos.invitations (organization_id);

CREATE TABLE workos.feature_flags (
    id            text        PRIMARY KEY,
    slug          text,
    name          text,
    description   text,
    owner         jsonb,
    tags          text[],
    enabled       boolean,
    default_value boolean,
    created_at    timestamptz,
    updated_at    timestamptz,
    _env          text        NOT NULL,
    _raw          jsonb       NOT NULL,
    _synced_at    timestamptz NOT NULL,
    _deleted_at   timestamptz
) WITH (fillfactor = 70);

CREATE INDEX feature_flags_by_slug ON workos.feature_flags (_env, slug);

CREATE VIEW workos.roles_live AS SELECT * FROM workos.roles WHERE _deleted_at IS NULL;
CREATE VIEW workos.permissions_live AS SELECT * FROM workos.permissions WHERE _deleted_at IS NULL;
CREATE VIEW workos.connections_live AS SELECT * FROM workos.connections WHERE _deleted_at IS NULL;
CREATE VIEW workos.invitations_live AS SELECT * FROM workos.invitations WHERE _deleted_at IS NULL;
CREATE VIEW workos.feature_flags_live AS SELECT * FROM workos.feature_flags WHERE _deleted_at IS NULL;

-- What a member may do: the permissions of the roles of its active membership. An organization's role of a slug
-- stands before the environment's.
CREATE VIEW workos.effective_permissions AS
SELECT DISTINCT
       membership._env,
       membership.user_id,
       membership.organization_id,
       granted.slug AS permission_slug
FROM workos.organization_memberships AS membership
CROSS JOIN LATERAL unnest(
    CASE WHEN cardinality(membership.role_slugs) > 0 THEN membership.role_slugs ELSE ARRAY[membership.role_slug] END
) AS held (slug)
CROSS JOIN LATERAL (
    SELECT role.permissions
    FROM workos.roles AS role
    WHERE role._env = membership._env
      AND role.slug = held.slug
      AND (role.organization_id = membership.organization_id OR role.organization_id IS NULL)
      AND role._deleted_at IS NULL
    ORDER BY role.organization_id NULLS LAST
    LIMIT 1
) AS role
CROSS JOIN LATERAL unnest(role.permissions) AS granted (slug)
WHERE membership.status = 'active'
  AND membership._deleted_at IS NULL;

COMMENT ON VIEW workos.roles_live IS 'Roles that WorkOS still has.';
COMMENT ON VIEW workos.permissions_live IS 'Permissions that WorkOS still has.';
COMMENT ON VIEW workos.connections_live IS 'Connections that WorkOS still has.';
COMMENT ON VIEW workos.invitations_live IS 'Invitations that WorkOS still has, also those that ended.';
COMMENT ON VIEW workos.feature_flags_live IS 'Feature flags that WorkOS still has.';

COMMENT ON VIEW workos.effective_permissions IS 'Which permissions a user has in an organization: those of the roles of its active membership, where an organization''s role of a slug stands before the environment''s.';
COMMENT ON COLUMN workos.effective_permissions._env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos.effective_permissions.user_id IS 'The user.';
COMMENT ON COLUMN workos.effective_permissions.organization_id IS 'The organization.';
COMMENT ON COLUMN workos.effective_permissions.permission_slug IS 'Slug of a permission that it has there.';

COMMENT ON TABLE workos.roles IS 'Roles: those of the environment, and those that an organization has of its own.';
COMMENT ON COLUMN workos.roles.id IS 'WorkOS id, role_...';
COMMENT ON COLUMN workos.roles.slug IS 'Slug, by which memberships name it; may be used again after a deletion.';
COMMENT ON COLUMN workos.roles.organization_id IS 'The organization whose own role it is; null for a role of the environment.';
COMMENT ON COLUMN workos.roles.name IS 'Name.';
COMMENT ON COLUMN workos.roles.description IS 'Description.';
COMMENT ON COLUMN workos.roles.type IS 'EnvironmentRole or OrganizationRole; new values pass.';
COMMENT ON COLUMN workos.roles.resource_type_slug IS 'Type of resource that it is about.';
COMMENT ON COLUMN workos.roles.permissions IS 'Slugs of the permissions that it gives.';
COMMENT ON COLUMN workos.roles.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.roles.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.permissions IS 'Permissions, which roles give.';
COMMENT ON COLUMN workos.permissions.id IS 'WorkOS id, perm_...';
COMMENT ON COLUMN workos.permissions.slug IS 'Slug, by which roles name it; may be used again after a deletion.';
COMMENT ON COLUMN workos.permissions.name IS 'Name.';
COMMENT ON COLUMN workos.permissions.description IS 'Description.';
COMMENT ON COLUMN workos.permissions.system IS 'Whether WorkOS made it; then it cannot be deleted.';
COMMENT ON COLUMN workos.permissions.resource_type_slug IS 'Type of resource that it is about.';
COMMENT ON COLUMN workos.permissions.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.permissions.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.connections IS 'Connections to identity providers, for single sign-on.';
COMMENT ON COLUMN workos.connections.id IS 'WorkOS id, conn_...';
COMMENT ON COLUMN workos.connections.organization_id IS 'Organization it belongs to, if it belongs to one.';
COMMENT ON COLUMN workos.connections.connection_type IS 'Identity provider or protocol, e.g. OktaSAML; new values pass.';
COMMENT ON COLUMN workos.connections.name IS 'Name. WorkOS changes it without an event, so it is as of the last sync.';
COMMENT ON COLUMN workos.connections.state IS 'requires_type, draft, active, validating, inactive or deleting; new values pass. Events tell of active and inactive only.';
COMMENT ON COLUMN workos.connections.status IS 'linked or unlinked. Deprecated by WorkOS.';
COMMENT ON COLUMN workos.connections.domains IS 'Domains of the connection.';
COMMENT ON COLUMN workos.connections.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.connections.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.invitations IS 'Invitations, also those that were accepted, revoked or expired. Token and accept URL are secrets and not stored.';
COMMENT ON COLUMN workos.invitations.id IS 'WorkOS id, invitation_...';
COMMENT ON COLUMN workos.invitations.email IS 'E-mail address that was invited.';
COMMENT ON COLUMN workos.invitations.state IS 'pending, accepted, expired or revoked; new values pass. WorkOS lets it expire without an event: see expires_at.';
COMMENT ON COLUMN workos.invitations.accepted_at IS 'When it was accepted.';
COMMENT ON COLUMN workos.invitations.revoked_at IS 'When it was revoked.';
COMMENT ON COLUMN workos.invitations.expires_at IS 'When it expires, or did.';
COMMENT ON COLUMN workos.invitations.organization_id IS 'Organization that it invites to, if to one.';
COMMENT ON COLUMN workos.invitations.inviter_user_id IS 'User who invited.';
COMMENT ON COLUMN workos.invitations.accepted_user_id IS 'User who accepted.';
COMMENT ON COLUMN workos.invitations.role_slug IS 'Slug of the role that it gives.';
COMMENT ON COLUMN workos.invitations.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.invitations.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.feature_flags IS 'Feature flags. Whom a flag is on for is not part of it.';
COMMENT ON COLUMN workos.feature_flags.id IS 'WorkOS id, flag_...';
COMMENT ON COLUMN workos.feature_flags.slug IS 'Slug, by which it is asked for; may be used again after a deletion.';
COMMENT ON COLUMN workos.feature_flags.name IS 'Name.';
COMMENT ON COLUMN workos.feature_flags.description IS 'Description.';
COMMENT ON COLUMN workos.feature_flags.owner IS 'Who is responsible for it: e-mail address, first and last name.';
COMMENT ON COLUMN workos.feature_flags.tags IS 'Tags.';
COMMENT ON COLUMN workos.feature_flags.enabled IS 'Whether it is in use.';
COMMENT ON COLUMN workos.feature_flags.default_value IS 'What it says where no rule says otherwise.';
COMMENT ON COLUMN workos.feature_flags.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.feature_flags.updated_at IS 'When WorkOS last changed it.';

DO $$
DECLARE
    mirrored text;
BEGIN
    FOREACH mirrored IN ARRAY ARRAY['roles', 'permissions', 'connections', 'invitations', 'feature_flags'] LOOP
        EXECUTE format('COMMENT ON COLUMN workos.%I._env IS %L', mirrored, 'Label of the WorkOS environment.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._raw IS %L', mirrored, 'The object as WorkOS answered it, without secrets and without copies of other objects.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._synced_at IS %L', mirrored, 'When the sync last wrote this row.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._deleted_at IS %L', mirrored, 'When the sync learned that WorkOS no longer has it; null while it lives.');
    END LOOP;
END
$$;
