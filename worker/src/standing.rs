//! How things stand, for whoever asks: `worker status` and the operator page.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::RawMessageErrorKind;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::{clock, subject};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Events on their way.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Those that no worker has had yet.
    pub waiting: u64,
    /// Those delivered and not settled, those that wait for a retry among them.
    pub in_hand: usize,
}

/// What the broker has for the workers of this environment.
pub async fn waiting(jetstream: &jetstream::Context, env: &str) -> anyhow::Result<Waiting> {
    let stream = jetstream
        .get_stream_no_info(subject::EVENTS_STREAM)
        .await
        .with_context(|| format!("failed to open the stream {}", subject::EVENTS_STREAM))?;
    // Before the first worker ran there is no consumer, and everything waits.
    let (waiting, in_hand) = match stream.consumer_info(subject::worker_consumer(env)).await {
        Ok(info) => (info.num_pending, info.num_ack_pending),
        Err(_) => (stream.get_info().await.context("failed to look at the stream")?.state.messages, 0),
    };
    Ok(Waiting { waiting, in_hand })
}

/// Events that were tried and have no outcome yet.
#[derive(Debug)]
pub struct Open {
    /// How many.
    pub count: i64,
    /// Since when the oldest is here.
    pub oldest_at: Option<DateTime<Utc>>,
    /// Why that one waits.
    pub oldest_reason: Option<String>,
}

/// Looks for them in the ledger.
pub async fn open(pool: &PgPool, env: &str) -> sqlx::Result<Open> {
    let open = sqlx::query!(
        r#"
        SELECT count(*) AS "open!", min(received_at) AS oldest
        FROM workos_sync.events
        WHERE env = $1 AND outcome IS NULL
        "#,
        env
    )
    .fetch_one(pool)
    .await?;
    let reason = sqlx::query_scalar!(
        r#"
        SELECT reason
        FROM workos_sync.events
        WHERE env = $1 AND outcome IS NULL
        ORDER BY received_at
        LIMIT 1
        "#,
        env
    )
    .fetch_optional(pool)
    .await?;
    Ok(Open { count: open.open, oldest_at: open.oldest, oldest_reason: reason.flatten() })
}

/// How often it is looked how long the oldest event waits.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Since when the oldest event waits: in the stream, not settled yet, or in the ledger without an outcome.
pub async fn oldest_pending(
    pool: &PgPool,
    jetstream: &jetstream::Context,
    env: &str,
) -> anyhow::Result<Option<DateTime<Utc>>> {
    let in_ledger = open(pool, env).await.context("failed to read the ledger")?.oldest_at;
    let stream = jetstream
        .get_stream_no_info(subject::EVENTS_STREAM)
        .await
        .with_context(|| format!("failed to open the stream {}", subject::EVENTS_STREAM))?;
    let first = match stream.consumer_info(subject::worker_consumer(env)).await {
        Ok(consumer) if consumer.num_pending == 0 && consumer.num_ack_pending == 0 => return Ok(in_ledger),
        Ok(consumer) => consumer.ack_floor.stream_sequence + 1,
        // Before the first worker ran there is no consumer, and everything waits.
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => 1,
        Err(error) => return Err(error).context("failed to ask the broker about the consumer"),
    };
    let in_stream = match stream.get_first_raw_message_by_subject(subject::events_of(env), first).await {
        Ok(message) => Some(message.time),
        // Settled meanwhile.
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => None,
        Err(error) => return Err(error).context("failed to look for the oldest message"),
    };
    Ok(in_ledger.into_iter().chain(in_stream).min())
}

/// Shows how long the oldest event waits, until `stop`. While nobody can be asked, what waited goes on waiting.
pub async fn keep_watching(
    pool: PgPool,
    jetstream: jetstream::Context,
    env: String,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut oldest = None;
    let watching = async {
        loop {
            match oldest_pending(&pool, &jetstream, &env).await {
                Ok(now) => oldest = now,
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "could not look how long the oldest event waits"
                    );
                }
            }
            let waits = oldest.and_then(|oldest| (clock::now() - oldest).to_std().ok());
            metrics.oldest_pending(waits.unwrap_or_default());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// How far the Events API was read.
#[derive(Debug, Serialize)]
pub struct Tail {
    /// The last event that was read.
    pub cursor: Option<String>,
    /// When WorkOS made it.
    pub event_at: Option<DateTime<Utc>>,
    /// When a page was last read.
    pub checked_at: DateTime<Utc>,
    /// How long ago that was.
    pub checked_seconds_ago: i64,
    /// Since when a verify is wanted, because events may have been missed.
    pub verify_requested_at: Option<DateTime<Utc>>,
}

/// Looks where the cursor stands.
pub async fn tail(pool: &PgPool, env: &str) -> sqlx::Result<Option<Tail>> {
    let row = sqlx::query!(
        r#"
        SELECT cursor, event_at, checked_at, verify_requested_at
        FROM workos_sync.cursors
        WHERE env = $1 AND name = 'events'
        "#,
        env
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Tail {
        cursor: row.cursor,
        event_at: row.event_at,
        checked_at: row.checked_at,
        checked_seconds_ago: (clock::now() - row.checked_at).num_seconds(),
        verify_requested_at: row.verify_requested_at,
    }))
}

/// An event, as the ledger has it.
#[derive(Debug)]
pub struct Recent {
    /// Its id.
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// The object it is about.
    pub object_id: Option<String>,
    /// How it ended; none while it is being tried.
    pub outcome: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When WorkOS made it.
    pub created_at: Option<DateTime<Utc>>,
    /// When it was settled.
    pub settled_at: Option<DateTime<Utc>>,
}

/// The newest events, by their ids: WorkOS makes those in the order of time.
pub async fn recent(pool: &PgPool, env: &str, count: i64) -> sqlx::Result<Vec<Recent>> {
    sqlx::query_as!(
        Recent,
        r#"
        SELECT id, type AS event_type, object_id, outcome, reason, created_at, settled_at
        FROM workos_sync.events
        WHERE env = $1
        ORDER BY id DESC
        LIMIT $2
        "#,
        env,
        count
    )
    .fetch_all(pool)
    .await
}

/// A replay, a discard, or another run.
#[derive(Debug)]
pub struct Run {
    /// Its number.
    pub id: i64,
    /// What was done.
    pub command: String,
    /// Who wanted it.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// What it counted so far.
    pub counts: Option<serde_json::Value>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How it ended; none before.
    pub result: Option<String>,
}

/// The newest runs.
pub async fn runs(pool: &PgPool, env: &str, count: i64) -> sqlx::Result<Vec<Run>> {
    sqlx::query_as!(
        Run,
        r#"
        SELECT id, command, actor, reason, counts, started_at, result
        FROM workos_sync.runs
        WHERE env = $1
        ORDER BY id DESC
        LIMIT $2
        "#,
        env,
        count
    )
    .fetch_all(pool)
    .await
}

/// One run.
pub async fn run(pool: &PgPool, env: &str, id: i64) -> sqlx::Result<Option<Run>> {
    sqlx::query_as!(
        Run,
        r#"
        SELECT id, command, actor, reason, counts, started_at, result
        FROM workos_sync.runs
        WHERE env = $1 AND id = $2
        "#,
        env,
        id
    )
    .fetch_optional(pool)
    .await
}
