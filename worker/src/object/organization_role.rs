//! Roles that an organization has of its own. Known by the organization and the slug, `org_1/admin`; the slug may be
//! used again after a deletion. They are rows of the table of roles.
//!
//! Source: `GET /authorization/organizations/{organization}/roles/{slug}`, which answers with the role of the
//! environment where the organization has none of that slug. That is the same as 404. The list shows both, too: an
//! organization's own is only what says so.

use chrono::{DateTime, Utc};
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Fields, Raw};
use super::{Answered, Key, Listed, role, segment};

pub(super) use super::role::{PAGED, TABLE, beside, write};
pub use super::role::{PERSONAL, Row, UNANNOUNCED};

/// Where WorkOS keeps it.
pub(super) fn path(key: &str) -> String {
    let (organization, slug) = parts(key);
    format!("/authorization/organizations/{}/roles/{}", segment(organization), segment(slug))
}

/// How all of them are listed: along with the roles of the environment.
pub(super) const LISTED: Listed = Listed::Under(Kind::Organization, "/authorization/organizations/{}/roles");

/// Lists of those that belong to one other object: none that is read along with it.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// The organization and the slug.
fn parts(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or((key, ""))
}

/// What it is known by. The answer does not name the organization: it is the one that was asked about.
pub(super) fn key(of: Option<&str>, fields: &Fields<'_>) -> Key {
    match (of, fields.text("type").as_deref()) {
        (Some(organization), Some(role::OF_ORGANIZATION)) => Key::slug(fields).under(organization),
        (None, Some(role::OF_ORGANIZATION)) => Key::Missing,
        (_, _) => Key::OfAnotherKind,
    }
}

/// Reads an answer.
pub(super) fn read<'a>(key: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    let (organization, _) = parts(key);
    let mut answered = role::read(key, fields);
    answered.row.organization_id = Some(organization.to_owned());
    answered.parents = vec![ObjectRef::new(Kind::Organization, organization)];
    answered
}

/// What the mirror has: what lives under the key, or lived last.
pub(super) async fn load(
    connection: &mut PgConnection,
    env: &str,
    keys: &[String],
) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT DISTINCT ON (organization_id || '/' || slug)
               organization_id || '/' || slug AS "id!",
               id AS "workos_id?",
               slug,
               organization_id,
               name,
               description,
               type AS "role_type?",
               resource_type_slug,
               permissions,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.roles
        WHERE _env = $1 AND organization_id || '/' || slug = ANY($2)
        ORDER BY organization_id || '/' || slug, _deleted_at DESC NULLS FIRST
        "#,
        env,
        keys
    )
    .fetch_all(connection)
    .await
}

/// The next live rows of an environment, in order of their keys.
pub(super) async fn live(
    connection: &mut PgConnection,
    env: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        SELECT organization_id || '/' || slug AS "key!"
        FROM workos.roles
        WHERE _env = $1 AND organization_id || '/' || slug > $2 AND _deleted_at IS NULL
        ORDER BY organization_id || '/' || slug
        LIMIT $3
        "#,
        env,
        after,
        most
    )
    .fetch_all(connection)
    .await
}

/// The key of an organization's own role, by its WorkOS id.
pub(super) async fn key_of(
    connection: &mut PgConnection,
    env: &str,
    id: &str,
) -> sqlx::Result<Option<String>> {
    let key = sqlx::query_scalar!(
        r#"
        SELECT organization_id || '/' || slug AS key
        FROM workos.roles
        WHERE _env = $1 AND id = $2
        "#,
        env,
        id
    )
    .fetch_optional(connection)
    .await?;
    Ok(key.flatten())
}

/// Marks roles as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    keys: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.roles
        SET _deleted_at = $2, _synced_at = $2
        WHERE _env = $1 AND organization_id || '/' || slug = ANY($3) AND _deleted_at IS NULL
        RETURNING organization_id || '/' || slug AS "key!"
        "#,
        env,
        at,
        keys
    )
    .fetch_all(connection)
    .await
}

/// What they hang on.
pub(super) const HANGS_ON: &[Kind] = &[Kind::Organization];

/// The keys of those of organizations, each with its organization: live ones or tombstones.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    _organization: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let rows = sqlx::query!(
        r#"
        SELECT DISTINCT organization_id AS "parent!", organization_id || '/' || slug AS "key!"
        FROM workos.roles
        WHERE organization_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY 2
        "#,
        ids,
        live
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.parent, row.key)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_role_of_the_environment_is_none_of_the_organization() {
        let untyped = json!({"id": "role_1", "slug": "admin"});
        assert_eq!(key(Some("org_1"), &untyped.into()), Key::OfAnotherKind);
        for of_type in [json!("EnvironmentRole"), json!("ResourceRole"), json!(null)] {
            let role = json!({"id": "role_1", "slug": "admin", "type": of_type});
            assert_eq!(key(Some("org_1"), &role.into()), Key::OfAnotherKind, "{of_type}");
        }
        let own = Fields::from(json!({"id": "role_2", "slug": "admin", "type": "OrganizationRole"}));
        assert_eq!(key(Some("org_1"), &own), Key::Is("org_1/admin".to_owned()));
        let answered = read("org_1/admin", own);
        assert_eq!(answered.row.organization_id.as_deref(), Some("org_1"));
        assert_eq!(answered.parents, [ObjectRef::new(Kind::Organization, "org_1")]);
    }

    #[test]
    fn both_parts_of_its_key_stay_in_their_places() {
        assert_eq!(path("org_1/a b/c"), "/authorization/organizations/org_1/roles/a%20b%2Fc");
    }
}
