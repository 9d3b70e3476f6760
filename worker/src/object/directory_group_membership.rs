//! Who is in which group of a directory: the groups of one user, answered as a whole.
//!
//! Source: `GET /directory_groups?user={id}`, every page of it; or all groups of a directory with their users.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use shared::event::Member;
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Change, Fields, Shown};
use super::{Answered, Composition, Listed, list_under};

/// The rows of `workos.directory_group_memberships` of one user.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// WorkOS id of the user.
    pub id: String,
    /// WorkOS ids of the groups.
    pub groups: BTreeSet<String>,
    /// A change of groups moves none.
    pub updated_at: Option<DateTime<Utc>>,
    /// Set on a tombstone.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Row {
    /// Groups that came and went.
    #[must_use]
    pub fn changes<'a>(&'a self, old: Option<&'a Self>) -> Vec<Change<'a>> {
        let before = old.map(|old| &old.groups);
        if before.map_or(self.groups.is_empty(), |before| *before == self.groups) {
            return Vec::new();
        }
        let ids = |groups: &BTreeSet<String>| Shown::Made(groups.iter().cloned().collect());
        vec![Change { column: "groups", old: before.map_or(Shown::Null, ids), new: ids(&self.groups) }]
    }

    /// The same.
    #[must_use]
    pub fn changes_in_full<'a>(&'a self, old: &'a Self) -> Vec<Change<'a>> {
        self.changes(Some(old))
    }

    /// Whether it says of a group what an event said.
    #[must_use]
    pub fn agrees(&self, member: &Member) -> bool {
        self.groups.contains(&member.id) == member.is_in
    }

    /// That a user left a group needs no words.
    pub const fn hear(&mut self, _ends: &[Member]) {}

    /// Whether there is not one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// Columns with personal values: none.
pub const PERSONAL: &[&str] = &[];

/// Columns that WorkOS changes without an event: none.
pub const UNANNOUNCED: &[&str] = &[];

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    list_under("/directory_groups?user={}", id)
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "directory_group_memberships";

/// How all of them are listed: group by group, which is fewer lists than user by user.
pub(super) const LISTED: Listed = Listed::Composed(
    Kind::Directory,
    Composition {
        groups: (Kind::DirectoryGroup, "/directory_groups?directory={}"),
        // What this counts against, the path itself does not say.
        members: "/directory_users?group={}#directory={holder}",
    },
);

/// Lists of those that belong to one other object: the user's own relation is asked for.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Whose groups they are.
pub(super) const OWNERS: &[Kind] = &[Kind::DirectoryUser];

/// Reads the groups of a user.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    let groups: BTreeSet<String> = fields.into_members().into_iter().map(|(id, _)| id).collect();
    let parents = std::iter::once(ObjectRef::new(Kind::DirectoryUser, id))
        .chain(groups.iter().map(|group| ObjectRef::new(Kind::DirectoryGroup, group)))
        .collect();
    let row = Row { id: id.to_owned(), groups, updated_at: None, deleted_at: None };
    Answered { row, parents, embedded: Vec::new() }
}

/// What the mirror has: nothing of a user who is in no group.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    let rows = sqlx::query!(
        r#"
        SELECT directory_user_id, array_agg(directory_group_id) AS "groups!"
        FROM workos.directory_group_memberships
        WHERE directory_user_id = ANY($1) AND _deleted_at IS NULL
        GROUP BY directory_user_id
        "#,
        ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Row {
            id: row.directory_user_id,
            groups: row.groups.into_iter().collect(),
            updated_at: None,
            deleted_at: None,
        })
        .collect())
}

/// The next users of an environment who are in a group, in order of their ids.
pub(super) async fn live(
    connection: &mut PgConnection,
    env: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        SELECT DISTINCT directory_user_id
        FROM workos.directory_group_memberships
        WHERE _env = $1 AND directory_user_id > $2 AND _deleted_at IS NULL
        ORDER BY directory_user_id
        LIMIT $3
        "#,
        env,
        after,
        most
    )
    .fetch_all(connection)
    .await
}

