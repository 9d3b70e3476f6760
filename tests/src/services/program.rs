//! `ingest` and `worker`, as real processes.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use shared::admin;

use super::guardian::Farewell;
use super::process::{self, Process, Spec};
use super::{binaries, port};

/// Starting takes some 50 ms on a quiet machine; this is for one that builds something meanwhile.
const PATIENCE: Duration = Duration::from_mins(1);

/// Names and values of settings.
pub type Env = Vec<(String, String)>;

/// A running copy of a program. Dropped, it is killed.
#[derive(Debug)]
pub struct Program {
    spec: Spec,
    address: Option<SocketAddr>,
    admin: SocketAddr,
    process: Process,
}

/// How a command ended, and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its data.
    pub stdout: String,
    /// Its logs.
    pub stderr: String,
}

impl Finished {
    /// The exit code; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The output, if the exit code is 0; else an error that shows everything.
    pub fn success(self) -> anyhow::Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("ended with {}\nstdout:\n{}\nstderr:\n{}", self.status, self.stdout, self.stderr)
    }
}

/// A command that is on its way. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    process: Process,
    output: PathBuf,
    log: PathBuf,
    // Dropped after the process.
    _files: tempfile::TempDir,
}

impl Running {
    /// Starts a command such as `worker backfill`.
    pub fn start(
        directory: &Path,
        program: &str,
        args: &[&str],
        env: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let files = tempfile::tempdir_in(directory).context("failed to create a directory for the output")?;
        let mut spec = spec(program, args, files.path(), "command", env.to_vec())?;
        let output = files.path().join("command.out");
        spec.output = Some(output.clone());
        spec.name = format!("`{program} {}`", args.join(" "));
        Ok(Self { process: Process::start(&spec)?, output, log: spec.log, _files: files })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Sends any signal.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Waits for its end. It is killed after `at_most`.
    pub async fn finish(mut self, at_most: Duration) -> anyhow::Result<Finished> {
        let status = self.process.wait(at_most).await?;
        let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Finished { status, stdout: read(&self.output)?, stderr: read(&self.log)? })
    }
}

impl Program {
    /// Starts `ingest` on ports of its own, unless `env` names others. `name` names its log in `directory`.
    pub fn ingest(directory: &Path, name: &str, env: &[(String, String)]) -> anyhow::Result<Self> {
        let address = listen_address(env, "INGEST_ADDR")?;
        let admin = listen_address(env, "INGEST_ADMIN_ADDR")?;
        let mut all = vec![
            ("INGEST_ADDR".to_owned(), address.to_string()),
            ("INGEST_ADMIN_ADDR".to_owned(), admin.to_string()),
        ];
        all.extend_from_slice(env);
        let spec = spec("ingest", &[], directory, name, all)?;
        Ok(Self { process: Process::start(&spec)?, spec, address: Some(address), admin })
    }

    /// Starts `worker run` with an admin port of its own, unless `env` names another.
    pub fn worker(directory: &Path, name: &str, env: &[(String, String)]) -> anyhow::Result<Self> {
        let admin = listen_address(env, "WORKER_ADMIN_ADDR")?;
        let mut all = vec![("WORKER_ADMIN_ADDR".to_owned(), admin.to_string())];
        all.extend_from_slice(env);
        let spec = spec("worker", &["run"], directory, name, all)?;
        Ok(Self { process: Process::start(&spec)?, spec, address: None, admin })
    }

    /// Runs a command such as `worker migrate` to its end. It is killed after `at_most`.
    pub async fn run(
        directory: &Path,
        program: &str,
        args: &[&str],
        env: &[(String, String)],
        at_most: Duration,
    ) -> anyhow::Result<Finished> {
        Running::start(directory, program, args, env)?.finish(at_most).await
    }

    /// Starts a command such as `worker backfill`, for stories that end it before it ends. `name` names its log in
    /// `directory`.
    pub fn start(
        directory: &Path,
        name: &str,
        program: &str,
        args: &[&str],
        env: &[(String, String)],
    ) -> anyhow::Result<Process> {
        Process::start(&spec(program, args, directory, name, env.to_vec())?)
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !admin::is_ready(self.admin).await.unwrap_or(false) {
            if let Some(status) = self.process.ended()? {
                bail!(
                    "{} ended ({status}); its log ends with\n{}",
                    self.spec.name,
                    process::tail(&self.spec.log)
                );
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "{} is not ready after {PATIENCE:?}; its log ends with\n{}",
                    self.spec.name,
                    process::tail(&self.spec.log)
                );
            }
            tokio::time::sleep(process::LOOK).await;
        }
        Ok(())
    }

    /// What messages call it: `ingest-0`, `worker-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where it serves webhooks, if it does.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.address.map(|address| format!("http://{address}"))
    }

    /// Its admin address.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Everything it logged, over every life it had.
    #[must_use]
    pub fn logs(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.spec.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of [`Program::logs`].
    #[must_use]
    pub fn tail(&self) -> String {
        process::tail(&self.spec.log)
    }

    /// Where its log is.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.wait(PATIENCE).await
    }

    /// `SIGTERM`, and waits until it has left politely.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(PATIENCE).await?;
        match status.signal() {
            Some(signal) => bail!("{} was ended by signal {signal}:\n{}", self.spec.name, self.tail()),
            None => Ok(status),
        }
    }

    /// Sends any signal.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Starts it again with the same settings and addresses, after it ended.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        if self.process.ended()?.is_none() {
            bail!("{} runs already", self.spec.name);
        }
        self.process = Process::start(&self.spec)?;
        Ok(())
    }

    /// Changes a setting, from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.spec.env.push((name.to_owned(), value.to_owned()));
    }
}

fn spec(program: &str, args: &[&str], directory: &Path, name: &str, env: Env) -> anyhow::Result<Spec> {
    let mut all = vec![("NO_COLOR".to_owned(), "1".to_owned()), ("LOG_FORMAT".to_owned(), "text".to_owned())];
    all.extend(env);
    Ok(Spec {
        name: name.to_owned(),
        program: executable(program)?,
        args: args.iter().map(Into::into).collect(),
        env: all,
        directory: directory.to_owned(),
        output: None,
        log: directory.join(format!("{name}.log")),
        user: None,
        farewell: Farewell::Kill,
    })
}

fn executable(program: &str) -> anyhow::Result<PathBuf> {
    Ok(binaries::directory()?.join(program))
}

/// The address that `env` names, or a free one.
fn listen_address(env: &[(String, String)], name: &str) -> anyhow::Result<SocketAddr> {
    match env.iter().rev().find(|(n, _)| n == name) {
        Some((_, value)) => value.parse().with_context(|| format!("{name} is no address")),
        None => Ok(([127, 0, 0, 1], port::free()?).into()),
    }
}
