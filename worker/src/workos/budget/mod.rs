//! The rate budget: a token bucket for each of WorkOS's limits, of this process or shared by all copies, and a pause
//! that every request obeys.

mod lanes;
mod limits;
mod shared;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use sqlx::PgPool;
use tokio::time::Instant;

use self::lanes::Lanes;
use self::limits::Limit;
use self::shared::Not;
use super::Lane;
use crate::failure::Failure;

/// Used when WorkOS says 429 and not for how long.
const DEFAULT_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that WorkOS can impose on the whole process; single events may wait longer.
const PAUSE_CAP: Duration = Duration::from_mins(1);
/// A request waits out a pause this short; a longer one sends its event back to the broker.
const WORTH_WAITING: Duration = Duration::from_secs(1);
/// Directories whose limit is kept in mind. One that is forgotten has rested.
const DIRECTORIES: usize = 256;

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

/// Where copies share their budget.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// The environment whose key it is.
    pub env: String,
    /// Where the budget is kept.
    pub database: PgPool,
}

/// The budget of this process, or its part of the shared one.
pub struct Budget {
    rate: Option<(NonZeroU32, Duration)>,
    sharing: Option<Sharing>,
    limits: Mutex<HashMap<Limit, Arc<Bounded>>>,
    clock: DefaultClock,
    paused_until: Mutex<Option<Instant>>,
}

/// Requests under one limit.
struct Bounded {
    lanes: Lanes,
    bucket: Bucket,
}

enum Bucket {
    Own(DefaultDirectRateLimiter),
    Shared(shared::Bucket),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    /// A budget of this rate.
    #[must_use]
    pub fn new(rate: Rate, sharing: Option<Sharing>) -> Self {
        Self {
            rate: rate.limited(),
            sharing,
            limits: Mutex::default(),
            clock: DefaultClock::default(),
            paused_until: Mutex::new(None),
        }
    }

    /// Waits until a request of `path` may be made and says how long that took; `Err` when a pause is too long to
    /// sit out. Lanes go in their order.
    pub async fn admit(&self, path: &str, lane: Lane) -> Result<Duration, Failure> {
        let started = Instant::now();
        if let Some(rate) = self.rate {
            for limit in limits::of(path) {
                self.bounded(limit, rate).admit(self, lane).await?;
            }
        }
        self.sit_out_the_pause().await?;
        Ok(started.elapsed())
    }

    fn bounded(&self, limit: Limit, rate: (NonZeroU32, Duration)) -> Arc<Bounded> {
        let mut limits = lock(&self.limits);
        if let Some(bounded) = limits.get(&limit) {
            return bounded.clone();
        }
        if limits.len() > DIRECTORIES {
            limits.retain(|limit, bounded| {
                !matches!(limit, Limit::Directory(_)) || Arc::strong_count(bounded) > 1
            });
        }
        let bounded = Arc::new(Bounded::new(&limit, rate, self.sharing.as_ref()));
        limits.insert(limit, bounded.clone());
        bounded
    }

    /// WorkOS asked for quiet: every request of this process waits, and of every copy that shares its budget.
    pub fn pause(&self, retry_after: Option<Duration>) {
        let pause = retry_after.unwrap_or(DEFAULT_PAUSE).min(PAUSE_CAP);
        self.rest(pause);
        let everything = self.rate.map(|rate| self.bounded(Limit::Everything, rate));
        if let Some(everything) = everything.filter(|_| self.sharing.is_some()) {
            tokio::spawn(async move {
                if let Bucket::Shared(bucket) = &everything.bucket {
                    bucket.pause(pause).await;
                }
            });
        }
    }

    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut paused = lock(&self.paused_until);
        *paused = Some(paused.map_or(until, |before| before.max(until)));
    }

    async fn sit_out_the_pause(&self) -> Result<(), Failure> {
        while let Some(rest) = self.pause_left() {
            if rest > WORTH_WAITING {
                return Err(Failure::RateLimited { retry_after: Some(rest) });
            }
            tokio::time::sleep(rest).await;
        }
        Ok(())
    }

    /// What is left of a pause that is not sat out.
    #[must_use]
    pub fn long_pause(&self) -> Option<Duration> {
        self.pause_left().filter(|rest| *rest > WORTH_WAITING)
    }

    /// What is left of a pause. When it is over the buckets are empty, so that nobody comes all at once.
    fn pause_left(&self) -> Option<Duration> {
        let mut paused = lock(&self.paused_until);
        let rest = (*paused)?.saturating_duration_since(Instant::now());
        if !rest.is_zero() {
            return Some(rest);
        }
        *paused = None;
        for bounded in lock(&self.limits).values() {
            match &bounded.bucket {
                Bucket::Own(limiter) => while limiter.check().is_ok() {},
                Bucket::Shared(bucket) => bucket.forget(),
            }
        }
        None
    }
}

