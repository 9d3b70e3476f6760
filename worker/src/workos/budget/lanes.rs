//! Who goes first where requests wait: a strict order, and a small share for everybody else, so that nothing stands
//! still for ever.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::Notify;

use super::Lane;

/// One request in so many goes to a lane that would have to wait for others: the tail must not stand still.
const fn share(lane: Lane) -> Option<f64> {
    match lane {
        Lane::Immediate => None,
        Lane::Events | Lane::Retries | Lane::Tail => Some(20.0),
        Lane::Backfill => Some(40.0),
    }
}

/// Who waits for others looks this often whether it may have of that share.
const LOOK: Duration = Duration::from_millis(100);

/// Requests that wait for one limit.
pub(super) struct Lanes {
    waiting: [AtomicUsize; Lane::ALL.len()],
    gone: Notify,
    shares: [Option<DefaultDirectRateLimiter>; Lane::ALL.len()],
}

/// A request that waits, until it is admitted or given up.
pub(super) struct Waiting<'a> {
    lanes: &'a Lanes,
    lane: Lane,
    /// It has a place of the share that does not wait for others.
    has_share: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.lanes.waiting[self.lane as usize].fetch_sub(1, Ordering::SeqCst);
        self.lanes.gone.notify_waiters();
    }
}

impl Lanes {
    pub(super) fn new(per_second: f64) -> Self {
        let shares = Lane::ALL.map(|lane| {
            let period = Duration::from_secs_f64((share(lane)? / per_second.max(0.01)).clamp(0.001, 3_600.0));
            let quota = Quota::with_period(period)?;
            Some(RateLimiter::direct(quota.allow_burst(NonZeroU32::MIN)))
        });
        Self { waiting: Default::default(), gone: Notify::new(), shares }
    }

    pub(super) fn enter(&self, lane: Lane) -> Waiting<'_> {
        self.waiting[lane as usize].fetch_add(1, Ordering::SeqCst);
        Waiting { lanes: self, lane, has_share: false }
    }

    /// How many wait in this lane and those before it.
    pub(super) fn count(&self, lane: Lane) -> usize {
        self.waiting[..=lane as usize].iter().map(|waiting| waiting.load(Ordering::SeqCst)).sum()
    }
}

impl Waiting<'_> {
    /// The lane as which it goes: with a place of its share, the first.
    pub(super) fn lane(&self) -> Lane {
        if self.has_share { Lane::Immediate } else { self.lane }
    }

    /// Takes the place of one of the first lane, if it is this lane's turn to.
    pub(super) fn takes_share(&mut self) -> bool {
        let share = self.lanes.shares[self.lane as usize].as_ref();
        self.has_share = self.has_share || share.is_some_and(|share| share.check().is_ok());
        self.has_share
    }

    /// Waits until nobody of a higher lane waits, or until it is somebody else's turn after all.
    pub(super) async fn turn(&mut self) {
        loop {
            // Made before the look, so that who goes in between is not missed.
            let gone = self.lanes.gone.notified();
            let before = &self.lanes.waiting[..self.lane as usize];
            if self.has_share || before.iter().all(|waiting| waiting.load(Ordering::SeqCst) == 0) {
                return;
            }
            if self.takes_share() {
                return;
            }
            let _ = tokio::time::timeout(LOOK, gone).await;
        }
    }
}
