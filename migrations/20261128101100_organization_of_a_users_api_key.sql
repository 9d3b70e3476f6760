-- A user's API key may be for one organization, and goes with it.

ALTER TABLE workos.api_keys ADD COLUMN owner_organization_id text REFERENCES workos.organizations (id);

-- What is not filled in here, the next list of the user's keys fills in.
UPDATE workos.api_keys AS key
SET owner_organization_id = held.id
FROM workos.organizations AS held
WHERE key.user_id IS NOT NULL
  AND held.id = key.owner ->> 'organization_id';

CREATE INDEX api_keys_by_owner_organization ON workos.api_keys (owner_organization_id);

CREATE OR REPLACE VIEW workos.api_keys_live AS SELECT * FROM workos.api_keys WHERE _deleted_at IS NULL;

COMMENT ON COLUMN workos.api_keys.owner_organization_id IS 'The organization that a user''s key is for, if it is for one; the key goes with it.';