/// Nothing follows a membership in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Writes the groups of users, and buries what they are in no more. A group that is gone has no members, whatever a
/// list says that does not know it yet.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let owners: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let (users, groups): (Vec<&str>, Vec<&str>) =
        rows.iter().flat_map(|row| row.groups.iter().map(|group| (row.id.as_str(), group.as_str()))).unzip();
    sqlx::query!(
        r#"
        UPDATE workos.directory_group_memberships AS membership
        SET _deleted_at = $1, _synced_at = $1
        WHERE membership.directory_user_id = ANY($2)
          AND membership._deleted_at IS NULL
          AND NOT EXISTS (
                SELECT
                FROM unnest($3::text[], $4::text[]) AS incoming (directory_user_id, directory_group_id)
                WHERE incoming.directory_user_id = membership.directory_user_id
                  AND incoming.directory_group_id = membership.directory_group_id
              )
        "#,
        at,
        &owners as _,
        &users as _,
        &groups as _,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        INSERT INTO workos.directory_group_memberships (
            directory_group_id, directory_user_id, directory_id, _env, _raw, _synced_at, _deleted_at
        )
        SELECT incoming.directory_group_id, incoming.directory_user_id, held.directory_id, $1, '{}', $2, NULL
        FROM unnest($3::text[], $4::text[]) AS incoming (directory_user_id, directory_group_id)
        JOIN workos.directory_groups AS held ON held.id = incoming.directory_group_id AND held._deleted_at IS NULL
        ORDER BY incoming.directory_group_id, incoming.directory_user_id
        ON CONFLICT (directory_group_id, directory_user_id) DO UPDATE
        SET directory_id = EXCLUDED.directory_id,
            _env = EXCLUDED._env,
            _synced_at = EXCLUDED._synced_at,
            _deleted_at = NULL
        "#,
        env,
        at,
        &users as _,
        &groups as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks all groups of users as left; returns the users who were in one.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        WITH buried AS (
            UPDATE workos.directory_group_memberships
            SET _deleted_at = $1, _synced_at = $1
            WHERE directory_user_id = ANY($2) AND _deleted_at IS NULL
            RETURNING directory_user_id
        )
        SELECT DISTINCT directory_user_id AS "directory_user_id!" FROM buried
        "#,
        at,
        ids
    )
    .fetch_all(connection)
    .await
}

/// What they hang on: whose groups they are; and a group takes its part of them along.
pub(super) const HANGS_ON: &[Kind] = &[Kind::DirectoryUser, Kind::DirectoryGroup];

/// The groups of these users, as one, if some are live or some are not. On a group nothing hangs as a whole, what
/// is in it leaves it: the relations of which a part went with it are what must be asked for when it is there after all.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    parent: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    match parent {
        Kind::DirectoryGroup if live => Ok(Vec::new()),
        Kind::DirectoryGroup => left_with_groups(connection, ids).await,
        _ => of_users(connection, ids, live).await,
    }
}

async fn of_users(
    connection: &mut PgConnection,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let owners = sqlx::query_scalar!(
        r#"
        SELECT DISTINCT directory_user_id
        FROM workos.directory_group_memberships
        WHERE directory_user_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY directory_user_id
        "#,
        ids,
        live
    )
    .fetch_all(connection)
    .await?;
    Ok(owners.into_iter().map(|owner| (owner.clone(), owner)).collect())
}

/// The relations of which a part went with one of these groups.
async fn left_with_groups(
    connection: &mut PgConnection,
    groups: &[String],
) -> sqlx::Result<Vec<(String, String)>> {
    let left = sqlx::query!(
        r#"
        SELECT membership.directory_group_id, membership.directory_user_id
        FROM workos.directory_group_memberships AS membership
        JOIN workos.directory_groups AS held ON held.id = membership.directory_group_id
        WHERE membership.directory_group_id = ANY($1) AND membership._deleted_at >= held._deleted_at
        ORDER BY 1, 2
        "#,
        groups
    )
    .fetch_all(connection)
    .await?;
    Ok(left.into_iter().map(|row| (row.directory_group_id, row.directory_user_id)).collect())
}

/// It has no id of its own.
#[expect(clippy::unused_async, reason = "every relation answers in the same form")]
pub(super) async fn key_of(
    _connection: &mut PgConnection,
    _env: &str,
    _id: &str,
) -> sqlx::Result<Option<String>> {
    Ok(None)
}

/// What takes its part of the relations along when it goes.
pub(super) const PART: Option<Kind> = Some(Kind::DirectoryGroup);

/// The list is always there, and its answers are taken as they are.
pub(super) use super::whole::{
    always_listed as may_be_unlisted, ends_nothing as end, lacks_nothing as lacking,
};

/// Marks the memberships of groups that are gone; returns each group with the owners of the relations that it was part
/// of.
pub(super) async fn leave(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    groups: &[String],
) -> sqlx::Result<Vec<(String, String)>> {
    let left = sqlx::query!(
        r#"
        UPDATE workos.directory_group_memberships
        SET _deleted_at = $1, _synced_at = $1
        WHERE directory_group_id = ANY($2) AND _deleted_at IS NULL
        RETURNING directory_group_id, directory_user_id
        "#,
        at,
        groups
    )
    .fetch_all(connection)
    .await?;
    Ok(left.into_iter().map(|row| (row.directory_group_id, row.directory_user_id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(groups: &[&str]) -> Row {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Row { id: "directory_user_1".to_owned(), groups, updated_at: None, deleted_at: None }
    }

    #[test]
    fn being_in_no_group_is_no_change_for_whom_the_mirror_knows_no_group() {
        assert!(row(&[]).changes(None).is_empty());
        assert!(row(&["a"]).changes(Some(&row(&["a"]))).is_empty());
        assert_eq!(row(&["a", "b"]).changes(Some(&row(&["a"]))).len(), 1);
        assert_eq!(row(&[]).changes(Some(&row(&["a"]))).len(), 1);
    }
}
