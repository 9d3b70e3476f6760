//! How long to wait: exponential, with full jitter. The only file that names the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Redelivery of what will be well in a moment: ceilings of 250 ms, 500 ms, 1 s ... up to 10 s.
const SOON: Schedule = Schedule {
    first: Duration::from_millis(250),
    ceiling: Duration::from_secs(10),
    least: Duration::from_millis(50),
};

/// Repeating a request within one pass: ceilings of 100 ms, then 200 ms.
const IN_PASS: Schedule = Schedule {
    first: Duration::from_millis(100),
    ceiling: Duration::from_millis(200),
    least: Duration::ZERO,
};

/// Coming back to a dependency that is down: ceilings of 100 ms, 200 ms ... up to 5 s.
const DEPENDENCY: Schedule = Schedule {
    first: Duration::from_millis(100),
    ceiling: Duration::from_secs(5),
    least: Duration::from_millis(20),
};

/// Asking whether WorkOS answers again: ceilings of 200 ms, 400 ms ... up to 30 s.
const PROBE: Schedule = Schedule {
    first: Duration::from_millis(200),
    ceiling: Duration::from_secs(30),
    least: Duration::from_millis(20),
};

/// Trying a few events while the breaker is open: ceilings of 1 s, 2 s ... up to 30 s.
const TRIAL: Schedule = Schedule {
    first: Duration::from_secs(1),
    ceiling: Duration::from_secs(30),
    least: Duration::from_millis(100),
};

/// Waits that grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    first: Duration,
    ceiling: Duration,
    /// Full jitter may say "at once"; a delivery must never come back at once.
    least: Duration,
}

impl Schedule {
    /// Redelivery of an event: ceilings of 1 s, 2 s, 4 s ... up to 10 minutes.
    pub const REDELIVERY: Self = Self::redelivery(Duration::from_secs(1), Duration::from_mins(10));

    /// Redelivery of an event: ceilings of `first`, twice that ... up to `ceiling`.
    #[must_use]
    pub const fn redelivery(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, least: Duration::from_millis(50) }
    }

    /// The longest that the wait before attempt `attempt + 1` can be.
    fn longest(self, attempt: u32) -> Duration {
        self.first.saturating_mul(1_u32 << attempt.saturating_sub(1).min(20)).min(self.ceiling)
    }

    /// A wait drawn evenly between nothing and the longest, after the `attempt`th attempt (from 1).
    #[must_use]
    pub fn delay(self, attempt: u32) -> Duration {
        let longest = self.longest(attempt).max(self.least);
        // The crate draws from `interval * (1 ± randomization_factor)`: half the longest, ± all of it.
        let mut schedule = ExponentialBackoff {
            current_interval: longest / 2,
            initial_interval: longest / 2,
            max_interval: longest / 2,
            randomization_factor: 1.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        schedule.next_backoff().unwrap_or(longest).clamp(self.least, longest)
    }
}

/// Before an event is delivered again that only came a little too early.
#[must_use]
pub fn soon(attempt: u32) -> Duration {
    SOON.delay(attempt)
}

/// Before a request is repeated within the same pass.
#[must_use]
pub fn in_pass(attempt: u32) -> Duration {
    IN_PASS.delay(attempt)
}

/// Before a dependency that is down is tried again.
#[must_use]
pub fn dependency(attempt: u32) -> Duration {
    DEPENDENCY.delay(attempt)
}

/// Before WorkOS, which answered nobody or refused the key, is asked again.
#[must_use]
pub fn probe(attempt: u32) -> Duration {
    PROBE.delay(attempt)
}

/// Before a few events are tried while the breaker is open.
#[must_use]
pub fn trial(attempt: u32) -> Duration {
    TRIAL.delay(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedules_are_what_the_comments_say() {
        let longest =
            |schedule: Schedule, n| (1..=n).map(|a| schedule.longest(a).as_millis()).collect::<Vec<_>>();
        assert_eq!(longest(Schedule::REDELIVERY, 4), [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(Schedule::REDELIVERY.longest(12), Duration::from_mins(10));
        assert_eq!(Schedule::REDELIVERY.longest(u32::MAX), Duration::from_mins(10));
        assert_eq!(longest(SOON, 3), [250, 500, 1_000]);
        assert_eq!(SOON.longest(9), Duration::from_secs(10));
        assert_eq!(longest(IN_PASS, 3), [100, 200, 200]);
        assert_eq!(longest(DEPENDENCY, 2), [100, 200]);
        assert_eq!((longest(PROBE, 2), PROBE.longest(9)), (vec![200, 400], Duration::from_secs(30)));
        assert_eq!((longest(TRIAL, 2), TRIAL.longest(6)), (vec![1_000, 2_000], Duration::from_secs(30)));
    }

    #[test]
    fn a_delay_is_jittered_over_the_whole_range_and_never_nothing() {
        let delays: Vec<_> = (0..2_000).map(|_| Schedule::REDELIVERY.delay(4)).collect();
        assert!(delays.iter().all(|d| (Schedule::REDELIVERY.least..=Duration::from_secs(8)).contains(d)));
        assert!(delays.iter().any(|d| *d < Duration::from_secs(1)));
        assert!(delays.iter().any(|d| *d > Duration::from_secs(7)));
    }
}
