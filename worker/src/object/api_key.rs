//! API keys, without their values: those of one owner, answered as a whole.
//!
//! Source: `GET /organizations/{id}/api_keys` and `GET /user_management/users/{id}/api_keys`, every page of it. The latter
//! is not there for every environment. That a key was revoked its event tells for certain: a list may show it for a while.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared::event::Member;
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Change, Fields, Raw, Shown};
use super::{Answered, Listed, relation_of, segment, whole};

/// One API key.
mod one {
    use super::super::columns::columns;

    columns! {
        /// A row of `workos.api_keys`.
        owner: Document,
        organization_id: Text,
        user_id: Text,
        owner_organization_id: Text,
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Kind and WorkOS id of the owner.
    pub id: String,
    /// The keys, by their ids.
    pub keys: BTreeMap<String, one::Row>,
    /// Those that were revoked, as far as that was told.
    pub revoked: BTreeMap<String, one::Row>,
    /// None: a new key moves nothing.
    pub updated_at: Option<DateTime<Utc>>,
    /// Set on a tombstone.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Row {
    /// Keys that came and went, what changed in others, and those whose revocation is news. A key that was revoked is none
    /// that comes, whatever a list says that does not know it yet.
    #[must_use]
    pub fn changes<'a>(&'a self, old: Option<&'a Self>) -> Vec<Change<'a>> {
        let is_over = |id: &String| old.is_some_and(|old| old.revoked.contains_key(id));
        let mut keys = Cow::Borrowed(&self.keys);
        if keys.keys().any(is_over) {
            keys.to_mut().retain(|id, _| !is_over(id));
        }
        let before = old.map(|old| &old.keys);
        let mut changes = whole::changes("api_keys", before, &keys, |new, old| new.changes(Some(old)));
        let news: Value = self.revoked.keys().filter(|id| !is_over(id)).cloned().collect();
        if news != json!([]) {
            changes.push(revoked(news));
        }
        changes
    }

    /// The same.
    #[must_use]
    pub fn changes_in_full<'a>(&'a self, old: &'a Self) -> Vec<Change<'a>> {
        self.changes(Some(old))
    }

    /// Whether it says of a key what an event said, and is not older than that; or knows its end.
    #[must_use]
    pub fn agrees(&self, member: &Member) -> bool {
        if self.revoked.contains_key(&member.id) {
            return true;
        }
        let said = member.tells.get("updated_at").and_then(|time| shared::timestamp::parse(time));
        match self.keys.get(&member.id) {
            Some(key) => member.is_in && (said.is_none() || key.updated_at >= said),
            None => !member.is_in,
        }
    }

    /// Takes in which keys were revoked.
    pub fn hear(&mut self, ends: &[Member]) {
        let (kind, owner) = owner(&self.id);
        for end in ends {
            self.keys.remove(&end.id);
            let mut fields = Fields::told(&end.tells);
            fields.set("id", &end.id);
            fields.set("owner", &json!({"type": kind.name(), "id": owner}));
            self.revoked.insert(end.id.clone(), read_one(&end.id, fields, kind, owner));
        }
    }

    /// Whether there is not one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.revoked.is_empty()
    }
}

/// That these keys were revoked.
fn revoked(ids: Value) -> Change<'static> {
    Change { column: "_revoked_at", old: Shown::Null, new: Shown::Made(ids) }
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

/// What takes its part of the relations along when it goes: an organization, the keys that users have for it.
pub(super) const PART: Option<Kind> = Some(Kind::Organization);

/// Answers are taken as they are.
pub(super) use super::whole::lacks_nothing as lacking;

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

