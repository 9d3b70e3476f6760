//! What can go wrong with an event, and what each failure asks of us.

use std::time::Duration;

use shared::id::ObjectRef;

use crate::backoff;

/// A failure class. Its name is what the ledger, the logs and the metrics say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// WorkOS asks us to slow down.
    RateLimited {
        /// What it said about how long.
        retry_after: Option<Duration>,
    },
    /// WorkOS answered 5xx, or another status that says nothing about the object.
    ServerFault {
        /// The status.
        status: u16,
    },
    /// No answer: connection refused or reset.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// 401 or 403: the key is wrong. Our fault, not the event's.
    KeyRefused,
    /// An answer that is not the object.
    NotUnderstood,
    /// The answer is older than what the event says.
    StaleRead,
    /// A first 404 that no deletion explains; it counts when it repeats.
    Unconfirmed,
    /// The object hangs on this one, which could not be had.
    ParentWaits(ObjectRef),
    /// Postgres was not available.
    DatabaseUnavailable,
    /// Postgres refused this row: SQLSTATE, and the constraint where it names one. Never the message,
    /// which may quote personal data.
    RowRefused(String),
    /// The message has no event in it, or the event no object id.
    Malformed,
    /// A kind of object that only a later version knows: a copy of that version will carry it out.
    LaterVersion,
}

/// What a failure asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Deliver the event again, not before this delay.
    Retry(Duration),
    /// Asking again would not help: record it as dead.
    Bury,
}

/// How long to wait before a first 404 is asked again: deletions and creations of WorkOS may take a
/// moment to show everywhere.
pub const CONFIRM_DELAY: Duration = Duration::from_secs(3);

/// The longest wait that `Retry-After` can impose on one event.
const RETRY_AFTER_CAP: Duration = Duration::from_mins(2);

impl Failure {
    /// Name of the class.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::ServerFault { .. } => "server_fault",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::KeyRefused => "key_refused",
            Self::NotUnderstood => "not_understood",
            Self::StaleRead => "stale_read",
            Self::Unconfirmed => "unconfirmed",
            Self::ParentWaits(_) => "parent_waits",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::RowRefused(_) => "row_refused",
            Self::Malformed => "malformed",
            Self::LaterVersion => "later_version",
        }
    }

    /// The class and what is known besides, without personal data.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::ServerFault { status } => format!("server_fault {status}"),
            Self::ParentWaits(parent) => format!("parent_waits {parent}"),
            Self::RowRefused(detail) => format!("row_refused {detail}"),
            other => other.class().to_owned(),
        }
    }

    /// What to do with an event that failed so, delivered for the `attempt`th time (from 1).
    #[must_use]
    pub fn remedy(&self, attempt: u32) -> Remedy {
        let delay = match self {
            Self::RateLimited { retry_after } => {
                backoff::redelivery(attempt).max(retry_after.unwrap_or_default().min(RETRY_AFTER_CAP))
            }
            // Replicas catch up within moments, and pulling stops by itself while Postgres is away.
            Self::StaleRead | Self::DatabaseUnavailable => backoff::soon(attempt),
            Self::Unconfirmed | Self::ParentWaits(_) => CONFIRM_DELAY.max(backoff::soon(attempt)),
            Self::ServerFault { .. }
            | Self::Unreachable
            | Self::TimedOut
            | Self::LaterVersion
            | Self::KeyRefused
            | Self::NotUnderstood
            | Self::RowRefused(_) => backoff::redelivery(attempt),
            Self::Malformed => return Remedy::Bury,
        };
        Remedy::Retry(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_honoured_but_capped() {
        let asked =
            |seconds| Failure::RateLimited { retry_after: Some(Duration::from_secs(seconds)) }.remedy(1);
        assert!(matches!(asked(30), Remedy::Retry(delay) if delay == Duration::from_secs(30)));
        assert!(matches!(asked(1_000_000), Remedy::Retry(delay) if delay == RETRY_AFTER_CAP));
    }

    #[test]
    fn a_row_that_was_refused_tells_no_value() {
        let failure = Failure::RowRefused("23514 users_email_check".to_owned());
        assert_eq!(failure.reason(), "row_refused 23514 users_email_check");
    }
}
