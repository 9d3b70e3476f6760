//! What a world has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::postgres::PgPoolOptions;

use super::database::Database;
use super::{Mirror, WEBHOOK_SECRET, World, work};
use crate::services::{Nats, Place};
use crate::sim::{Knobs, Sim, SimConfig};

/// How long a story waits for anything. Generous: a busy machine must not fail a story, and one that
/// never settles explains itself after this.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a world has: one ingest, one worker and a perfect WorkOS unless you say otherwise.
#[derive(Clone, Debug)]
pub struct Builder {
    ingests: usize,
    workers: usize,
    sim: SimConfig,
    env: BTreeMap<String, String>,
    ingest_env: BTreeMap<usize, BTreeMap<String, String>>,
    worker_env: BTreeMap<usize, BTreeMap<String, String>>,
    nats: String,
    pub(super) nats_login: Option<(String, String)>,
    private_postgres: bool,
    pub(super) patience: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            ingests: 1,
            workers: 1,
            sim: SimConfig::default(),
            env: BTreeMap::new(),
            ingest_env: BTreeMap::new(),
            worker_env: BTreeMap::new(),
            nats: String::new(),
            nats_login: None,
            private_postgres: false,
            patience: PATIENCE,
        }
    }
}

impl Builder {
    /// So many copies of ingest. Webhooks go to the first.
    #[must_use]
    pub fn ingests(mut self, count: usize) -> Self {
        self.ingests = count;
        self
    }

    /// So many workers.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Neither ingest nor worker: the servers, a migrated database, and WorkOS.
    #[must_use]
    pub fn without_programs(self) -> Self {
        self.ingests(0).workers(0)
    }

    /// What goes wrong at WorkOS.
    #[must_use]
    pub fn knobs(mut self, knobs: Knobs) -> Self {
        self.sim.knobs = knobs;
        self
    }

    /// What the simulator's chance is made of.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.sim.seed = seed;
        self
    }

    /// How many webhooks may be on their way at once.
    #[must_use]
    pub fn webhooks_at_once(mut self, count: usize) -> Self {
        self.sim.webhooks_at_once = count;
        self
    }

    /// A setting of every program.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A setting of the `index`th ingest.
    #[must_use]
    pub fn ingest_env(mut self, index: usize, name: &str, value: &str) -> Self {
        self.ingest_env.entry(index).or_default().insert(name.to_owned(), value.to_owned());
        self
    }

    /// A setting of the `index`th worker.
    #[must_use]
    pub fn worker_env(mut self, index: usize, name: &str, value: &str) -> Self {
        self.worker_env.entry(index).or_default().insert(name.to_owned(), value.to_owned());
        self
    }

    /// More lines for the configuration of NATS.
    #[must_use]
    pub fn nats(mut self, settings: &str) -> Self {
        settings.clone_into(&mut self.nats);
        self
    }

    /// A broker that lets in this user only.
    #[must_use]
    pub fn nats_user(mut self, name: &str, password: &str) -> Self {
        self.nats_login = Some((name.to_owned(), password.to_owned()));
        self.nats(&format!("authorization {{ user: \"{name}\", password: \"{password}\" }}\n"))
    }

    /// A Postgres of its own, which the story may stop.
    #[must_use]
    pub fn private_postgres(mut self) -> Self {
        self.private_postgres = true;
        self
    }

    /// How long to wait for anything.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it; everything in it is ready.
    pub async fn start(self) -> World {
        work(self.try_start().await.context("failed to start the world"))
    }

    /// Starts it, for stories about what keeps it from starting.
    pub async fn try_start(self) -> anyhow::Result<World> {
        let place = Place::new("world")?;
        let nats_room = place.room("nats")?;
        let (database, nats) = tokio::try_join!(
            Database::new(&place, self.private_postgres),
            Nats::start_with(&nats_room, &self.nats)
        )?;
        let sim = Sim::start(self.sim.clone())?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(10))
            .connect(&database.url)
            .await
            .context("failed to connect to the world's database")?;
        let mut options = async_nats::ConnectOptions::new()
            .max_reconnects(None)
            .reconnect_delay_callback(|_| Duration::from_millis(20));
        if let Some((name, password)) = self.nats_login.clone() {
            options = options.user_and_password(name, password);
        }
        let client = options.connect(nats.url()).await.context("failed to connect to the world's broker")?;
        let http = reqwest::Client::builder().no_proxy().build().context("failed to build a client")?;
        let mirror = Mirror::read(&pool).await?;

        let mut world = World {
            ingests: Vec::new(),
            workers: Vec::new(),
            sim,
            pool,
            jetstream: async_nats::jetstream::new(client),
            http,
            mirror,
            started: Instant::now(),
            nats,
            database,
            place,
            builder: self,
        };
        for index in 0..world.builder.ingests {
            let ingest = world.launch_ingest(index)?;
            world.ingests.push(ingest);
        }
        for index in 0..world.builder.workers {
            let worker = world.launch_worker(index)?;
            world.workers.push(worker);
        }
        for program in world.ingests.iter_mut().chain(&mut world.workers) {
            program.ready().await?;
        }
        if world.builder.ingests > 0 {
            world.sim.add_endpoint(&world.webhook_url(0), WEBHOOK_SECRET);
        }
        Ok(world)
    }

    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }

    pub(super) fn ingest_settings(&self, index: usize) -> impl Iterator<Item = (String, String)> {
        settings(&self.env).chain(self.ingest_env.get(&index).into_iter().flat_map(settings))
    }

    pub(super) fn worker_settings(&self, index: Option<usize>) -> impl Iterator<Item = (String, String)> {
        let own = index.and_then(|index| self.worker_env.get(&index));
        settings(&self.env).chain(own.into_iter().flat_map(settings))
    }
}

/// What a worker needs to know of the servers. Stories are not to wait for the rate limit; and those that say
/// what comes when by webhook are not to be helped by the Events API, unless they ask for it.
pub(super) fn worker_settings(database_url: &str, sim: &Sim) -> Vec<(String, String)> {
    [
        ("DATABASE_URL", database_url),
        ("WORKOS_API_BASE_URL", sim.url()),
        ("WORKOS_API_KEY", sim.api_key()),
        ("SYNC_RATE_LIMIT", "5000/s"),
        ("SYNC_TAIL_INTERVAL", "off"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn settings(env: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    env.iter().map(|(name, value)| (name.clone(), value.clone()))
}
