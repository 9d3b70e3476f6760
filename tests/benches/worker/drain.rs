//! The real worker on a queue that was filled before it started.

use std::time::Duration;

use anyhow::bail;
use shared::event::Event;
use sqlx::Connection as _;
use support::services::{Nats, Program};

use crate::common::{broker, env, float, machine};
use crate::world::{self, World};

/// What a drained queue tells.
pub(crate) struct Drained {
    events: usize,
    elapsed: Duration,
    /// How often WorkOS was asked.
    pub(crate) requests: u64,
    /// The most memory that the worker ever had.
    pub(crate) peak_mib: f64,
    /// Who used the CPU.
    pub(crate) cpu: String,
}

impl Drained {
    /// Events a second.
    pub(crate) fn rate(&self) -> f64 {
        float(self.events) / self.elapsed.as_secs_f64()
    }
}

/// A full queue, an empty database.
struct Queue {
    nats: Nats,
    room: std::path::PathBuf,
    database: String,
    env: Vec<(String, String)>,
}

impl Queue {
    async fn fill(world: &mut World, events: Vec<Event>, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let room = world.room()?;
        let nats = broker::start(&room, false).await?;
        broker::fill(nats.url(), events).await?;
        let database = world.database().await?;
        let mut all = world.worker_env(&database, &nats.url());
        all.extend(env(settings));
        world.forget_requests().await?;
        Ok(Self { nats, room, database, env: all })
    }
}

/// Starts a worker on a queue of these events and waits until all are acknowledged.
pub(crate) async fn drain(
    world: &mut World,
    events: Vec<Event>,
    settings: &[(&str, &str)],
) -> anyhow::Result<Drained> {
    let count = events.len();
    let queue = Queue::fill(world, events, settings).await?;
    let context = broker::connect(&queue.nats.url()).await?;
    let cpu = world.cpu()?;
    let before = cpu.read();
    let mut worker = Program::worker(&queue.room, "worker", &queue.env)?;
    let elapsed = broker::drained(&context, u64::try_from(count)?).await?;
    let drained = Drained {
        events: count,
        elapsed,
        requests: world.requests().await?,
        peak_mib: machine::peak_rss(worker.pid())?,
        cpu: cpu.read().since(&before, count),
    };
    worker.terminate().await?;
    check(&queue.database, count).await?;
    Ok(drained)
}

/// Every event has its outcome; otherwise the rate says nothing.
async fn check(database: &str, count: usize) -> anyhow::Result<()> {
    let mut connection = world::connect(database).await?;
    let outcomes: Vec<(Option<String>, i64)> =
        sqlx::query_as("SELECT outcome, count(*) FROM workos_sync.events GROUP BY outcome ORDER BY outcome")
            .fetch_all(&mut connection)
            .await?;
    connection.close().await?;
    let good =
        |outcome: &Option<String>| matches!(outcome.as_deref(), Some("applied" | "superseded" | "unchanged"));
    let settled: i64 = outcomes.iter().filter(|(outcome, _)| good(outcome)).map(|(_, count)| count).sum();
    if settled != i64::try_from(count)? {
        bail!("the worker acknowledged {count} events, and the ledger says {outcomes:?}");
    }
    Ok(())
}

/// Lets a worker work on such a queue for a while; the most memory that it had, in MiB.
pub(crate) async fn work_for(
    world: &mut World,
    events: Vec<Event>,
    length: Duration,
    settings: &[(&str, &str)],
) -> anyhow::Result<f64> {
    let queue = Queue::fill(world, events, settings).await?;
    let mut worker = Program::worker(&queue.room, "worker", &queue.env)?;
    worker.ready().await?;
    tokio::time::sleep(length).await;
    let peak = machine::peak_rss(worker.pid())?;
    worker.kill()?;
    Ok(peak)
}
