//! Lists of WorkOS: one page, read into objects; and how long it is worth trying again for one.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use shared::id::Kind;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff;
use crate::database::Trouble;
use crate::failure::{CONFIRM_DELAY, Failure};
use crate::object::{self, Misread};
use crate::sync::Told;
use crate::workos::{Lane, WorkOs};

/// The most that WorkOS puts on a page.
pub const PER_PAGE: usize = 100;
/// How long `Retry-After` can make a list wait before it is tried again all the same.
const RETRY_AFTER_CAP: Duration = Duration::from_mins(2);
/// How often something is tried again that waiting is not likely to mend.
const TRIES: u32 = 3;
/// How often something is tried again that only needs a moment.
const MOMENTS: u32 = 6;

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its objects.
    pub told: Vec<Told>,
    /// Items that are no objects. A list that has one was not read completely.
    pub unreadable: u64,
    /// The cursor of the next page; `None` at the end.
    pub after: Option<String>,
}

/// The path of a page of the list at `path`, the first or the one after a cursor.
#[must_use]
pub fn paged(path: &str, after: Option<&str>) -> String {
    let (path, fragment) = path.split_at(path.find('#').unwrap_or(path.len()));
    let joint = if path.contains('?') { '&' } else { '?' };
    let cursor = after.map(|after| format!("&after={}", utf8_percent_encode(after, NON_ALPHANUMERIC)));
    let cursor = cursor.unwrap_or_default();
    format!("{path}{joint}limit={PER_PAGE}&order=asc{cursor}{fragment}")
}

/// Asks for a page of the list at `path`, oldest objects first, so that a cursor keeps its meaning while new
/// ones are made. `of` is the id of the object whose list it is, if there is one; `None` when that is not there.
pub async fn page(
    workos: &WorkOs,
    kind: Kind,
    of: Option<&str>,
    path: &str,
    after: Option<&str>,
    lane: Lane,
) -> Result<Option<Page>, Failure> {
    let path = if object::is_paged(kind) { paged(path, after) } else { path.to_owned() };
    let Some(answered) = workos.page(&path, kind.name(), lane).await? else { return Ok(None) };
    let mut page =
        Page { told: Vec::with_capacity(answered.items.len()), unreadable: 0, after: answered.after };
    for item in &answered.items {
        match object::read_item(kind, of, item) {
            Ok(mut records) => {
                workos.remember(&records);
                let embedded = records.split_off(1);
                page.told.extend(records.pop().map(|record| Told { record, embedded }));
            }
            Err(Misread::AnotherKind) => {}
            Err(error) => {
                tracing::warn!(object.kind = %kind, error = %error, "an item of a list was not understood");
                page.unreadable += 1;
            }
        }
    }
    // A cursor that does not move would be read for ever.
    if page.after.as_deref() == after && after.is_some() {
        return Err(Failure::NotUnderstood);
    }
    Ok(Some(page))
}

/// Why a run over everything ends before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Interruption {
    /// A signal.
    #[error("it was told to stop")]
    Stopped,
    /// 401 or 403.
    #[error("WorkOS refuses the key (401 or 403); check WORKOS_API_KEY and what it may read")]
    KeyRefused,
    /// No answer for longer than is worth waiting.
    #[error("WorkOS does not answer ({0})")]
    Away(String),
    /// One list or object cannot be read.
    #[error("{0} cannot be read ({1})")]
    Unreadable(String, String),
    /// No Postgres for longer than is worth waiting.
    #[error("Postgres is not available")]
    Database,
    /// Postgres refuses what is ours.
    #[error("Postgres refuses the bookkeeping ({0})")]
    Refused(String),
    /// WorkOS has none of so many rows of the mirror.
    #[error(
        "WorkOS has none of {0} rows of the mirror that were tried, as if the key were of another environment; check \
         WORKOS_API_KEY and WORKOS_ENV, or say --even-if-all-is-gone"
    )]
    OtherEnvironment(usize),
    /// Another copy does the same at this moment.
    #[error("another one is running for this environment; wait for it, or stop it")]
    Busy,
}

impl From<sqlx::Error> for Interruption {
    fn from(error: sqlx::Error) -> Self {
        Trouble::from(error).into()
    }
}

impl From<Trouble> for Interruption {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unavailable | Trouble::Conflict => Self::Database,
            Trouble::Refused(detail) => Self::Refused(detail),
        }
    }
}

/// How long to wait before trying again what failed for the `attempt`th time (from 1) and has failed for so
/// long; `None` when it is not worth it. Rate limits are waited out, an outage until `limit`.
#[must_use]
pub fn again(failure: &Failure, attempt: u32, failing_for: Duration, limit: Duration) -> Option<Duration> {
    let few = |tries: u32, delay: Duration| (attempt < tries).then_some(delay);
    match failure {
        Failure::RateLimited { retry_after } => {
            Some(backoff::dependency(attempt).max(retry_after.unwrap_or_default().min(RETRY_AFTER_CAP)))
        }
        Failure::ServerFault { status: 500..=599 }
        | Failure::Unreachable
        | Failure::TimedOut
        | Failure::Outage(_)
        | Failure::DatabaseUnavailable => (failing_for < limit).then(|| backoff::dependency(attempt)),
        Failure::ServerFault { .. } | Failure::NotUnderstood => few(TRIES, backoff::dependency(attempt)),
        Failure::StaleRead => few(MOMENTS, backoff::soon(attempt).max(Duration::from_millis(500))),
        Failure::Unconfirmed | Failure::ParentWaits(_) => few(MOMENTS, CONFIRM_DELAY),
        Failure::KeyRefused
        | Failure::Forbidden
        | Failure::RowRefused(_)
        | Failure::Malformed
        | Failure::Crash
        | Failure::AwaitsList(_)
        | Failure::CannotAsk(_)
        | Failure::LaterVersion => None,
    }
}