impl Bounded {
    fn new(limit: &Limit, rate: (NonZeroU32, Duration), sharing: Option<&Sharing>) -> Self {
        let speed = limit.speed(rate);
        let bucket = if let Some(Sharing { env, database }) = sharing {
            Bucket::Shared(shared::Bucket::new(database.clone(), env.clone(), limit.name(), speed))
        } else {
            let period = Duration::from_secs_f64((1.0 / speed.per_second).clamp(1e-6, 3_600.0));
            let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
            Bucket::Own(RateLimiter::direct(quota.allow_burst(speed.burst)))
        };
        Self { lanes: Lanes::new(speed.per_second), bucket }
    }

    async fn admit(&self, budget: &Budget, lane: Lane) -> Result<(), Failure> {
        let mut waiting = self.lanes.enter(lane);
        loop {
            budget.sit_out_the_pause().await?;
            waiting.turn().await;
            let taken = match &self.bucket {
                Bucket::Own(limiter) => limiter
                    .check()
                    .map_err(|not_until| Not::Yet(not_until.wait_time_from(budget.clock.now()))),
                // Boxed: every request makes room for it, and few share.
                Bucket::Shared(bucket) => {
                    Box::pin(bucket.take(waiting.lane(), self.lanes.count(waiting.lane()))).await
                }
            };
            match taken {
                Ok(()) => return Ok(()),
                // Those before it may wait in another copy.
                Err(Not::Yet(_)) if waiting.lane() == lane && waiting.takes_share() => {}
                Err(Not::Yet(wait)) => tokio::time::sleep(wait).await,
                Err(Not::Paused(pause)) => budget.rest(pause),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    const PATH: &str = "/organizations/org_1";

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
        let budget = Budget::new("500/s".parse().expect("a rate"), None);
        budget.rest(Duration::ZERO);
        let admitted = AtomicUsize::new(0);
        let events = join_all((0..100).map(|_| async {
            budget.admit(PATH, Lane::Events).await.expect("no pause");
            admitted.fetch_add(1, Ordering::SeqCst);
        }));
        let immediate = async {
            for _ in 0..10 {
                // Those before are in the queue by now.
                tokio::task::yield_now().await;
                let before = admitted.load(Ordering::SeqCst);
                budget.admit(PATH, Lane::Immediate).await.expect("no pause");
                let others = admitted.load(Ordering::SeqCst) - before;
                // One in twenty is theirs.
                assert!(others <= 1, "{others} others went before the one that is waited for");
            }
        };
        tokio::join!(events, immediate);
        assert_eq!(admitted.load(Ordering::SeqCst), 100, "and then they went too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_every_request_and_a_long_one_sends_it_back() {
        let budget = Budget::new(Rate::Unlimited, None);
        budget.pause(None);
        assert!(budget.admit(PATH, Lane::Events).await.is_ok_and(|waited| waited >= DEFAULT_PAUSE));
        budget.pause(Some(Duration::from_secs(20)));
        assert!(matches!(
            budget.admit(PATH, Lane::Events).await,
            Err(Failure::RateLimited { retry_after: Some(_) })
        ));
        budget.pause(Some(Duration::from_hours(24)));
        tokio::time::sleep(PAUSE_CAP).await;
        assert!(budget.admit(PATH, Lane::Events).await.is_ok(), "a pause is capped");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_nobody_comes_all_at_once() {
        let budget = Budget::new("100/s".parse().expect("a rate"), None);
        budget.pause(Some(Duration::from_secs(1)));
        let started = Instant::now();
        join_all((0..50).map(|_| budget.admit(PATH, Lane::Events))).await;
        assert!(started.elapsed() >= Duration::from_millis(1_400), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn the_lowest_lane_stands_behind_all_others_but_never_still() {
        let budget = Budget::new("2000/s".parse().expect("a rate"), None);
        budget.rest(Duration::ZERO);
        let lowest = AtomicUsize::new(0);
        let events = async {
            join_all((0..1_000).map(|_| budget.admit(PATH, Lane::Events))).await;
            lowest.load(Ordering::SeqCst)
        };
        let listing = async {
            for _ in 0..1_000 {
                budget.admit(PATH, Lane::Backfill).await.expect("no pause");
                lowest.fetch_add(1, Ordering::SeqCst);
            }
        };
        let (meanwhile, ()) = tokio::join!(events, listing);
        assert!(
            (1..=200).contains(&meanwhile),
            "{meanwhile} of the lowest lane beside 1,000 of a higher one"
        );
    }
}
