//! The published rate limits, enforced in fixed windows.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::knobs::RateLimit;

/// How much of each limit is used, by its place among them and the directory that has one of its own.
#[derive(Debug, Default)]
pub(super) struct Limiter(HashMap<(usize, String), Window>);

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    started: DateTime<Utc>,
    used: u32,
}

impl Limiter {
    /// Takes one request from every limit that covers `path`, which is about that directory, if about one; or says how
    /// many seconds to wait.
    pub(super) fn take(
        &mut self,
        limits: &[RateLimit],
        path: &str,
        directory: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), u64> {
        let covering: Vec<(&RateLimit, (usize, String))> = limits
            .iter()
            .enumerate()
            .filter(|(_, limit)| {
                path.starts_with(&limit.path_prefix) && (!limit.per_directory || directory.is_some())
            })
            .map(|(place, limit)| {
                let whose = directory.filter(|_| limit.per_directory).unwrap_or_default();
                (limit, (place, whose.to_owned()))
            })
            .collect();
        for (limit, key) in &covering {
            let window = self.0.entry(key.clone()).or_default();
            let length = i64::try_from(limit.window_ms).unwrap_or(i64::MAX);
            let age = (now - window.started).num_milliseconds();
            if age >= length {
                *window = Window { started: now, used: 0 };
            } else if window.used >= limit.requests {
                return Err(u64::try_from(length - age).unwrap_or(0).div_ceil(1_000));
            }
        }
        for (_, key) in covering {
            self.0.entry(key).or_default().used += 1;
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
        let limits = [RateLimit {
            path_prefix: "/user".to_owned(),
            requests: 2,
            window_ms: 10_000,
            per_directory: false,
        }];
        let start = shared::clock::now();
        let later = |seconds| start + chrono::Duration::seconds(seconds);
        let mut limiter = Limiter::default();
        assert_eq!(limiter.take(&limits, "/user_management/users/1", None, start), Ok(()));
        assert_eq!(limiter.take(&limits, "/user_management/users/1", None, later(1)), Ok(()));
        assert_eq!(limiter.take(&limits, "/user_management/users/1", None, later(3)), Err(7));
        assert_eq!(limiter.take(&limits, "/organizations/1", None, later(3)), Ok(()));
        assert_eq!(limiter.take(&limits, "/user_management/users/1", None, later(10)), Ok(()));
    }

    #[test]
    fn each_directory_has_a_limit_of_its_own() {
        let limits = [RateLimit {
            path_prefix: "/directory_users".to_owned(),
            requests: 1,
            window_ms: 1_000,
            per_directory: true,
        }];
        let now = shared::clock::now();
        let mut limiter = Limiter::default();
        let mut take = |directory| limiter.take(&limits, "/directory_users", directory, now);
        assert_eq!(take(Some("directory_1")), Ok(()));
        assert_eq!(take(Some("directory_1")), Err(1));
        assert_eq!(take(Some("directory_2")), Ok(()));
        assert_eq!(take(None), Ok(()), "about no directory");
    }
}
