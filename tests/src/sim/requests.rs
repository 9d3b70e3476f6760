//! What was asked of the API, in numbers.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::id::Kind;

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// One object of a kind.
    Get(Kind),
    /// A page of objects of a kind.
    List(Kind),
    /// A page of the Events API.
    Events,
    /// Something that is not there.
    Unknown,
}

/// How many requests were answered how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// By what was asked and the status of the answer, 0 where none came.
    pub counts: BTreeMap<(Route, u16), u64>,
    /// The most requests that were in flight at one moment.
    pub most_at_once: usize,
}

impl Requests {
    pub(super) fn count(&mut self, route: Route, status: u16) {
        *self.counts.entry((route, status)).or_default() += 1;
    }

    fn sum(&self, which: impl Fn(Route, u16) -> bool) -> u64 {
        self.counts.iter().filter(|((route, status), _)| which(*route, *status)).map(|(_, count)| count).sum()
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.sum(|_, _| true)
    }

    /// GETs of one object of this kind.
    #[must_use]
    pub fn gets(&self, kind: Kind) -> u64 {
        self.sum(|route, _| route == Route::Get(kind))
    }

    /// GETs of one object of any kind.
    #[must_use]
    pub fn all_gets(&self) -> u64 {
        self.sum(|route, _| matches!(route, Route::Get(_)))
    }

    /// Pages of objects of this kind.
    #[must_use]
    pub fn lists(&self, kind: Kind) -> u64 {
        self.sum(|route, _| route == Route::List(kind))
    }

    /// Pages of the Events API.
    #[must_use]
    pub fn event_pages(&self) -> u64 {
        self.sum(|route, _| route == Route::Events)
    }

    /// Requests answered with this status, 0 for no answer.
    #[must_use]
    pub fn with_status(&self, wanted: u16) -> u64 {
        self.sum(|_, status| status == wanted)
    }

    /// For the control API: `{"counts": {"get user": {"200": 3}}, "most_at_once": 1, "total": 3}`.
    pub(super) fn to_json(&self) -> Value {
        let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for ((route, status), count) in &self.counts {
            let name = match route {
                Route::Get(kind) => format!("get {kind}"),
                Route::List(kind) => format!("list {kind}"),
                Route::Events => "events".to_owned(),
                Route::Unknown => "unknown".to_owned(),
            };
            counts.entry(name).or_default().insert(status.to_string(), *count);
        }
        json!({"counts": counts, "most_at_once": self.most_at_once, "total": self.total()})
    }
}
