//! From asking `ingest` for a user to the answer that its rows are committed, while a backlog of events waits
//! and WorkOS takes its time.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use sqlx::Connection as _;
use support::services::Program;

use crate::common::load::{Load, full_speed};
use crate::common::payload::Requests;
use crate::common::{ENVIRONMENT, SECRET, aside, broker, env};
use crate::world::{self, World};

/// What opens the route.
pub(crate) const TOKEN: &str = "token_of_the_benchmark";

/// People who log in at the same moment.
const AT_ONCE: usize = 2;

/// Logins before the measured ones.
const WARM_UP: usize = 20;

/// Organizations that they belong to, two each. The first logins bring them along.
const ORGANIZATIONS: usize = 20;
const MEMBERSHIPS: usize = 2;

/// What came of it.
pub(crate) struct Immediate {
    load: Load,
    /// Events that still waited after the last answer.
    pub(crate) left: u64,
    /// Who used the CPU.
    pub(crate) cpu: String,
}

impl Immediate {
    /// A quantile of request to answer, in milliseconds.
    pub(crate) fn answered(&self, quantile: f64) -> f64 {
        self.load.quantile_ms(quantile)
    }
}

/// Gives the last users memberships, so that there is something to log in with.
pub(crate) async fn prepare(world: &World, logins: usize) -> anyhow::Result<()> {
    let from = world.users.len().saturating_sub(WARM_UP + logins);
    world.join_organizations(&world.users[from..], ORGANIZATIONS, MEMBERSHIPS).await
}

/// Logs so many users in, before `backlog` events about others. Every answer must be 200.
pub(crate) async fn measure(
    world: &mut World,
    backlog: usize,
    logins: usize,
    settings: &[(&str, &str)],
) -> anyhow::Result<Immediate> {
    let room = world.room()?;
    let nats = broker::start(&room, false).await?;
    broker::fill(nats.url(), world.distinct(backlog)).await?;
    let context = broker::connect(&nats.url()).await?;
    let database = world.database().await?;
    let ingest_env = env(&[
        ("WORKOS_WEBHOOK_SECRET", SECRET),
        ("WORKOS_ENV", ENVIRONMENT),
        ("NATS_URL", &nats.url()),
        ("SYNC_TOKEN", TOKEN),
    ]);
    let mut worker_env = world.worker_env(&database, &nats.url());
    worker_env.extend(env(settings));
    let mut ingest = Program::ingest(&room, "ingest", &ingest_env)?;
    let mut worker = Program::worker(&room, "worker", &worker_env)?;
    ingest.ready().await?;
    worker.ready().await?;
    let address = ingest.url().context("ingest has no address")?.trim_start_matches("http://").parse()?;

    let from = world.users.len().saturating_sub(WARM_UP + logins);
    let users = &world.users[from..];
    let requests = Arc::new(Requests::syncs(users, TOKEN)?);
    let warm_up = requests.clone();
    aside(move || full_speed(address, &warm_up, 0..WARM_UP, AT_ONCE)?.all_accepted()).await?;
    let cpu = world.cpu()?;
    let before = cpu.read();
    let load =
        aside(move || full_speed(address, &requests, WARM_UP..requests.len(), AT_ONCE)?.all_accepted());
    let load = load.await?;
    let cpu = cpu.read().since(&before, logins);
    let left = broker::pending(&context).await?;
    check(&database, users.iter().map(|user| user.id.clone()).collect()).await?;
    worker.kill()?;
    Ok(Immediate { load, left, cpu })
}

/// What was answered with 200 is there.
async fn check(database: &str, users: Vec<String>) -> anyhow::Result<()> {
    let mut connection = world::connect(database).await?;
    let rows: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM workos.users_live WHERE id = ANY($1))
              + (SELECT count(*) FROM workos.organization_memberships_live WHERE user_id = ANY($1))",
    )
    .bind(&users)
    .fetch_one(&mut connection)
    .await?;
    connection.close().await?;
    let wanted = i64::try_from(users.len() * (1 + MEMBERSHIPS))?;
    if rows != wanted {
        bail!("the mirror has {rows} users and memberships of {wanted}, and every answer was 200");
    }
    Ok(())
}
