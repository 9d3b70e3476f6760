//! Invitations. The token and the address with which they are accepted are secrets.
//!
//! Source: `GET /user_management/invitations/{id}`.

use chrono::{DateTime, Utc};
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.invitations`.
    email: Text personal,
    state: Text unannounced,
    accepted_at: Time,
    revoked_at: Time,
    expires_at: Time,
    organization_id: Text,
    inviter_user_id: Text,
    accepted_user_id: Text,
    role_slug: Text,
    created_at: Time,
    updated_at: Time unannounced,
}

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/user_management/invitations/{}", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "invitations";

/// How all of them are listed.
pub(super) const LISTED: Listed = Listed::Everywhere("/user_management/invitations");

/// Lists of those that belong to one other object: none that is read along with it.
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
               email,
               state,
               accepted_at,
               revoked_at,
               expires_at,
               organization_id,
               inviter_user_id,
               accepted_user_id,
               role_slug,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.invitations
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
        FROM workos.invitations
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

/// Nothing follows an invitation in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes invitations.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        INSERT INTO workos.invitations (
            id, email, state, accepted_at, revoked_at, expires_at, organization_id, inviter_user_id,
            accepted_user_id, role_slug, created_at, updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, email, state, accepted_at, revoked_at, expires_at, organization_id, inviter_user_id,
               accepted_user_id, role_slug, created_at, updated_at, $1, raw, $2, NULL
        FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
            $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
            $15::jsonb[]
        ) AS incoming (
            id, email, state, accepted_at, revoked_at, expires_at, organization_id, inviter_user_id,
            accepted_user_id, role_slug, created_at, updated_at, raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET email = EXCLUDED.email,
            state = EXCLUDED.state,
            accepted_at = EXCLUDED.accepted_at,
            revoked_at = EXCLUDED.revoked_at,
            expires_at = EXCLUDED.expires_at,
            organization_id = EXCLUDED.organization_id,
            inviter_user_id = EXCLUDED.inviter_user_id,
            accepted_user_id = EXCLUDED.accepted_user_id,
            role_slug = EXCLUDED.role_slug,
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
        &columns.email as _,
        &columns.state as _,
        &columns.accepted_at as _,
        &columns.revoked_at as _,
        &columns.expires_at as _,
        &columns.organization_id as _,
        &columns.inviter_user_id as _,
        &columns.accepted_user_id as _,
        &columns.role_slug as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks invitations as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.invitations
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
        FROM workos.invitations
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
