//! Which of WorkOS's limits a request falls under, and how fast we go under each.
//!
//! Source: WorkOS documents 6,000 requests in 60 s for all, 1,000 in 10 s for reads of `/user_management`, and 4 a
//! second for the users of one directory. Whether a window begins at a fixed time or slides is not documented: rates
//! and bursts here stay below the limit in both.

use std::num::NonZeroU32;
use std::time::Duration;

use super::Rate;

/// A limit of WorkOS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Limit {
    /// Of the key: every request.
    Everything,
    /// Reads of `/user_management`.
    UserManagement,
    /// The users of one directory.
    Directory(String),
}

/// How fast requests may go under a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Speed {
    /// Requests a second, in the long run.
    pub(super) per_second: f64,
    /// Requests that may go at once after a rest.
    pub(super) burst: NonZeroU32,
}

impl Limit {
    /// What it is called where copies share it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Everything => "everything".to_owned(),
            Self::UserManagement => "user_management".to_owned(),
            Self::Directory(id) => format!("directory/{id}"),
        }
    }

    /// How fast requests may go under it, when `rate` is what all of them may use.
    pub(super) fn speed(&self, rate: (NonZeroU32, Duration)) -> Speed {
        let (count, period) = rate;
        let all = f64::from(count.get()) / period.as_secs_f64().max(1.0);
        let burst = |tokens: f64| {
            // Below a limit of a million, and never less than one.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
            let whole = tokens.clamp(1.0, 1e6) as u32;
            NonZeroU32::new(whole).unwrap_or(NonZeroU32::MIN)
        };
        // Who says more than WorkOS documents has other limits.
        let raised = all > 100.0;
        match self {
            Self::Everything | Self::UserManagement if raised => Speed { per_second: all, burst: burst(all) },
            // A second's worth, but not beyond 6,000 in a minute with what was on its way.
            Self::Everything => {
                let per_second = all.min(98.0);
                Speed { per_second, burst: burst(per_second.min(5_970.0 - 60.5 * per_second)) }
            }
            // Over ten seconds: 960 and a burst of 15, and what was on its way.
            Self::UserManagement => Speed { per_second: all.min(96.0), burst: burst((all / 6.0).min(15.0)) },
            Self::Directory(_) => Speed { per_second: all.min(3.6), burst: burst(1.0) },
        }
    }
}

/// The limits that a request of `path` falls under, the widest first: what was granted by the narrowest leaves at once.
pub(super) fn of(path: &str) -> Vec<Limit> {
    let mut limits = Vec::with_capacity(2);
    limits.push(Limit::Everything);
    if let Some(query) = path.strip_prefix("/directory_users?") {
        let directory = query.split(['&', '#']).find_map(|pair| pair.strip_prefix("directory="));
        limits.extend(directory.map(|id| Limit::Directory(id.to_owned())));
    } else if path.starts_with("/user_management/") {
        limits.push(Limit::UserManagement);
    }
    limits
}

impl Rate {
    /// The count and its period, if there is a limit.
    pub(super) const fn limited(self) -> Option<(NonZeroU32, Duration)> {
        match self {
            Self::Per(count, period) => Some((count, period)),
            Self::Unlimited => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_falls_under_the_limits_that_its_path_says() {
        assert_eq!(of("/organizations/org_1"), [Limit::Everything]);
        assert_eq!(of("/user_management/users/user_1"), [Limit::Everything, Limit::UserManagement]);
        assert_eq!(
            of("/directory_users?directory=directory_1&limit=100"),
            [Limit::Everything, Limit::Directory("directory_1".to_owned())]
        );
        assert_eq!(
            of("/directory_users?group=directory_group_1&limit=100#directory=directory_1"),
            [Limit::Everything, Limit::Directory("directory_1".to_owned())],
            "who is in a group counts against its directory"
        );
        assert_eq!(of("/directory_users/directory_user_1"), [Limit::Everything]);
    }

    #[test]
    fn no_window_of_workos_is_overstepped() {
        for rate in ["90/s", "95/s", "5700/m", "100/s", "1/s", "30/m"] {
            let rate = rate.parse::<Rate>().ok().and_then(Rate::limited).expect("a rate");
            let most = |limit: Limit, seconds: f64| {
                let speed = limit.speed(rate);
                // What is granted may leave a quarter of a second later.
                speed.per_second * (seconds + 0.25) + f64::from(speed.burst.get())
            };
            assert!(most(Limit::Everything, 60.0) <= 6_000.0, "{rate:?}");
            assert!(most(Limit::UserManagement, 10.0) <= 1_000.0, "{rate:?}");
            let directory = Limit::Directory("d".to_owned()).speed(rate);
            assert!(
                4.0 / directory.per_second > 1.1,
                "the fifth follows after more than a second: {directory:?}"
            );
        }
    }
}
