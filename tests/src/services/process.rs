//! One process under the guardian's eyes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid};

use super::guardian::{self, Farewell};

/// How often a condition is looked at again.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// Waits for a word, then becomes the program. We give the word after the guardian knows the process,
/// so there is no moment in which our death leaves it behind.
const GATE: &str = r#"read -r word && exec "$@" </dev/null"#;

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What messages call it.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its environment, besides `PATH` and the few names that any program may need.
    pub env: Vec<(String, String)>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Where its standard output goes; the log when `None`.
    pub output: Option<PathBuf>,
    /// Where its standard error goes. Appended to.
    pub log: PathBuf,
    /// As whom; `None` is ourselves.
    pub user: Option<(Uid, Gid)>,
    /// How it ends when we are gone.
    pub farewell: Farewell,
}

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    farewell: Farewell,
    status: Option<ExitStatus>,
}

/// Names that pass from our environment to a program's: nothing that could configure it by accident.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "TMPDIR", "TZ", "LLVM_PROFILE_FILE"];

impl Process {
    /// Starts it.
    pub fn start(spec: &Spec) -> anyhow::Result<Self> {
        let log = append(&spec.log)?;
        let output = match &spec.output {
            Some(path) => append(path)?,
            None => log.try_clone()?,
        };
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", GATE])
            .arg(&spec.name)
            .arg(&spec.program)
            .args(&spec.args)
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.directory)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(log);
        if let Some((uid, gid)) = spec.user {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        let mut child = command.spawn().with_context(|| format!("failed to start {}", spec.name))?;
        let word = child.stdin.take();
        let process = Self {
            name: spec.name.clone(),
            child,
            log: spec.log.clone(),
            farewell: spec.farewell,
            status: None,
        };
        guardian::watch(process.pid(), process.farewell)?;
        word.context("no pipe to the new process")?
            .write_all(b"go\n")
            .with_context(|| format!("{} ended before it started", spec.name))?;
        Ok(process)
    }

    /// Its id, which is also the id of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status =
                self.child.try_wait().with_context(|| format!("failed to look after {}", self.name))?;
            if self.status.is_some() {
                guardian::forget(self.child.id(), self.farewell)?;
            }
        }
        Ok(self.status)
    }

    /// Sends a signal to its group. One that is gone already is left in peace.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        signal_group(self.pid(), signal).with_context(|| format!("failed to send {signal} to {}", self.name))
    }

    /// Waits for its end.
    pub async fn wait(&mut self, at_most: Duration) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if started.elapsed() > at_most {
                bail!(
                    "{} has not ended after {at_most:?}; its log ends with\n{}",
                    self.name,
                    tail(&self.log)
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// `SIGKILL`, and waits.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        if self.status.is_none() {
            self.status = Some(self.child.wait()?);
            guardian::forget(self.child.id(), self.farewell)?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What does not work here, the guardian does.
        let _ = self.kill();
    }
}

/// Sends a signal to a process group, if it is there.
pub(crate) fn signal_group(group: u32, signal: Signal) -> anyhow::Result<()> {
    let group = Pid::from_raw(-i32::try_from(group)?);
    match kill(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The last lines of a log, for messages.
#[must_use]
pub fn tail(log: &Path) -> String {
    const LINES: usize = 25;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..]
        .iter()
        .fold(String::new(), |all, line| all + "    " + line + "\n")
}

fn append(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("failed to open {}", path.display()))
}
