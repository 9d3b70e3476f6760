//! The published rate limits, enforced in fixed windows.

use chrono::{DateTime, Utc};

use super::knobs::RateLimit;

/// How much of each limit is used.
#[derive(Debug, Default)]
pub(super) struct Limiter(Vec<Window>);

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    started: DateTime<Utc>,
    used: u32,
}

impl Limiter {
    /// Takes one request from every limit that covers `path`; or says how many seconds to wait.
    pub(super) fn take(&mut self, limits: &[RateLimit], path: &str, now: DateTime<Utc>) -> Result<(), u64> {
        self.0.resize(limits.len(), Window::default());
        let covered = |limit: &RateLimit| path.starts_with(&limit.path_prefix);
        for (limit, window) in limits.iter().zip(&mut self.0).filter(|(limit, _)| covered(limit)) {
            let length = i64::try_from(limit.window_ms).unwrap_or(i64::MAX);
            let age = (now - window.started).num_milliseconds();
            if age >= length {
                *window = Window { started: now, used: 0 };
            } else if window.used >= limit.requests {
                return Err(u64::try_from(length - age).unwrap_or(0).div_ceil(1_000));
            }
        }
        for (_, window) in limits.iter().zip(&mut self.0).filter(|(limit, _)| covered(limit)) {
            window.used += 1;
        }
        Ok(())
    }

    /// Forgets what was used.
    pub(super) fn reset(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_up_window_says_when_the_next_one_begins() {
        let limits = [RateLimit { path_prefix: "/user".to_owned(), requests: 2, window_ms: 10_000 }];
        let start = shared::clock::now();
        let later = |seconds| start + chrono::Duration::seconds(seconds);
        let mut limiter = Limiter::default();
        assert_eq!(limiter.take(&limits, "/user_management/users/1", start), Ok(()));
        assert_eq!(limiter.take(&limits, "/user_management/users/1", later(1)), Ok(()));
        assert_eq!(limiter.take(&limits, "/user_management/users/1", later(3)), Err(7));
        assert_eq!(limiter.take(&limits, "/organizations/1", later(3)), Ok(()));
        assert_eq!(limiter.take(&limits, "/user_management/users/1", later(10)), Ok(()));
    }
}
