//! The ledger of events and the audit log: `workos_sync.events`, `workos_sync.audit_log`.

use chrono::{DateTime, Utc};
use serde::ser::{Serialize, SerializeMap as _, SerializeStruct as _, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use shared::event::Event;
use shared::id::ObjectRef;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use crate::database::sparse;
use crate::object::columns::{Change, Shown};
use crate::outcome::Outcome;

/// What the ledger says of one event.
pub struct Entry<'a> {
    /// The event.
    pub event: &'a Event,
    /// Its sequence in the stream.
    pub sequence: i64,
    /// Attempts used up, this one included if it counts.
    pub attempts: u32,
    /// Redeliveries that were begun since the last one that ended.
    pub begun: u32,
    /// How it ended; `None` while it is being retried.
    pub outcome: Option<Outcome>,
    /// Why.
    pub reason: Option<String>,
}

/// Writes the ledger. An event that has an outcome keeps it.
pub async fn record(
    connection: &mut PgConnection,
    env: &str,
    fence: impl Into<Option<i64>>,
    at: DateTime<Utc>,
    entries: &[Entry<'_>],
) -> sqlx::Result<()> {
    // In order of the ids, so that two workers cannot deadlock; an id twice in one batch (published
    // twice after the broker forgot it) counts once.
    let mut ordered: Vec<&Entry<'_>> = entries.iter().collect();
    ordered.sort_by(|a, b| a.event.id.cmp(&b.event.id).then(b.outcome.is_some().cmp(&a.outcome.is_some())));
    ordered.dedup_by(|a, b| a.event.id == b.event.id);
    let ids: Vec<&str> = ordered.iter().map(|entry| entry.event.id.as_str()).collect();
    let types: Vec<&str> = ordered.iter().map(|entry| entry.event.event_type.as_str()).collect();
    let text = |value: &dyn Fn(&Event) -> Option<&str>| -> Vec<Option<&str>> {
        sparse(ordered.iter().map(|entry| value(entry.event)).collect())
    };
    let kinds = text(&|event| event.kind.as_deref());
    let objects = text(&|event| event.object_id.as_deref());
    let organizations = text(&|event| event.organization_id.as_deref());
    let channels: Vec<&str> = ordered.iter().map(|entry| entry.event.channel.name()).collect();
    let time = |value: &dyn Fn(&Event) -> Option<DateTime<Utc>>| -> Vec<Option<DateTime<Utc>>> {
        sparse(ordered.iter().map(|entry| value(entry.event)).collect())
    };
    let created_at = time(&|event| event.created_at);
    let updated_at = time(&|event| event.updated_at);
    let received_at: Vec<DateTime<Utc>> = ordered.iter().map(|entry| entry.event.received_at).collect();
    let sequences: Vec<i64> = ordered.iter().map(|entry| entry.sequence).collect();
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let attempts: Vec<i32> = ordered.iter().map(|entry| number(entry.attempts)).collect();
    let begun = sparse(ordered.iter().map(|entry| (entry.begun > 0).then(|| number(entry.begun))).collect());
    let outcomes: Vec<Option<&str>> = ordered.iter().map(|entry| entry.outcome.map(Outcome::name)).collect();
    let reasons: Vec<Option<&str>> = sparse(ordered.iter().map(|entry| entry.reason.as_deref()).collect());
    sqlx::query!(
        r#"
        INSERT INTO workos_sync.events AS event (
            env, id, type, kind, object_id, organization_id, first_channel, created_at, updated_at, received_at,
            webhook_at, tail_at, stream_seq, attempts, begun, outcome, reason, fence, settled_at
        )
        SELECT $1, id, type, kind, object_id, organization_id, channel, created_at, updated_at, received_at,
               CASE WHEN channel = 'webhook' THEN received_at END,
               CASE WHEN channel = 'tail' THEN received_at END,
               stream_seq, attempts, coalesce(begun, 0), outcome, reason, $2,
               CASE WHEN outcome IS NOT NULL THEN $3::timestamptz END
        FROM (
            SELECT unnest($4::text[]) AS id,
                   unnest($5::text[]) AS type,
                   unnest($6::text[]) AS kind,
                   unnest($7::text[]) AS object_id,
                   unnest($8::text[]) AS organization_id,
                   unnest($9::text[]) AS channel,
                   unnest($10::timestamptz[]) AS created_at,
                   unnest($11::timestamptz[]) AS updated_at,
                   unnest($12::timestamptz[]) AS received_at,
                   unnest($13::bigint[]) AS stream_seq,
                   unnest($14::int[]) AS attempts,
                   unnest($15::int[]) AS begun,
                   unnest($16::text[]) AS outcome,
                   unnest($17::text[]) AS reason
        ) AS entry
        ON CONFLICT (env, id) DO UPDATE
        SET attempts = greatest(event.attempts, EXCLUDED.attempts),
            begun = EXCLUDED.begun,
            webhook_at = coalesce(event.webhook_at, EXCLUDED.webhook_at),
            tail_at = coalesce(event.tail_at, EXCLUDED.tail_at),
            stream_seq = EXCLUDED.stream_seq,
            outcome = EXCLUDED.outcome,
            reason = CASE
                WHEN EXCLUDED.outcome IS NULL THEN coalesce(EXCLUDED.reason, event.reason)
                ELSE EXCLUDED.reason
            END,
            fence = coalesce(EXCLUDED.fence, event.fence),
            settled_at = EXCLUDED.settled_at
        WHERE event.outcome IS NULL
        "#,
        env,
        fence.into(),
        at,
        &ids as _,
        &types as _,
        &kinds as _,
        &objects as _,
        &organizations as _,
        &channels as _,
        &created_at as _,
        &updated_at as _,
        &received_at as _,
        &sequences,
        &attempts,
        &begun as _,
        &outcomes as _,
        &reasons as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Tries of these events that were begun have ended without an outcome, and say nothing against them.
pub async fn take_back(connection: &mut PgConnection, env: &str, ids: &[&str]) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE workos_sync.events SET begun = begun - 1 WHERE env = $1 AND id = ANY($2) AND outcome IS NULL AND begun > 0",
        env,
        ids as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What happened to a row of the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Created,
    /// Some of its columns changed.
    Updated,
    /// It is a tombstone now.
    Deleted,
    /// It was a tombstone and lives again.
    Revived,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
            Self::Revived => "revived",
        }
    }
}

