-- The mirror of the central kinds. Column names are WorkOS's own field names; columns that begin with
-- an underscore are ours; every other column and table belongs to the application and is never touched.
-- Every WorkOS column may be null, so that a missing field or an unexpected null never keeps an object out.

CREATE SCHEMA IF NOT EXISTS workos;
COMMENT ON SCHEMA workos IS 'A copy of WorkOS, kept in step by workos-sync.';

CREATE TABLE workos.users (
    id                  text        PRIMARY KEY,
    email               text,
    first_name          text,
    last_name           text,
    name                text,
    profile_picture_url text,
    email_verified      boolean,
    external_id         text,
    metadata            jsonb,
    last_sign_in_at     timestamptz,
    locale              text,
    created_at          timestamptz,
    updated_at          timestamptz,
    _env                text        NOT NULL,
    _raw                jsonb       NOT NULL,
    _synced_at          timestamptz NOT NULL,
    _deleted_at         timestamptz
) WITH (fillfactor = 70);

CREATE INDEX users_by_email ON workos.users (email);
CREATE INDEX users_by_external_id ON workos.users (external_id) WHERE external_id IS NOT NULL;

CREATE TABLE workos.profiles (
    id          text        PRIMARY KEY REFERENCES workos.users (id),
    first_name  text,
    last_name   text,
    avatar_url  text,
    bio         text,
    preferences jsonb,
    _env        text        NOT NULL,
    _raw        jsonb       NOT NULL,
    _synced_at  timestamptz NOT NULL,
    _deleted_at timestamptz
) WITH (fillfactor = 70);

CREATE TABLE workos.organizations (
    id                                  text        PRIMARY KEY,
    name                                text,
    external_id                         text,
    metadata                            jsonb,
    stripe_customer_id                  text,
    allow_profiles_outside_organization boolean,
    created_at                          timestamptz,
    updated_at                          timestamptz,
    _env                                text        NOT NULL,
    _raw                                jsonb       NOT NULL,
    _synced_at                          timestamptz NOT NULL,
    _deleted_at                         timestamptz
) WITH (fillfactor = 70);

CREATE INDEX organizations_by_external_id ON workos.organizations (external_id) WHERE external_id IS NOT NULL;

CREATE TABLE workos.organization_domains (
    id                    text        PRIMARY KEY,
    organization_id       text        REFERENCES workos.organizations (id),
    domain                text,
    state                 text,
    verification_prefix   text,
    verification_strategy text,
    created_at            timestamptz,
    updated_at            timestamptz,
    _env                  text        NOT NULL,
    _raw                  jsonb       NOT NULL,
    _synced_at            timestamptz NOT NULL,
    _deleted_at           timestamptz
) WITH (fillfactor = 70);

CREATE INDEX organization_domains_by_organization ON workos.organization_domains (organization_id);
CREATE INDEX organization_domains_by_domain ON workos.organization_domains (domain);

CREATE TABLE workos.organization_memberships (
    id                text        PRIMARY KEY,
    user_id           text        REFERENCES workos.users (id),
    organization_id   text        REFERENCES workos.organizations (id),
    organization_name text,
    status            text,
    directory_managed boolean,
    custom_attributes jsonb,
    role_slug         text,
    role_slugs        text[],
    created_at        timestamptz,
    updated_at        timestamptz,
    _env              text        NOT NULL,
    _raw              jsonb       NOT NULL,
    _synced_at        timestamptz NOT NULL,
    _deleted_at       timestamptz
) WITH (fillfactor = 70);

CREATE INDEX organization_memberships_by_user ON workos.organization_memberships (user_id);
CREATE INDEX organization_memberships_by_organization ON workos.organization_memberships (organization_id);

CREATE VIEW workos.users_live AS SELECT * FROM workos.users WHERE _deleted_at IS NULL;
CREATE VIEW workos.profiles_live AS SELECT * FROM workos.profiles WHERE _deleted_at IS NULL;
CREATE VIEW workos.organizations_live AS SELECT * FROM workos.organizations WHERE _deleted_at IS NULL;
CREATE VIEW workos.organization_domains_live AS SELECT * FROM workos.organization_domains WHERE _deleted_at IS NULL;
CREATE VIEW workos.organization_memberships_live AS SELECT * FROM workos.organization_memberships WHERE _deleted_at IS NULL;

COMMENT ON VIEW workos.users_live IS 'Users that WorkOS still has.';
COMMENT ON VIEW workos.profiles_live IS 'Profiles of users that WorkOS still has.';
COMMENT ON VIEW workos.organizations_live IS 'Organizations that WorkOS still has.';
COMMENT ON VIEW workos.organization_domains_live IS 'Domains that WorkOS still has.';
COMMENT ON VIEW workos.organization_memberships_live IS 'Memberships that WorkOS still has; each has its user and its organization.';

