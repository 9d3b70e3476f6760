//! Where servers are installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

/// The directory with `initdb` and `postgres`, newest version first.
pub fn postgres() -> anyhow::Result<PathBuf> {
    let usable =
        |directory: &PathBuf| directory.join("initdb").is_file() && directory.join("postgres").is_file();
    let mut directories = path();
    for parent in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        directories.extend(newest_first(Path::new(parent), "postgresql"));
    }
    match directories.into_iter().find(usable) {
        Some(directory) => Ok(directory),
        None => bail!(
            "PostgreSQL is not installed (looked for `initdb` in PATH and /usr/lib/postgresql): \
             run `deploy/dev up` once, `apt-get install postgresql`, or `brew install postgresql@17`"
        ),
    }
}

/// The NATS server: `NATS_SERVER_BIN`, else what is installed.
pub fn nats() -> anyhow::Result<PathBuf> {
    if let Some(binary) = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from) {
        if binary.is_file() {
            return Ok(binary);
        }
        bail!("NATS_SERVER_BIN is {}, which is not a file", binary.display());
    }
    let more = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    let found = path()
        .into_iter()
        .chain(more)
        .map(|directory| directory.join("nats-server"))
        .find(|file| file.is_file());
    match found {
        Some(binary) => Ok(binary),
        None => bail!(
            "nats-server is not installed (looked in PATH, /usr/sbin and NATS_SERVER_BIN): \
             run `deploy/dev up` once, `apt-get install nats-server`, or `brew install nats-server`"
        ),
    }
}

/// Chromium, and what drives it.
#[derive(Debug)]
pub struct Chromium {
    /// The browser.
    pub chromium: PathBuf,
    /// `chromedriver`.
    pub driver: PathBuf,
}

/// A browser that can be driven.
pub fn browser() -> anyhow::Result<Chromium> {
    let find = |names: &[&str]| {
        let mut directories = path();
        directories.extend(["/usr/lib/chromium", "/opt/homebrew/bin"].map(PathBuf::from));
        let files = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
        files.into_iter().find(|file| file.is_file())
    };
    match (find(&["chromium", "chromium-browser", "google-chrome"]), find(&["chromedriver"])) {
        (Some(chromium), Some(driver)) => Ok(Chromium { chromium, driver }),
        _ => bail!(
            "Chromium and its driver are not installed (looked for `chromium` and `chromedriver` in PATH): run \
             `deploy/dev test` once, `apt-get install chromium chromium-driver`, or `brew install chromium chromedriver`"
        ),
    }
}

fn path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// `<parent>/17/bin`, `<parent>/15/bin`; or `<parent>/postgresql@17/bin`, `<parent>/postgresql/bin`.
fn newest_first(parent: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let file = entry.file_name().to_string_lossy().into_owned();
            let version = file.strip_prefix(name).map_or(file.as_str(), |rest| rest.trim_start_matches('@'));
            if version.is_empty() { Some(0) } else { version.parse().ok() }
                .map(|version| (version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_unstable();
    versions.into_iter().rev().map(|(_, bin)| bin).collect()
}
