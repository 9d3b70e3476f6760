//! How long to wait: exponential, with full jitter. The only file that names the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Redelivery of an event: ceilings of 1 s, 2 s, 4 s ... up to 10 minutes.
const REDELIVERY: Schedule = Schedule {
    first: Duration::from_secs(1),
    ceiling: Duration::from_mins(10),
    least: Duration::from_millis(50),
};

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

#[derive(Clone, Copy)]
struct Schedule {
    first: Duration,
    ceiling: Duration,
    /// Full jitter may say "at once"; a delivery must never come back at once.
    least: Duration,
}

impl Schedule {
    /// The longest that the wait before attempt `attempt + 1` can be.
    fn longest(self, attempt: u32) -> Duration {
        self.first.saturating_mul(1_u32 << attempt.saturating_sub(1).min(20)).min(self.ceiling)
    }

    /// A wait drawn evenly between nothing and the longest.
    fn delay(self, attempt: u32) -> Duration {
        let longest = self.longest(attempt);
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

/// Before an event is delivered again, after its `attempt`th delivery (from 1).
#[must_use]
pub fn redelivery(attempt: u32) -> Duration {
    REDELIVERY.delay(attempt)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedules_are_what_the_comments_say() {
        let longest =
            |schedule: Schedule, n| (1..=n).map(|a| schedule.longest(a).as_millis()).collect::<Vec<_>>();
        assert_eq!(longest(REDELIVERY, 4), [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(REDELIVERY.longest(12), Duration::from_mins(10));
        assert_eq!(REDELIVERY.longest(u32::MAX), Duration::from_mins(10));
        assert_eq!(longest(SOON, 3), [250, 500, 1_000]);
        assert_eq!(SOON.longest(9), Duration::from_secs(10));
        assert_eq!(longest(IN_PASS, 3), [100, 200, 200]);
        assert_eq!(longest(DEPENDENCY, 2), [100, 200]);
    }

    #[test]
    fn a_delay_is_jittered_over_the_whole_range_and_never_nothing() {
        let delays: Vec<_> = (0..2_000).map(|_| redelivery(4)).collect();
        assert!(delays.iter().all(|d| (REDELIVERY.least..=Duration::from_secs(8)).contains(d)));
        assert!(delays.iter().any(|d| *d < Duration::from_secs(1)));
        assert!(delays.iter().any(|d| *d > Duration::from_secs(7)));
    }
}
