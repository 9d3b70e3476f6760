-- Some objects are known by their slug, and a slug may be used again after a deletion. For these the guard knows when
-- the object that has the key was made, and until when whatever had it is gone: a deletion ends a life, not the key.

ALTER TABLE workos_sync.objects
    ADD COLUMN born_at timestamptz,
    ADD COLUMN died_at timestamptz;

COMMENT ON COLUMN workos_sync.objects.id IS 'WorkOS id of the object; of a role, permission or feature flag its slug, of an organization''s role org_.../slug.';
COMMENT ON COLUMN workos_sync.objects.born_at IS 'Where a key may be used again: when the object was made that the last answer showed.';
COMMENT ON COLUMN workos_sync.objects.died_at IS 'Where a key may be used again: the last deletion that an event told of, by WorkOS''s clock. What was made before it stays dead.';
