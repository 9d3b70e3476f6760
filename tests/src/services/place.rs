//! Directories for servers, reachable by the user who runs them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, User};

use super::guardian;

/// A Unix socket's path may have about 100 bytes; its name in the directory needs some of them.
const LONGEST: usize = 70;

/// A directory of our own. It goes when this is dropped, or when we die.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// A fresh directory under `target/dev`, or a temporary one where servers could not reach that.
    pub fn new(label: &str) -> anyhow::Result<Self> {
        let parent = parent()?;
        fs::create_dir_all(&parent).with_context(|| format!("failed to create {}", parent.display()))?;
        let path = tempfile::Builder::new()
            .prefix(&format!("{label}-"))
            .tempdir_in(&parent)
            .with_context(|| format!("failed to create a directory in {}", parent.display()))?
            .keep();
        let place = Self { path };
        guardian::remove_at_the_end(&place.path)?;
        hand_over(&place.path)?;
        Ok(place)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory inside.
    pub fn room(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir(&path).with_context(|| format!("failed to create {}", path.display()))?;
        hand_over(&path)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The guardian removes what this cannot.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The user that servers run as: `None` is ourselves. Postgres refuses to run as root, so root hands
/// over to `postgres` or else to `nobody`.
pub fn unprivileged() -> anyhow::Result<Option<(Uid, Gid)>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).with_context(|| format!("failed to look up `{name}`"))? {
            return Ok(Some((user.uid, user.gid)));
        }
    }
    bail!(
        "we are root, and Postgres refuses to run as root: there is no user `postgres` or `nobody` to run it as"
    )
}

/// Gives a directory to the unprivileged user, and to nobody else.
fn hand_over(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("failed to set the permissions of {}", path.display()))?;
    if let Some((uid, gid)) = unprivileged()? {
        std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .with_context(|| format!("failed to give away {}", path.display()))?;
    }
    Ok(())
}

/// Decided once: `target/dev`, the temporary directory, or `/tmp`.
fn parent() -> anyhow::Result<PathBuf> {
    static PARENT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(parent) = PARENT.get() {
        return Ok(parent.clone());
    }
    let user = unprivileged()?;
    let candidates = [super::binaries::target().join("dev"), std::env::temp_dir(), PathBuf::from("/tmp")];
    let fits = |path: &PathBuf| path.as_os_str().len() <= LONGEST && reachable(path, user);
    let parent = candidates
        .into_iter()
        .find(fits)
        .context("neither target/dev nor /tmp can be reached by the user that runs the servers")?;
    Ok(PARENT.get_or_init(|| parent).clone())
}

/// Whether that user may pass every directory above `path` (which need not exist yet).
fn reachable(path: &Path, user: Option<(Uid, Gid)>) -> bool {
    let Some((uid, gid)) = user else { return true };
    path.ancestors().filter_map(|directory| fs::metadata(directory).ok()).all(|facts| {
        let pass = if facts.uid() == uid.as_raw() {
            0o100
        } else if facts.gid() == gid.as_raw() {
            0o010
        } else {
            0o001
        };
        facts.mode() & pass != 0
    })
}
