//! How a program ended, for scripts.

use std::process::ExitCode;

/// The documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// The answer is "no": drift was found, nothing matched a required id.
    No = 1,
    /// The command or a setting is wrong.
    Usage = 2,
    /// Something we depend on was not available.
    Unavailable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
