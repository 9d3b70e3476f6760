//! What can go wrong with an event, and what each failure asks of us.

use std::fmt;
use std::time::Duration;

use shared::id::ObjectRef;

use crate::backoff::{self, Schedule};

/// A failure class. Its name is what the ledger, the logs and the metrics say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// WorkOS asks us to slow down.
    RateLimited {
        /// What it said about how long.
        retry_after: Option<Duration>,
    },
    /// WorkOS answered 5xx, or another status that says nothing about the object, while it answers other
    /// questions well.
    ServerFault {
        /// The status.
        status: u16,
    },
    /// No answer, connection refused or reset, while other questions are answered.
    Unreachable,
    /// No answer in time, while other questions are answered.
    TimedOut,
    /// One of the three above, and no other question is answered either: WorkOS is down, or the way to it. The
    /// class is that of what happened.
    Outage(Box<Failure>),
    /// 401 or 403, to every question: the key is wrong. Our fault, not the event's.
    KeyRefused,
    /// 401 or 403, to this question only: the key is good, but not for this.
    Forbidden,
    /// An answer that is not the object.
    NotUnderstood,
    /// The answer is older than what the event says.
    StaleRead,
    /// A first 404 that no deletion explains; it counts when it repeats. (That an object is gone is an answer, no
    /// failure.)
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
    /// It was begun so often without ever ending that it must be what makes the worker die.
    Crash,
    /// Many objects of its directory wait, so their list is read: it comes again after this long.
    AwaitsList(Duration),
    /// WorkOS has no way to ask for it: within what it is kept is not known, or its list is refused.
    CannotAsk(&'static str),
    /// A kind of object that only a later version knows: a copy of that version will carry it out.
    LaterVersion,
}

/// Whose fault a failure is, and with that, whether it uses up an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Something is wrong with this event or its object: an attempt is used up.
    Event,
    /// The event is fine, the world is not, or not yet: the event waits as long as it takes.
    World,
}

/// What a failure asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Deliver the event again, not before this delay.
    Retry(Duration),
    /// Asking again would not help: make it a dead letter.
    Bury,
}

/// How often an event is tried, and how soon again.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// `SYNC_MAX_ATTEMPTS`: the attempts an event has, before it is a dead letter.
    pub attempts: u32,
    /// The waits between them.
    pub schedule: Schedule,
}

/// How long to wait before a first 404 is asked again: deletions and creations of WorkOS may take a
/// moment to show everywhere.
pub const CONFIRM_DELAY: Duration = Duration::from_secs(3);

/// The longest wait that `Retry-After` can impose on one event.
const RETRY_AFTER_CAP: Duration = Duration::from_mins(2);

/// Up to this attempt a stale read is asked again soon: replicas catch up within moments, as a rule.
const STALE_SOON: u32 = 6;

/// What the world refuses waits no longer than after this many deliveries (half a minute): the world is likely
/// to have changed by then.
const WORLD_STEPS: u32 = 6;

impl Failure {
    /// The name of every class.
    pub const CLASSES: [&str; 17] = [
        "rate_limited",
        "server_fault",
        "unreachable",
        "timed_out",
        "key_refused",
        "forbidden",
        "not_understood",
        "stale_read",
        "unconfirmed",
        "parent_waits",
        "database_unavailable",
        "row_refused",
        "malformed",
        "crash",
        "awaits_list",
        "cannot_ask",
        "later_version",
    ];

