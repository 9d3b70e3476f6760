//! Reads the Events API beside the webhooks, and publishes what it finds to the same stream under the same
//! message ids, so that everything behind is one.
//!
//! `role` makes sure that one copy at a time reads, `reader` reads and publishes, `page` and `window` are
//! pure: what an item is, and how far the cursor may go. `records` is the SQL. `arrivals` notes webhooks that
//! came after the tail, `metrics` shows it all.
//!
//! Nothing is ever skipped: the cursor passes an event only when the ledger has it. What lies between the cursor
//! and the newest event is in memory, and read again by whoever takes over. So whatever is lost, a process or the
//! whole stream, an event is either in the ledger or behind the cursor.

mod arrivals;
pub mod metrics;
mod page;
mod reader;
mod records;
mod role;
mod window;

use std::time::Duration;

use async_nats::jetstream;
use shared::admin::Readiness;
use shared::config::Secret;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::config::TailConfig;
use crate::metrics::Metrics;
use crate::workos::WorkOs;
use metrics::Reached;
use reader::Reader;
use records::Position;
use role::Role;

/// How often a copy asks for the role, and how often the one that has it looks after what it read.
const TICK: Duration = Duration::from_secs(1);

/// Events in a row that no webhook told of before we say that webhooks are silent: one or two can be lost by
/// accident.
const SILENT_AFTER: i64 = 3;

/// What the tail needs.
pub struct Tail {
    /// Label of the WorkOS environment.
    pub env: String,
    /// How often to poll, and how long a webhook may take.
    pub config: TailConfig,
    /// Where Postgres is: the role has a connection of its own.
    pub database_url: Secret,
    /// The pool, for what needs no role.
    pub database: PgPool,
    /// Replicas of a stream that must be made.
    pub replicas: usize,
    /// Who is asked.
    pub workos: WorkOs,
    /// The broker.
    pub client: async_nats::Client,
    /// What it counts.
    pub metrics: Metrics,
    /// Where it tells that webhooks are silent.
    pub readiness: Readiness,
}

/// Reads the Events API whenever no other copy does, until `stop`.
pub async fn run(tail: Tail, stop: CancellationToken) {
    let arrivals = arrivals::keep(
        tail.client.clone(),
        tail.database.clone(),
        tail.env.clone(),
        tail.metrics.clone(),
        stop.clone(),
    );
    let reading = async {
        let mut attempt = 0;
        while !stop.is_cancelled() {
            match stop.run_until_cancelled(tail.serve(&mut attempt)).await {
                None | Some(Ok(())) => {}
                Some(Err(error)) => {
                    attempt += 1;
                    if attempt == 1 {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the tail stopped, trying until it works"
                        );
                    }
                    // Another copy may do better meanwhile.
                    let delay = TICK + backoff::dependency(attempt);
                    stop.run_until_cancelled(tokio::time::sleep(delay)).await;
                }
            }
        }
    };
    tokio::join!(arrivals, reading);
}

impl Tail {
    /// Waits for the role, and reads until it is lost.
    async fn serve(&self, attempt: &mut u32) -> anyhow::Result<()> {
        let mut role = Role::connect(&self.database_url, &self.env).await?;
        while !role.take().await? {
            *attempt = 0;
            if let Some(position) = role.position().await? {
                self.show(&position);
            }
            tokio::time::sleep(TICK).await;
        }
        let holding = Holding::begin(&self.metrics);
        let jetstream = jetstream::new(self.client.clone());
        let mut reader = Reader::begin(self, jetstream, role).await?;
        let ended = reader.run(attempt).await;
        drop(holding);
        reader.leave().await;
        ended
    }

    /// Shows where the reading stands, the same on every copy.
    fn show(&self, position: &Position) {
        let metrics = self.metrics.tail();
        metrics.reached(Reached { checked_at: position.checked_at, read_until: position.read_until });
        metrics.due(position.backfill_due, position.verify_due);
        let silent = position.missed_in_a_row >= SILENT_AFTER;
        let news = metrics.silent(silent) != silent;
        if silent {
            let note = format!(
                "silent, no webhook told of the last {} events; is the endpoint in the WorkOS dashboard enabled, \
                 and does it reach ingest?",
                position.missed_in_a_row
            );
            if news {
                tracing::error!(events = position.missed_in_a_row, "webhooks are {note}");
            }
            self.readiness.note("webhooks", note);
        } else if news {
            tracing::info!("webhooks come again");
            self.readiness.clear_note("webhooks");
        }
        if position.verify_due {
            self.readiness
                .note("verify", "events may have been missed for good; run `worker verify --repair`");
        } else {
            self.readiness.clear_note("verify");
        }
    }
}

/// This copy has the role, until this is dropped.
struct Holding<'a>(&'a Metrics);

impl<'a> Holding<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        tracing::info!("this copy reads the Events API");
        metrics.tail().holds(true);
        Self(metrics)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.tail().holds(false);
    }
}