/// Reads the keys of an owner.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    let (kind, owner) = owner(id);
    let keys = fields
        .into_members()
        .into_iter()
        .map(|(key, fields)| {
            let row = read_one(&key, fields, kind, owner);
            (key, row)
        })
        .collect();
    let row = Row { id: id.to_owned(), keys, ..Row::default() };
    let organizations: BTreeSet<&String> =
        row.keys.values().filter_map(|key| key.owner_organization_id.as_ref()).collect();
    let parents = std::iter::once(ObjectRef::new(kind, owner))
        .chain(organizations.into_iter().map(|id| ObjectRef::new(Kind::Organization, id)))
        .collect();
    Answered { row, parents, embedded: Vec::new() }
}

/// One key of an owner.
fn read_one(id: &str, fields: Fields<'_>, kind: Kind, owner: &str) -> one::Row {
    let mut row = one::Row::read(id, fields);
    if kind == Kind::User {
        let organization = row.owner.as_ref().and_then(|owner| owner.get("organization_id"));
        row.owner_organization_id = organization.and_then(Value::as_str).map(str::to_owned);
        row.user_id = Some(owner.to_owned());
    } else {
        row.owner_organization_id = None;
        row.organization_id = Some(owner.to_owned());
    }
    row
}

/// What the mirror has: nothing of an owner without keys; and which others were revoked.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    let (organizations, users) = by_kind(ids);
    let found = sqlx::query_as!(
        one::Row,
        r#"
        SELECT id,
               owner,
               organization_id,
               user_id,
               owner_organization_id,
               name,
               obfuscated_value,
               last_used_at,
               expires_at,
               permissions,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.api_keys
        WHERE (organization_id = ANY($1) OR user_id = ANY($2)) AND (_deleted_at IS NULL OR _revoked_at IS NOT NULL)
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
        let row = rows.entry(id.clone()).or_insert_with(|| Row { id, ..Row::default() });
        let of = if found.deleted_at.is_some() { &mut row.revoked } else { &mut row.keys };
        of.insert(found.id.clone(), found);
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

/// Writes the keys of owners, and buries those that they have no more. One that was revoked stays so, and one for an
/// organization that is gone is gone, whatever a list says that does not know it yet.
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
        INSERT INTO workos.api_keys AS key (
            id, owner, organization_id, user_id, owner_organization_id, name, obfuscated_value, last_used_at,
            expires_at, permissions, created_at, updated_at, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, owner, organization_id, user_id, owner_organization_id, name, obfuscated_value, last_used_at,
               expires_at,
               CASE WHEN permissions IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(permissions)) END,
               created_at, updated_at, $1, raw, $2, NULL
        FROM unnest(
            $3::text[], $4::jsonb[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::timestamptz[],
            $11::timestamptz[], $12::jsonb[], $13::timestamptz[], $14::timestamptz[], $15::jsonb[]
        ) AS incoming (
            id, owner, organization_id, user_id, owner_organization_id, name, obfuscated_value, last_used_at,
            expires_at, permissions, created_at, updated_at, raw
        )
        WHERE owner_organization_id IS NULL
           OR EXISTS (
                SELECT
                FROM workos.organizations AS held
                WHERE held.id = incoming.owner_organization_id AND held._deleted_at IS NULL
              )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET owner = EXCLUDED.owner,
            organization_id = EXCLUDED.organization_id,
            user_id = EXCLUDED.user_id,
            owner_organization_id = EXCLUDED.owner_organization_id,
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
        WHERE key._revoked_at IS NULL
        "#,
        env,
        at,
        &columns.ids as _,
        &columns.owner as _,
        &columns.organization_id as _,
        &columns.user_id as _,
        &columns.owner_organization_id as _,
        &columns.name as _,
        &columns.obfuscated_value as _,
        &columns.last_used_at as _,
        &columns.expires_at as _,
        &columns.permissions as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(&mut *connection)
    .await?;
    let revoked: Vec<&one::Row> = rows.iter().flat_map(|row| row.revoked.values()).collect();
    if !revoked.is_empty() {
        write_revoked(connection, env, at, &revoked).await?;
    }
    Ok(())
}

/// Writes tombstones of keys that were revoked. What the event does not tell stays.
async fn write_revoked(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    keys: &[&one::Row],
) -> sqlx::Result<()> {
    let columns = one::Columns::of(keys);
    sqlx::query!(
        r#"
        INSERT INTO workos.api_keys AS key (
            id, owner, organization_id, user_id, updated_at, _env, _raw, _synced_at, _deleted_at, _revoked_at
        )
        SELECT id, owner, organization_id, user_id, updated_at, $1, raw, $2, $2, $2
        FROM unnest($3::text[], $4::jsonb[], $5::text[], $6::text[], $7::timestamptz[], $8::jsonb[]) AS incoming (
            id, owner, organization_id, user_id, updated_at, raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET _synced_at = EXCLUDED._synced_at,
            _deleted_at = coalesce(key._deleted_at, EXCLUDED._deleted_at),
            _revoked_at = EXCLUDED._revoked_at
        WHERE key._revoked_at IS NULL
        "#,
        env,
        at,
        &columns.ids as _,
        &columns.owner as _,
        &columns.organization_id as _,
        &columns.user_id as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes in which keys were revoked although their owners' lists cannot be read; returns what is news of each.
pub(super) async fn end(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    relations: &[(&ObjectRef, &[Member])],
) -> sqlx::Result<Vec<(ObjectRef, Change<'static>)>> {
    let owners: HashMap<&str, &ObjectRef> = relations
        .iter()
        .flat_map(|(relation, ends)| ends.iter().map(|end| (end.id.as_str(), *relation)))
        .collect();
    let keys: Vec<&str> = owners.keys().copied().collect();
    let mut news: BTreeMap<&ObjectRef, Vec<String>> = BTreeMap::new();
    for key in revoke(connection, at, &keys).await? {
        if let Some(relation) = owners.get(key.as_str()) {
            news.entry(relation).or_default().push(key);
        }
    }
    Ok(news.into_iter().map(|(relation, keys)| (relation.clone(), revoked(keys.into()))).collect())
}

/// Buries keys that were revoked although their owners' lists could not be read; returns those for which it is news. A key
/// that the mirror does not have needs no tombstone: no list brings it as long as none can be read.
async fn revoke(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    keys: &[&str],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        UPDATE workos.api_keys
        SET _deleted_at = coalesce(_deleted_at, $1), _revoked_at = $1, _synced_at = $1
        WHERE id = ANY($2) AND _revoked_at IS NULL
        RETURNING id
        "#,
        at,
        keys as _,
    )
    .fetch_all(connection)
    .await
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

/// What they hang on: their owners; and an organization takes its part of what users have along.
pub(super) const HANGS_ON: &[Kind] = OWNERS;

/// The keys of these owners, as one, if some are live or some are not. What users have for an organization leaves with it:
/// it must be asked for when the organization is there after all.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    parent: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let mut hanging = of_owners(&mut *connection, parent, ids, live).await?;
    if parent == Kind::Organization && !live {
        hanging.extend(left_with_organizations(connection, ids).await?);
    }
    Ok(hanging)
}

async fn of_owners(
    connection: &mut PgConnection,
    kind: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
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
            let keys = relation_of(Kind::ApiKey, kind, &owner).id;
            (owner, keys)
        })
        .collect())
}

