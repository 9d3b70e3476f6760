//! Users, and the profile that the application extends.
//!
//! Source: `GET /user_management/users/{id}`.

use chrono::{DateTime, Utc};
use shared::id::Kind;
use sqlx::PgConnection;

use super::columns::{Fields, Raw, columns};
use super::{Answered, Listed, segment};

columns! {
    /// A row of `workos.users`.
    email: Text personal,
    first_name: Text personal,
    last_name: Text personal,
    name: Text personal,
    profile_picture_url: Text personal,
    email_verified: Flag,
    external_id: Text personal,
    metadata: Document personal,
    last_sign_in_at: Time unannounced,
    locale: Text,
    created_at: Time,
    updated_at: Time,
}

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/user_management/users/{}", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "users";

/// How all of them are listed.
pub(super) const LISTED: Listed = Listed::Everywhere("/user_management/users");

/// Lists of those that belong to one other object: none that their memberships do not tell.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Reads an answer.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    Answered { row: Row::read(id, fields), parents: Vec::new(), embedded: Vec::new() }
}

/// What the mirror has.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT id,
               email,
               first_name,
               last_name,
               name,
               profile_picture_url,
               email_verified,
               external_id,
               metadata,
               last_sign_in_at,
               locale,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.users
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
        FROM workos.users
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

/// What follows users in other tables and does not agree with them: their profiles.
pub(super) async fn beside(
    connection: &mut PgConnection,
    rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    let columns = Columns::of(rows);
    let profiles = sqlx::query!(
        r#"
        SELECT said.id AS "id!",
               profile.id IS NULL OR profile._deleted_at IS NOT NULL AS "missing!",
               profile.first_name IS DISTINCT FROM said.first_name AS "first_name!",
               profile.last_name IS DISTINCT FROM said.last_name AS "last_name!",
               profile.avatar_url IS DISTINCT FROM said.avatar_url AS "avatar_url!"
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS said (id, first_name, last_name, avatar_url)
        LEFT JOIN workos.profiles AS profile ON profile.id = said.id
        WHERE profile.id IS NULL
           OR (profile.first_name, profile.last_name, profile.avatar_url, profile._deleted_at)
              IS DISTINCT FROM (said.first_name, said.last_name, said.avatar_url, NULL)
        "#,
        &columns.ids as _,
        &columns.first_name as _,
        &columns.last_name as _,
        &columns.profile_picture_url as _,
    )
    .fetch_all(connection)
    .await?;
    let mut differing = Vec::new();
    for profile in profiles {
        let columns = if profile.missing {
            vec!["profiles"]
        } else {
            let named = [
                (profile.first_name, "profiles.first_name"),
                (profile.last_name, "profiles.last_name"),
                (profile.avatar_url, "profiles.avatar_url"),
            ];
            named.into_iter().filter(|(differs, _)| *differs).map(|(_, column)| column).collect()
        };
        differing.extend(columns.into_iter().map(|column| (profile.id.clone(), column)));
    }
    Ok(differing)
}

