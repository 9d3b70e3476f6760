//! Dead letters: events set aside for a person, in the stream `WORKOS_DLQ`.
//!
//! In the order they travel: `bury` publishes one before its event is given up, `exhausted` buries what the
//! broker will not deliver again, `list` reads them, `act` replays or discards them.

pub mod act;
mod bury;
mod exhausted;
pub mod list;

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::stream::Stream;
use chrono::{DateTime, SubsecRound as _, Utc};
use futures_util::StreamExt as _;
use serde::Serialize;
use shared::event::Event;
use shared::{broker, subject};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

pub use bury::Doomed;
pub use exhausted::watch as watch_exhausted;
pub use list::Filter;

use crate::metrics::Metrics;

/// How often the dead letters are counted for the metric.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// An event set aside, and why.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// Its sequence among the dead letters: what commands call it.
    pub seq: u64,
    /// When it was set aside.
    pub died_at: DateTime<Utc>,
    /// Class of the failure.
    pub reason: String,
    /// The failure in words, without personal data.
    pub error: String,
    /// Attempts that it used up.
    pub attempts: u32,
    /// When the event first reached us.
    pub first_seen: DateTime<Utc>,
    /// The event's sequence in `WORKOS_EVENTS`.
    pub stream_seq: u64,
    /// The event.
    pub event: Event,
    /// Earlier dead letters of the same event, which this one stands for.
    #[serde(skip)]
    pub earlier: Vec<u64>,
}

/// The dead letters of one environment.
#[derive(Clone)]
pub struct DeadLetters {
    env: String,
    jetstream: jetstream::Context,
}

impl DeadLetters {
    /// Those of this environment.
    #[must_use]
    pub fn new(env: &str, jetstream: jetstream::Context) -> Self {
        Self { env: env.to_owned(), jetstream }
    }

    async fn stream(&self) -> anyhow::Result<Stream> {
        self.jetstream
            .get_stream(subject::DEAD_LETTERS_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::DEAD_LETTERS_STREAM))
    }

    /// Makes sure that the stream is there, for commands on a broker that no worker has met yet.
    pub async fn ensure(&self, replicas: usize) -> anyhow::Result<()> {
        broker::ensure_dead_letters(&self.jetstream, replicas).await
    }

    /// How many there are.
    pub async fn depth(&self) -> anyhow::Result<u64> {
        let stream = self
            .jetstream
            .get_stream_no_info(subject::DEAD_LETTERS_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::DEAD_LETTERS_STREAM))?;
        let mut subjects = stream
            .info_with_subjects(subject::dead_letters_of(&self.env))
            .await
            .context("failed to ask the broker about the dead letters")?;
        let mut depth = 0;
        while let Some(subject) = subjects.next().await {
            let (_, count) = subject.context("failed to ask the broker about the dead letters")?;
            depth += count as u64;
        }
        Ok(depth)
    }

    /// Counts them for the metric, every ten seconds, until `stop`.
    pub async fn keep_counting(self, metrics: Metrics, stop: CancellationToken) {
        let counting = async {
            loop {
                match self.depth().await {
                    Ok(depth) => metrics.dlq_depth(depth),
                    Err(error) => {
                        tracing::debug!(error = format!("{error:#}"), "could not count the dead letters");
                    }
                }
                tokio::time::sleep(COUNT_EVERY).await;
            }
        };
        stop.run_until_cancelled(counting).await;
    }
}

/// The life of a stream of dead letters, to the microsecond that Postgres keeps.
fn life_of(stream: &Stream) -> DateTime<Utc> {
    stream.cached_info().created.trunc_subsecs(6)
}

/// What the ledger knows of an event that is a dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// How it ended; none while it is being tried.
    pub outcome: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Attempts that it used up.
    pub attempts: i32,
    /// When it was settled.
    pub settled_at: Option<DateTime<Utc>>,
}

/// Looks an event up in the ledger.
pub async fn entry(database: &PgPool, env: &str, event_id: &str) -> sqlx::Result<Option<Entry>> {
    sqlx::query_as!(
        Entry,
        r#"
        SELECT outcome, reason, attempts, settled_at
        FROM workos_sync.events
        WHERE env = $1 AND id = $2
        "#,
        env,
        event_id
    )
    .fetch_optional(database)
    .await
}
