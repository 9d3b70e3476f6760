//! Groups of memberships within an organization. Who is in them are relations of their own.
//!
//! Source: `GET /organizations/{organization}/groups/{id}`: without the organization it cannot be asked for.

use chrono::{DateTime, Utc};
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.groups`.
    organization_id: Text,
    name: Text,
    description: Text,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(organization: &str, id: &str) -> String {
    format!("/organizations/{}/groups/{}", segment(organization), segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "groups";

/// How all of them are listed: organization by organization.
pub(super) const LISTED: Listed = Listed::Under(Kind::Organization, LIST);

/// The list of those of one organization.
pub(super) const LIST: &str = "/organizations/{}/groups";

/// Lists of those that belong to one other object: who asks for an organization does not wait for all its groups.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Reads an answer.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    let row = Row::read(id, fields);
    let parents = row.organization_id.iter().map(|id| ObjectRef::new(Kind::Organization, id)).collect();
    Answered { row, parents, embedded: Vec::new() }
}

/// What the mirror has.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT id,
               organization_id,
               name,
               description,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.groups
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
        FROM workos.groups
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

/// Nothing follows a group in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes groups.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        INSERT INTO workos.groups (
            id, organization_id, name, description, created_at, updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, organization_id, name, description, created_at, updated_at, $1, raw, $2, NULL
        FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::jsonb[]
        ) AS incoming (id, organization_id, name, description, created_at, updated_at, raw)
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET organization_id = EXCLUDED.organization_id,
            name = EXCLUDED.name,
            description = EXCLUDED.description,
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
        &columns.organization_id as _,
        &columns.name as _,
        &columns.description as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks groups as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.groups
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
pub(super) const HANGS_ON: &[Kind] = &[Kind::Organization];

/// Those of organizations, each with its organization: live ones or tombstones.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    _organization: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let rows = sqlx::query!(
        r#"
        SELECT id, organization_id AS "parent!"
        FROM workos.groups
        WHERE organization_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY id
        "#,
        ids,
        live
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.parent, row.id)).collect())
}