/// Tries again, as long as it is worth it and nobody says stop.
#[derive(Clone)]
pub struct Patience {
    /// How long an outage is waited out.
    pub limit: Duration,
    /// Cancelled when it is time to leave.
    pub stop: CancellationToken,
}

/// A thing that is tried until it works.
pub struct Attempts<'a> {
    patience: &'a Patience,
    failed: u32,
    since: Option<Instant>,
}

impl Patience {
    /// Nothing was tried yet.
    #[must_use]
    pub fn attempts(&self) -> Attempts<'_> {
        Attempts { patience: self, failed: 0, since: None }
    }

    /// Waits, unless it is time to leave.
    pub async fn pause(&self, delay: Duration) -> Result<(), Interruption> {
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            () = self.stop.cancelled() => Err(Interruption::Stopped),
        }
    }

    /// Asks Postgres until it answers.
    pub async fn postgres<T, F: Future<Output = Result<T, Trouble>> + Send>(
        &self,
        question: impl Fn() -> F + Send,
    ) -> Result<T, Interruption> {
        let mut attempts = self.attempts();
        loop {
            match question().await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Refused(detail)) => return Err(Interruption::Refused(detail)),
                Err(Trouble::Unavailable | Trouble::Conflict) => {
                    if !attempts.again(&Failure::DatabaseUnavailable).await? {
                        return Err(Interruption::Database);
                    }
                }
            }
        }
    }
}

impl Attempts<'_> {
    /// It failed so. Waits as long as is right and says whether to try again.
    pub async fn again(&mut self, failure: &Failure) -> Result<bool, Interruption> {
        if *failure == Failure::KeyRefused {
            return Err(Interruption::KeyRefused);
        }
        self.failed += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(delay) = again(failure, self.failed, since.elapsed(), self.patience.limit) else {
            return Ok(false);
        };
        if self.failed == MOMENTS || delay > Duration::from_secs(5) {
            let wait_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(reason = %failure.reason(), wait_ms, "still no answer, trying again");
        }
        self.patience.pause(delay).await?;
        Ok(true)
    }
}

/// What a failure that did not go away means for the whole run; `None` when only its object suffers.
#[must_use]
pub fn interruption(failure: &Failure) -> Option<Interruption> {
    match failure {
        Failure::KeyRefused | Failure::Forbidden => Some(Interruption::KeyRefused),
        Failure::RateLimited { .. }
        | Failure::Outage(_)
        | Failure::ServerFault { status: 500..=599 }
        | Failure::Unreachable
        | Failure::TimedOut => Some(Interruption::Away(failure.reason())),
        Failure::DatabaseUnavailable => Some(Interruption::Database),
        Failure::ServerFault { .. }
        | Failure::NotUnderstood
        | Failure::StaleRead
        | Failure::Unconfirmed
        | Failure::ParentWaits(_)
        | Failure::RowRefused(_)
        | Failure::Malformed
        | Failure::Crash
        | Failure::AwaitsList(_)
        | Failure::CannotAsk(_)
        | Failure::LaterVersion => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[test]
    fn a_page_is_asked_for_before_what_only_the_budget_reads() {
        assert_eq!(
            paged("/directory_users?group=g#directory=d", Some("a&b")),
            "/directory_users?group=g&limit=100&order=asc&after=a%26b#directory=d"
        );
        assert_eq!(paged("/organizations", None), "/organizations?limit=100&order=asc");
    }

    #[test]
    fn a_rate_limit_is_waited_out_however_long() {
        let limited = Failure::RateLimited { retry_after: Some(Duration::from_secs(30)) };
        assert_eq!(again(&limited, 100, Duration::from_hours(1), LIMIT), Some(Duration::from_secs(30)));
    }

    #[test]
    fn an_outage_is_waited_out_up_to_the_limit() {
        for failure in [Failure::ServerFault { status: 503 }, Failure::Unreachable, Failure::TimedOut] {
            assert!(again(&failure, 50, LIMIT / 2, LIMIT).is_some());
            assert!(again(&failure, 50, LIMIT, LIMIT).is_none());
        }
    }

    #[test]
    fn what_waiting_does_not_mend_is_tried_a_few_times() {
        for failure in [Failure::ServerFault { status: 422 }, Failure::NotUnderstood] {
            assert!(again(&failure, TRIES - 1, Duration::ZERO, LIMIT).is_some());
            assert!(again(&failure, TRIES, Duration::ZERO, LIMIT).is_none());
        }
        assert!(again(&Failure::RowRefused(String::new()), 1, Duration::ZERO, LIMIT).is_none());
    }
}
