//! The official WorkOS emulator: npm's `workos`, run as `workos emulate`.
//!
//! `tests/emulator` says which version, with a digest of every package it needs. It is installed once under
//! `target/tools`. Its state is in memory, and it listens on every interface of this machine.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use super::guardian::{self, Farewell};
use super::process::{self, Process, Spec};
use super::{binaries, port};

/// It counts 1000 requests in a minute for each key, so the story and the worker have one each.
const STORY_KEY: &str = "sk_test_story";
const WORKER_KEY: &str = "sk_test_worker";

/// What it wants, as its package says.
const OLDEST_NODE: (u32, u32) = (20, 20);

/// Downloading some 300 MB.
const INSTALLING: Duration = Duration::from_mins(10);

/// Starting takes about a second on a quiet machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Ports that are tried when another process is quicker.
const PORTS: u32 = 5;

/// Events of one page, its most.
const PAGE: usize = 100;

/// A running emulator without objects. Dropped, it is killed.
#[derive(Debug)]
pub struct Emulator {
    process: Process,
    log: PathBuf,
    url: String,
    http: reqwest::Client,
}

impl Emulator {
    /// Starts one that keeps its log in `directory`, after installing it if need be.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        let program = installed().await?;
        let keys = json!({ "apiKeys": {
            STORY_KEY: { "environment": "test" },
            WORKER_KEY: { "environment": "test" },
        }});
        let seed = directory.join("emulator.json");
        fs::write(&seed, keys.to_string()).with_context(|| format!("failed to write {}", seed.display()))?;
        // reqwest asks for one even where nothing is encrypted; an error says that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().context("failed to build a client")?;
        for _ in 0..PORTS {
            let port = port::free()?;
            let log = directory.join("emulator.log");
            let arguments: [&Path; 7] = [
                &program,
                "emulate".as_ref(),
                "--json".as_ref(),
                "--port".as_ref(),
                &PathBuf::from(port.to_string()),
                "--seed".as_ref(),
                &seed,
            ];
            let process = Process::start(&Spec {
                name: "the emulator".to_owned(),
                program: "node".into(),
                args: arguments.map(Into::into).into(),
                env: vec![("WORKOS_TELEMETRY".to_owned(), "false".to_owned())],
                directory: directory.to_owned(),
                output: None,
                log: log.clone(),
                user: None,
                farewell: Farewell::Kill,
            })?;
            let url = format!("http://127.0.0.1:{port}");
            let mut emulator = Self { process, log, url, http: http.clone() };
            match emulator.answers().await {
                Err(_) if emulator.port_was_taken() => fs::remove_file(&emulator.log)?,
                started => return started.map(|()| emulator),
            }
        }
        bail!("another process took each of {PORTS} free ports before the emulator could")
    }

    /// Where its API is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A key that only the worker uses.
    #[must_use]
    pub fn worker_key(&self) -> &'static str {
        WORKER_KEY
    }

    /// Has every event from now on posted to `url`, signed with `secret`. It posts each once, whatever is
    /// answered.
    pub async fn add_endpoint(&self, url: &str, secret: &str) -> anyhow::Result<()> {
        let endpoint = json!({ "endpoint_url": url, "secret": secret, "events": [] });
        self.post("/webhook_endpoints", &endpoint).await.map(drop)
    }

    /// Creates something; what it answers.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.must(Method::POST, path, body).await
    }

    /// Changes something; what it answers.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.must(Method::PUT, path, body).await
    }

    /// Deletes something.
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.must(Method::DELETE, path, &Value::Null).await.map(drop)
    }

    /// An object; `None` when there is none.
    pub async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let (status, answer) = self.ask(Method::GET, path, &Value::Null).await?;
        match status {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => bail!("the emulator answered GET {path} with {status}: {answer}"),
        }
    }

    /// Every event there was, oldest first.
    pub async fn events(&self) -> anyhow::Result<Vec<Value>> {
        let mut events = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/events?order=asc&limit={PAGE}{after}");
            let mut page = self.get(&path).await?.context("the emulator has no events")?;
            let Value::Array(data) = page["data"].take() else { bail!("a page of events without `data`") };
            events.extend(data);
            match page["list_metadata"]["after"].as_str() {
                Some(cursor) => after = format!("&after={cursor}"),
                None => return Ok(events),
            }
        }
    }

    async fn must(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.ask(method.clone(), path, body).await?;
        ensure!(status.is_success(), "the emulator answered {method} {path} {body} with {status}: {answer}");
        Ok(answer)
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(STORY_KEY);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("failed to ask for {path}"))?;
        let status = response.status();
        let text = response.text().await?;
        let answer = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        Ok((status, answer))
    }

    /// Waits until it is healthy.
    async fn answers(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let health = format!("{}/health", self.url);
        // Another server on that port would not know our key.
        let key = format!("{}/events?limit=1", self.url);
        while !(self.says_ok(&health).await && self.says_ok(&key).await) {
            if let Some(status) = self.process.ended()? {
                bail!("the emulator ended ({status}); its log ends with\n{}", process::tail(&self.log));
            }
            if started.elapsed() > PATIENCE {
                bail!("the emulator does not answer; its log ends with\n{}", process::tail(&self.log));
            }
            tokio::time::sleep(process::LOOK).await;
        }
        Ok(())
    }

    async fn says_ok(&self, url: &str) -> bool {
        let answer = self.http.get(url).bearer_auth(STORY_KEY).send().await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    fn port_was_taken(&self) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains("EADDRINUSE"))
    }
}

