//! A private NATS server with JetStream.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::guardian::Farewell;
use super::process::{self, Process, Spec};
use super::{find, place, port};

/// Starting takes some 20 ms on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that are tried when another process is quicker.
const PORTS: u32 = 5;

/// A server of our own on 127.0.0.1. Dropped, it stops.
#[derive(Debug)]
pub struct Nats {
    binary: PathBuf,
    directory: PathBuf,
    port: u16,
    settings: String,
    process: Process,
}

impl Nats {
    /// Starts a server that keeps its streams in `directory` (a [`super::Place`] or a room of one).
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        Self::start_with(directory, "").await
    }

    /// Starts a server with more lines in its configuration file, e.g. `max_payload: 1MB`.
    pub async fn start_with(directory: &Path, settings: &str) -> anyhow::Result<Self> {
        let binary = find::nats()?;
        for _ in 0..PORTS {
            let port = port::free()?;
            let process = launch(&binary, directory, port, settings)?;
            let mut server = Self {
                binary: binary.clone(),
                directory: directory.to_owned(),
                port,
                settings: settings.to_owned(),
                process,
            };
            match server.answers().await {
                Err(_) if server.port_was_taken() => fs::remove_file(server.log())?,
                started => return started.map(|()| server),
            }
        }
        bail!("another process took each of {PORTS} free ports before NATS could")
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Stops it in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.resume()?;
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(PATIENCE).await?;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Starts it again where it was, after [`Nats::stop`] or [`Nats::kill`].
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        if self.process.ended()?.is_none() {
            bail!("NATS runs already");
        }
        self.process = launch(&self.binary, &self.directory, self.port, &self.settings)?;
        self.answers().await
    }

    /// Freezes it: connections stay open, nothing answers.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("nats.log")
    }

    /// Waits until it greets.
    async fn answers(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !greets(self.port).await {
            if let Some(status) = self.process.ended()? {
                bail!("NATS ended ({status}); its log ends with\n{}", process::tail(&self.log()));
            }
            if started.elapsed() > PATIENCE {
                bail!("NATS does not answer; its log ends with\n{}", process::tail(&self.log()));
            }
            tokio::time::sleep(process::LOOK).await;
        }
        Ok(())
    }

    fn port_was_taken(&self) -> bool {
        fs::read_to_string(self.log()).is_ok_and(|log| log.contains("address already in use"))
    }
}

/// Whether a NATS server says `INFO` there.
async fn greets(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let mut word = [0; 4];
        stream.read_exact(&mut word).await?;
        std::io::Result::Ok(&word == b"INFO")
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), greeting).await, Ok(Ok(true)))
}

fn launch(binary: &Path, directory: &Path, port: u16, more: &str) -> anyhow::Result<Process> {
    let mut settings = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(settings, "listen: 127.0.0.1:{port}");
    let _ = writeln!(settings, "server_name: private-{port}");
    if !more.contains("jetstream") {
        let _ =
            writeln!(settings, "jetstream {{ store_dir: \"{}\" }}", directory.join("jetstream").display());
    }
    settings.push_str(more);
    let file = directory.join("nats.conf");
    fs::write(&file, settings).with_context(|| format!("failed to write {}", file.display()))?;
    Process::start(&Spec {
        name: "NATS".to_owned(),
        program: binary.to_owned(),
        args: vec!["-c".into(), file.into()],
        env: Vec::new(),
        directory: directory.to_owned(),
        output: None,
        log: directory.join("nats.log"),
        user: place::unprivileged()?,
        farewell: Farewell::Kill,
    })
}
