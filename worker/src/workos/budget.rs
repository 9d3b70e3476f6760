//! The rate budget: a token bucket, and a pause that every request of this process obeys.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Lane;
use crate::failure::Failure;

/// Used when WorkOS says 429 and not for how long.
const DEFAULT_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that WorkOS can impose on the whole process; single events may wait longer.
const PAUSE_CAP: Duration = Duration::from_mins(1);
/// A request waits out a pause this short; a longer one sends its event back to the broker.
const WORTH_WAITING: Duration = Duration::from_secs(1);

/// How many requests may be made: `90/s`, `5000/m`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// This many in this long.
    Per(NonZeroU32, Duration),
    /// No limit of our own.
    Unlimited,
}

impl FromStr for Rate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "off" {
            return Ok(Self::Unlimited);
        }
        let (count, unit) = text.split_once('/').ok_or(())?;
        let count = count.trim().parse().map_err(|_| ())?;
        match unit.trim() {
            "s" => Ok(Self::Per(count, Duration::from_secs(1))),
            "m" => Ok(Self::Per(count, Duration::from_mins(1))),
            _ => Err(()),
        }
    }
}

/// The budget of this process.
pub struct Budget {
    limiter: Option<DefaultDirectRateLimiter>,
    clock: DefaultClock,
    paused_until: Mutex<Option<Instant>>,
    /// Requests on behalf of somebody who waits, that wait themselves: nobody else is admitted meanwhile.
    immediate: AtomicUsize,
    /// One of them has gone.
    gone: Notify,
}

/// A request on behalf of somebody who waits, until it is admitted or given up.
struct Ahead<'a>(&'a Budget);

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        self.0.immediate.fetch_sub(1, Ordering::SeqCst);
        self.0.gone.notify_waiters();
    }
}

impl Budget {
    /// A budget of this rate. What was not used for a second may be used in a burst, so that over any
    /// minute at most a second's worth more than the rate is spent.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let limiter = match rate {
            Rate::Unlimited => None,
            Rate::Per(count, period) => Quota::with_period(period / count.get()).map(|quota| {
                let per_second = count.get() / u32::try_from(period.as_secs().max(1)).unwrap_or(1);
                let burst = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
                RateLimiter::direct(quota.allow_burst(burst))
            }),
        };
        Self {
            limiter,
            clock: DefaultClock::default(),
            paused_until: Mutex::new(None),
            immediate: AtomicUsize::new(0),
            gone: Notify::new(),
        }
    }

    /// Waits until a request may be made and says how long that took; `Err` when a pause is too long
    /// to sit out. Who asks on behalf of somebody who waits goes first.
    pub async fn admit(&self, lane: Lane) -> Result<Duration, Failure> {
        let started = Instant::now();
        let _ahead = (lane == Lane::Immediate).then(|| {
            self.immediate.fetch_add(1, Ordering::SeqCst);
            Ahead(self)
        });
        loop {
            if let Some(rest) = self.pause_left() {
                if rest > WORTH_WAITING {
                    return Err(Failure::RateLimited { retry_after: Some(rest) });
                }
                tokio::time::sleep(rest).await;
                continue;
            }
            let Some(limiter) = &self.limiter else { break };
            // Made before the look, so that who goes in between is not missed.
            let gone = self.gone.notified();
            if lane != Lane::Immediate && self.immediate.load(Ordering::SeqCst) > 0 {
                gone.await;
                continue;
            }
            match limiter.check() {
                Ok(()) => break,
                Err(not_until) => tokio::time::sleep(not_until.wait_time_from(self.clock.now())).await,
            }
        }
        Ok(started.elapsed())
    }

    /// WorkOS asked for quiet: every request of this process waits.
    pub fn pause(&self, retry_after: Option<Duration>) {
        let until = Instant::now() + retry_after.unwrap_or(DEFAULT_PAUSE).min(PAUSE_CAP);
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |before| before.max(until)));
    }

    fn pause_left(&self) -> Option<Duration> {
        let mut paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = (*paused)?.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            *paused = None;
            return None;
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn rates_are_read() {
        let per = |count, seconds| NonZeroU32::new(count).map(|n| Rate::Per(n, Duration::from_secs(seconds)));
        assert_eq!("90/s".parse().ok(), per(90, 1));
        assert_eq!("5000/m".parse().ok(), per(5000, 60));
        assert_eq!("off".parse(), Ok(Rate::Unlimited));
        for bad in ["", "90", "0/s", "-1/s", "90/h"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn who_is_waited_for_goes_first() {
        let budget = Budget::new("500/s".parse().expect("a rate"));
        while budget.limiter.as_ref().is_some_and(|limiter| limiter.check().is_ok()) {}
        let admitted = AtomicUsize::new(0);
        let events = join_all((0..100).map(|_| async {
            budget.admit(Lane::Events).await.expect("no pause");
            admitted.fetch_add(1, Ordering::SeqCst);
        }));
        let immediate = async {
            for _ in 0..10 {
                // Those before are in the queue by now.
                tokio::task::yield_now().await;
                let before = admitted.load(Ordering::SeqCst);
                budget.admit(Lane::Immediate).await.expect("no pause");
                assert_eq!(
                    admitted.load(Ordering::SeqCst),
                    before,
                    "others went before the one that is waited for"
                );
            }
        };
        tokio::join!(events, immediate);
        assert_eq!(admitted.load(Ordering::SeqCst), 100, "and then they went too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_every_request_and_a_long_one_sends_it_back() {
        let budget = Budget::new(Rate::Unlimited);
        budget.pause(None);
        assert!(budget.admit(Lane::Events).await.is_ok_and(|waited| waited >= DEFAULT_PAUSE));
        budget.pause(Some(Duration::from_secs(20)));
        assert!(matches!(
            budget.admit(Lane::Events).await,
            Err(Failure::RateLimited { retry_after: Some(_) })
        ));
        budget.pause(Some(Duration::from_hours(24)));
        tokio::time::sleep(PAUSE_CAP).await;
        assert!(budget.admit(Lane::Events).await.is_ok(), "a pause is capped");
    }
}
