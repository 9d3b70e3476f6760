//! How long after its wait somebody is answered who asks for a sync while something is down.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use support::services::{Nats, Program};

use crate::common::{ENVIRONMENT, SECRET, broker, env};
use crate::immediate::TOKEN;
use crate::world::World;

/// Calls for each dependency and each wait.
const CALLS: usize = 20;

/// What is asked to be waited for.
const WAITS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(300)];

/// What is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// WorkOS takes longer than anybody waits.
    WorkOs,
    /// Postgres does not answer.
    Postgres,
    /// There is no worker.
    Worker,
    /// The broker does not answer.
    BrokerSilent,
    /// There is no broker.
    BrokerGone,
}

impl Down {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::WorkOs, Self::Postgres, Self::Worker, Self::BrokerSilent, Self::BrokerGone];

    /// What it is called in the report.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WorkOs => "WorkOS silent",
            Self::Postgres => "Postgres silent",
            Self::Worker => "no worker",
            Self::BrokerSilent => "NATS silent",
            Self::BrokerGone => "no NATS",
        }
    }
}

/// The longest that anybody was answered after the wait, in milliseconds.
pub(crate) async fn measure(world: &mut World, down: Down) -> anyhow::Result<f64> {
    let room = world.room()?;
    let mut nats = broker::start(&room, false).await?;
    let database = world.database().await?;
    let ingest_env = env(&[
        ("WORKOS_WEBHOOK_SECRET", SECRET),
        ("WORKOS_ENV", ENVIRONMENT),
        ("NATS_URL", &nats.url()),
        ("SYNC_TOKEN", TOKEN),
    ]);
    let mut ingest = Program::ingest(&room, "ingest", &ingest_env)?;
    let mut worker = Program::worker(&room, "worker", &world.worker_env(&database, &nats.url()))?;
    ingest.ready().await?;
    worker.ready().await?;
    let base = ingest.url().context("ingest has no address")?;
    ask(world, &base, 0, Duration::from_secs(20)).await.context("while all is well")?;
    fail(world, down, &mut nats, &mut worker).await?;
    let mut longest = 0.0_f64;
    for call in 0..CALLS {
        for (place, wait) in WAITS.into_iter().enumerate() {
            let took = ask(world, &base, 1 + call * WAITS.len() + place, wait).await?;
            longest = longest.max(took.saturating_sub(wait).as_secs_f64() * 1e3);
        }
    }
    match down {
        Down::WorkOs => world.latency(Duration::ZERO).await?,
        Down::Postgres => world.postgres.resume()?,
        Down::BrokerSilent => nats.resume()?,
        Down::Worker | Down::BrokerGone => {}
    }
    ingest.kill()?;
    if down != Down::Worker {
        worker.kill()?;
    }
    Ok(longest)
}

async fn fail(world: &mut World, down: Down, nats: &mut Nats, worker: &mut Program) -> anyhow::Result<()> {
    match down {
        Down::WorkOs => world.latency(Duration::from_secs(8)).await,
        Down::Postgres => world.postgres.pause(),
        Down::Worker => worker.kill(),
        Down::BrokerSilent => nats.pause(),
        Down::BrokerGone => nats.kill(),
    }
}

/// Asks for a user; how long the answer took.
async fn ask(world: &World, base: &str, user: usize, wait: Duration) -> anyhow::Result<Duration> {
    let user = &world.users.get(user).context("too few users")?.id;
    let query = if wait.is_zero() { String::new() } else { format!("?wait={}ms", wait.as_millis()) };
    let call = world.http.post(format!("{base}/sync/user/{user}{query}")).bearer_auth(TOKEN);
    let called = Instant::now();
    let status = call.send().await?.status().as_u16();
    let took = called.elapsed();
    ensure!(matches!(status, 200 | 202 | 503), "answered with {status}");
    Ok(took)
}
