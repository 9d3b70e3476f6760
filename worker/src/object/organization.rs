//! Organizations; an answer brings their domains with it.
//!
//! Source: `GET /organizations/{id}`.

use chrono::{DateTime, Utc};
use shared::id::Kind;
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.organizations`.
    name: Text,
    external_id: Text personal,
    metadata: Document personal,
    stripe_customer_id: Text,
    allow_profiles_outside_organization: Flag,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/organizations/{}", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "organizations";

/// How all of them are listed.
pub(super) const LISTED: Listed = Listed::Everywhere("/organizations");

/// Lists of those that belong to one other object: none.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Reads an answer. The domains become objects of their own; a copy of them in `_raw` would go stale.
pub(super) fn read<'a>(id: &str, mut fields: Fields<'a>) -> Answered<'a, Row> {
    let domains = fields.remove_objects("domains");
    let embedded = domains.into_iter().map(|domain| (Kind::OrganizationDomain, domain)).collect();
    Answered { row: Row::read(id, fields), parents: Vec::new(), embedded }
}

/// What the mirror has.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT id,
               name,
               external_id,
               metadata,
               stripe_customer_id,
               allow_profiles_outside_organization,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.organizations
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
        FROM workos.organizations
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

/// Nothing follows an organization in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes organizations, and their new name into the memberships that carry it.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        WITH incoming AS (
            SELECT *
            FROM unnest(
                $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::bool[], $9::timestamptz[],
                $10::timestamptz[], $11::jsonb[]
            ) AS incoming (
                id, name, external_id, metadata, stripe_customer_id, allow_profiles_outside_organization,
                created_at, updated_at, raw
            )
            ORDER BY id
        ), renamed AS (
            UPDATE workos.organization_memberships AS membership
            SET organization_name = incoming.name
            FROM incoming
            WHERE membership.organization_id = incoming.id
              AND membership.organization_name IS NOT NULL
              AND incoming.name IS NOT NULL
              AND membership.organization_name IS DISTINCT FROM incoming.name
        )
        INSERT INTO workos.organizations (
            id, name, external_id, metadata, stripe_customer_id, allow_profiles_outside_organization,
            created_at, updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, name, external_id, metadata, stripe_customer_id, allow_profiles_outside_organization,
               created_at, updated_at, $1, raw, $2, NULL
        FROM incoming
        ON CONFLICT (id) DO UPDATE
        SET name = EXCLUDED.name,
            external_id = EXCLUDED.external_id,
            metadata = EXCLUDED.metadata,
            stripe_customer_id = EXCLUDED.stripe_customer_id,
            allow_profiles_outside_organization = EXCLUDED.allow_profiles_outside_organization,
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
        &columns.name as _,
        &columns.external_id as _,
        &columns.metadata as _,
        &columns.stripe_customer_id as _,
        &columns.allow_profiles_outside_organization as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks organizations as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.organizations
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

/// It hangs on nothing.
pub(super) const HANGS_ON: &[Kind] = &[];
pub(super) use super::hangs_on_nothing as hanging_on;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn domains_become_objects_of_their_own() {
        let domains = json!([{"id": "org_domain_1", "domain": "acme.com"}, null]);
        let fields = json!({"id": "org_1", "name": "Acme", "domains": domains});
        let answered = read("org_1", fields.into());
        assert_eq!(answered.embedded.len(), 1);
        assert_eq!(answered.row.raw.get(), r#"{"id":"org_1","name":"Acme"}"#);
    }
}
