//! Where the import of a directory is measured: a Postgres that waits for its disk, a WorkOS with limits.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;
use shared::id::Kind;
use sqlx::PgPool;
use support::services::{Durability, Nats, Place, Postgres, Program};
use support::sim::{Knobs, Sim, SimConfig};
use support::world::{Mirror, mirror};

use crate::PATIENCE;
use crate::common::report::say;
use crate::common::{ENVIRONMENT, SECRET, broker, env, machine};

const TEMPLATE: &str = "template_bench";

/// Between two looks at what is still on its way.
const LOOK: Duration = Duration::from_millis(200);

/// Everything that lives as long as the benchmark.
pub(crate) struct World {
    databases: usize,
    postgres: Postgres,
    place: Place,
}

/// WorkOS, ingest, a broker and, once started, a worker.
pub(crate) struct Programs<'a> {
    // Dropped in this order.
    worker: Option<Program>,
    _ingest: Program,
    pub(crate) sim: Sim,
    nats: Nats,
    database: String,
    world: &'a World,
}

impl World {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let place = Place::new("bench-directory")?;
        let postgres = Postgres::start(&place.room("postgres")?, Durability::Durable).await?;
        postgres.create_database(TEMPLATE).await?;
        let url = postgres.url(TEMPLATE);
        Program::run(place.path(), "worker", &["migrate"], &env(&[("DATABASE_URL", &url)]), PATIENCE)
            .await?
            .success()
            .context("failed to apply the migrations")?;
        Ok(Self { databases: 0, postgres, place })
    }

    /// Fresh ones.
    pub(crate) async fn programs(&mut self) -> anyhow::Result<Programs<'_>> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        self.postgres.copy_database(TEMPLATE, &name).await?;
        let sim = Sim::start(SimConfig {
            knobs: Knobs { rate_limits: Knobs::published_limits(), latency_ms: (50, 50), ..Knobs::default() },
            ..SimConfig::default()
        })?;
        let nats = broker::start(&self.place.room(&format!("nats-{}", self.databases))?, false).await?;
        let settings =
            env(&[("WORKOS_WEBHOOK_SECRET", SECRET), ("WORKOS_ENV", ENVIRONMENT), ("NATS_URL", &nats.url())]);
        let mut ingest = Program::ingest(self.place.path(), "ingest", &settings)?;
        ingest.ready().await?;
        let url = ingest.url().context("ingest has no address")?;
        sim.add_endpoint(&format!("{url}/webhooks/workos"), SECRET);
        let database = self.postgres.url(&name);
        Ok(Programs { worker: None, _ingest: ingest, sim, nats, database, world: self })
    }

    /// A customer connects a directory of so many users, with so many in each group.
    pub(crate) fn connect_directory(sim: &Sim, users: usize, members: usize) {
        let organization = sim.organization("Acme");
        let directory = sim.create(Kind::Directory, json!({"organization_id": organization}));
        let held = |mut given: serde_json::Value| {
            given["directory_id"] = json!(directory);
            given["organization_id"] = json!(organization);
            given
        };
        let users: Vec<String> = (0..users)
            .map(|n| sim.create(Kind::DirectoryUser, held(json!({"email": format!("user{n}@example.com")}))))
            .collect();
        let groups: Vec<String> = (0..users.len().div_ceil(members))
            .map(|n| sim.create(Kind::DirectoryGroup, held(json!({"name": format!("Group {n}")}))))
            .collect();
        for (user, group) in users
            .chunks(members)
            .zip(&groups)
            .flat_map(|(users, group)| users.iter().map(move |user| (user, group)))
        {
            let pair = json!({"directory_user_id": user, "directory_group_id": group});
            sim.create(Kind::DirectoryGroupMembership, pair);
        }
        say(&format!("  connected a directory of {} users and {} groups", users.len(), groups.len()));
    }
}

impl Programs<'_> {
    pub(crate) async fn start_worker(&mut self) -> anyhow::Result<()> {
        let settings = env(&[
            ("WORKOS_ENV", ENVIRONMENT),
            ("WORKOS_API_KEY", self.sim.api_key()),
            ("WORKOS_API_BASE_URL", self.sim.url()),
            ("SYNC_TAIL_INTERVAL", "off"),
            ("DATABASE_URL", &self.database),
            ("NATS_URL", &self.nats.url()),
        ]);
        let mut worker = Program::worker(self.world.place.path(), "worker", &settings)?;
        worker.ready().await?;
        self.worker = Some(worker);
        Ok(())
    }

    /// Waits until every webhook is stored.
    pub(crate) async fn all_stored(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.sim.pending_deliveries() > 0 {
            if began.elapsed() > PATIENCE {
                bail!("webhooks are still on their way");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until every event has its outcome; returns the most memory that the worker took, in MiB.
    pub(crate) async fn settled(&mut self) -> anyhow::Result<f64> {
        self.all_stored().await?;
        let pool = PgPool::connect(&self.database).await?;
        let events = i64::try_from(self.sim.events().len())?;
        let began = Instant::now();
        loop {
            let ended: i64 =
                sqlx::query_scalar("SELECT count(*) FROM workos_sync.events WHERE outcome IS NOT NULL")
                    .fetch_one(&pool)
                    .await?;
            if ended >= events {
                break;
            }
            if began.elapsed() > PATIENCE {
                bail!("{ended} of {events} events have their outcome");
            }
            tokio::time::sleep(LOOK).await;
        }
        pool.close().await;
        let worker = self.worker.as_ref().context("no worker runs")?;
        machine::peak_rss(worker.pid())
    }

    /// The mirror equals WorkOS; otherwise the figures say nothing.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        let pool = PgPool::connect(&self.database).await?;
        let differences = Mirror::read(&pool).await?.differences(&pool, &self.sim, ENVIRONMENT).await?;
        pool.close().await;
        if differences.is_empty() { Ok(()) } else { bail!("{}", mirror::listing(&differences)) }
    }
}