/// One real change.
pub struct Audit<'a> {
    /// Of what.
    pub object: &'a ObjectRef,
    /// What happened.
    pub action: Action,
    /// Changed columns, from [`changes`]; `None` where no column says what happened.
    pub changes: Option<Box<RawValue>>,
    /// The event that led to it.
    pub event: Option<&'a Event>,
    /// The parent that took it along.
    pub cause: Option<String>,
}

/// Changed columns as the audit log keeps them: each with old and new, personal values redacted
/// unless they are to be kept. A null is no personal value.
#[must_use]
pub fn changes(changes: &[Change<'_>], personal: &[&str], keep_personal: bool) -> Option<Box<RawValue>> {
    // Written at once: every event that changes something passes here.
    to_raw_value(&Changes { changes, personal: if keep_personal { &[] } else { personal } }).ok()
}

struct Changes<'a> {
    changes: &'a [Change<'a>],
    personal: &'a [&'a str],
}

/// In the order in which `jsonb` keeps keys, the shorter first: it sorts what comes otherwise, which costs a new user's
/// entry a quarter of its parsing.
impl Serialize for Changes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ordered: Vec<&Change<'_>> = self.changes.iter().collect();
        ordered.sort_unstable_by_key(|change| (change.column.len(), change.column));
        let mut columns = serializer.serialize_map(Some(ordered.len()))?;
        for change in ordered {
            let is_personal = self.personal.contains(&change.column);
            columns.serialize_entry(change.column, &OldAndNew { change, is_personal })?;
        }
        columns.end()
    }
}

struct OldAndNew<'a> {
    change: &'a Change<'a>,
    is_personal: bool,
}

impl<'a> Serialize for OldAndNew<'a> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = |value: &'a Shown<'a>| match value {
            Shown::Null => &Shown::Null,
            _ if self.is_personal => &Shown::Text("redacted"),
            shown => shown,
        };
        let mut column = serializer.serialize_struct("OldAndNew", 2)?;
        column.serialize_field("new", shown(&self.change.new))?;
        column.serialize_field("old", shown(&self.change.old))?;
        column.end()
    }
}

