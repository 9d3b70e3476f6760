-- Who is in which group of a directory. WorkOS has no id for it and answers it as a whole: all groups of one user.

CREATE TABLE workos.directory_group_memberships (
    directory_group_id text        NOT NULL REFERENCES workos.directory_groups (id),
    directory_user_id  text        NOT NULL REFERENCES workos.directory_users (id),
    directory_id       text,
    _env               text        NOT NULL,
    _raw               jsonb       NOT NULL,
    _synced_at         timestamptz NOT NULL,
    _deleted_at        timestamptz,
    PRIMARY KEY (directory_group_id, directory_user_id)
) WITH (fillfactor = 70);

CREATE INDEX directory_group_memberships_by_user ON workos.directory_group_memberships (directory_user_id);

CREATE VIEW workos.directory_group_memberships_live AS SELECT * FROM workos.directory_group_memberships WHERE _deleted_at IS NULL;

COMMENT ON VIEW workos.directory_group_memberships_live IS 'Memberships that WorkOS still has; each has its user and its group.';
COMMENT ON TABLE workos.directory_group_memberships IS 'Who is in which group of a directory.';
COMMENT ON COLUMN workos.directory_group_memberships.directory_group_id IS 'The group.';
COMMENT ON COLUMN workos.directory_group_memberships.directory_user_id IS 'The user of the directory.';
COMMENT ON COLUMN workos.directory_group_memberships.directory_id IS 'The directory of both.';
COMMENT ON COLUMN workos.directory_group_memberships._env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos.directory_group_memberships._raw IS 'Empty: WorkOS has no object for it.';
COMMENT ON COLUMN workos.directory_group_memberships._synced_at IS 'When the sync last wrote this row.';
COMMENT ON COLUMN workos.directory_group_memberships._deleted_at IS 'When the sync learned that WorkOS no longer has it; null while it lives.';
