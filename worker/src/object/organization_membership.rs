//! Who belongs to which organization.
//!
//! Source: `GET /user_management/organization_memberships/{id}`.

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Column as _, Fields, Raw, Text, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.organization_memberships`.
    user_id: Text,
    organization_id: Text,
    organization_name: Text derived,
    status: Text,
    directory_managed: Flag,
    custom_attributes: Document personal,
    role_slug: Text,
    role_slugs: Texts,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/user_management/organization_memberships/{}", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "organization_memberships";

/// How all of them are listed: organization by organization. Without `statuses` only the active ones are shown.
pub(super) const LISTED: Listed = Listed::Under(Kind::Organization, OF_ORGANIZATION);

/// Lists of those that belong to one other object.
pub(super) const BELONGING: &[(Kind, &str)] = &[(Kind::Organization, OF_ORGANIZATION), (Kind::User, OF_USER)];

const OF_ORGANIZATION: &str =
    "/user_management/organization_memberships?organization_id={}&statuses=active,inactive,pending";
const OF_USER: &str = "/user_management/organization_memberships?user_id={}&statuses=active,inactive,pending";

/// Reads an answer. The embedded user and the organization's name are copies of other objects: they
/// would go stale in `_raw`.
pub(super) fn read<'a>(id: &str, mut fields: Fields<'a>) -> Answered<'a, Row> {
    fields.remove("user");
    let organization_name = Text::read(&fields, "organization_name");
    fields.remove("organization_name");
    let slug = |role: &Value| role.get("slug").and_then(Value::as_str).map(str::to_owned);
    let role_slug = fields.read("role").as_ref().and_then(slug);
    let role_slugs = fields.read("roles").map(|roles: Vec<Value>| roles.iter().filter_map(slug).collect());
    let mut row = Row::read(id, fields);
    row.organization_name = organization_name;
    row.role_slugs = role_slugs.or_else(|| role_slug.clone().map(|slug| vec![slug]));
    row.role_slug = role_slug;
    let parents = row
        .user_id
        .iter()
        .map(|id| ObjectRef::new(Kind::User, id))
        .chain(row.organization_id.iter().map(|id| ObjectRef::new(Kind::Organization, id)))
        .collect();
    Answered { row, parents, embedded: Vec::new() }
}

/// What the mirror has.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT id,
               user_id,
               organization_id,
               organization_name,
               status,
               directory_managed,
               custom_attributes,
               role_slug,
               role_slugs,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.organization_memberships
        WHERE id = ANY($1)
        "#,
        ids
    )
    .fetch_all(connection)
    .await
}

/// The next live rows of an environment, in order of their ids.
pub(super) async fn live(
    connection: &mut PgConnection,
    env: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        SELECT id
        FROM workos.organization_memberships
        WHERE _env = $1 AND id > $2 AND _deleted_at IS NULL
        ORDER BY id
        LIMIT $3
        "#,
        env,
        after,
        most
    )
    .fetch_all(connection)
    .await
}

/// Nothing follows a membership in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes memberships. The name of the organization is taken from its own row, which may be newer
/// than the answer about the membership.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        INSERT INTO workos.organization_memberships (
            id, user_id, organization_id, organization_name, status, directory_managed, custom_attributes,
            role_slug, role_slugs, created_at, updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT incoming.id, user_id, organization_id,
               CASE WHEN organization_name IS NOT NULL THEN coalesce(organization.name, organization_name) END,
               status, directory_managed, custom_attributes, role_slug,
               CASE WHEN role_slugs IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(role_slugs)) END,
               incoming.created_at, incoming.updated_at, $1, incoming.raw, $2, NULL
        FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[], $9::jsonb[], $10::text[],
            $11::jsonb[], $12::timestamptz[], $13::timestamptz[], $14::jsonb[]
        ) AS incoming (
            id, user_id, organization_id, organization_name, status, directory_managed, custom_attributes,
            role_slug, role_slugs, created_at, updated_at, raw
        )
        LEFT JOIN workos.organizations AS organization ON organization.id = incoming.organization_id
        ORDER BY incoming.id
        ON CONFLICT (id) DO UPDATE
        SET user_id = EXCLUDED.user_id,
            organization_id = EXCLUDED.organization_id,
            organization_name = EXCLUDED.organization_name,
            status = EXCLUDED.status,
            directory_managed = EXCLUDED.directory_managed,
            custom_attributes = EXCLUDED.custom_attributes,
            role_slug = EXCLUDED.role_slug,
            role_slugs = EXCLUDED.role_slugs,
            created_at = EXCLUDED.created_at,
            updated_at = EXCLUDED.updated_at,
            _env = EXCLUDED._env,
            _raw = EXCLUDED._raw,
            _synced_at = EXCLUDED._synced_at,
            _deleted_at = NULL
        "#,
        env,
        at,
        &columns.ids as _,
        &columns.user_id as _,
        &columns.organization_id as _,
        &columns.organization_name as _,
        &columns.status as _,
        &columns.directory_managed as _,
        &columns.custom_attributes as _,
        &columns.role_slug as _,
        &columns.role_slugs as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks memberships as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.organization_memberships
        SET _deleted_at = $1, _synced_at = $1
        WHERE id = ANY($2) AND _deleted_at IS NULL
        RETURNING id
        "#,
        at,
        ids
    )
    .fetch_all(connection)
    .await
}

/// What they hang on.
pub(super) const HANGS_ON: &[Kind] = &[Kind::Organization, Kind::User];

/// Those of organizations or of users, each with whose it is: live ones or tombstones.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    parent: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    if parent == Kind::User {
        of_users(connection, ids, live).await
    } else {
        of_organizations(connection, ids, live).await
    }
}

async fn of_organizations(
    connection: &mut PgConnection,
    organizations: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let rows = sqlx::query!(
        r#"
        SELECT id, organization_id AS "parent!"
        FROM workos.organization_memberships
        WHERE organization_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY id
        "#,
        organizations,
        live
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.parent, row.id)).collect())
}

async fn of_users(
    connection: &mut PgConnection,
    users: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let rows = sqlx::query!(
        r#"
        SELECT id, user_id AS "parent!"
        FROM workos.organization_memberships
        WHERE user_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY id
        "#,
        users,
        live
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.parent, row.id)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(value: Value) -> Answered<'static, Row> {
        read("om_1", value.into())
    }

    #[test]
    fn copies_of_other_objects_do_not_stay_in_raw() {
        let answered = answer(json!({
            "id": "om_1", "user_id": "user_1", "organization_id": "org_1", "organization_name": "Acme",
            "user": {"email": "a@example.com"}, "role": {"slug": "admin"}, "roles": [{"slug": "admin"}, {"slug": "ops"}],
        }));
        assert!(!answered.row.raw.get().contains("example.com"));
        assert_eq!(answered.row.role_slug.as_deref(), Some("admin"));
        assert_eq!(answered.row.role_slugs, Some(vec!["admin".to_owned(), "ops".to_owned()]));
        assert_eq!(answered.parents.len(), 2);
    }

    #[test]
    fn a_membership_without_roles_has_the_one_role_it_names() {
        let answered = answer(json!({"id": "om_1", "role": {"slug": "member"}}));
        assert_eq!(answered.row.role_slugs, Some(vec!["member".to_owned()]));
        assert!(answered.parents.is_empty());
    }
}