COMMENT ON TABLE workos.users IS 'AuthKit users.';
COMMENT ON COLUMN workos.users.id IS 'WorkOS id, user_...';
COMMENT ON COLUMN workos.users.email IS 'E-mail address.';
COMMENT ON COLUMN workos.users.first_name IS 'First name.';
COMMENT ON COLUMN workos.users.last_name IS 'Last name.';
COMMENT ON COLUMN workos.users.name IS 'Full name, where WorkOS gives one.';
COMMENT ON COLUMN workos.users.profile_picture_url IS 'Address of the profile picture.';
COMMENT ON COLUMN workos.users.email_verified IS 'Whether the e-mail address is verified.';
COMMENT ON COLUMN workos.users.external_id IS 'The application''s own id of the user, unique per environment in WorkOS.';
COMMENT ON COLUMN workos.users.metadata IS 'Key-value pairs that the application set in WorkOS.';
COMMENT ON COLUMN workos.users.last_sign_in_at IS 'Last sign-in. WorkOS stamps it without an event and without moving updated_at, so it is as of the last sync.';
COMMENT ON COLUMN workos.users.locale IS 'Language preference.';
COMMENT ON COLUMN workos.users.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.users.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.profiles IS 'One per user: three columns follow WorkOS, the others are the user''s own and never written by the sync.';
COMMENT ON COLUMN workos.profiles.id IS 'WorkOS id of the user.';
COMMENT ON COLUMN workos.profiles.first_name IS 'First name, from WorkOS.';
COMMENT ON COLUMN workos.profiles.last_name IS 'Last name, from WorkOS.';
COMMENT ON COLUMN workos.profiles.avatar_url IS 'Address of the profile picture, from WorkOS.';
COMMENT ON COLUMN workos.profiles.bio IS 'The user''s own: never written by the sync.';
COMMENT ON COLUMN workos.profiles.preferences IS 'The user''s own: never written by the sync.';

COMMENT ON TABLE workos.organizations IS 'Organizations; their domains are rows of organization_domains.';
COMMENT ON COLUMN workos.organizations.id IS 'WorkOS id, org_...';
COMMENT ON COLUMN workos.organizations.name IS 'Name.';
COMMENT ON COLUMN workos.organizations.external_id IS 'The application''s own id of the organization.';
COMMENT ON COLUMN workos.organizations.metadata IS 'Key-value pairs that the application set in WorkOS.';
COMMENT ON COLUMN workos.organizations.stripe_customer_id IS 'Stripe customer, where one is set.';
COMMENT ON COLUMN workos.organizations.allow_profiles_outside_organization IS 'Deprecated by WorkOS.';
COMMENT ON COLUMN workos.organizations.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.organizations.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.organization_domains IS 'Domains of organizations. The verification token is a secret and not stored.';
COMMENT ON COLUMN workos.organization_domains.id IS 'WorkOS id, org_domain_...';
COMMENT ON COLUMN workos.organization_domains.organization_id IS 'Organization it belongs to.';
COMMENT ON COLUMN workos.organization_domains.domain IS 'Domain name.';
COMMENT ON COLUMN workos.organization_domains.state IS 'failed, legacy_verified, pending, unverified or verified; new values pass.';
COMMENT ON COLUMN workos.organization_domains.verification_prefix IS 'Prefix of the DNS record that verifies it.';
COMMENT ON COLUMN workos.organization_domains.verification_strategy IS 'dns or manual; new values pass.';
COMMENT ON COLUMN workos.organization_domains.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.organization_domains.updated_at IS 'When WorkOS last changed it.';

COMMENT ON TABLE workos.organization_memberships IS 'Who belongs to which organization, with which role.';
COMMENT ON COLUMN workos.organization_memberships.id IS 'WorkOS id, om_...';
COMMENT ON COLUMN workos.organization_memberships.user_id IS 'The user.';
COMMENT ON COLUMN workos.organization_memberships.organization_id IS 'The organization.';
COMMENT ON COLUMN workos.organization_memberships.organization_name IS 'Name of the organization, where WorkOS gives it; follows the organization''s own row.';
COMMENT ON COLUMN workos.organization_memberships.status IS 'active, inactive or pending; new values pass.';
COMMENT ON COLUMN workos.organization_memberships.directory_managed IS 'Whether a directory manages it.';
COMMENT ON COLUMN workos.organization_memberships.custom_attributes IS 'Attributes from the directory.';
COMMENT ON COLUMN workos.organization_memberships.role_slug IS 'Slug of the role.';
COMMENT ON COLUMN workos.organization_memberships.role_slugs IS 'Slugs of all roles.';
COMMENT ON COLUMN workos.organization_memberships.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.organization_memberships.updated_at IS 'When WorkOS last changed it.';

-- What the underscore columns mean is the same everywhere; said once here, in a loop.
DO $$
DECLARE
    mirrored text;
BEGIN
    FOREACH mirrored IN ARRAY ARRAY['users', 'profiles', 'organizations', 'organization_domains', 'organization_memberships'] LOOP
        EXECUTE format('COMMENT ON COLUMN workos.%I._env IS %L', mirrored, 'Label of the WorkOS environment.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._raw IS %L', mirrored, 'The object as WorkOS answered it, without secrets and without copies of other objects.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._synced_at IS %L', mirrored, 'When the sync last wrote this row.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._deleted_at IS %L', mirrored, 'When the sync learned that WorkOS no longer has it; null while it lives.');
    END LOOP;
END
$$;
