//! A private Postgres server.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection as _, Executor as _, PgConnection};

use super::guardian::{self, Farewell};
use super::process::{self, Process, Spec, signal_group};
use super::{find, place, port};

/// Starting and stopping take a fraction of a second on a quiet machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Ports that are tried when another process is quicker.
const PORTS: u32 = 5;

/// What a commit is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production.
    Durable,
    /// Nothing waits for the disk: survives the death of the server, not of the machine.
    Volatile,
}

/// A server of our own on 127.0.0.1. Dropped, it stops.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    directory: PathBuf,
    port: u16,
    process: Process,
    paused: BTreeSet<u32>,
}

impl Postgres {
    /// Makes a cluster in `directory` (a [`super::Place`] or a room of one) and starts it.
    pub async fn start(directory: &Path, durability: Durability) -> anyhow::Result<Self> {
        let binaries = find::postgres()?;
        let directory = directory.to_owned();
        initialize(&binaries, &directory, durability).await?;
        for _ in 0..PORTS {
            let port = port::free()?;
            let process = launch(&binaries, &directory, port)?;
            let mut server = Self {
                binaries: binaries.clone(),
                directory: directory.clone(),
                port,
                process,
                paused: BTreeSet::new(),
            };
            match server.answers().await {
                Err(_) if server.port_was_taken() => fs::remove_file(server.log())?,
                started => return started.map(|()| server),
            }
        }
        bail!("another process took each of {PORTS} free ports before Postgres could")
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to connect to a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The `psql` that came with the server, where it did.
    #[must_use]
    pub fn psql(&self) -> PathBuf {
        Some(self.binaries.join("psql")).filter(|psql| psql.is_file()).unwrap_or_else(|| "psql".into())
    }

    /// An empty database.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.execute(format!("CREATE DATABASE {}", quoted(name))).await
    }

    /// A database that begins as a copy of another, to which nobody may be connected.
    pub async fn copy_database(&self, template: &str, name: &str) -> anyhow::Result<()> {
        self.execute(format!("CREATE DATABASE {} TEMPLATE {}", quoted(name), quoted(template))).await
    }

    /// Ends the connections of a database and removes it.
    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.execute(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(name))).await
    }

    async fn execute(&self, statement: String) -> anyhow::Result<()> {
        let mut connection = connect(self.port).await.context("failed to connect to Postgres")?;
        connection
            .execute(sqlx::AssertSqlSafe(statement.clone()))
            .await
            .with_context(|| format!("failed: {statement}"))?;
        connection.close().await.context("failed to close the connection")
    }

    /// Stops it in order: connections end, nothing is lost.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.resume()?;
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(PATIENCE).await?;
        Ok(())
    }

    /// `kill -9`, the server and everything it forked, at once.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        // Stopped first, it cannot fork another while we count.
        self.pause()?;
        for &group in &self.paused {
            signal_group(group, Signal::SIGKILL)?;
            guardian::forget(group, Farewell::Kill)?;
        }
        self.paused.clear();
        self.process.kill()
    }

    /// Starts it again where it was, after [`Postgres::stop`] or [`Postgres::kill`].
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        if self.process.ended()?.is_none() {
            bail!("Postgres runs already");
        }
        let started = Instant::now();
        loop {
            self.process = launch(&self.binaries, &self.directory, self.port)?;
            let answers = self.answers().await;
            // What was killed may still be on its way out.
            if answers.is_err() && self.memory_is_in_use() && started.elapsed() < PATIENCE {
                continue;
            }
            return answers;
        }
    }

    /// Whether it just ended because processes of an earlier one are still there.
    fn memory_is_in_use(&self) -> bool {
        process::tail(&self.log()).contains("shared memory block")
    }

    /// Freezes it: connections stay open, nothing answers.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGSTOP)?;
        for child in children(self.process.pid())? {
            // Each has a group of its own, and would stay frozen forever if we died now.
            guardian::watch(child, Farewell::Kill)?;
            signal_group(child, Signal::SIGSTOP)?;
            self.paused.insert(child);
        }
        Ok(())
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        for child in std::mem::take(&mut self.paused) {
            signal_group(child, Signal::SIGCONT)?;
            guardian::forget(child, Farewell::Kill)?;
        }
        self.process.signal(Signal::SIGCONT)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }

    /// Waits until a connection is accepted.
    async fn answers(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.ended()? {
                bail!("Postgres ended ({status}); its log ends with\n{}", process::tail(&self.log()));
            }
            match tokio::time::timeout(PATIENCE, connect(self.port)).await {
                Ok(Ok(connection)) => {
                    return connection.close().await.context("failed to close the connection");
                }
                Ok(Err(_)) if started.elapsed() < PATIENCE => tokio::time::sleep(process::LOOK).await,
                _ => bail!("Postgres does not answer; its log ends with\n{}", process::tail(&self.log())),
            }
        }
    }

    fn port_was_taken(&self) -> bool {
        fs::read_to_string(self.log()).is_ok_and(|log| log.contains("Address already in use"))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown takes the children and the shared memory along. What does not work here, the
        // guardian does.
        let _ = self.resume();
        let _ = self.process.signal(Signal::SIGQUIT);
        let started = Instant::now();
        while matches!(self.process.ended(), Ok(None)) && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(process::LOOK);
        }
    }
}