/// The relations of users of which a key went with one of these organizations.
async fn left_with_organizations(
    connection: &mut PgConnection,
    organizations: &[String],
) -> sqlx::Result<Vec<(String, String)>> {
    let left = sqlx::query!(
        r#"
        SELECT DISTINCT key.owner_organization_id AS "organization!", key.user_id AS "user!"
        FROM workos.api_keys AS key
        JOIN workos.organizations AS held ON held.id = key.owner_organization_id
        WHERE key.owner_organization_id = ANY($1)
          AND key._deleted_at >= held._deleted_at
          AND key._revoked_at IS NULL
        ORDER BY 1, 2
        "#,
        organizations
    )
    .fetch_all(connection)
    .await?;
    Ok(left
        .into_iter()
        .map(|row| (row.organization, relation_of(Kind::ApiKey, Kind::User, &row.user).id))
        .collect())
}

/// Marks the keys of users that are for organizations that are gone; returns each organization with the owners of the
/// relations that such a key was part of.
pub(super) async fn leave(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    organizations: &[String],
) -> sqlx::Result<Vec<(String, String)>> {
    let left = sqlx::query!(
        r#"
        UPDATE workos.api_keys
        SET _deleted_at = $1, _synced_at = $1
        WHERE owner_organization_id = ANY($2) AND _deleted_at IS NULL
        RETURNING owner_organization_id AS "organization!", user_id AS "user!"
        "#,
        at,
        organizations
    )
    .fetch_all(connection)
    .await?;
    let left: BTreeSet<(String, String)> = left.into_iter().map(|row| (row.organization, row.user)).collect();
    Ok(left
        .into_iter()
        .map(|(organization, user)| (organization, relation_of(Kind::ApiKey, Kind::User, &user).id))
        .collect())
}

