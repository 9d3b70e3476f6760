//! The offline data of the SQL in the code: `.sqlx` has one file per query, written while the code is
//! compiled against a real database, so that everybody else compiles without one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use shared::exit::Exit;
use support::services::{Durability, Place, Postgres, Program, binaries};

use crate::print;

/// How long applying the migrations may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Texts by the name of their file.
type Files = BTreeMap<String, String>;

/// Writes `.sqlx` again.
pub(crate) async fn write() -> anyhow::Result<Exit> {
    let place = Place::new("sqlx")?;
    let asked = ask(&place, "-Awarnings").await?;
    let committed = committed();
    fs::create_dir_all(&committed).with_context(|| format!("failed to create {}", committed.display()))?;
    let before = read(&committed)?;
    for name in before.keys().filter(|name| !asked.contains_key(*name)) {
        fs::remove_file(committed.join(name)).with_context(|| format!("failed to remove {name}"))?;
    }
    for (name, query) in &asked {
        fs::write(committed.join(name), query).with_context(|| format!("failed to write {name}"))?;
    }
    print::line(format_args!("wrote {} queries to {}", asked.len(), committed.display()));
    Ok(Exit::Success)
}

/// Fails when the code has lints, or `.sqlx` is not what the database says of the SQL in it.
pub(crate) async fn check() -> anyhow::Result<()> {
    let place = Place::new("sqlx")?;
    let asked = ask(&place, "-Dwarnings").await?;
    let committed = read(&committed())?;
    let mut problems = Vec::new();
    for (name, query) in &asked {
        match committed.get(name) {
            None => problems.push(format!("missing: {}", first_line(query))),
            Some(stored) if stored != query => problems.push(format!("different: {}", first_line(query))),
            Some(_) => {}
        }
    }
    let extra = committed.iter().filter(|(name, _)| !asked.contains_key(*name));
    problems.extend(extra.map(|(_, query)| format!("no longer in the code: {}", first_line(query))));
    if problems.is_empty() {
        print::line(format_args!("{} queries, all as in .sqlx", asked.len()));
        return Ok(());
    }
    bail!(".sqlx is not up to date, run `deploy/dev sqlx`:\n    {}", problems.join("\n    "))
}

/// Compiles against a migrated database, and returns what the database says of each query. `warnings` says what they
/// mean.
async fn ask(place: &Place, warnings: &str) -> anyhow::Result<Files> {
    let postgres = Postgres::start(&place.room("postgres")?, Durability::Volatile).await?;
    postgres.create_database("queries").await?;
    let url = postgres.url("queries");
    let env = [("DATABASE_URL".to_owned(), url.clone())];
    let migrated = Program::run(place.path(), "worker", &["migrate"], &env, PATIENCE).await?;
    migrated.success().context("worker migrate failed")?;

    let answers = place.room("queries")?;
    // Queries are asked when a crate is compiled, so every crate of ours must be: clippy does so again when it
    // is called with another argument, and leaves the dependencies alone.
    let once = format!("--cfg=asked_{}", postgres.port());
    let status = binaries::cargo()
        .args(["clippy", "--quiet", "--workspace", "--all-targets", "--", warnings, &once])
        .env("SQLX_OFFLINE", "false")
        .env("DATABASE_URL", &url)
        .env("SQLX_OFFLINE_DIR", &answers)
        .status()
        .context("failed to run cargo clippy")?;
    if !status.success() {
        bail!(
            "the code does not compile against the migrated database, or has lints: \
             cargo clippy --workspace --all-targets -- -D warnings"
        );
    }
    read(&answers)
}

fn committed() -> PathBuf {
    binaries::workspace().join(".sqlx")
}

/// Every `query-*.json` in a directory; none when there is no directory.
fn read(directory: &Path) -> anyhow::Result<Files> {
    if !directory.exists() {
        return Ok(Files::new());
    }
    let mut files = Files::new();
    for entry in fs::read_dir(directory).with_context(|| format!("failed to read {}", directory.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("query-") {
            let text = fs::read_to_string(entry.path()).with_context(|| format!("failed to read {name}"))?;
            files.insert(name, text);
        }
    }
    Ok(files)
}

/// The first line of the SQL that a file is about.
fn first_line(file: &str) -> String {
    let query: Value = serde_json::from_str(file).unwrap_or_default();
    let lines = query["query"].as_str().unwrap_or_default().lines();
    lines.map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}