/// `initdb`, and settings that keep the server to itself.
async fn initialize(binaries: &Path, directory: &Path, durability: Durability) -> anyhow::Result<()> {
    let data = directory.join("data");
    let log = directory.join("initdb.log");
    let args =
        ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--pgdata"];
    let mut initdb = Process::start(&Spec {
        name: "initdb".to_owned(),
        program: binaries.join("initdb"),
        args: args.iter().map(Into::into).chain([data.clone().into_os_string()]).collect(),
        env: Vec::new(),
        directory: directory.to_owned(),
        output: None,
        log: log.clone(),
        user: place::unprivileged()?,
        farewell: Farewell::Kill,
    })?;
    let status = initdb.wait(PATIENCE).await?;
    if !status.success() {
        bail!("initdb failed ({status}):\n{}", process::tail(&log));
    }

    let mut settings = format!(
        "\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = 200\n\
         track_commit_timestamp = on\n",
        directory.display()
    );
    if durability == Durability::Volatile {
        // Not `synchronous_commit`: without it, a commit that was acknowledged dies with the server.
        settings.push_str("fsync = off\nfull_page_writes = off\n");
    }
    OpenOptions::new()
        .append(true)
        .open(data.join("postgresql.conf"))
        .and_then(|mut file| file.write_all(settings.as_bytes()))
        .context("failed to write postgresql.conf")
}

fn launch(binaries: &Path, directory: &Path, port: u16) -> anyhow::Result<Process> {
    Process::start(&Spec {
        name: "Postgres".to_owned(),
        program: binaries.join("postgres"),
        args: vec!["-D".into(), directory.join("data").into(), "-p".into(), port.to_string().into()],
        env: Vec::new(),
        directory: directory.to_owned(),
        output: None,
        log: directory.join("postgres.log"),
        user: place::unprivileged()?,
        farewell: Farewell::Quit,
    })
}

async fn connect(port: u16) -> sqlx::Result<PgConnection> {
    // Spelled out, so that no PG* variable of ours has a say.
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username("postgres")
        .database("postgres")
        .ssl_mode(PgSslMode::Disable);
    PgConnection::connect_with(&options).await
}

/// The processes that `parent` forked.
fn children(parent: u32) -> anyhow::Result<Vec<u32>> {
    let listing = std::process::Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output()
        .context("failed to run ps")?;
    let children = String::from_utf8_lossy(&listing.stdout)
        .lines()
        .filter_map(|line| {
            let (child, its_parent) = line.trim().split_once(char::is_whitespace)?;
            (its_parent.trim().parse() == Ok(parent)).then(|| child.parse().ok())?
        })
        .collect();
    Ok(children)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
