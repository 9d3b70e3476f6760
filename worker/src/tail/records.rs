//! What the tail reads and writes in Postgres. All of it goes over the one connection that holds the role, so
//! that a copy that has lost the role cannot write any more.

use chrono::{DateTime, Utc};
use shared::catalogue;
use shared::event::{Channel, Event};
use sqlx::{PgConnection, PgExecutor};

use crate::guard::Life;

/// The name of the list in `workos_sync.cursors`.
const LIST: &str = "events";

/// Where the reading stands, as every copy sees it.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// Everything up to this event is in the ledger.
    pub(super) cursor: Option<String>,
    /// When WorkOS made it; without one, from when on to read.
    pub(super) event_at: DateTime<Utc>,
    /// When WorkOS last answered.
    pub(super) checked_at: DateTime<Utc>,
    /// Everything that WorkOS made before is in the ledger.
    pub(super) read_until: DateTime<Utc>,
    /// The life of the stream that was published to.
    pub(super) stream: Option<Life>,
    /// Events in a row that no webhook told of.
    pub(super) missed_in_a_row: i64,
    /// Whether no backfill has ended well yet.
    pub(super) backfill_due: bool,
    /// Whether something may have been missed, and no verify has looked since.
    pub(super) verify_due: bool,
}

/// Where the reading stands; `None` before the first start.
pub(super) async fn position(database: impl PgExecutor<'_>, env: &str) -> sqlx::Result<Option<Position>> {
    let row = sqlx::query!(
        r#"
        SELECT cursor, event_at, moved_at, checked_at, read_until, stream, missed_in_a_row,
               NOT EXISTS (
                   SELECT FROM workos_sync.runs
                   WHERE runs.env = cursors.env AND command = 'backfill' AND result = 'done'
               ) AS "backfill_due!",
               verify_requested_at IS NOT NULL AND NOT EXISTS (
                   SELECT FROM workos_sync.runs
                   WHERE runs.env = cursors.env AND command = 'verify' AND started_at > verify_requested_at
                         AND result IN ('done', 'drift')
               ) AS "verify_due!"
        FROM workos_sync.cursors
        WHERE env = $1 AND name = $2
        "#,
        env,
        LIST,
    )
    .fetch_optional(database)
    .await?;
    Ok(row.map(|row| {
        let event_at = row.event_at.unwrap_or(row.moved_at);
        Position {
            cursor: row.cursor,
            event_at,
            checked_at: row.checked_at,
            read_until: row.read_until.unwrap_or(event_at),
            stream: row.stream,
            missed_in_a_row: row.missed_in_a_row,
            backfill_due: row.backfill_due,
            verify_due: row.verify_due,
        }
    }))
}

