//! Users of directories. Their groups are relations of their own.
//!
//! Source: `GET /directory_users/{id}`.

use chrono::{DateTime, Utc};
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.directory_users`.
    directory_id: Text,
    organization_id: Text,
    idp_id: Text personal,
    email: Text personal,
    first_name: Text personal,
    last_name: Text personal,
    name: Text personal,
    emails: Document personal,
    job_title: Text personal,
    username: Text personal,
    state: Text,
    raw_attributes: Document personal,
    custom_attributes: Document personal,
    role: Document,
    roles: Document,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/directory_users/{}", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "directory_users";

/// How all of them are listed: directory by directory.
pub(super) const LISTED: Listed = Listed::Under(Kind::Directory, "/directory_users?directory={}");

/// Lists of those that belong to one other object: who asks for a directory does not wait for all its users.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Reads an answer. The groups that older teams still see in it are copies of other objects, and change without
/// `updated_at`: they would go stale in `_raw`.
pub(super) fn read<'a>(id: &str, mut fields: Fields<'a>) -> Answered<'a, Row> {
    fields.remove("groups");
    let row = Row::read(id, fields);
    let parents = row.directory_id.iter().map(|id| ObjectRef::new(Kind::Directory, id)).collect();
    Answered { row, parents, embedded: Vec::new() }
}

/// What the mirror has.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT id,
               directory_id,
               organization_id,
               idp_id,
               email,
               first_name,
               last_name,
               name,
               emails,
               job_title,
               username,
               state,
               raw_attributes,
               custom_attributes,
               role,
               roles,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.directory_users
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
        FROM workos.directory_users
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

/// Nothing follows a directory user in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes directory users.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        INSERT INTO workos.directory_users (
            id, directory_id, organization_id, idp_id, email, first_name, last_name, name, emails,
            job_title, username, state, raw_attributes, custom_attributes, role, roles, created_at,
            updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, directory_id, organization_id, idp_id, email, first_name, last_name, name,
               emails, job_title, username, state, raw_attributes, custom_attributes, role, roles,
               created_at, updated_at, $1, raw, $2, NULL
        FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::jsonb[], $12::text[], $13::text[], $14::text[], $15::jsonb[],
            $16::jsonb[], $17::jsonb[], $18::jsonb[], $19::timestamptz[], $20::timestamptz[],
            $21::jsonb[]
        ) AS incoming (
            id, directory_id, organization_id, idp_id, email, first_name, last_name, name, emails,
            job_title, username, state, raw_attributes, custom_attributes, role, roles, created_at,
            updated_at, raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET directory_id = EXCLUDED.directory_id,
            organization_id = EXCLUDED.organization_id,
            idp_id = EXCLUDED.idp_id,
            email = EXCLUDED.email,
            first_name = EXCLUDED.first_name,
            last_name = EXCLUDED.last_name,
            name = EXCLUDED.name,
            emails = EXCLUDED.emails,
            job_title = EXCLUDED.job_title,
            username = EXCLUDED.username,
            state = EXCLUDED.state,
            raw_attributes = EXCLUDED.raw_attributes,
            custom_attributes = EXCLUDED.custom_attributes,
            role = EXCLUDED.role,
            roles = EXCLUDED.roles,
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
        &columns.directory_id as _,
        &columns.organization_id as _,
        &columns.idp_id as _,
        &columns.email as _,
        &columns.first_name as _,
        &columns.last_name as _,
        &columns.name as _,
        &columns.emails as _,
        &columns.job_title as _,
        &columns.username as _,
        &columns.state as _,
        &columns.raw_attributes as _,
        &columns.custom_attributes as _,
        &columns.role as _,
        &columns.roles as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks directory users as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.directory_users
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
pub(super) const HANGS_ON: &[Kind] = &[Kind::Directory];

/// Those of directories, each with its directory: live ones or tombstones.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    _directory: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let rows = sqlx::query!(
        r#"
        SELECT id, directory_id AS "parent!"
        FROM workos.directory_users
        WHERE directory_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY id
        "#,
        ids,
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

    #[test]
    fn groups_are_not_kept_and_attributes_and_roles_are() {
        let fields = json!({
            "id": "directory_user_1", "directory_id": "directory_1", "email": null, "groups": [{"name": "Engineers"}],
            "raw_attributes": {}, "custom_attributes": {"department": "Engines"}, "role": {"slug": "admin"},
            "roles": [{"slug": "admin"}],
        });
        let answered = read("directory_user_1", fields.into());
        assert!(!answered.row.raw.get().contains("Engineers"));
        assert_eq!(answered.row.custom_attributes, Some(json!({"department": "Engines"})));
        assert_eq!(answered.row.roles, Some(json!([{"slug": "admin"}])));
        assert_eq!(answered.parents, [ObjectRef::new(Kind::Directory, "directory_1")]);
    }
}
