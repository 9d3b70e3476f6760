//! Groups of directories. Who is in them are relations of their own.
//!
//! Source: `GET /directory_groups/{id}`.

use chrono::{DateTime, Utc};
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.directory_groups`.
    idp_id: Text,
    directory_id: Text,
    organization_id: Text,
    name: Text,
    raw_attributes: Document,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/directory_groups/{}", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "directory_groups";

/// How all of them are listed: directory by directory.
pub(super) const LISTED: Listed = Listed::Under(Kind::Directory, "/directory_groups?directory={}");

/// Lists of those that belong to one other object: who asks for a directory does not wait for all its groups.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Reads an answer.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
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
               idp_id,
               directory_id,
               organization_id,
               name,
               raw_attributes,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.directory_groups
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
        FROM workos.directory_groups
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

/// Nothing follows a directory group in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes directory groups.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        INSERT INTO workos.directory_groups (
            id, idp_id, directory_id, organization_id, name, raw_attributes, created_at, updated_at,
            _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, idp_id, directory_id, organization_id, name, raw_attributes, created_at,
               updated_at, $1, raw, $2, NULL
        FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[],
            $9::timestamptz[], $10::timestamptz[], $11::jsonb[]
        ) AS incoming (
            id, idp_id, directory_id, organization_id, name, raw_attributes, created_at, updated_at,
            raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET idp_id = EXCLUDED.idp_id,
            directory_id = EXCLUDED.directory_id,
            organization_id = EXCLUDED.organization_id,
            name = EXCLUDED.name,
            raw_attributes = EXCLUDED.raw_attributes,
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
        &columns.idp_id as _,
        &columns.directory_id as _,
        &columns.organization_id as _,
        &columns.name as _,
        &columns.raw_attributes as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks directory groups as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.directory_groups
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
        FROM workos.directory_groups
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
