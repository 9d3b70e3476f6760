//! Webhooks that came after the tail. The stream drops an event that it has already, so ingest tells of them on
//! the side, and whichever copy hears it writes it into the ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use shared::event::Arrival;
use shared::subject;
use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::records::{self, Arrived};
use crate::database::{self, Trouble};
use crate::metrics::Metrics;

/// How often they are written.
const EVERY: Duration = Duration::from_millis(500);

/// How long one is kept whose event the ledger does not have yet.
const KEPT: Duration = Duration::from_hours(1);

/// How many are kept. More come only when the workers are that far behind, and then the count of webhooks that
/// never came may be too high.
const MOST: usize = 20_000;

/// How many are written at once.
const AT_ONCE: usize = 500;

/// Writes what ingest tells, until `stop`.
pub(super) async fn keep(
    client: async_nats::Client,
    database: PgPool,
    env: String,
    metrics: Metrics,
    stop: CancellationToken,
) {
    // One copy of all hears each.
    let told = client.queue_subscribe(subject::arrivals(&env), subject::worker_consumer(&env)).await;
    let mut told = match told {
        Ok(told) => told,
        Err(error) => {
            tracing::error!(error = %error, "failed to subscribe, webhooks that come late will count as missed");
            return;
        }
    };
    let mut arrivals = Arrivals { env, database, metrics, waiting: BTreeMap::new() };
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = told.next() => match message {
                Some(message) => arrivals.hear(&message.payload),
                None => break,
            },
            _ = tick.tick() => arrivals.write().await,
            () = stop.cancelled() => break,
        }
    }
    arrivals.write().await;
}

struct Arrivals {
    env: String,
    database: PgPool,
    metrics: Metrics,
    /// By event: when its webhook came, and when we heard of it.
    waiting: BTreeMap<String, (DateTime<Utc>, Instant)>,
}

impl Arrivals {
    fn hear(&mut self, payload: &[u8]) {
        match serde_json::from_slice::<Arrival>(payload) {
            Ok(arrival) if self.waiting.len() < MOST => {
                self.waiting.entry(arrival.id).or_insert((arrival.received_at, Instant::now()));
            }
            Ok(_) => tracing::warn!(
                "too many webhooks came after the tail to remember all, some will count as missed"
            ),
            Err(error) => tracing::debug!(column = error.column(), "not understood what ingest told"),
        }
    }

    /// Writes what the ledger can take; the rest waits until the ledger has its event.
    async fn write(&mut self) {
        self.waiting.retain(|_, (_, heard)| heard.elapsed() < KEPT);
        let mut after = String::new();
        loop {
            let (ids, times): (Vec<String>, Vec<DateTime<Utc>>) = self
                .waiting
                .range::<String, _>((std::ops::Bound::Excluded(&after), std::ops::Bound::Unbounded))
                .take(AT_ONCE)
                .map(|(id, (received_at, _))| (id.clone(), *received_at))
                .unzip();
            let Some(last) = ids.last() else { return };
            after.clone_from(last);
            if let Err(trouble) = self.write_some(&ids, &times).await {
                tracing::debug!(error = %trouble, "failed to note webhooks that came after the tail");
                return;
            }
        }
    }

    async fn write_some(&mut self, ids: &[String], times: &[DateTime<Utc>]) -> Result<(), Trouble> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let write = note(&self.database, &self.env, &ids, times);
        let arrived =
            tokio::time::timeout(database::TIMEOUT, write).await.map_err(|_| Trouble::Unavailable)?;
        for arrived in arrived.map_err(Trouble::from)? {
            self.waiting.remove(&arrived.id);
            if arrived.new {
                self.metrics.tail().webhook(arrived.created_at, arrived.webhook_at);
            }
        }
        Ok(())
    }
}

async fn note(
    database: &PgPool,
    env: &str,
    ids: &[&str],
    received_at: &[DateTime<Utc>],
) -> sqlx::Result<Vec<Arrived>> {
    let mut connection = database.acquire().await?;
    let arrived = records::note_arrivals(&mut connection, env, ids, received_at).await?;
    if let Some(last) = arrived.iter().filter(|arrived| arrived.new).map(|arrived| arrived.webhook_at).max() {
        records::note_webhook(&mut *connection, env, last).await?;
    }
    Ok(arrived)
}
