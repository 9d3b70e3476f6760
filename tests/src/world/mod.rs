//! A world for a story: a fresh database, a fresh broker, a stand-in WorkOS, the real programs.
//!
//! [`Builder`] says what the world has, `database` gives it a database quickly, `settled` waits for
//! quiet, [`mirror`] compares the mirror with WorkOS, [`metrics`] reads what programs count.

mod builder;
mod database;
pub mod metrics;
pub mod mirror;
mod settled;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::jetstream;
use serde_json::Value;
use shared::id::Kind;
use sqlx::PgPool;

use crate::services::process::Process;
use crate::services::{Finished, Nats, Place, Postgres, Program, Running};
use crate::sim::Sim;

pub use builder::Builder;
pub use metrics::Metrics;
pub use mirror::Mirror;

use database::Database;

/// What signs the simulator's webhooks.
pub const WEBHOOK_SECRET: &str = "whsec_of_the_test_world";

/// What opens the sync requests of ingest.
pub const SYNC_TOKEN: &str = "sync-token-of-the-test-world";

/// The label of the world's WorkOS environment.
pub const ENVIRONMENT: &str = "test";

/// How often a condition is looked at again.
const LOOK: Duration = Duration::from_millis(20);

/// A running world. Everything in it ends when it is dropped.
///
/// What stands in a story's way is a failure of the story, so most of its methods panic with the whole reason.
pub struct World {
    // Dropped in this order: programs before what they depend on, the place last.
    ingests: Vec<Program>,
    workers: Vec<Program>,
    sim: Sim,
    pool: PgPool,
    jetstream: jetstream::Context,
    http: reqwest::Client,
    mirror: Mirror,
    builder: Builder,
    started: Instant,
    nats: Nats,
    database: Database,
    place: Place,
}

impl World {
    /// One ingest, one worker, a perfect WorkOS.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A world of your choice.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// WorkOS.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// The database.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The broker's streams.
    #[must_use]
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// A client for requests to the programs.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The broker itself, to stop, kill or freeze it.
    pub fn nats(&mut self) -> &mut Nats {
        &mut self.nats
    }

    /// The database server, to stop, kill or freeze it; only with [`Builder::private_postgres`].
    pub fn postgres(&mut self) -> &mut Postgres {
        match &mut self.database.private {
            Some(postgres) => postgres,
            None => stop(&anyhow::anyhow!(
                "this story stops Postgres, so it needs World::builder().private_postgres()"
            )),
        }
    }

