//! Permissions, which roles give. Known by their slug, which may be used again after a deletion.
//!
//! Source: `GET /authorization/permissions/{slug}`.

use chrono::{DateTime, Utc};
use shared::id::Kind;
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Key, Listed, segment};

columns! {
    /// A row of `workos.permissions`.
    workos_id: Text,
    slug: Text,
    name: Text,
    description: Text,
    system: Flag,
    resource_type_slug: Text,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(slug: &str) -> String {
    format!("/authorization/permissions/{}", segment(slug))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "permissions";

/// How all of them are listed.
pub(super) const LISTED: Listed = Listed::Everywhere("/authorization/permissions");

/// Whether that list comes in pages.
pub(super) const PAGED: bool = true;

/// Lists of those that belong to one other object: none that is read along with it.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// What it is known by.
pub(super) fn key(_of: Option<&str>, fields: &Fields<'_>) -> Key {
    Key::slug(fields)
}

/// Reads an answer.
pub(super) fn read<'a>(slug: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    Answered { row: Row::read(slug, fields), parents: Vec::new(), embedded: Vec::new() }
}

/// What the mirror has: what lives under the slug, or lived last.
pub(super) async fn load(
    connection: &mut PgConnection,
    env: &str,
    slugs: &[String],
) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT DISTINCT ON (slug)
               slug AS "id!",
               id AS "workos_id?",
               slug,
               name,
               description,
               system,
               resource_type_slug,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.permissions
        WHERE _env = $1 AND slug = ANY($2)
        ORDER BY slug, _deleted_at DESC NULLS FIRST
        "#,
        env,
        slugs
    )
    .fetch_all(connection)
    .await
}

/// The next live rows of an environment, in order of their slugs.
pub(super) async fn live(
    connection: &mut PgConnection,
    env: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        SELECT slug AS "slug!"
        FROM workos.permissions
        WHERE _env = $1 AND slug > $2 AND _deleted_at IS NULL
        ORDER BY slug
        LIMIT $3
        "#,
        env,
        after,
        most
    )
    .fetch_all(connection)
    .await
}

/// The slug of a permission, by its WorkOS id.
pub(super) async fn key_of(
    connection: &mut PgConnection,
    env: &str,
    id: &str,
) -> sqlx::Result<Option<String>> {
    let key = sqlx::query_scalar!(
        r#"
        SELECT slug
        FROM workos.permissions
        WHERE _env = $1 AND id = $2
        "#,
        env,
        id
    )
    .fetch_optional(connection)
    .await?;
    Ok(key.flatten())
}

/// Nothing follows a permission in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes permissions. A slug that means another one now leaves a tombstone of the earlier one.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        UPDATE workos.permissions AS earlier
        SET _deleted_at = $2, _synced_at = $2
        FROM unnest($3::text[], $4::text[]) AS incoming (id, slug)
        WHERE earlier._env = $1
          AND earlier.slug = incoming.slug
          AND earlier.id <> incoming.id
          AND earlier._deleted_at IS NULL
        "#,
        env,
        at,
        &columns.workos_id as _,
        &columns.slug as _,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        INSERT INTO workos.permissions (
            id, slug, name, description, system, resource_type_slug, created_at, updated_at, _env, _raw,
            _synced_at, _deleted_at
        )
        SELECT id, slug, name, description, system, resource_type_slug, created_at, updated_at, $1, raw,
               $2, NULL
        FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::text[], $9::timestamptz[],
            $10::timestamptz[], $11::jsonb[]
        ) AS incoming (
            id, slug, name, description, system, resource_type_slug, created_at, updated_at, raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET slug = EXCLUDED.slug,
            name = EXCLUDED.name,
            description = EXCLUDED.description,
            system = EXCLUDED.system,
            resource_type_slug = EXCLUDED.resource_type_slug,
            created_at = EXCLUDED.created_at,
            updated_at = EXCLUDED.updated_at,
            _env = EXCLUDED._env,
            _raw = EXCLUDED._raw,
            _synced_at = EXCLUDED._synced_at,
            _deleted_at = NULL
        "#,
        env,
        at,
        &columns.workos_id as _,
        &columns.slug as _,
        &columns.name as _,
        &columns.description as _,
        &columns.system as _,
        &columns.resource_type_slug as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks permissions as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    slugs: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.permissions
        SET _deleted_at = $2, _synced_at = $2
        WHERE _env = $1 AND slug = ANY($3) AND _deleted_at IS NULL
        RETURNING slug AS "slug!"
        "#,
        env,
        at,
        slugs
    )
    .fetch_all(connection)
    .await
}

/// It hangs on nothing.
pub(super) const HANGS_ON: &[Kind] = &[];
pub(super) use super::hangs_on_nothing as hanging_on;
