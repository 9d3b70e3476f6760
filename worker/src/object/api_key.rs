//! API keys, without their values: those of one owner, answered as a whole.
//!
//! Source: `GET /organizations/{id}/api_keys` and `GET /user_management/users/{id}/api_keys`, every page of it. The latter
//! is not there for every environment.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared::event::Member;
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Change, Column as _, Fields, Time};
use super::{Answered, Listed, relation_of, segment, whole};

/// One API key.
mod one {
    use super::super::columns::columns;

    columns! {
        /// A row of `workos.api_keys`.
        owner: Document,
        organization_id: Text,
        user_id: Text,
        name: Text,
        obfuscated_value: Text,
        last_used_at: Time unannounced,
        expires_at: Time,
        permissions: Texts,
        created_at: Time,
        updated_at: Time,
    }
}

pub use one::{PERSONAL, UNANNOUNCED};

/// The rows of `workos.api_keys` of one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Kind and WorkOS id of the owner.
    pub id: String,
    /// The keys, by their ids.
    pub keys: BTreeMap<String, one::Row>,
    /// None: a new key moves nothing.
    pub updated_at: Option<DateTime<Utc>>,
    /// Set on a tombstone.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Row {
    /// Keys that came and went, and what changed in others.
    #[must_use]
    pub fn changes(&self, old: Option<&Self>) -> Vec<Change> {
        whole::changes("api_keys", old.map(|old| &old.keys), &self.keys, |new, old| new.changes(Some(old)))
    }

    /// The same.
    #[must_use]
    pub fn changes_in_full(&self, old: &Self) -> Vec<Change> {
        self.changes(Some(old))
    }

    /// Whether it says of a key what an event said, and is not older than that.
    #[must_use]
    pub fn agrees(&self, member: &Member) -> bool {
        let told = member.tells.iter().map(|(field, value)| (field.clone(), Value::from(value.as_str())));
        let said = Time::read(&told.collect(), "updated_at");
        match self.keys.get(&member.id) {
            Some(key) => member.is_in && (said.is_none() || key.updated_at >= said),
            None => !member.is_in,
        }
    }

    /// That a key was revoked needs no words.
    pub const fn hear(&mut self, _ends: &[Member]) {}

    /// Whether there is not one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// The kind and the id of the owner.
fn owner(id: &str) -> (Kind, &str) {
    match id.split_once('/') {
        Some(("user", user)) => (Kind::User, user),
        Some((_, organization)) => (Kind::Organization, organization),
        None => (Kind::Organization, id),
    }
}

/// Ids of owners that are organizations, and of those that are users.
fn by_kind(ids: &[String]) -> (Vec<&str>, Vec<&str>) {
    let (users, organizations): (Vec<_>, Vec<_>) =
        ids.iter().map(|id| owner(id)).partition(|(kind, _)| *kind == Kind::User);
    (organizations.into_iter().map(|(_, id)| id).collect(), users.into_iter().map(|(_, id)| id).collect())
}

/// What names the keys of an owner, from the two columns of a row.
fn key(organization: Option<&str>, user: Option<&str>) -> Option<String> {
    let name = |kind, id| relation_of(Kind::ApiKey, kind, id).id;
    user.map(|id| name(Kind::User, id)).or_else(|| organization.map(|id| name(Kind::Organization, id)))
}

/// Whether WorkOS may refuse to list them: those of users are not there for every environment.
pub(super) fn may_be_unlisted(id: &str) -> bool {
    owner(id).0 == Kind::User
}

/// Nothing but their owner takes them along, and answers are taken as they are.
pub(super) const PART: Option<Kind> = None;
pub(super) use super::whole::{lacks_nothing as lacking, leaves_nothing as leave};

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    match owner(id) {
        (Kind::User, user) => format!("/user_management/users/{}/api_keys", segment(user)),
        (_, organization) => format!("/organizations/{}/api_keys", segment(organization)),
    }
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "api_keys";

/// How all of them are listed: owner by owner.
pub(super) const LISTED: Listed = Listed::Whole(OWNERS);

