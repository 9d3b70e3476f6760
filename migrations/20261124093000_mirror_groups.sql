-- The groups of an organization, and which memberships are in them. WorkOS has no id for being in a group and answers it
-- as a whole: all groups of one membership.

CREATE TABLE workos.groups (
    id              text        PRIMARY KEY,
    organization_id text        REFERENCES workos.organizations (id),
    name            text,
    description     text,
    created_at      timestamptz,
    updated_at      timestamptz,
    _env            text        NOT NULL,
    _raw            jsonb       NOT NULL,
    _synced_at      timestamptz NOT NULL,
    _deleted_at     timestamptz
) WITH (fillfactor = 70);

CREATE INDEX groups_by_organization ON workos.groups (organization_id);

CREATE TABLE workos.group_memberships (
    group_id                   text        NOT NULL REFERENCES workos.groups (id),
    organization_membership_id text        NOT NULL REFERENCES workos.organization_memberships (id),
    _env                       text        NOT NULL,
    _raw                       jsonb       NOT NULL,
    _synced_at                 timestamptz NOT NULL,
    _deleted_at                timestamptz,
    PRIMARY KEY (group_id, organization_membership_id)
) WITH (fillfactor = 70);

CREATE INDEX group_memberships_by_membership ON workos.group_memberships (organization_membership_id);

CREATE VIEW workos.groups_live AS SELECT * FROM workos.groups WHERE _deleted_at IS NULL;
CREATE VIEW workos.group_memberships_live AS SELECT * FROM workos.group_memberships WHERE _deleted_at IS NULL;

COMMENT ON VIEW workos.groups_live IS 'Groups that WorkOS still has.';
COMMENT ON VIEW workos.group_memberships_live IS 'Memberships in groups that WorkOS still has; each has its group and its organization membership.';

COMMENT ON TABLE workos.groups IS 'Groups of memberships within an organization; not the groups of a directory.';
COMMENT ON COLUMN workos.groups.id IS 'WorkOS id, group_...';
COMMENT ON COLUMN workos.groups.organization_id IS 'Organization it belongs to.';
COMMENT ON COLUMN workos.groups.name IS 'Name.';
COMMENT ON COLUMN workos.groups.description IS 'Description.';
COMMENT ON COLUMN workos.groups.created_at IS 'When WorkOS made it.';
COMMENT ON COLUMN workos.groups.updated_at IS 'When WorkOS last changed it. A change of members does not move it.';

COMMENT ON TABLE workos.group_memberships IS 'Which organization membership is in which group.';
COMMENT ON COLUMN workos.group_memberships.group_id IS 'The group.';
COMMENT ON COLUMN workos.group_memberships.organization_membership_id IS 'The organization membership.';

DO $$
DECLARE
    mirrored text;
BEGIN
    FOREACH mirrored IN ARRAY ARRAY['groups', 'group_memberships'] LOOP
        EXECUTE format('COMMENT ON COLUMN workos.%I._env IS %L', mirrored, 'Label of the WorkOS environment.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._raw IS %L', mirrored, 'The object as WorkOS answered it; empty where WorkOS has no object.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._synced_at IS %L', mirrored, 'When the sync last wrote this row.');
        EXECUTE format('COMMENT ON COLUMN workos.%I._deleted_at IS %L', mirrored, 'When the sync learned that WorkOS no longer has it; null while it lives.');
    END LOOP;
END
$$;
