//! Where workers are measured: a Postgres that waits for its disk, a stand-in WorkOS in a process of its
//! own, and for each measurement a fresh database and a fresh broker.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use shared::clock;
use shared::event::Event;
use shared::timestamp;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use support::services::guardian::Farewell;
use support::services::process::{Process, Spec};
use support::services::{Durability, Place, Postgres, Program, binaries, port};

use crate::common::machine::Cpu;
use crate::common::payload::{self, User};
use crate::common::report::say;
use crate::common::{ENVIRONMENT, env};

const TEMPLATE: &str = "template_bench";

/// Making a hundred thousand users, applying migrations.
const PATIENCE: Duration = Duration::from_mins(1);

/// Everything that lives as long as the benchmark.
pub(crate) struct World {
    pub(crate) users: Vec<User>,
    /// Where the stand-in answers.
    pub(crate) workos: std::net::SocketAddr,
    /// What it wants to see.
    pub(crate) key: String,
    pub(crate) http: reqwest::Client,
    rooms: usize,
    room: Option<PathBuf>,
    database: Option<String>,
    // Dropped in this order, the place last.
    _sim: Process,
    pub(crate) postgres: Postgres,
    place: Place,
}

impl World {
    /// Starts the servers; WorkOS begins with so many users.
    pub(crate) async fn start(users: usize) -> anyhow::Result<Self> {
        // The HTTP client refuses to be built without; a second installation keeps the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let place = Place::new("bench-worker")?;
        let postgres = Postgres::start(&place.room("postgres")?, Durability::Durable).await?;
        postgres.create_database(TEMPLATE).await?;
        let url = postgres.url(TEMPLATE);
        Program::run(place.path(), "worker", &["migrate"], &env(&[("DATABASE_URL", &url)]), PATIENCE)
            .await?
            .success()
            .context("failed to apply the migrations")?;
        let (sim, base, key) = start_sim(&place, users).await?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut world = Self {
            users: Vec::new(),
            workos: base.trim_start_matches("http://").parse()?,
            key,
            http,
            rooms: 0,
            room: None,
            database: None,
            _sim: sim,
            postgres,
            place,
        };
        let state = world.control(reqwest::Method::GET, "state", &Value::Null).await?;
        world.users = state["user"].as_array().into_iter().flatten().filter_map(user).collect();
        if world.users.len() != users {
            bail!("the stand-in WorkOS has {} users instead of {users}", world.users.len());
        }
        say(&format!("  Postgres, and a WorkOS with {users} users, are ready"));
        Ok(world)
    }

    /// An empty directory. The one of the measurement before is removed: what piles up on the disk makes later ones slower.
    pub(crate) fn room(&mut self) -> anyhow::Result<PathBuf> {
        if let Some(before) = self.room.take() {
            std::fs::remove_dir_all(&before)
                .with_context(|| format!("failed to remove {}", before.display()))?;
        }
        self.rooms += 1;
        let room = self.place.room(&format!("room-{}", self.rooms))?;
        self.room = Some(room.clone());
        Ok(room)
    }

    /// A fresh database with the schema. The one of the measurement before is removed, and what is left to write is
    /// written.
    pub(crate) async fn database(&mut self) -> anyhow::Result<String> {
        if let Some(before) = self.database.take() {
            self.postgres.drop_database(&before).await?;
        }
        let name = format!("bench_{}", self.rooms);
        self.database = Some(name.clone());
        self.postgres.copy_database(TEMPLATE, &name).await?;
        let url = self.postgres.url(&name);
        let mut connection = connect(&url).await?;
        sqlx::query("CHECKPOINT").execute(&mut connection).await?;
        connection.close().await?;
        Ok(url)
    }

    /// How long WorkOS takes for an answer from now on.
    pub(crate) async fn latency(&self, latency: Duration) -> anyhow::Result<()> {
        let latency = u64::try_from(latency.as_millis())?;
        self.control(reqwest::Method::PUT, "knobs", &json!({"latency_ms": [latency, latency]}))
            .await
            .map(drop)
    }

