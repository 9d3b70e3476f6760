//! Which organization membership is in which group: the groups of one membership, answered as a whole.
//!
//! Source: `GET /user_management/organization_memberships/{id}/groups`, every page of it; or all groups of an
//! organization with what is in them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use shared::event::Member;
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Change, Fields, Shown};
use super::{Answered, Composition, Listed, segment};

/// The rows of `workos.group_memberships` of one membership.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// WorkOS id of the organization membership.
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

    /// That a membership left a group needs no words.
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
    format!("/user_management/organization_memberships/{}/groups", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "group_memberships";

/// How all of them are listed: group by group, which is fewer lists than membership by membership.
pub(super) const LISTED: Listed = Listed::Composed(
    Kind::Organization,
    Composition {
        groups: (Kind::Group, super::group::LIST),
        members: "/organizations/{holder}/groups/{}/organization-memberships",
    },
);

/// Lists of those that belong to one other object: the membership's own relation is asked for.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Whose groups they are.
pub(super) const OWNERS: &[Kind] = &[Kind::OrganizationMembership];

/// Reads the groups of a membership. The list shows them as they are, so they need not be asked for.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    let mut groups = BTreeSet::new();
    let mut embedded = Vec::new();
    for (id, fields) in fields.into_members() {
        groups.insert(id);
        if !fields.is_empty() {
            embedded.push((Kind::Group, fields));
        }
    }
    let parents = std::iter::once(ObjectRef::new(Kind::OrganizationMembership, id))
        .chain(groups.iter().map(|group| ObjectRef::new(Kind::Group, group)))
        .collect();
    let row = Row { id: id.to_owned(), groups, updated_at: None, deleted_at: None };
    Answered { row, parents, embedded }
}

/// What the mirror has: nothing of a membership that is in no group.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    let rows = sqlx::query!(
        r#"
        SELECT organization_membership_id, array_agg(group_id) AS "groups!"
        FROM workos.group_memberships
        WHERE organization_membership_id = ANY($1) AND _deleted_at IS NULL
        GROUP BY organization_membership_id
        "#,
        ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Row {
            id: row.organization_membership_id,
            groups: row.groups.into_iter().collect(),
            updated_at: None,
            deleted_at: None,
        })
        .collect())
}

/// The next memberships of an environment that are in a group, in order of their ids.
pub(super) async fn live(
    connection: &mut PgConnection,
    env: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        SELECT DISTINCT organization_membership_id
        FROM workos.group_memberships
        WHERE _env = $1 AND organization_membership_id > $2 AND _deleted_at IS NULL
        ORDER BY organization_membership_id
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

/// Writes the groups of memberships, and buries what they are in no more. A group that is gone has no members, whatever a
/// list says that does not know it yet.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let owners: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let (memberships, groups): (Vec<&str>, Vec<&str>) =
        rows.iter().flat_map(|row| row.groups.iter().map(|group| (row.id.as_str(), group.as_str()))).unzip();
    sqlx::query!(
        r#"
        UPDATE workos.group_memberships AS membership
        SET _deleted_at = $1, _synced_at = $1
        WHERE membership.organization_membership_id = ANY($2)
          AND membership._deleted_at IS NULL
          AND NOT EXISTS (
                SELECT
                FROM unnest($3::text[], $4::text[]) AS incoming (organization_membership_id, group_id)
                WHERE incoming.organization_membership_id = membership.organization_membership_id
                  AND incoming.group_id = membership.group_id
              )
        "#,
        at,
        &owners as _,
        &memberships as _,
        &groups as _,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        INSERT INTO workos.group_memberships (
            group_id, organization_membership_id, _env, _raw, _synced_at, _deleted_at
        )
        SELECT incoming.group_id, incoming.organization_membership_id, $1, '{}', $2, NULL
        FROM unnest($3::text[], $4::text[]) AS incoming (organization_membership_id, group_id)
        JOIN workos.groups AS held ON held.id = incoming.group_id AND held._deleted_at IS NULL
        ORDER BY incoming.group_id, incoming.organization_membership_id
        ON CONFLICT (group_id, organization_membership_id) DO UPDATE
        SET _env = EXCLUDED._env,
            _synced_at = EXCLUDED._synced_at,
            _deleted_at = NULL
        "#,
        env,
        at,
        &memberships as _,
        &groups as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks all groups of memberships as left; returns the memberships that were in one.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        WITH buried AS (
            UPDATE workos.group_memberships
            SET _deleted_at = $1, _synced_at = $1
            WHERE organization_membership_id = ANY($2) AND _deleted_at IS NULL
            RETURNING organization_membership_id
        )
        SELECT DISTINCT organization_membership_id AS "organization_membership_id!" FROM buried
        "#,
        at,
        ids
    )
    .fetch_all(connection)
    .await
}

/// What they hang on: whose groups they are; and a group takes its part of them along.
pub(super) const HANGS_ON: &[Kind] = &[Kind::OrganizationMembership, Kind::Group];

/// The groups of these memberships, as one, if some are live or some are not. On a group nothing hangs as a whole, what
/// is in it leaves it: the relations of which a part went with it are what must be asked for when it is there after all.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    parent: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    match parent {
        Kind::Group if live => Ok(Vec::new()),
        Kind::Group => left_with_groups(connection, ids).await,
        _ => of_memberships(connection, ids, live).await,
    }
}

async fn of_memberships(
    connection: &mut PgConnection,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let owners = sqlx::query_scalar!(
        r#"
        SELECT DISTINCT organization_membership_id
        FROM workos.group_memberships
        WHERE organization_membership_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY organization_membership_id
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
        SELECT membership.group_id, membership.organization_membership_id
        FROM workos.group_memberships AS membership
        JOIN workos.groups AS held ON held.id = membership.group_id
        WHERE membership.group_id = ANY($1) AND membership._deleted_at >= held._deleted_at
        ORDER BY 1, 2
        "#,
        groups
    )
    .fetch_all(connection)
    .await?;
    Ok(left.into_iter().map(|row| (row.group_id, row.organization_membership_id)).collect())
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
pub(super) const PART: Option<Kind> = Some(Kind::Group);

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
        UPDATE workos.group_memberships
        SET _deleted_at = $1, _synced_at = $1
        WHERE group_id = ANY($2) AND _deleted_at IS NULL
        RETURNING group_id, organization_membership_id
        "#,
        at,
        groups
    )
    .fetch_all(connection)
    .await?;
    Ok(left.into_iter().map(|row| (row.group_id, row.organization_membership_id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(groups: &[&str]) -> Row {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Row { id: "om_1".to_owned(), groups, updated_at: None, deleted_at: None }
    }

    #[test]
    fn being_in_no_group_is_no_change_for_what_the_mirror_knows_no_group_of() {
        assert!(row(&[]).changes(None).is_empty());
        assert!(row(&["a"]).changes(Some(&row(&["a"]))).is_empty());
        assert_eq!(row(&["a", "b"]).changes(Some(&row(&["a"]))).len(), 1);
        assert_eq!(row(&[]).changes(Some(&row(&["a"]))).len(), 1);
    }
}
