//! How an event ends.

use std::fmt;

/// Every event ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The mirror was changed.
    Applied,
    /// The mirror agreed already.
    Unchanged,
    /// A later question had answered it.
    Superseded,
    /// The object is gone, and the mirror says so now.
    Deleted,
    /// A type that is not mirrored.
    Ignored,
    /// It cannot be carried out; a person should look.
    Dead,
}

impl Outcome {
    /// The name in the ledger and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Superseded => "superseded",
            Self::Deleted => "deleted",
            Self::Ignored => "ignored",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
