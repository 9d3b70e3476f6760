//! Ends what we started when we die, however we die.
//!
//! A shell reads a pipe whose other end only this process holds. Whatever ends us, even `kill -9`,
//! closes the pipe; the shell then ends every process on its list and removes every directory on it.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, bail};

/// How a process is asked to go when we are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// `SIGKILL`.
    Kill,
    /// `SIGQUIT` and a moment: Postgres then takes its children and its shared memory with it.
    Quit,
}

impl Farewell {
    const fn signal(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Quit => "QUIT",
        }
    }
}

/// Lines: `+SIGNAL:PID` adds a process group, `-SIGNAL:PID` takes it off, `/DIRECTORY` adds a directory.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT PIPE
running=
set --
while IFS= read -r line; do
    case $line in
    +*) running="$running ${line#+}" ;;
    -*) rest=
        for one in $running; do [ "$one" = "${line#-}" ] || rest="$rest $one"; done
        running=$rest ;;
    /*) set -- "$@" "$line" ;;
    esac
done
for one in $running; do kill -s "${one%%:*}" -- "-${one#*:}"; done
for one in $running; do
    looks=0
    while kill -s 0 -- "-${one#*:}" && [ $looks -lt 50 ]; do
        looks=$((looks + 1))
        sleep 0.1
    done
    kill -s KILL -- "-${one#*:}"
done
[ $# -eq 0 ] || rm -rf -- "$@"
"#;

struct Guardian {
    ears: ChildStdin,
    // Kept so that the shell is not waited for: it must outlive us.
    _shell: Child,
}

/// Puts a process group on the list.
pub(crate) fn watch(group: u32, farewell: Farewell) -> anyhow::Result<()> {
    tell(&format!("+{}:{group}\n", farewell.signal()))
}

/// Takes a process group, which is gone, off the list.
pub(crate) fn forget(group: u32, farewell: Farewell) -> anyhow::Result<()> {
    tell(&format!("-{}:{group}\n", farewell.signal()))
}

/// Has a directory removed after every process is gone.
pub(crate) fn remove_at_the_end(directory: &Path) -> anyhow::Result<()> {
    match directory.to_str() {
        Some(path) if path.starts_with('/') && !path.contains('\n') => tell(&format!("{path}\n")),
        _ => bail!("{} is not a path that the guardian can be told", directory.display()),
    }
}

fn tell(line: &str) -> anyhow::Result<()> {
    static GUARDIAN: OnceLock<Mutex<Option<Guardian>>> = OnceLock::new();
    let mut guardian =
        GUARDIAN.get_or_init(|| Mutex::new(None)).lock().unwrap_or_else(PoisonError::into_inner);
    let guardian = match guardian.as_mut() {
        Some(guardian) => guardian,
        None => guardian.insert(start().context("failed to start the guardian shell")?),
    };
    guardian.ears.write_all(line.as_bytes()).context("the guardian shell is gone")
}

fn start() -> anyhow::Result<Guardian> {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", SCRIPT])
        // Ctrl-C and a hangup of our terminal reach our group, not this one.
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let ears = shell.stdin.take().context("no pipe")?;
    Ok(Guardian { ears, _shell: shell })
}