    /// How to connect to the database.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database.url
    }

    /// How to connect to it as somebody else.
    #[must_use]
    pub fn database_url_of(&self, role: &str) -> String {
        self.database.url.replacen("//postgres@", &format!("//{role}@"), 1)
    }

    /// What the admin address of a worker answers at `path`: the status and the text.
    pub async fn worker_says(&self, index: usize, path: &str) -> Option<(u16, String)> {
        self.says(&self.workers[index], path).await
    }

    /// The same of an ingest.
    pub async fn ingest_says(&self, index: usize, path: &str) -> Option<(u16, String)> {
        self.says(&self.ingests[index], path).await
    }

    async fn says(&self, program: &Program, path: &str) -> Option<(u16, String)> {
        let answer = self.http.get(format!("http://{}{path}", program.admin())).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.text().await.ok()?))
    }

    /// Where the `index`th ingest takes webhooks.
    #[must_use]
    pub fn webhook_url(&self, index: usize) -> String {
        format!("{}/webhooks/workos", self.ingest_url(index))
    }

    /// Where the `index`th ingest listens.
    #[must_use]
    pub fn ingest_url(&self, index: usize) -> String {
        self.ingests[index].url().unwrap_or_default()
    }

    /// The `index`th ingest.
    pub fn ingest(&mut self, index: usize) -> &mut Program {
        &mut self.ingests[index]
    }

    /// The `index`th worker.
    pub fn worker(&mut self, index: usize) -> &mut Program {
        &mut self.workers[index]
    }

    /// What the `index`th ingest counts.
    pub async fn ingest_metrics(&self, index: usize) -> Metrics {
        self.metrics(&self.ingests[index]).await
    }

    /// What the `index`th worker counts.
    pub async fn worker_metrics(&self, index: usize) -> Metrics {
        self.metrics(&self.workers[index]).await
    }

    async fn metrics(&self, program: &Program) -> Metrics {
        let read = async {
            let url = format!("http://{}/metrics", program.admin());
            anyhow::Ok(Metrics::parse(&self.http.get(url).send().await?.text().await?))
        };
        work(read.await.with_context(|| format!("failed to read the metrics of {}", program.name())))
    }

    /// Starts one more worker and waits until it is ready. Returns its index.
    pub async fn start_worker(&mut self) -> usize {
        let index = self.start_unready_worker();
        work(self.workers[index].ready().await);
        index
    }

    /// Starts one more worker, in a world in which it cannot be ready. Returns its index.
    pub fn start_unready_worker(&mut self) -> usize {
        let index = self.workers.len();
        let worker = work(self.launch_worker(index));
        self.workers.push(worker);
        index
    }

    /// Starts one more worker with other settings on top and waits until it is ready. Returns its index.
    pub async fn start_worker_with(&mut self, settings: &[(&str, &str)]) -> usize {
        let index = self.workers.len();
        let mut env = self.worker_settings(Some(index));
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let worker = work(Program::worker(self.place.path(), &format!("worker-{index}"), &env));
        self.workers.push(worker);
        work(self.workers[index].ready().await);
        index
    }

    /// `kill -9` of the `index`th worker.
    pub fn kill_worker(&mut self, index: usize) {
        work(self.workers[index].kill());
    }

    /// Starts the `index`th worker again, after it ended, and waits until it is ready.
    pub async fn start_worker_again(&mut self, index: usize) {
        work(self.workers[index].start_again());
        work(self.workers[index].ready().await);
    }

    /// Runs a command such as `worker verify` to its end, with the settings of the workers.
    pub async fn worker_command(&self, args: &[&str]) -> Finished {
        self.worker_command_with(args, &[]).await
    }

    /// The same, with other settings on top.
    pub async fn worker_command_with(&self, args: &[&str], settings: &[(&str, &str)]) -> Finished {
        let env = self.command_settings(settings);
        work(Program::run(self.place.path(), "worker", args, &env, self.builder.patience).await)
    }

    /// Starts a command such as `worker backfill`, with the settings of the workers and others on top.
    #[must_use]
    pub fn start_worker_command(&self, args: &[&str], settings: &[(&str, &str)]) -> Running {
        let env = self.command_settings(settings);
        work(Running::start(self.place.path(), "worker", args, &env))
    }

    /// Waits for the end of a command.
    pub async fn finish(&self, command: Running) -> Finished {
        work(command.finish(self.builder.patience).await)
    }

    /// Starts a command without waiting for its end, with the settings of the workers.
    #[must_use]
    pub fn start_command(&self, args: &[&str]) -> Process {
        work(Program::start(
            self.place.path(),
            "running-command",
            "worker",
            args,
            &self.command_settings(&[]),
        ))
    }

    /// The live row of an object, with every column; `None` when there is none, or a tombstone.
    pub async fn row(&self, kind: Kind, id: &str) -> Option<Value> {
        self.any_row(kind, id).await.filter(|row| row["_deleted_at"].is_null())
    }

    /// The row of an object, live or tombstone, with every column.
    pub async fn any_row(&self, kind: Kind, id: &str) -> Option<Value> {
        work(mirror::row(&self.pool, kind, id).await)
    }

    /// What differs between the mirror and WorkOS, a sentence each.
    pub async fn differences(&self) -> Vec<String> {
        work(self.mirror.differences(&self.pool, &self.sim, self.environment()).await)
    }

    /// Panics with every difference between the mirror and WorkOS, if there is one.
    pub async fn assert_in_step(&self) {
        let differences = self.differences().await;
        if !differences.is_empty() {
            stop(&anyhow::anyhow!("{}{}", mirror::listing(&differences), self.programs()));
        }
    }

    /// Waits until nothing is on its way any more. Panics with what still is when it takes too long.
    pub async fn settled(&self) {
        work(settled::wait(self).await);
    }

    /// Waits until the mirror equals WorkOS, for changes that no webhook tells of.
    pub async fn eventually_in_step(&self) {
        let started = Instant::now();
        while !self.differences().await.is_empty() {
            if started.elapsed() > self.builder.patience {
                return self.assert_in_step().await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until `look` finds something. Panics, naming `what` it waited for, when it takes too long.
    pub async fn eventually<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if started.elapsed() > self.builder.patience {
                stop(&anyhow::anyhow!("waited {:?} for {what}{}", self.builder.patience, self.programs()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The label of the WorkOS environment.
    #[must_use]
    pub fn environment(&self) -> &str {
        self.builder.setting("WORKOS_ENV").unwrap_or(ENVIRONMENT)
    }

    /// The last log lines of every program, for messages.
    fn programs(&self) -> String {
        let says =
            |all: String, program: &Program| format!("{all}\n{} says\n{}", program.name(), program.tail());
        self.ingests.iter().chain(&self.workers).fold(String::new(), says)
    }

    /// Settings of ingest, with what the builder says on top.
    fn ingest_settings(&self, index: usize) -> Vec<(String, String)> {
        let mut env = self.common_settings();
        env.push(("WORKOS_WEBHOOK_SECRET".to_owned(), WEBHOOK_SECRET.to_owned()));
        env.push(("SYNC_TOKEN".to_owned(), SYNC_TOKEN.to_owned()));
        env.extend(self.builder.ingest_settings(index));
        env
    }

    /// Settings of a worker, or of a command, with what the builder says on top.
    fn worker_settings(&self, index: Option<usize>) -> Vec<(String, String)> {
        let mut env = self.common_settings();
        env.extend(builder::worker_settings(&self.database.url, &self.sim));
        env.extend(self.builder.worker_settings(index));
        env
    }

    fn command_settings(&self, settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut env = self.worker_settings(None);
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        env
    }

    fn common_settings(&self) -> Vec<(String, String)> {
        vec![("WORKOS_ENV".to_owned(), ENVIRONMENT.to_owned()), ("NATS_URL".to_owned(), self.nats_url())]
    }

    /// How a program connects to the broker.
    #[must_use]
    pub fn nats_url(&self) -> String {
        let Some((name, password)) = &self.builder.nats_login else { return self.nats.url() };
        let encoded = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
        format!("nats://{}:{}@127.0.0.1:{}", encoded(name), encoded(password), self.nats.port())
    }

    fn launch_ingest(&self, index: usize) -> anyhow::Result<Program> {
        Program::ingest(self.place.path(), &format!("ingest-{index}"), &self.ingest_settings(index))
    }

    fn launch_worker(&self, index: usize) -> anyhow::Result<Program> {
        Program::worker(self.place.path(), &format!("worker-{index}"), &self.worker_settings(Some(index)))
    }
}

impl Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("place", &self.place.path()).finish_non_exhaustive()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.sim.stop();
        if std::thread::panicking() {
            use std::io::Write as _;
            // What the programs said is half of the explanation.
            let _ = writeln!(std::io::stderr(), "{}", self.programs());
        }
    }
}

/// The value, or the end of the story.
fn work<T>(result: anyhow::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => stop(&error),
    }
}

#[expect(clippy::panic, reason = "a story whose world does not work has failed")]
fn stop(error: &anyhow::Error) -> ! {
    panic!("{error:#}")
}
