//! Directories: the connection of an organization to what provides its users and groups.
//!
//! Source: `GET /directories/{id}`.

use chrono::{DateTime, Utc};
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.directories`.
    organization_id: Text,
    external_key: Text,
    r#type: Text,
    state: Text,
    name: Text,
    domain: Text,
    metadata: Document unannounced,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/directories/{}", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "directories";

/// How all of them are listed.
pub(super) const LISTED: Listed = Listed::Everywhere("/directories");

/// Lists of those that belong to one other object: WorkOS can list those of an organization, but who asks for an
/// organization does not wait for its directories.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Reads an answer.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    let mut row = Row::read(id, fields);
    row.state = row.state.map(in_words_of_rest);
    let parents = row.organization_id.iter().map(|id| ObjectRef::new(Kind::Organization, id)).collect();
    Answered { row, parents, embedded: Vec::new() }
}

/// Events say `active` and `inactive` where the API says `linked` and `unlinked`: the mirror has the words of the API,
/// whoever is asked.
fn in_words_of_rest(state: String) -> String {
    match state.as_str() {
        "active" => "linked".to_owned(),
        "inactive" => "unlinked".to_owned(),
        _ => state,
    }
}

/// What the mirror has.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT id,
               organization_id,
               external_key,
               type,
               state,
               name,
               domain,
               metadata,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.directories
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
        FROM workos.directories
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

/// Nothing follows a directory in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes directories.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        INSERT INTO workos.directories (
            id, organization_id, external_key, type, state, name, domain, metadata, created_at,
            updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, organization_id, external_key, type, state, name, domain, metadata, created_at,
               updated_at, $1, raw, $2, NULL
        FROM unnest(
            $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::jsonb[], $11::timestamptz[], $12::timestamptz[], $13::jsonb[]
        ) AS incoming (
            id, organization_id, external_key, type, state, name, domain, metadata, created_at,
            updated_at, raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET organization_id = EXCLUDED.organization_id,
            external_key = EXCLUDED.external_key,
            type = EXCLUDED.type,
            state = EXCLUDED.state,
            name = EXCLUDED.name,
            domain = EXCLUDED.domain,
            metadata = EXCLUDED.metadata,
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
        &columns.external_key as _,
        &columns.r#type as _,
        &columns.state as _,
        &columns.name as _,
        &columns.domain as _,
        &columns.metadata as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks directories as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.directories
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
        FROM workos.directories
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(value: Value) -> Answered<'static, Row> {
        read("directory_1", value.into())
    }

    #[test]
    fn the_state_is_in_the_words_of_the_api() {
        for (said, kept) in
            [("active", "linked"), ("inactive", "unlinked"), ("linked", "linked"), ("deleting", "deleting")]
        {
            let answered = answer(json!({"id": "directory_1", "state": said}));
            assert_eq!(answered.row.state.as_deref(), Some(kept));
        }
    }

    #[test]
    fn a_directory_may_belong_to_no_organization() {
        assert!(answer(json!({"id": "directory_1", "organization_id": null})).parents.is_empty());
        assert_eq!(answer(json!({"id": "directory_1", "organization_id": "org_1"})).parents.len(), 1);
    }

    #[test]
    fn a_column_may_be_named_like_a_word_of_rust() {
        let new = answer(json!({"id": "directory_1", "type": "okta scim v2.0"})).row;
        assert_eq!(new.r#type.as_deref(), Some("okta scim v2.0"));
        assert_eq!(new.changes(None)[0].column, "type");
    }
}
