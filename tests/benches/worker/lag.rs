//! From the moment a webhook is due to the moment its row can be read, through the real `ingest` and the
//! real `worker`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use sqlx::{Connection as _, PgConnection};
use support::services::Program;

use crate::common::load::{Load, histogram, note, quantile_ms};
use crate::common::paced::{Schedule, paced};
use crate::common::payload::{self, Requests, event_id};
use crate::common::{ENVIRONMENT, SECRET, aside, broker, env, on_one_thread};
use crate::world::{self, World};

/// As many connections as WorkOS might keep.
const CONNECTIONS: usize = 64;

/// 1,000 webhooks a second, each due at a whole millisecond, which `created_at` can say.
const EVERY: Duration = Duration::from_millis(1);

/// The reader waits for one event of so many: looking for all would cost what it measures.
const ONE_IN: usize = 10;

/// How often the reader looks.
const LOOK: Duration = Duration::from_millis(1);

/// Events before the measured ones.
const WARM_UP: usize = 1_000;

/// How long the last row may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of it.
pub(crate) struct Lag {
    load: Load,
    seen: Histogram<u64>,
    /// `settled_at` after the webhook was due, p50 and p99 of every event, in milliseconds.
    pub(crate) settled: [f64; 2],
    /// Who used the CPU.
    pub(crate) cpu: String,
}

impl Lag {
    /// A quantile of webhook to visible row, in milliseconds.
    pub(crate) fn visible(&self, quantile: f64) -> f64 {
        quantile_ms(&self.seen, quantile)
    }

    /// A quantile of webhook to its answer, in milliseconds.
    pub(crate) fn answered(&self, quantile: f64) -> f64 {
        self.load.quantile_ms(quantile)
    }
}

/// Posts webhooks about so many users, one a millisecond.
pub(crate) async fn measure(world: &mut World, events: usize) -> anyhow::Result<Lag> {
    let room = world.room()?;
    let nats = broker::start(&room, false).await?;
    let database = world.database().await?;
    let ingest_env =
        env(&[("WORKOS_WEBHOOK_SECRET", SECRET), ("WORKOS_ENV", ENVIRONMENT), ("NATS_URL", &nats.url())]);
    let mut worker_env = world.worker_env(&database, &nats.url());
    worker_env.extend(env(&[("SYNC_RATE_LIMIT", "off")]));
    let mut ingest = Program::ingest(&room, "ingest", &ingest_env)?;
    let mut worker = Program::worker(&room, "worker", &worker_env)?;
    ingest.ready().await?;
    worker.ready().await?;
    let address = ingest.url().context("ingest has no address")?.trim_start_matches("http://").parse()?;

    let all = (WARM_UP + events).min(world.users.len());
    // Signing takes a while; then the first is due.
    let schedule = Schedule::starting_in(Duration::from_secs(2), EVERY);
    let mut requests = Requests::default();
    for (number, user) in world.users.iter().take(all).enumerate() {
        let due = schedule.due_on_the_clock(number);
        requests.webhook(&payload::body(number, user, due), due)?;
    }
    let requests = Arc::new(requests);
    let cpu = world.cpu()?;
    let before = cpu.read();
    let reader = aside({
        let database = database.clone();
        let ids = world.users.iter().take(all).map(|user| user.id.clone()).collect();
        move || on_one_thread(read(database, ids, schedule))
    });
    let load = aside(move || paced(address, &requests, &(0..all), CONNECTIONS, schedule)?.all_accepted());
    let (load, seen) = tokio::try_join!(load, reader)?;
    let cpu = cpu.read().since(&before, all);
    let settled = settled(&database).await?;
    Ok(Lag { load, seen, settled, cpu })
}

/// Looks every millisecond for the rows of one event in ten.
async fn read(database: String, users: Vec<String>, schedule: Schedule) -> anyhow::Result<Histogram<u64>> {
    let mut connection = world::connect(&database).await?;
    // The plan is made while the table is empty; looking must stay cheap when it is not.
    sqlx::query("SET enable_seqscan = off").execute(&mut connection).await?;
    let mut seen = histogram()?;
    let mut waiting: Vec<usize> = Vec::new();
    let mut next = WARM_UP;
    let end = schedule.due(users.len()) + PATIENCE;
    while next < users.len() || !waiting.is_empty() {
        let now = Instant::now();
        while next < users.len() && schedule.due(next) <= now {
            waiting.push(next);
            next += ONE_IN;
        }
        if !waiting.is_empty() {
            for number in visible(&mut connection, &users, &waiting).await? {
                note(&mut seen, schedule.due(number).elapsed());
                waiting.retain(|waits| *waits != number);
            }
        }
        if now > end {
            bail!("{} rows did not appear", waiting.len());
        }
        // Not tokio's timer, which would wake up to a millisecond later.
        std::thread::sleep(LOOK.saturating_sub(now.elapsed()));
    }
    connection.close().await?;
    Ok(seen)
}

async fn visible(
    connection: &mut PgConnection,
    users: &[String],
    waiting: &[usize],
) -> anyhow::Result<Vec<usize>> {
    let ids: Vec<&str> = waiting.iter().map(|place| users[*place].as_str()).collect();
    let found: Vec<String> = sqlx::query_scalar("SELECT id FROM workos.users WHERE id = ANY($1)")
        .bind(&ids)
        .fetch_all(connection)
        .await?;
    Ok(waiting.iter().copied().filter(|place| found.contains(&users[*place])).collect())
}

/// `settled_at` says when the worker was about to write the ledger; the commit comes after it.
async fn settled(database: &str) -> anyhow::Result<[f64; 2]> {
    let mut connection = world::connect(database).await?;
    let quantiles: (Option<f64>, Option<f64>) = sqlx::query_as(
        "SELECT percentile_cont(0.50) WITHIN GROUP (ORDER BY lag), percentile_cont(0.99) WITHIN GROUP (ORDER BY lag)
           FROM (SELECT extract(epoch FROM settled_at - created_at)::float8 * 1000 AS lag
                   FROM workos_sync.events WHERE env = $1 AND id >= $2) AS measured",
    )
    .bind(ENVIRONMENT)
    .bind(event_id(WARM_UP))
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    Ok([quantiles.0.context("nothing was settled")?, quantiles.1.context("nothing was settled")?])
}