    /// Name of the class.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::ServerFault { .. } => "server_fault",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Outage(failure) => failure.class(),
            Self::KeyRefused => "key_refused",
            Self::Forbidden => "forbidden",
            Self::NotUnderstood => "not_understood",
            Self::StaleRead => "stale_read",
            Self::Unconfirmed => "unconfirmed",
            Self::ParentWaits(_) => "parent_waits",
            Self::DatabaseUnavailable => "database_unavailable",
            Self::RowRefused(_) => "row_refused",
            Self::Malformed => "malformed",
            Self::Crash => "crash",
            Self::AwaitsList(_) => "awaits_list",
            Self::CannotAsk(_) => "cannot_ask",
            Self::LaterVersion => "later_version",
        }
    }

    /// The class and what is known besides, without personal data.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::ServerFault { status } => format!("server_fault {status}"),
            Self::Outage(failure) => failure.reason(),
            Self::ParentWaits(parent) => format!("parent_waits {parent}"),
            Self::RowRefused(detail) => format!("row_refused {detail}"),
            Self::CannotAsk(why) => format!("cannot_ask {why}"),
            other => other.class().to_owned(),
        }
    }

    /// Whether it uses up an attempt.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::RateLimited { .. }
            | Self::Outage(_)
            | Self::KeyRefused
            // An answer that must repeat, or that of a parent: what comes next settles it.
            | Self::Unconfirmed
            | Self::ParentWaits(_)
            | Self::DatabaseUnavailable
            | Self::AwaitsList(_)
            | Self::LaterVersion => Blame::World,
            Self::ServerFault { .. }
            | Self::Unreachable
            | Self::TimedOut
            | Self::Forbidden
            | Self::NotUnderstood
            | Self::StaleRead
            | Self::RowRefused(_)
            | Self::Malformed
            | Self::CannotAsk(_)
            | Self::Crash => Blame::Event,
        }
    }

    /// Whether many of them at once say that something is wrong with us (a bad deployment, a changed schema)
    /// rather than with the events. What comes from outside does not: malformed messages stop nobody.
    #[must_use]
    pub const fn hints_at_us(&self) -> bool {
        match self {
            Self::ServerFault { .. }
            | Self::Unreachable
            | Self::TimedOut
            | Self::Forbidden
            | Self::NotUnderstood
            | Self::RowRefused(_)
            | Self::Crash => true,
            Self::RateLimited { .. }
            | Self::Outage(_)
            | Self::KeyRefused
            | Self::StaleRead
            | Self::Unconfirmed
            | Self::ParentWaits(_)
            | Self::DatabaseUnavailable
            | Self::Malformed
            | Self::AwaitsList(_)
            | Self::CannotAsk(_)
            | Self::LaterVersion => false,
        }
    }

    /// What to do with an event that failed so, at its `attempt`th attempt and `delivery`th delivery (from 1).
    #[must_use]
    pub fn remedy(&self, retries: &Retries, attempt: u32, delivery: u32) -> Remedy {
        match self {
            Self::Malformed | Self::Crash => Remedy::Bury,
            failure if failure.blame() == Blame::Event && attempt >= retries.attempts => Remedy::Bury,
            failure => Remedy::Retry(failure.delay(retries, attempt, delivery)),
        }
    }

    /// How long an event waits that failed so. What uses up attempts waits longer with each; what does not, with
    /// each delivery.
    #[must_use]
    pub fn delay(&self, retries: &Retries, attempt: u32, delivery: u32) -> Duration {
        let again = |step| retries.schedule.delay(step);
        match self {
            Self::RateLimited { retry_after } => {
                again(delivery.min(WORLD_STEPS)).max(retry_after.unwrap_or_default().min(RETRY_AFTER_CAP))
            }
            // Pulling stops by itself until they are mended.
            Self::Outage(_) | Self::KeyRefused => again(1),
            Self::DatabaseUnavailable => backoff::soon(delivery.min(WORLD_STEPS)),
            Self::Unconfirmed | Self::ParentWaits(_) => {
                CONFIRM_DELAY.max(backoff::soon(delivery.min(WORLD_STEPS)))
            }
            Self::StaleRead if attempt <= STALE_SOON => backoff::soon(attempt),
            Self::AwaitsList(delay) => *delay,
            Self::LaterVersion => again(delivery),
            Self::StaleRead
            | Self::ServerFault { .. }
            | Self::Unreachable
            | Self::TimedOut
            | Self::Forbidden
            | Self::NotUnderstood
            | Self::RowRefused(_)
            | Self::Malformed
            | Self::CannotAsk(_)
            | Self::Crash => again(attempt),
        }
    }
}