/// The script that node runs, installed by the first who asks.
async fn installed() -> anyhow::Result<PathBuf> {
    static INSTALLED: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();
    INSTALLED
        .get_or_init(|| async { install().await.map_err(|error| format!("{error:#}")) })
        .await
        .clone()
        .map_err(anyhow::Error::msg)
}

async fn install() -> anyhow::Result<PathBuf> {
    const HELP: &str = "the official WorkOS emulator, which the tests run, needs Node.js 20.20 or newer with npm: \
                        run `deploy/dev test` once, `apt-get install nodejs npm`, or `brew install node`";
    let node = version("node").context(HELP)?;
    ensure!(node >= OLDEST_NODE, "Node.js {}.{} is too old: {HELP}", node.0, node.1);
    version("npm").context(HELP)?;

    let recipe = binaries::workspace().join("tests/emulator");
    let lock = recipe.join("package-lock.json");
    let digest =
        Sha256::digest(fs::read(&lock).with_context(|| format!("failed to read {}", lock.display()))?);
    let tools = binaries::target().join("tools");
    // Another lockfile is another directory; it is there as a whole or not at all.
    let home = tools.join(format!("workos-emulator-{}", &hex::encode(digest)[..12]));
    let program = home.join("node_modules/workos/dist/bin.js");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&tools).with_context(|| format!("failed to create {}", tools.display()))?;
    let room = tempfile::Builder::new().prefix("installing-").tempdir_in(&tools)?;
    guardian::remove_at_the_end(room.path())?;
    for file in ["package.json", "package-lock.json", ".npmrc"] {
        fs::copy(recipe.join(file), room.path().join(file))
            .with_context(|| format!("failed to copy {file} of {}", recipe.display()))?;
    }
    let log = room.path().join("npm.log");
    let status = Process::start(&Spec {
        name: "`npm ci`".to_owned(),
        program: "npm".into(),
        args: ["ci", "--no-audit", "--no-fund", "--ignore-scripts"].map(Into::into).into(),
        // Whatever this machine needs to reach its registry: proxies, certificates, npm's own settings.
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        directory: room.path().to_owned(),
        output: None,
        log: log.clone(),
        user: None,
        farewell: Farewell::Kill,
    })?
    .wait(INSTALLING)
    .await?;
    ensure!(status.success(), "npm failed to install the emulator ({status}):\n{}", process::tail(&log));
    match fs::rename(room.path(), &home) {
        // Another process of tests was quicker.
        Err(_) if program.is_file() => {}
        renamed => renamed.with_context(|| format!("failed to create {}", home.display()))?,
    }
    ensure!(program.is_file(), "the package has no {}", program.display());
    Ok(program)
}

/// The first two numbers of what `program --version` says.
fn version(program: &str) -> anyhow::Result<(u32, u32)> {
    let output = match Command::new(program).arg("--version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("`{program}` is not in PATH"),
        output => output.with_context(|| format!("failed to run {program}"))?,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.trim().trim_start_matches('v').split('.').map_while(|part| part.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => bail!("`{program} --version` says {text:?}"),
    }
}