/// Lists of those that belong to one other object: the owner's own relation is asked for.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Whose keys they are.
pub(super) const OWNERS: &[Kind] = &[Kind::Organization, Kind::User];

/// Reads the keys of an owner. A value would be there only where a key is made, but is not kept from anywhere.
pub(super) fn read(id: &str, fields: Fields) -> Answered<Row> {
    let (kind, owner) = owner(id);
    let keys = whole::members(fields)
        .map(|(key, mut fields)| {
            fields.remove("value");
            let mut row = one::Row::read(&key, fields);
            let column = if kind == Kind::User { &mut row.user_id } else { &mut row.organization_id };
            *column = Some(owner.to_owned());
            (key, row)
        })
        .collect();
    let row = Row { id: id.to_owned(), keys, updated_at: None, deleted_at: None };
    Answered { row, parents: vec![ObjectRef::new(kind, owner)], embedded: Vec::new() }
}

/// What the mirror has: nothing of an owner without keys.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    let (organizations, users) = by_kind(ids);
    let found = sqlx::query_as!(
        one::Row,
        r#"
        SELECT id,
               owner,
               organization_id,
               user_id,
               name,
               obfuscated_value,
               last_used_at,
               expires_at,
               permissions,
               created_at,
               updated_at,
               _raw AS "raw!",
               _deleted_at AS deleted_at
        FROM workos.api_keys
        WHERE (organization_id = ANY($1) OR user_id = ANY($2)) AND _deleted_at IS NULL
        ORDER BY id
        "#,
        &organizations as _,
        &users as _,
    )
    .fetch_all(connection)
    .await?;
    let mut rows: HashMap<String, Row> = HashMap::new();
    for found in found {
        let Some(id) = key(found.organization_id.as_deref(), found.user_id.as_deref()) else { continue };
        let row = rows.entry(id.clone()).or_insert_with(|| Row {
            id,
            keys: BTreeMap::new(),
            updated_at: None,
            deleted_at: None,
        });
        row.keys.insert(found.id.clone(), found);
    }
    Ok(rows.into_values().collect())
}

/// The next owners of an environment who have a key, in order of their kinds and ids.
pub(super) async fn live(
    connection: &mut PgConnection,
    env: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        SELECT DISTINCT owner.id AS "id!"
        FROM workos.api_keys
        CROSS JOIN LATERAL (
            SELECT (CASE WHEN user_id IS NULL THEN 'organization/' || organization_id ELSE 'user/' || user_id END)
                   COLLATE "C" AS id
        ) AS owner
        WHERE _env = $1 AND owner.id > $2 AND _deleted_at IS NULL
        ORDER BY 1
        LIMIT $3
        "#,
        env,
        after,
        most
    )
    .fetch_all(connection)
    .await
}

