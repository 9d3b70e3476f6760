//! Sessions: those of one user, answered as a whole.
//!
//! Source: `GET /user_management/users/{id}/sessions`, every page of it, for the active ones. How a session was revoked
//! stands in its event and nowhere else; that one expired, nobody says: it is past its time and no longer listed.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared::event::Member;
use shared::id::{Kind, ObjectRef};
use sqlx::PgConnection;

use super::columns::{Change, Fields, Raw, Shown};
use super::{Answered, Listed, segment, whole};

/// One session.
#[expect(dead_code, unreachable_pub, reason = "the whole has its own columns that change in silence")]
mod one {
    use super::super::columns::columns;

    columns! {
        /// A row of `workos.sessions`.
        user_id: Text,
        organization_id: Text,
        impersonator: Document personal,
        ip_address: Text personal,
        user_agent: Text personal,
        auth_method: Text,
        status: Text,
        expires_at: Time,
        ended_at: Time,
        created_at: Time,
        updated_at: Time,
    }
}

pub use one::PERSONAL;

/// The rows of `workos.sessions` of one user.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// WorkOS id of the user.
    pub id: String,
    /// The active ones, by their ids.
    pub active: BTreeMap<String, one::Row>,
    /// Those that ended, as far as their end was told.
    pub ended: BTreeMap<String, one::Row>,
    /// None: a new session moves nothing.
    pub updated_at: Option<DateTime<Utc>>,
    /// Set on a tombstone.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl Row {
    /// Sessions that came and went, what changed in others, and those whose end is news.
    #[must_use]
    pub fn changes<'a>(&'a self, old: Option<&'a Self>) -> Vec<Change<'a>> {
        let before = old.map(|old| &old.active);
        let mut changes = whole::changes("sessions", before, &self.active, |new, old| new.changes(Some(old)));
        let known = |id: &str| old.and_then(|old| old.ended.get(id)).map(|row| (&row.status, row.ended_at));
        let news: BTreeMap<&String, &one::Row> =
            self.ended.iter().filter(|(id, row)| known(id) != Some((&row.status, row.ended_at))).collect();
        if !news.is_empty() {
            let new =
                news.into_iter().map(|(id, row)| (id.clone(), Value::from(row.status.clone()))).collect();
            changes.push(Change { column: "status", old: Shown::Null, new: Shown::Made(new) });
        }
        changes
    }

    /// The same.
    #[must_use]
    pub fn changes_in_full<'a>(&'a self, old: &'a Self) -> Vec<Change<'a>> {
        self.changes(Some(old))
    }

    /// Whether it says of a session what an event said, or knows its end.
    #[must_use]
    pub fn agrees(&self, member: &Member) -> bool {
        self.active.contains_key(&member.id) == member.is_in || self.ended.contains_key(&member.id)
    }

    /// Takes in how sessions ended.
    pub fn hear(&mut self, ends: &[Member]) {
        for end in ends {
            self.active.remove(&end.id);
            let mut fields = Fields::told(&end.tells);
            fields.set("id", &end.id);
            fields.set("user_id", &self.id);
            fields.set_if_absent("status", &"revoked");
            self.ended.insert(end.id.clone(), one::Row::read(&end.id, fields));
        }
    }

    /// Whether there is not one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.active.is_empty() && self.ended.is_empty()
    }
}

/// Columns that WorkOS changes without an event: a session expires in silence.
pub const UNANNOUNCED: &[&str] = &["sessions"];

/// Where WorkOS keeps it.
pub(super) fn path(id: &str) -> String {
    format!("/user_management/users/{}/sessions", segment(id))
}

/// Its table in the schema `workos`.
pub(super) const TABLE: &str = "sessions";

/// How all of them are listed: user by user.
pub(super) const LISTED: Listed = Listed::Whole(OWNERS);

/// Lists of those that belong to one other object: the user's own relation is asked for.
pub(super) const BELONGING: &[(Kind, &str)] = &[];

/// Whose sessions they are.
pub(super) const OWNERS: &[Kind] = &[Kind::User];

/// Reads the active sessions of a user.
pub(super) fn read<'a>(id: &str, fields: Fields<'a>) -> Answered<'a, Row> {
    let active = fields
        .into_members()
        .into_iter()
        .map(|(session, mut fields)| {
            fields.set_if_absent("user_id", &id);
            let row = one::Row::read(&session, fields);
            (session, row)
        })
        .collect();
    let row = Row { id: id.to_owned(), active, ended: BTreeMap::new(), updated_at: None, deleted_at: None };
    Answered { row, parents: vec![ObjectRef::new(Kind::User, id)], embedded: Vec::new() }
}

