-- That an API key was revoked, its event tells for certain, while a list may show it for some time. Revoked is for good, so
-- it is kept, and no list brings such a key back.

ALTER TABLE workos.api_keys ADD COLUMN _revoked_at timestamptz;

CREATE OR REPLACE VIEW workos.api_keys_live AS SELECT * FROM workos.api_keys WHERE _deleted_at IS NULL;

COMMENT ON COLUMN workos.api_keys._revoked_at IS 'When the sync learned from its event that it was revoked: then it never lives again, whatever a list says. Null otherwise.';
