//! What a test may turn: how slow, how forgetful and how unreliable the simulated WorkOS is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Every knob. The default is a perfect WorkOS: prompt, consistent, in step. Chances are from 0 to 1;
/// times are milliseconds, ranges are `(least, most)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own, set by name")]
pub struct Knobs {
    /// How long an answer of the API takes. What it says is what was true when the request arrived.
    pub latency_ms: (u64, u64),
    /// Chance that a GET of an object that changed within `stale_window_ms` answers with what was
    /// true at some moment in that window: 404 for a new object, 200 for one just deleted.
    pub stale_read: f64,
    /// The same for a list.
    pub stale_list: f64,
    /// How long after a change a read may miss it. After that, reads are true.
    pub stale_window_ms: u64,
    /// Chance that a deletion is asynchronous.
    pub async_delete: f64,
    /// How long a GET still answers 200 after the event of an asynchronous deletion.
    pub async_delete_ms: u64,
    /// Chance of a 429 that says when to come back.
    pub too_many: f64,
    /// The `Retry-After` of those, in seconds.
    pub retry_after_s: u64,
    /// Chance of a 429 with the body `"Ratelimited"` and without `Retry-After`.
    pub too_many_bare: f64,
    /// Chance of a 500, 502 or 503, half of them with a page of HTML.
    pub server_error: f64,
    /// Chance that no answer comes at all.
    pub timeout: f64,
    /// How long the connection then stays open.
    pub timeout_ms: u64,
    /// Chance that the connection is reset, before the answer or in the middle of it.
    pub reset: f64,
    /// Limits that are enforced; see [`Knobs::published_limits`].
    pub rate_limits: Vec<RateLimit>,

    /// The Events API does not show an event before it is this old.
    pub events_holdback_ms: u64,
    /// Chance that the Events API shows an event late, when newer ones were shown already.
    pub events_late: f64,
    /// How much later than others.
    pub events_late_ms: u64,
    /// How many events before a cursor the Events API shows again after it.
    pub events_repeat: usize,
    /// The Events API forgets an event of this age; a cursor that old is refused.
    pub events_retention_ms: Option<u64>,
    /// Chance that the Events API never shows an event.
    pub lost_event: f64,

    /// Whether webhooks leave by themselves; otherwise they are held for `Sim::post` and
    /// `Sim::release_held`.
    pub auto_deliver: bool,
    /// Whether the webhook body carries `"object":"event"`.
    pub envelope_object: bool,
    /// Sent as `context` of every event.
    pub context: Option<Value>,
    /// Chance that a webhook is sent twice.
    pub duplicate: f64,
    /// How much later the second one may leave.
    pub duplicate_ms: u64,
    /// Chance that a webhook is late.
    pub delay: f64,
    /// How late.
    pub delay_ms: (u64, u64),
    /// Chance that a webhook waits up to `reorder_ms`, so that later ones overtake it.
    pub reorder: f64,
    /// The longest such wait.
    pub reorder_ms: u64,
    /// Chance that a webhook is never sent.
    pub lost_webhook: f64,
    /// Whether one event may be lost on both channels. Then only a listing can repair the mirror.
    pub lose_on_both: bool,
    /// Further attempts after the first one that was not answered with 2xx.
    pub retries: u32,
    /// The wait before the first of them; it doubles each time.
    pub retry_base_ms: u64,
    /// How long a receiver may take to answer a webhook.
    pub webhook_timeout_ms: u64,

    /// Whether what is deleted along with its user or organization is announced too.
    pub cascade_events: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            latency_ms: (0, 0),
            stale_read: 0.0,
            stale_list: 0.0,
            stale_window_ms: 300,
            async_delete: 0.0,
            async_delete_ms: 300,
            too_many: 0.0,
            retry_after_s: 1,
            too_many_bare: 0.0,
            server_error: 0.0,
            timeout: 0.0,
            timeout_ms: 2_000,
            reset: 0.0,
            rate_limits: Vec::new(),
            events_holdback_ms: 0,
            events_late: 0.0,
            events_late_ms: 2_000,
            events_repeat: 0,
            events_retention_ms: None,
            lost_event: 0.0,
            auto_deliver: true,
            envelope_object: true,
            context: None,
            duplicate: 0.0,
            duplicate_ms: 50,
            delay: 0.0,
            delay_ms: (0, 500),
            reorder: 0.0,
            reorder_ms: 100,
            lost_webhook: 0.0,
            lose_on_both: false,
            retries: 6,
            retry_base_ms: 100,
            webhook_timeout_ms: 10_000,
            cascade_events: true,
        }
    }
}

impl Knobs {
    /// A bad day: some of everything, with times short enough for a test.
    #[must_use]
    pub fn bad_day() -> Self {
        Self {
            latency_ms: (0, 20),
            stale_read: 0.2,
            stale_window_ms: 200,
            async_delete: 0.3,
            too_many: 0.01,
            too_many_bare: 0.02,
            server_error: 0.03,
            timeout: 0.002,
            reset: 0.02,
            duplicate: 0.2,
            delay: 0.1,
            delay_ms: (0, 800),
            reorder: 0.3,
            lost_webhook: 0.05,
            lost_event: 0.02,
            ..Self::default()
        }
    }

    /// The limits that WorkOS publishes: 6,000 requests a minute, 1,000 reads of user management in
    /// ten seconds, 4 of the users of one directory in a second.
    #[must_use]
    pub fn published_limits() -> Vec<RateLimit> {
        vec![
            RateLimit {
                path_prefix: "/".to_owned(),
                requests: 6_000,
                window_ms: 60_000,
                per_directory: false,
            },
            RateLimit {
                path_prefix: "/user_management/".to_owned(),
                requests: 1_000,
                window_ms: 10_000,
                per_directory: false,
            },
            RateLimit {
                path_prefix: "/directory_users".to_owned(),
                requests: 4,
                window_ms: 1_000,
                per_directory: true,
            },
        ]
    }
}

/// So many requests in so much time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Which paths count: those that begin with this.
    pub path_prefix: String,
    /// How many requests a window allows.
    pub requests: u32,
    /// How long a window is.
    pub window_ms: u64,
    /// Whether each directory has so many of its own.
    #[serde(default)]
    pub per_directory: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_can_be_written_in_part() {
        let knobs: Knobs = serde_json::from_str(r#"{"stale_read": 0.5, "latency_ms": [1, 2]}"#).unwrap();
        assert_eq!(knobs, Knobs { stale_read: 0.5, latency_ms: (1, 2), ..Knobs::default() });
        assert!(serde_json::from_str::<Knobs>(r#"{"stale_reed": 0.5}"#).is_err());
    }
}