/// What names the relation that a key is part of.
pub(super) async fn key_of(
    connection: &mut PgConnection,
    env: &str,
    id: &str,
) -> sqlx::Result<Option<String>> {
    let row = sqlx::query!(
        r#"
        SELECT organization_id, user_id
        FROM workos.api_keys
        WHERE _env = $1 AND id = $2
        "#,
        env,
        id
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.and_then(|row| key(row.organization_id.as_deref(), row.user_id.as_deref())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(key: Value) -> Fields<'static> {
        Fields::of_members(vec![("api_key_1".to_owned(), key.into())])
    }

    fn row(updated_at: &str) -> Row {
        let key = json!({
            "id": "api_key_1", "owner": {"type": "organization", "id": "org_1"},
            "obfuscated_value": "sk_...123", "updated_at": updated_at,
        });
        read("organization/org_1", keys(key)).row
    }

    fn said(is_in: bool, updated_at: &str) -> Member {
        let tells = [("updated_at".to_owned(), updated_at.to_owned())].into();
        Member { id: "api_key_1".to_owned(), is_in, tells }
    }

    #[test]
    fn a_key_that_was_revoked_is_none_of_its_owner_whatever_the_list_says() {
        let mut told = row("2026-01-15T12:00:00Z");
        let revoked = said(false, "2026-01-15T12:00:01Z");
        told.hear(std::slice::from_ref(&revoked));
        assert!(told.keys.is_empty());
        assert!(told.agrees(&revoked));
        assert_eq!(told.revoked["api_key_1"].organization_id.as_deref(), Some("org_1"));
        let changed = |new: &Row, old: &Row| -> Vec<&'static str> {
            new.changes(Some(old)).iter().map(|change| change.column).collect()
        };
        assert_eq!(changed(&told, &row("2026-01-15T12:00:00Z")), ["api_keys", "_revoked_at"]);
        assert!(changed(&told, &told).is_empty(), "it is known");
        assert!(changed(&row("2026-01-15T12:00:00Z"), &told).is_empty(), "a stale list changes nothing");
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

    #[test]
    fn a_users_key_for_an_organization_hangs_on_both() {
        let key =
            json!({"id": "api_key_1", "owner": {"type": "user", "id": "user_1", "organization_id": "org_1"}});
        let answered = read("user/user_1", keys(key));
        assert_eq!(answered.row.keys["api_key_1"].owner_organization_id.as_deref(), Some("org_1"));
        assert_eq!(answered.row.keys["api_key_1"].organization_id, None);
        let parents = [ObjectRef::new(Kind::User, "user_1"), ObjectRef::new(Kind::Organization, "org_1")];
        assert_eq!(answered.parents, parents);
    }
}