/// A sentence for people, without personal data.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RateLimited { .. } => f.write_str("WorkOS asks us to slow down"),
            Self::ServerFault { status } => write!(f, "WorkOS answered {status}, and other questions well"),
            Self::Unreachable => f.write_str("WorkOS broke off, and answered other questions well"),
            Self::TimedOut => f.write_str("WorkOS did not answer in time, and answered other questions well"),
            Self::Outage(failure) => match &**failure {
                Self::ServerFault { status } => write!(f, "WorkOS answers nobody: {status}"),
                Self::TimedOut => f.write_str("WorkOS answers nobody: no answer in time"),
                _ => f.write_str("WorkOS answers nobody: no connection"),
            },
            Self::KeyRefused => f.write_str("WorkOS refuses the key"),
            Self::Forbidden => f.write_str("WorkOS refuses the key for this question, but not for others"),
            Self::NotUnderstood => f.write_str("the answer of WorkOS was not understood"),
            Self::StaleRead => f.write_str("the answer of WorkOS is older than what the event says"),
            Self::Unconfirmed => f.write_str("WorkOS says once that it is not there"),
            Self::ParentWaits(parent) => write!(f, "it hangs on {parent}, which could not be had"),
            Self::DatabaseUnavailable => f.write_str("Postgres is not available"),
            Self::RowRefused(detail) => write!(f, "Postgres refused the row: {detail}"),
            Self::Malformed => f.write_str("it holds no event, or names no object"),
            Self::Crash => f.write_str("the worker died each time it tried"),
            Self::AwaitsList(_) => f.write_str("the list of its directory is read"),
            Self::CannotAsk(_) => f.write_str("WorkOS cannot be asked for it"),
            Self::LaterVersion => f.write_str("a later version of the worker must carry it out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::id::Kind;

    use super::*;

    const RETRIES: Retries = Retries { attempts: 12, schedule: Schedule::REDELIVERY };

    /// One of each class, in the order of `CLASSES`.
    fn one_of_each() -> [Failure; 17] {
        [
            Failure::RateLimited { retry_after: None },
            Failure::ServerFault { status: 500 },
            Failure::Unreachable,
            Failure::TimedOut,
            Failure::KeyRefused,
            Failure::Forbidden,
            Failure::NotUnderstood,
            Failure::StaleRead,
            Failure::Unconfirmed,
            Failure::ParentWaits(ObjectRef::new(Kind::User, "user_1")),
            Failure::DatabaseUnavailable,
            Failure::RowRefused("23514 users_email_check".to_owned()),
            Failure::Malformed,
            Failure::Crash,
            Failure::AwaitsList(Duration::ZERO),
            Failure::CannotAsk("not_listed"),
            Failure::LaterVersion,
        ]
    }

    #[test]
    fn every_class_has_its_name_in_the_list() {
        assert_eq!(one_of_each().map(|failure| failure.class()), Failure::CLASSES);
    }

    #[test]
    fn only_what_is_the_events_own_fault_ever_buries_it() {
        let buried = one_of_each()
            .into_iter()
            .filter(|failure| failure.remedy(&RETRIES, 1_000, 1_000) == Remedy::Bury)
            .map(|failure| failure.class());
        assert_eq!(
            buried.collect::<Vec<_>>(),
            [
                "server_fault",
                "unreachable",
                "timed_out",
                "forbidden",
                "not_understood",
                "stale_read",
                "row_refused",
                "malformed",
                "crash",
                "cannot_ask"
            ]
        );
        let outage = Failure::Outage(Box::new(Failure::TimedOut));
        assert_eq!((outage.class(), outage.blame()), ("timed_out", Blame::World));
    }

    #[test]
    fn an_event_has_as_many_attempts_as_are_configured() {
        let refused = Failure::RowRefused("23514".to_owned());
        assert!(matches!(refused.remedy(&RETRIES, 11, 11), Remedy::Retry(_)));
        assert_eq!(refused.remedy(&RETRIES, 12, 12), Remedy::Bury);
        assert_eq!(Failure::Malformed.remedy(&RETRIES, 1, 1), Remedy::Bury);
    }

    #[test]
    fn retry_after_is_honoured_but_capped() {
        let asked = |seconds| {
            Failure::RateLimited { retry_after: Some(Duration::from_secs(seconds)) }.remedy(&RETRIES, 1, 1)
        };
        assert!(matches!(asked(30), Remedy::Retry(delay) if delay == Duration::from_secs(30)));
        assert!(matches!(asked(1_000_000), Remedy::Retry(delay) if delay == RETRY_AFTER_CAP));
    }

    #[test]
    fn a_stale_read_is_asked_again_soon_and_then_with_patience() {
        let longest = |attempt| {
            let delays = (0..200).map(|_| Failure::StaleRead.delay(&RETRIES, attempt, attempt));
            delays.max().unwrap_or_default()
        };
        assert!(longest(STALE_SOON) <= Duration::from_secs(8));
        assert!(longest(11) > Duration::from_mins(5), "a replica may lag for minutes");
    }

    #[test]
    fn a_row_that_was_refused_tells_no_value() {
        let failure = Failure::RowRefused("23514 users_email_check".to_owned());
        assert_eq!(failure.reason(), "row_refused 23514 users_email_check");
    }
}
