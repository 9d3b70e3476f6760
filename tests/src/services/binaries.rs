//! The programs under test, never stale: built by cargo before the first use in a process.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, bail};

/// The directory with the programs. `WORKOS_SYNC_BINS` names one that was built already.
pub fn directory() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    // Every test waits for the one that builds; the failure is everybody's.
    BUILT
        .get_or_init(|| match std::env::var_os("WORKOS_SYNC_BINS") {
            Some(directory) => Ok(directory.into()),
            None => build().map_err(|error| format!("{error:#}")),
        })
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The workspace's root.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Where cargo builds: we are `<target>/<profile>/dev` or `<target>/<profile>/deps/it-...`.
#[must_use]
pub fn target() -> PathBuf {
    profile()
        .and_then(|profile| profile.parent().map(Path::to_owned))
        .unwrap_or_else(|| workspace().join("target"))
}

fn profile() -> Option<PathBuf> {
    let us = std::env::current_exe().ok()?;
    let directory = us.parent()?;
    let directory =
        if directory.file_name() == Some(OsStr::new("deps")) { directory.parent()? } else { directory };
    Some(directory.to_owned())
}

/// `cargo` in the workspace, as a person would call it there: what the cargo that runs us says about our own
/// package would make it build crates such as `ring` again.
#[must_use]
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let of_a_package = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        if name.to_str().is_some_and(of_a_package) {
            cargo.env_remove(name);
        }
    }
    // Queries are checked against `.sqlx`, whatever database is around.
    cargo.current_dir(workspace()).env("SQLX_OFFLINE", "true").env_remove("DATABASE_URL");
    cargo
}

fn build() -> anyhow::Result<PathBuf> {
    let directory = profile().context("failed to find out where we were built")?;
    let profile = match directory.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    // The whole workspace, so that dependencies are built with the features that our own build has.
    let output = cargo()
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile])
        .arg("--target-dir")
        .arg(target())
        .output()
        .context("failed to run cargo")?;
    if !output.status.success() {
        bail!("failed to build ingest and worker:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(directory)
}
