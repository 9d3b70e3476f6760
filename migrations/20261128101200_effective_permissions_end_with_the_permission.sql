-- A role may name a permission that was deleted until it is asked for again, and nobody has that permission any more. A slug
-- that has no row at all is granted: permissions may not have been listed yet.

CREATE OR REPLACE VIEW workos.effective_permissions AS
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
  AND membership._deleted_at IS NULL
  AND coalesce(
        (
            SELECT bool_or(permission._deleted_at IS NULL)
            FROM workos.permissions AS permission
            WHERE permission._env = membership._env
              AND permission.slug = granted.slug
        ),
        true
      );

COMMENT ON VIEW workos.effective_permissions IS 'Which permissions a user has in an organization: those of the roles of its active membership, where an organization''s role of a slug stands before the environment''s, without permissions that were deleted.';