/// Appends to the audit log. `channel` is for changes that no event led to.
pub async fn audit(
    connection: &mut PgConnection,
    env: &str,
    fence: i64,
    at: DateTime<Utc>,
    channel: &str,
    audits: &[Audit<'_>],
) -> sqlx::Result<()> {
    let kinds: Vec<&str> = audits.iter().map(|audit| audit.object.kind.name()).collect();
    let ids: Vec<&str> = audits.iter().map(|audit| audit.object.id.as_str()).collect();
    let actions: Vec<&str> = audits.iter().map(|audit| audit.action.name()).collect();
    let changes: Vec<Option<Json<&RawValue>>> =
        audits.iter().map(|audit| audit.changes.as_deref().map(Json)).collect();
    let events: Vec<Option<&str>> =
        sparse(audits.iter().map(|audit| audit.event.map(|event| event.id.as_str())).collect());
    let channels: Vec<&str> =
        audits.iter().map(|audit| audit.event.map_or(channel, |event| event.channel.name())).collect();
    let actors: Vec<Option<&str>> =
        sparse(audits.iter().map(|audit| audit.event.and_then(|event| event.actor.as_deref())).collect());
    let causes: Vec<Option<&str>> = sparse(audits.iter().map(|audit| audit.cause.as_deref()).collect());
    sqlx::query!(
        r#"
        INSERT INTO workos_sync.audit_log (
            at, env, kind, object_id, action, changes, fence, event_id, channel, actor, cause
        )
        SELECT $1, $2, kind, object_id, action, coalesce(changes, '{}'), $3, event_id, channel, actor, cause
        FROM (
            SELECT unnest($4::text[]) AS kind,
                   unnest($5::text[]) AS object_id,
                   unnest($6::text[]) AS action,
                   unnest($7::jsonb[]) AS changes,
                   unnest($8::text[]) AS event_id,
                   unnest($9::text[]) AS channel,
                   unnest($10::text[]) AS actor,
                   unnest($11::text[]) AS cause
        ) AS audit
        "#,
        at,
        env,
        fence,
        &kinds as _,
        &ids as _,
        &actions as _,
        &changes as _,
        &events as _,
        &channels as _,
        &actors as _,
        &causes as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A change as the audit log has it.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Kind of the object.
    pub kind: String,
    /// Its id.
    pub object_id: String,
    /// What happened.
    pub action: String,
    /// Columns with old and new.
    pub changes: Value,
    /// The parent that took it along.
    pub cause: Option<String>,
}

/// The last entry of the audit log; 0 when there is none.
pub async fn last_audit(database: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    let last = sqlx::query_scalar!("SELECT max(id) FROM workos_sync.audit_log").fetch_one(database).await?;
    Ok(last.unwrap_or(0))
}

/// Changes after an entry that came this way without an event.
pub async fn changes_since(
    database: impl PgExecutor<'_>,
    env: &str,
    after: i64,
    channel: &str,
) -> sqlx::Result<Vec<Changed>> {
    sqlx::query_as!(
        Changed,
        r#"
        SELECT kind, object_id, action, changes, cause
        FROM workos_sync.audit_log
        WHERE id > $2 AND env = $1 AND channel = $3 AND event_id IS NULL
        ORDER BY id
        "#,
        env,
        after,
        channel,
    )
    .fetch_all(database)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personal_values_are_redacted_and_nulls_are_not_personal() {
        let change = |column, old, new| Change { column, old, new };
        let all = [
            change("email", Shown::Null, Shown::Text("a@example.com")),
            change("status", Shown::Text("a"), Shown::Text("b")),
        ];
        let shown =
            |keep_personal| changes(&all, &["email"], keep_personal).map(|json| json.get().to_owned());
        let redacted = r#"{"email":{"new":"redacted","old":null},"status":{"new":"b","old":"a"}}"#;
        assert_eq!(shown(false).as_deref(), Some(redacted));
        assert_eq!(shown(true), Some(redacted.replace("redacted", "a@example.com")));
    }
}