/// What the mirror has: the active ones, and how others ended.
pub(super) async fn load(connection: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Row>> {
    let found = sqlx::query_as!(
        one::Row,
        r#"
        SELECT id,
               user_id,
               organization_id,
               impersonator,
               ip_address,
               user_agent,
               auth_method,
               status,
               expires_at,
               ended_at,
               created_at,
               updated_at,
               _raw AS "raw!: Raw",
               _deleted_at AS deleted_at
        FROM workos.sessions
        WHERE user_id = ANY($1) AND _deleted_at IS NULL
        ORDER BY id
        "#,
        ids
    )
    .fetch_all(connection)
    .await?;
    let mut rows: HashMap<String, Row> = HashMap::new();
    for session in found {
        let Some(user) = session.user_id.clone() else { continue };
        let row = rows.entry(user.clone()).or_insert_with(|| Row {
            id: user,
            active: BTreeMap::new(),
            ended: BTreeMap::new(),
            updated_at: None,
            deleted_at: None,
        });
        let has_ended = matches!(session.status.as_deref(), Some("revoked" | "expired"));
        let of = if has_ended { &mut row.ended } else { &mut row.active };
        of.insert(session.id.clone(), session);
    }
    Ok(rows.into_values().collect())
}

/// The next users of an environment who have an active session, in order of their ids.
pub(super) async fn live(
    connection: &mut PgConnection,
    env: &str,
    after: &str,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        SELECT DISTINCT user_id AS "user_id!"
        FROM workos.sessions
        WHERE _env = $1 AND user_id > $2 AND _deleted_at IS NULL
          AND coalesce(status, 'active') NOT IN ('revoked', 'expired')
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

/// Nothing follows a session in other tables.
#[expect(clippy::unused_async, reason = "every kind answers in the same form")]
pub(super) async fn beside(
    _connection: &mut PgConnection,
    _rows: &[&Row],
) -> sqlx::Result<Vec<(String, &'static str)>> {
    Ok(Vec::new())
}

/// Nothing but their user takes them along, and the list is always there.
pub(super) const PART: Option<Kind> = None;
pub(super) use super::whole::{
    always_listed as may_be_unlisted, ends_nothing as end, leaves_nothing as leave,
};

/// Users of whom these answers lack a session that is active and not past its time in the mirror, and that no event says
/// the end of.
pub(super) async fn lacking(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<Vec<String>> {
    let users: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let explained: Vec<&str> =
        rows.iter().flat_map(|row| row.active.keys().chain(row.ended.keys())).map(String::as_str).collect();
    sqlx::query_scalar!(
        r#"
        SELECT DISTINCT user_id AS "user_id!"
        FROM workos.sessions
        WHERE user_id = ANY($1)
          AND id <> ALL ($2)
          AND _deleted_at IS NULL
          AND coalesce(status, 'active') NOT IN ('revoked', 'expired')
          AND coalesce(expires_at > $3, true)
        "#,
        &users as _,
        &explained as _,
        at
    )
    .fetch_all(connection)
    .await
}

/// Writes the sessions of users. One that is no longer listed has expired, if its time is over, and is gone otherwise. One
/// that was revoked stays so, whatever a list says that does not know it yet.
pub(super) async fn write(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    rows: &[&Row],
) -> sqlx::Result<()> {
    let users: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let active: Vec<&one::Row> = rows.iter().flat_map(|row| row.active.values()).collect();
    let ended: Vec<&one::Row> = rows.iter().flat_map(|row| row.ended.values()).collect();
    let explained: Vec<&str> = active.iter().chain(&ended).map(|session| session.id.as_str()).collect();
    sqlx::query!(
        r#"
        UPDATE workos.sessions
        SET status = CASE WHEN expires_at <= $1 THEN 'expired' ELSE status END,
            _deleted_at = CASE WHEN expires_at <= $1 THEN NULL ELSE $1 END,
            _synced_at = $1
        WHERE user_id = ANY($2)
          AND id <> ALL ($3)
          AND _deleted_at IS NULL
          AND coalesce(status, 'active') NOT IN ('revoked', 'expired')
        "#,
        at,
        &users as _,
        &explained as _,
    )
    .execute(&mut *connection)
    .await?;
    for (source, sessions) in [("list", &active), ("event", &ended)] {
        if !sessions.is_empty() {
            write_each(connection, env, at, source, sessions).await?;
        }
    }
    Ok(())
}

/// Writes sessions that all come from one source. An event does not tell everything: what it leaves out stays.
async fn write_each(
    connection: &mut PgConnection,
    env: &str,
    at: DateTime<Utc>,
    source: &str,
    sessions: &[&one::Row],
) -> sqlx::Result<()> {
    let columns = one::Columns::of(sessions);
    sqlx::query!(
        r#"
        INSERT INTO workos.sessions AS session (
            id, user_id, organization_id, impersonator, ip_address, user_agent, auth_method, status, expires_at,
            ended_at, created_at, updated_at, _source, _env, _raw, _synced_at, _deleted_at
        )
        SELECT id, user_id, organization_id, impersonator, ip_address, user_agent, auth_method, status, expires_at,
               ended_at, created_at, updated_at, $3, $1, raw, $2, NULL
        FROM unnest(
            $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[], $16::jsonb[]
        ) AS incoming (
            id, user_id, organization_id, impersonator, ip_address, user_agent, auth_method, status, expires_at,
            ended_at, created_at, updated_at, raw
        )
        ORDER BY id
        ON CONFLICT (id) DO UPDATE
        SET user_id = EXCLUDED.user_id,
            organization_id = CASE WHEN $3 = 'list' THEN EXCLUDED.organization_id
                                   ELSE coalesce(EXCLUDED.organization_id, session.organization_id) END,
            impersonator = CASE WHEN $3 = 'list' THEN EXCLUDED.impersonator ELSE session.impersonator END,
            ip_address = CASE WHEN $3 = 'list' THEN EXCLUDED.ip_address ELSE session.ip_address END,
            user_agent = CASE WHEN $3 = 'list' THEN EXCLUDED.user_agent ELSE session.user_agent END,
            auth_method = coalesce(EXCLUDED.auth_method, session.auth_method),
            status = EXCLUDED.status,
            expires_at = coalesce(EXCLUDED.expires_at, session.expires_at),
            ended_at = EXCLUDED.ended_at,
            created_at = coalesce(EXCLUDED.created_at, session.created_at),
            updated_at = coalesce(EXCLUDED.updated_at, session.updated_at),
            _source = EXCLUDED._source,
            _env = EXCLUDED._env,
            _raw = EXCLUDED._raw,
            _synced_at = EXCLUDED._synced_at,
            _deleted_at = NULL
        WHERE $3 = 'event' OR session.status IS DISTINCT FROM 'revoked'
        "#,
        env,
        at,
        source,
        &columns.ids as _,
        &columns.user_id as _,
        &columns.organization_id as _,
        &columns.impersonator as _,
        &columns.ip_address as _,
        &columns.user_agent as _,
        &columns.auth_method as _,
        &columns.status as _,
        &columns.expires_at as _,
        &columns.ended_at as _,
        &columns.created_at as _,
        &columns.updated_at as _,
        &columns.raw as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks all sessions of users as gone; returns the users who had one.
pub(super) async fn bury(
    connection: &mut PgConnection,
    at: DateTime<Utc>,
    ids: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        WITH buried AS (
            UPDATE workos.sessions
            SET _deleted_at = $1, _synced_at = $1
            WHERE user_id = ANY($2) AND _deleted_at IS NULL
            RETURNING user_id
        )
        SELECT DISTINCT user_id AS "user_id!" FROM buried
        "#,
        at,
        ids
    )
    .fetch_all(connection)
    .await
}

/// What they hang on.
pub(super) const HANGS_ON: &[Kind] = OWNERS;

/// The users among these who have sessions, live ones or tombstones: their relation is named by the user.
pub(super) async fn hanging_on(
    connection: &mut PgConnection,
    _user: Kind,
    ids: &[String],
    live: bool,
) -> sqlx::Result<Vec<(String, String)>> {
    let users = sqlx::query_scalar!(
        r#"
        SELECT DISTINCT user_id AS "user_id!"
        FROM workos.sessions
        WHERE user_id = ANY($1) AND (_deleted_at IS NULL) = $2
        ORDER BY 1
        "#,
        ids,
        live
    )
    .fetch_all(connection)
    .await?;
    Ok(users.into_iter().map(|user| (user.clone(), user)).collect())
}

/// Whose session it is.
pub(super) async fn key_of(
    connection: &mut PgConnection,
    env: &str,
    id: &str,
) -> sqlx::Result<Option<String>> {
    let user = sqlx::query_scalar!(
        r#"
        SELECT user_id
        FROM workos.sessions
        WHERE _env = $1 AND id = $2
        "#,
        env,
        id
    )
    .fetch_optional(connection)
    .await?;
    Ok(user.flatten())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(active: &[&str]) -> Row {
        let member = |id: &&str| ((*id).to_owned(), json!({"id": id, "status": "active"}).into());
        read("user_1", Fields::of_members(active.iter().map(member).collect())).row
    }

    fn end(id: &str) -> Member {
        let tells = [("status", "revoked"), ("ended_at", "2026-01-15T12:00:00Z")];
        let tells = tells.map(|(field, value)| (field.to_owned(), value.to_owned()));
        Member { id: id.to_owned(), is_in: false, tells: tells.into() }
    }

    #[test]
    fn a_session_whose_end_is_told_is_no_longer_active_whatever_the_list_says() {
        let mut row = row(&["session_1", "session_2"]);
        row.hear(&[end("session_1")]);
        assert_eq!(row.active.keys().collect::<Vec<_>>(), ["session_2"]);
        assert_eq!(row.ended["session_1"].status.as_deref(), Some("revoked"));
        assert_eq!(row.ended["session_1"].user_id.as_deref(), Some("user_1"));
    }

    #[test]
    fn an_end_that_is_known_is_no_news() {
        let mut old = row(&["session_2"]);
        old.hear(&[end("session_1")]);
        let mut new = row(&["session_2"]);
        assert!(new.changes(Some(&old)).is_empty());
        new.hear(&[end("session_1")]);
        assert!(new.changes(Some(&old)).is_empty());
        new.hear(&[end("session_3")]);
        assert_eq!(new.changes(Some(&old)).len(), 1);
    }
}