    /// Makes each of these users a member of some of so many new organizations.
    pub(crate) async fn join_organizations(
        &self,
        users: &[User],
        organizations: usize,
        each: usize,
    ) -> anyhow::Result<()> {
        let mut ids = Vec::with_capacity(organizations);
        for number in 0..organizations {
            let name = json!({"name": format!("Organization {number}")});
            let made = self.control(reqwest::Method::POST, "objects/organization", &name).await?;
            ids.push(made["id"].as_str().context("an organization without id")?.to_owned());
        }
        for (number, user) in users.iter().enumerate() {
            for organization in ids.iter().cycle().skip(number).take(each) {
                let membership = json!({"user_id": user.id, "organization_id": organization});
                self.control(reqwest::Method::POST, "objects/organization_membership", &membership).await?;
            }
        }
        Ok(())
    }

    /// Forgets how often WorkOS was asked.
    pub(crate) async fn forget_requests(&self) -> anyhow::Result<()> {
        self.control(reqwest::Method::DELETE, "requests", &Value::Null).await.map(drop)
    }

    /// How often WorkOS was asked for an object or a page of objects; the tail's pages of the Events API
    /// do not belong to the backlog.
    pub(crate) async fn requests(&self) -> anyhow::Result<u64> {
        let answer = self.control(reqwest::Method::GET, "requests", &Value::Null).await?;
        let counts = answer["counts"].as_object().context("no counts of requests")?;
        Ok(counts
            .iter()
            .filter(|(route, _)| *route != "events")
            .filter_map(|(_, by_status)| by_status.as_object())
            .flat_map(|by_status| by_status.values().filter_map(Value::as_u64))
            .sum())
    }

    async fn control(&self, method: reqwest::Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("http://{}/_sim/{path}", self.workos);
        let answer =
            self.http.request(method, url).body(body.to_string()).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    /// One event for each of so many users.
    pub(crate) fn distinct(&self, events: usize) -> Vec<Event> {
        self.about(events, events)
    }

    /// Events about so many users, in turns.
    pub(crate) fn about(&self, events: usize, users: usize) -> Vec<Event> {
        let now = clock::now();
        let users = self.users.iter().take(users).cycle();
        users.take(events).enumerate().map(|(number, user)| payload::event(number, user, now)).collect()
    }

    /// Settings that every worker needs.
    pub(crate) fn worker_env(&self, database: &str, nats: &str) -> Vec<(String, String)> {
        env(&[
            ("WORKOS_ENV", ENVIRONMENT),
            ("WORKOS_API_KEY", &self.key),
            ("WORKOS_API_BASE_URL", &format!("http://{}", self.workos)),
            ("DATABASE_URL", database),
            ("NATS_URL", nats),
            // Asking for the events is another channel, and not what is measured.
            ("SYNC_TAIL_INTERVAL", "off"),
        ])
    }

    /// Who uses the CPU.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let directory = binaries::directory()?;
        let path = |name: &str| directory.join(name).display().to_string();
        Ok(Cpu::new(vec![
            ("worker", path("worker")),
            ("ingest", path("ingest")),
            ("postgres", self.place.path().join("postgres").display().to_string()),
            ("nats", format!("{}/room-", self.place.path().display())),
            ("workos", path("workos-sim")),
        ]))
    }
}

/// A connection that says nothing in the log.
pub(crate) async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    options.disable_statement_logging().connect().await.context("failed to connect to Postgres")
}

fn user(value: &Value) -> Option<User> {
    Some(User {
        id: value["id"].as_str()?.to_owned(),
        updated_at: timestamp::parse(value["updated_at"].as_str()?)?,
    })
}

async fn start_sim(place: &Place, users: usize) -> anyhow::Result<(Process, String, String)> {
    let directory = place.room("workos")?;
    let output = directory.join("output");
    let address = format!("127.0.0.1:{}", port::free()?);
    let mut process = Process::start(&Spec {
        name: "workos-sim".to_owned(),
        program: binaries::directory()?.join("workos-sim"),
        args: vec!["--addr".into(), address.into(), "--users".into(), users.to_string().into()],
        env: Vec::new(),
        directory: directory.clone(),
        output: Some(output.clone()),
        log: directory.join("log"),
        user: None,
        farewell: Farewell::Kill,
    })?;
    let started = Instant::now();
    loop {
        let said: Option<Value> = serde_json::from_slice(&std::fs::read(&output).unwrap_or_default()).ok();
        if let Some(said) = said {
            let word =
                |name: &str| said[name].as_str().map(str::to_owned).context("the simulator says no more");
            return Ok((process, word("url")?, word("api_key")?));
        }
        if process.ended()?.is_some() || started.elapsed() > PATIENCE {
            bail!("the stand-in WorkOS does not start; see {}", directory.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
