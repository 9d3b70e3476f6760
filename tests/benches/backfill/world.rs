//! Where a backfill is measured: a Postgres that waits for its disk, a WorkOS with a large company.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;
use shared::id::Kind;
use sqlx::PgPool;
use support::services::{Durability, Nats, Place, Postgres, Program, Running};
use support::sim::{Company, Sim, SimConfig};
use support::world::{Mirror, mirror};

use crate::PATIENCE;
use crate::common::report::say;
use crate::common::{ENVIRONMENT, SECRET, broker, env};

const TEMPLATE: &str = "template_bench";

/// Between two looks at what is still on its way.
const LOOK: Duration = Duration::from_millis(200);

/// Everything that lives as long as the benchmark.
pub(crate) struct World {
    pub(crate) sim: Sim,
    databases: usize,
    postgres: Postgres,
    place: Place,
}

impl World {
    /// Starts the servers and makes the company.
    pub(crate) async fn start(users: usize) -> anyhow::Result<Self> {
        let place = Place::new("bench-backfill")?;
        let postgres = Postgres::start(&place.room("postgres")?, Durability::Durable).await?;
        postgres.create_database(TEMPLATE).await?;
        let url = postgres.url(TEMPLATE);
        Program::run(place.path(), "worker", &["migrate"], &env(&[("DATABASE_URL", &url)]), PATIENCE)
            .await?
            .success()
            .context("failed to apply the migrations")?;
        let sim = Sim::start(SimConfig::default())?;
        let organizations = (users / 50).max(1);
        sim.seed(&Company {
            users,
            organizations,
            domains_per_organization: 1,
            memberships_per_user: 1,
            announce: false,
        });
        let (members, all) = (sim.ever(Kind::User), sim.ever(Kind::Organization));
        for (number, user) in members.iter().step_by(5).enumerate() {
            let given = json!({"user_id": user, "organization_id": all[(number + 1) % organizations]});
            sim.silently_create(Kind::OrganizationMembership, given);
        }
        let size = Kind::ALL.map(|kind| format!("{} × {kind}", sim.count(kind)));
        say(&format!("  Postgres is ready, and a WorkOS with {}", size.join(", ")));
        Ok(Self { sim, databases: 0, postgres, place })
    }

    /// A fresh database with the schema.
    pub(crate) async fn database(&mut self) -> anyhow::Result<String> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        self.postgres.copy_database(TEMPLATE, &name).await?;
        Ok(self.postgres.url(&name))
    }

    fn settings(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut all = env(&[
            ("WORKOS_ENV", ENVIRONMENT),
            ("WORKOS_API_KEY", self.sim.api_key()),
            ("WORKOS_API_BASE_URL", self.sim.url()),
            ("SYNC_TAIL_INTERVAL", "off"),
        ]);
        all.extend(env(more));
        all
    }

    /// Starts a command of the worker.
    pub(crate) fn command(&self, args: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<Running> {
        Running::start(self.place.path(), "worker", args, &self.settings(settings))
    }

    /// The mirror equals WorkOS; otherwise the figures say nothing.
    pub(crate) async fn check(&self, database: &str) -> anyhow::Result<()> {
        let pool = PgPool::connect(database).await?;
        let differences = Mirror::read(&pool).await?.differences(&pool, &self.sim, ENVIRONMENT).await?;
        pool.close().await;
        if differences.is_empty() { Ok(()) } else { bail!("{}", mirror::listing(&differences)) }
    }
}

/// Ingest and worker, and their broker.
pub(crate) struct Programs {
    // Dropped in this order.
    _ingest: Program,
    _worker: Program,
    nats: Nats,
    endpoint: String,
}

impl Programs {
    pub(crate) async fn start(world: &World, database: &str) -> anyhow::Result<Self> {
        let nats = broker::start(&world.place.room("nats")?, false).await?;
        let ingest_env =
            env(&[("WORKOS_WEBHOOK_SECRET", SECRET), ("WORKOS_ENV", ENVIRONMENT), ("NATS_URL", &nats.url())]);
        let worker_env = world.settings(&[
            ("DATABASE_URL", database),
            ("NATS_URL", &nats.url()),
            ("SYNC_RATE_LIMIT", "15/s"),
        ]);
        let mut ingest = Program::ingest(world.place.path(), "ingest", &ingest_env)?;
        let mut worker = Program::worker(world.place.path(), "worker", &worker_env)?;
        ingest.ready().await?;
        worker.ready().await?;
        let url = ingest.url().context("ingest has no address")?;
        let endpoint = world.sim.add_endpoint(&format!("{url}/webhooks/workos"), SECRET);
        Ok(Self { _ingest: ingest, _worker: worker, nats, endpoint })
    }

    /// Waits until nothing is on its way.
    pub(crate) async fn settle(&mut self, world: &World) -> anyhow::Result<()> {
        let began = Instant::now();
        while world.sim.pending_deliveries() > 0 {
            if began.elapsed() > PATIENCE {
                bail!("webhooks are still on their way");
            }
            tokio::time::sleep(LOOK).await;
        }
        let context = broker::connect(&self.nats.url()).await?;
        broker::drained(&context, u64::try_from(world.sim.events().len())?).await?;
        world.sim.remove_endpoint(&self.endpoint);
        Ok(())
    }
}