/// Nothing follows an API key in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes the keys of owners, and buries those that they have no more.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let owners: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    let (organizations, users) = by_kind(&owners);
    let keys: Vec<&one::Row> = rows.iter().flat_map(|row| row.keys.values()).collect();
    let columns = one::Columns::of(&keys);
    sqlx::query!(
        r#"
        UPDATE workos.api_keys
        SET _deleted_at = $1, _synced_at = $1
        WHERE (organization_id = ANY($2) OR user_id = ANY($3)) AND id <> ALL ($4) AND _deleted_at IS NULL
        "#,
        at,
        &organizations as _,
        &users as _,
        &columns.ids as _,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        INSERT INTO workos.api_keys (
            id, owner, organization_id, user_id, name, obfuscated_value, last_used_at, expires_at, permissions,
            created_at, updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, owner, organization_id, user_id, name, obfuscated_value, last_used_at, expires_at,
               CASE WHEN permissions IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(permissions)) END,
               created_at, updated_at, $1, raw, $2, NULL
        FROM unnest(
            $3::text[], $4::jsonb[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[],
            $10::timestamptz[], $11::jsonb[], $12::timestamptz[], $13::timestamptz[], $14::jsonb[]
        ) AS incoming (
            id, owner, organization_id, user_id, name, obfuscated_value, last_used_at, expires_at, permissions,
            created_at, updated_at, raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET owner = EXCLUDED.owner,
            organization_id = EXCLUDED.organization_id,
            user_id = EXCLUDED.user_id,
            name = EXCLUDED.name,
            obfuscated_value = EXCLUDED.obfuscated_value,
            last_used_at = EXCLUDED.last_used_at,
            expires_at = EXCLUDED.expires_at,
            permissions = EXCLUDED.permissions,
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
        &columns.owner as _,
        &columns.organization_id as _,
        &columns.user_id as _,
        &columns.name as _,
        &columns.obfuscated_value as _,
        &columns.last_used_at as _,
        &columns.expires_at as _,
        &columns.permissions as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks all keys of owners as gone; returns the owners who had one.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    let (organizations, users) = by_kind(ids);
    let buried = sqlx::query!(
        r#"
        UPDATE workos.api_keys
        SET _deleted_at = $1, _synced_at = $1
        WHERE (organization_id = ANY($2) OR user_id = ANY($3)) AND _deleted_at IS NULL
        RETURNING organization_id, user_id
        "#,
        at,
        &organizations as _,
        &users as _,
    )
    .fetch_all(connection)
    .await?;
    let mut owners: Vec<String> = buried
        .into_iter()
        .filter_map(|row| key(row.organization_id.as_deref(), row.user_id.as_deref()))
        .collect();
    owners.sort_unstable();
    owners.dedup();
    Ok(owners)
}

/// Nothing hangs on an API key.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn dependants(
    _connection: &mut PgConnection,
    _ids: &[String],
    _live: bool,
) -> sqlx::Result<Vec<(String, ObjectRef)>> {
    Ok(Vec::new())
}

/// The owners of one kind among these who have keys, live ones or tombstones.
pub(super) async fn owners(
    connection: &mut PgConnection,
    kind: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, ObjectRef)>> {
    let none: &[String] = &[];
    let (organizations, users) = if kind == Kind::User { (none, ids) } else { (ids, none) };
    let owners = sqlx::query_scalar!(
        r#"
        SELECT DISTINCT coalesce(user_id, organization_id) AS "id!"
        FROM workos.api_keys
        WHERE (organization_id = ANY($1) OR user_id = ANY($2)) AND (_deleted_at IS NULL) = $3
        ORDER BY 1
        "#,
        organizations,
        users,
        live
    )
    .fetch_all(connection)
    .await?;
    Ok(owners
        .into_iter()
        .map(|owner| {
            let keys = relation_of(Kind::ApiKey, kind, &owner);
            (owner, keys)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(updated_at: &str) -> Row {
        let key = json!({
            "id": "api_key_1", "owner": {"type": "organization", "id": "org_1"}, "value": "MARK",
            "obfuscated_value": "sk_...123", "updated_at": updated_at,
        });
        read("organization/org_1", whole::fields([key])).row
    }

    fn said(is_in: bool, updated_at: &str) -> Member {
        let tells = [("updated_at".to_owned(), updated_at.to_owned())].into();
        Member { id: "api_key_1".to_owned(), is_in, tells }
    }

    #[test]
    fn a_value_is_not_kept() {
        assert!(!format!("{:?}", row("2026-01-15T12:00:00Z")).contains("MARK"));
    }

    #[test]
    fn an_answer_older_than_what_an_event_said_of_a_key_does_not_agree_with_it() {
        let row = row("2026-01-15T12:00:00Z");
        assert!(row.agrees(&said(true, "2026-01-15T12:00:00.000Z")));
        assert!(!row.agrees(&said(true, "2026-01-15T12:00:01Z")));
        assert!(!row.agrees(&said(false, "2026-01-15T12:00:00Z")));
    }

    #[test]
    fn keys_are_found_by_whose_they_are() {
        assert_eq!(path("organization/org_1"), "/organizations/org_1/api_keys");
        assert_eq!(path("user/user_1"), "/user_management/users/user_1/api_keys");
        assert_eq!(row("").keys["api_key_1"].organization_id.as_deref(), Some("org_1"));
    }
}