/// The first start: reading begins with what WorkOS made from `since` on.
pub(super) async fn begin(
    connection: &mut PgConnection,
    env: &str,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        INSERT INTO workos_sync.cursors (env, name, event_at, moved_at, checked_at, read_until)
        VALUES ($1, $2, $3, $4, $4, $3)
        ON CONFLICT (env, name) DO NOTHING
        "#,
        env,
        LIST,
        since,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes where the reading stands.
pub(super) async fn store(
    connection: &mut PgConnection,
    env: &str,
    position: &Position,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        UPDATE workos_sync.cursors
        SET cursor = $3,
            event_at = $4,
            moved_at = CASE WHEN cursor IS DISTINCT FROM $3 THEN $8 ELSE moved_at END,
            checked_at = $5,
            read_until = $6,
            stream = $7
        WHERE env = $1 AND name = $2
        "#,
        env,
        LIST,
        position.cursor,
        position.event_at,
        position.checked_at,
        position.read_until,
        position.stream,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Something may have been missed for good: only a verify can tell.
pub(super) async fn request_verify(
    connection: &mut PgConnection,
    env: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        UPDATE workos_sync.cursors
        SET verify_requested_at = $3
        WHERE env = $1 AND name = $2
        "#,
        env,
        LIST,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An event that the ledger has.
pub(super) struct Recorded {
    /// Its id.
    pub(super) id: String,
    /// When a webhook brought it.
    pub(super) webhook_at: Option<DateTime<Utc>>,
}

/// Which of these events the ledger has, noting there that the tail has read them, and when.
pub(super) async fn note_read(
    connection: &mut PgConnection,
    env: &str,
    ids: &[&str],
    read_at: &[DateTime<Utc>],
) -> sqlx::Result<Vec<Recorded>> {
    // A row that somebody writes at this moment is left for the next time, rather than waited for.
    sqlx::query!(
        r#"
        UPDATE workos_sync.events AS event
        SET tail_at = free.read_at
        FROM (
            SELECT event.id, read.at AS read_at
            FROM unnest($2::text[], $3::timestamptz[]) AS read (id, at)
            JOIN workos_sync.events AS event ON event.env = $1 AND event.id = read.id
            WHERE event.tail_at IS NULL
            FOR UPDATE OF event SKIP LOCKED
        ) AS free
        WHERE event.env = $1 AND event.id = free.id
        "#,
        env,
        ids as _,
        read_at,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query_as!(
        Recorded,
        r#"
        SELECT id, webhook_at
        FROM workos_sync.events
        WHERE env = $1 AND id = ANY ($2::text[]) AND tail_at IS NOT NULL
        "#,
        env,
        ids as _,
    )
    .fetch_all(connection)
    .await
}

/// An event that is being retried, and its sequence in the stream.
pub(super) struct Open {
    /// The event, as far as the ledger keeps it.
    pub(super) event: Event,
    /// Its sequence.
    pub(super) sequence: Option<u64>,
}

/// Events that have no outcome yet, oldest first.
pub(super) async fn open(connection: &mut PgConnection, env: &str, most: i64) -> sqlx::Result<Vec<Open>> {
    let rows = sqlx::query!(
        r#"
        SELECT id, type AS event_type, kind, object_id, organization_id, first_channel, created_at, updated_at,
               received_at, stream_seq
        FROM workos_sync.events
        WHERE env = $1 AND outcome IS NULL AND first_channel IN ('webhook', 'tail')
        ORDER BY received_at
        LIMIT $2
        "#,
        env,
        most,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Open {
            event: Event {
                operation: catalogue::find(&row.event_type).and_then(|entry| entry.operation),
                id: row.id,
                event_type: row.event_type,
                kind: row.kind,
                object_id: row.object_id,
                organization_id: row.organization_id,
                // The ledger does not keep it.
                directory_id: None,
                member: None,
                created_at: row.created_at,
                updated_at: row.updated_at,
                actor: None,
                received_at: row.received_at,
                channel: if row.first_channel == Channel::Tail.name() {
                    Channel::Tail
                } else {
                    Channel::Webhook
                },
            },
            sequence: row.stream_seq.and_then(|sequence| u64::try_from(sequence).ok()),
        })
        .collect())
}

/// Judged: so many, and so many of them were missed.
pub(super) struct Judged {
    pub(super) events: usize,
    pub(super) missed: usize,
}

/// Whether a webhook should have told of an event of this type. Some only the Events API tells, and to what is not
/// mirrored nobody needs to subscribe.
fn is_for_webhooks(event_type: &str) -> bool {
    catalogue::find(event_type).is_some_and(|entry| entry.webhook && entry.kind.is_some())
}

/// Counts events that were read before `until` and that no webhook told of though one should have, each once, and how
/// many of them came after the last webhook. Judges `most` at a time.
pub(super) async fn count_missed(
    connection: &mut PgConnection,
    env: &str,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<Judged> {
    let mut transaction = sqlx::Connection::begin(connection).await?;
    let judged = sqlx::query!(
        r#"
        UPDATE workos_sync.events AS event
        SET missed_at = $3
        FROM (
            SELECT id
            FROM workos_sync.events
            WHERE env = $1 AND tail_at <= $2 AND tail_at IS NOT NULL AND webhook_at IS NULL AND missed_at IS NULL
            ORDER BY tail_at
            LIMIT $4
            FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE event.env = $1 AND event.id = due.id
        RETURNING event.tail_at AS "tail_at!", event.type AS event_type
        "#,
        env,
        until,
        now,
        most,
    )
    .fetch_all(&mut *transaction)
    .await?;
    let events = judged.len();
    let missed: Vec<DateTime<Utc>> =
        judged.into_iter().filter(|row| is_for_webhooks(&row.event_type)).map(|row| row.tail_at).collect();
    if !missed.is_empty() {
        sqlx::query!(
            r#"
            UPDATE workos_sync.cursors
            SET missed_in_a_row = missed_in_a_row + (
                    SELECT count(*)
                    FROM unnest($3::timestamptz[]) AS missed (tail_at)
                    WHERE webhook_at IS NULL OR missed.tail_at > webhook_at
                )
            WHERE env = $1 AND name = $2
            "#,
            env,
            LIST,
            &missed,
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(Judged { events, missed: missed.len() })
}

/// A webhook came at this time, for an event that is on the Events API too.
pub(super) async fn note_webhook(
    database: impl PgExecutor<'_>,
    env: &str,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"
        UPDATE workos_sync.cursors
        SET webhook_at = $3,
            missed_in_a_row = 0
        WHERE env = $1 AND name = $2 AND (webhook_at IS NULL OR webhook_at < $3)
        "#,
        env,
        LIST,
        at,
    )
    .execute(database)
    .await?;
    Ok(())
}

/// A webhook that came after the tail, as far as the ledger has its event.
pub(super) struct Arrived {
    /// Id of the event.
    pub(super) id: String,
    /// When WorkOS made it.
    pub(super) created_at: Option<DateTime<Utc>>,
    /// When its webhook came.
    pub(super) webhook_at: DateTime<Utc>,
    /// Whether this is news.
    pub(super) new: bool,
}

/// Notes in the ledger that webhooks brought these events. Those that are not returned are not there yet.
pub(super) async fn note_arrivals(
    connection: &mut PgConnection,
    env: &str,
    ids: &[&str],
    received_at: &[DateTime<Utc>],
) -> sqlx::Result<Vec<Arrived>> {
    let mut arrived = sqlx::query_as!(
        Arrived,
        r#"
        UPDATE workos_sync.events AS event
        SET webhook_at = free.received_at
        FROM (
            SELECT event.id, arrival.at AS received_at
            FROM unnest($2::text[], $3::timestamptz[]) AS arrival (id, at)
            JOIN workos_sync.events AS event ON event.env = $1 AND event.id = arrival.id
            WHERE event.webhook_at IS NULL
            FOR UPDATE OF event SKIP LOCKED
        ) AS free
        WHERE event.env = $1 AND event.id = free.id
        RETURNING event.id, event.created_at, free.received_at AS "webhook_at!", true AS "new!"
        "#,
        env,
        ids as _,
        received_at,
    )
    .fetch_all(&mut *connection)
    .await?;
    let known = sqlx::query_as!(
        Arrived,
        r#"
        SELECT id, created_at, webhook_at AS "webhook_at!", false AS "new!"
        FROM workos_sync.events
        WHERE env = $1 AND id = ANY ($2::text[]) AND webhook_at IS NOT NULL
        "#,
        env,
        ids as _,
    )
    .fetch_all(connection)
    .await?;
    arrived.extend(known);
    Ok(arrived)
}