/// Writes users and their profiles. `bio` and `preferences` are the user's own.
///
/// (`unnest` in the list of a `SELECT` hands on row after row; after `FROM` it stores them all first, which costs a user
/// and a profile 2 µs of 14.)
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let columns = Columns::of(rows);
    sqlx::query!(
        r#"
        -- Row after row as the arrays have them, which is in key order.
        WITH written AS (
            INSERT INTO workos.users (
                id, email, first_name, last_name, name, profile_picture_url, email_verified, external_id,
                metadata, last_sign_in_at, locale, created_at, updated_at, _env, _raw, _synced_at, _deleted_at
            )
            SELECT id, email, first_name, last_name, name, profile_picture_url, email_verified, external_id,
                   metadata, last_sign_in_at, locale, created_at, updated_at, $1, raw, $2, NULL
            FROM (
                SELECT unnest($3::text[]) AS id,
                       unnest($4::text[]) AS email,
                       unnest($5::text[]) AS first_name,
                       unnest($6::text[]) AS last_name,
                       unnest($7::text[]) AS name,
                       unnest($8::text[]) AS profile_picture_url,
                       unnest($9::bool[]) AS email_verified,
                       unnest($10::text[]) AS external_id,
                       unnest($11::jsonb[]) AS metadata,
                       unnest($12::timestamptz[]) AS last_sign_in_at,
                       unnest($13::text[]) AS locale,
                       unnest($14::timestamptz[]) AS created_at,
                       unnest($15::timestamptz[]) AS updated_at,
                       unnest($16::jsonb[]) AS raw
            ) AS incoming
            ON CONFLICT (id) DO UPDATE
            SET email = EXCLUDED.email,
                first_name = EXCLUDED.first_name,
                last_name = EXCLUDED.last_name,
                name = EXCLUDED.name,
                profile_picture_url = EXCLUDED.profile_picture_url,
                email_verified = EXCLUDED.email_verified,
                external_id = EXCLUDED.external_id,
                metadata = EXCLUDED.metadata,
                last_sign_in_at = EXCLUDED.last_sign_in_at,
                locale = EXCLUDED.locale,
                created_at = EXCLUDED.created_at,
                updated_at = EXCLUDED.updated_at,
                _env = EXCLUDED._env,
                _raw = EXCLUDED._raw,
                _synced_at = EXCLUDED._synced_at,
                _deleted_at = NULL
        )
        INSERT INTO workos.profiles AS profile (
            id, first_name, last_name, avatar_url, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, first_name, last_name, profile_picture_url, $1,
               jsonb_object(
                   ARRAY['last_name', 'first_name', 'profile_picture_url'],
                   ARRAY[last_name, first_name, profile_picture_url]
               ),
               $2, NULL
        FROM (
            SELECT unnest($3::text[]) AS id,
                   unnest($5::text[]) AS first_name,
                   unnest($6::text[]) AS last_name,
                   unnest($8::text[]) AS profile_picture_url
        ) AS incoming
        ON CONFLICT (id) DO UPDATE
        SET first_name = EXCLUDED.first_name,
            last_name = EXCLUDED.last_name,
            avatar_url = EXCLUDED.avatar_url,
            _env = EXCLUDED._env,
            _raw = EXCLUDED._raw,
            _synced_at = EXCLUDED._synced_at,
            _deleted_at = NULL
        WHERE (profile.first_name, profile.last_name, profile.avatar_url, profile._deleted_at)
              IS DISTINCT FROM (EXCLUDED.first_name, EXCLUDED.last_name, EXCLUDED.avatar_url, NULL)
        "#,
        env,
        at,
        &columns.ids as _,
        &columns.email as _,
        &columns.first_name as _,
        &columns.last_name as _,
        &columns.name as _,
        &columns.profile_picture_url as _,
        &columns.email_verified as _,
        &columns.external_id as _,
        &columns.metadata as _,
        &columns.last_sign_in_at as _,
        &columns.locale as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks users and their profiles as gone; returns those that were not.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        WITH profiles AS (
            UPDATE workos.profiles
            SET _deleted_at = $1, _synced_at = $1
            WHERE id = ANY($2) AND _deleted_at IS NULL
        )
        UPDATE workos.users
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
    use serde_json::{Value, json};

    use super::*;

    fn row(answer: Value) -> Row {
        read("user_1", answer.into()).row
    }

    #[test]
    fn an_unexpected_null_a_missing_field_and_a_wrong_type_are_null_columns() {
        let row = row(json!({"id": "user_1", "email": null, "email_verified": "yes", "new": 1}));
        assert_eq!((row.email, row.email_verified, row.created_at), (None, None, None));
        assert!(row.raw.get().contains(r#""new":1"#));
    }

    #[test]
    fn many_rows_come_in_order_of_their_ids_and_a_column_without_a_value_comes_empty() {
        let user = |id: &str, answer: Value| read(id, answer.into()).row;
        let rows = [
            user("user_2", json!({"id": "user_2", "email": "b@example.com"})),
            user("user_1", json!({"id": "user_1", "email": "a@example.com", "locale": "en"})),
        ];
        let columns = Columns::of(&rows.iter().collect::<Vec<_>>());
        assert_eq!(columns.ids, ["user_1", "user_2"]);
        assert_eq!(columns.email, [Some("a@example.com"), Some("b@example.com")]);
        assert_eq!(columns.locale, [Some("en"), None]);
        assert!(columns.external_id.is_empty());
    }

    #[test]
    fn changes_name_the_columns_that_differ_and_only_those() {
        let old = row(json!({"id": "user_1", "email": "a@example.com", "locale": "en"}));
        let new = row(json!({"id": "user_1", "email": "b@example.com", "locale": "en"}));
        let changes = new.changes(Some(&old));
        assert_eq!(changes.iter().map(|change| change.column).collect::<Vec<_>>(), ["email"]);
        assert!(new.changes(Some(&new)).is_empty());
    }

    #[test]
    fn an_unknown_field_that_changes_is_a_change() {
        let old = row(json!({"id": "user_1", "planet": "earth"}));
        let new = row(json!({"id": "user_1", "planet": "mars"}));
        assert_eq!(new.changes(Some(&old))[0].column, "_raw");
    }
}
