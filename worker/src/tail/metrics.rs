//! What the tail counts and shows.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use shared::clock;
use shared::metrics::latency_buckets;

/// How long WorkOS shows an event for certain: its reference says 30 days, its guide 90. The clock that warns
/// counts on the shorter time, giving up waits for the longer.
const SHOWN_FOR_CERTAIN: TimeDelta = TimeDelta::days(30);

/// Metrics of the tail and of what each channel brought. Clones are the same ones.
#[derive(Clone)]
pub struct TailMetrics {
    holder: Gauge,
    polls: Counter,
    published: Counter,
    unreadable: Counter,
    refused: Counter,
    lives: Counter,
    missed: Counter,
    delay: Histogram,
    silent: Gauge,
    backfill_due: Gauge,
    verify_due: Gauge,
    times: Arc<Times>,
}

/// When WorkOS was last asked, and until when everything is in the ledger: the same for every copy.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// When WorkOS last answered what comes after the cursor.
    pub checked_at: DateTime<Utc>,
    /// Everything that WorkOS made before is in the ledger.
    pub read_until: DateTime<Utc>,
}

/// Ages, computed when somebody looks; nothing is shown before the first is known.
#[derive(Debug, Default)]
struct Times(Mutex<Option<Reached>>);

impl Times {
    fn lock(&self) -> MutexGuard<'_, Option<Reached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Times {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(reached) = *self.lock() else { return Ok(()) };
        let now = clock::now();
        let left = SHOWN_FOR_CERTAIN - (now - reached.read_until);
        for (name, help, value) in [
            (
                "tail_age_seconds",
                "Since WorkOS last answered what the Events API has after the cursor",
                (now - reached.checked_at).as_seconds_f64(),
            ),
            (
                "cursor_age_seconds",
                "Since the time up to which everything on the Events API is in the ledger",
                (now - reached.read_until).as_seconds_f64(),
            ),
            (
                "recovery_hours",
                "Until WorkOS may no longer show what is to be read next",
                left.as_seconds_f64() / 3600.0,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                EncodeMetric::metric_type(&gauge),
            )?)?;
        }
        Ok(())
    }
}

impl TailMetrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        let times = Arc::new(Times::default());
        registry.register_collector(Box::new(Arc::clone(&times)));
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let polls = counter("tail_polls", "Times that the Events API was read to its end");
        let published =
            counter("tail_published", "Events that the tail published and the stream did not have");
        let unreadable = counter("tail_unreadable", "Items of the Events API that are no events");
        let refused = counter("tail_cursors_refused", "Cursors that WorkOS no longer knew");
        let lives =
            counter("tail_streams_lost", "Times that the event stream was found made anew or rolled back");
        let missed =
            counter("webhooks_missed", "Events seen on the Events API that no webhook told of in time");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let holder = gauge("tail_holder", "1 in the copy that reads the Events API");
        let silent = gauge("webhooks_silent", "1 while events come on the Events API and no webhooks do");
        let backfill_due = gauge("backfill_due", "1 until a backfill has ended well");
        let verify_due =
            gauge("verify_due", "1 while something may have been missed and no verify has looked");
        let delay = Histogram::new(latency_buckets().chain([300.0, 3600.0, 21_600.0, 86_400.0]));
        registry.register(
            "webhook_delay_seconds",
            "From WorkOS making an event to its webhook",
            delay.clone(),
        );
        Self {
            holder,
            polls,
            published,
            unreadable,
            refused,
            lives,
            missed,
            delay,
            silent,
            backfill_due,
            verify_due,
            times,
        }
    }

    /// Whether this copy reads.
    pub fn holds(&self, holds: bool) {
        self.holder.set(i64::from(holds));
    }

    /// The Events API was read to its end.
    pub fn polled(&self) {
        self.polls.inc();
    }

    /// The stream took so many events that it did not have.
    pub fn published(&self, events: usize) {
        self.published.inc_by(events as u64);
    }

    /// An item is no event.
    pub fn unreadable(&self) {
        self.unreadable.inc();
    }

    /// WorkOS no longer knows the cursor.
    pub fn cursor_refused(&self) {
        self.refused.inc();
    }

    /// The stream is not the one that it was.
    pub fn stream_lost(&self) {
        self.lives.inc();
    }

    /// No webhook told of so many events.
    pub fn missed(&self, events: usize) {
        self.missed.inc_by(events as u64);
    }

    /// A webhook came.
    pub fn webhook(&self, created_at: Option<DateTime<Utc>>, received_at: DateTime<Utc>) {
        let Some(created_at) = created_at else { return };
        // A clock that is behind WorkOS's makes it nought.
        let delay = (received_at - created_at).to_std().unwrap_or(Duration::ZERO);
        self.delay.observe(delay.as_secs_f64());
    }

    /// How far the reading has come.
    pub fn reached(&self, reached: Reached) {
        *self.times.lock() = Some(reached);
    }

    /// Whether events come on the Events API and no webhooks do. Returns what was known before.
    #[must_use = "what is news is told"]
    pub fn silent(&self, silent: bool) -> bool {
        self.silent.set(i64::from(silent)) != 0
    }

    /// Whether a backfill or a verify should be run.
    pub fn due(&self, backfill: bool, verify: bool) {
        self.backfill_due.set(i64::from(backfill));
        self.verify_due.set(i64::from(verify));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_shown_once_they_are_known() {
        let mut registry = shared::metrics::registry();
        let metrics = TailMetrics::register(&mut registry);
        assert!(!shared::metrics::render(&registry).contains("workos_sync_tail_age_seconds"));
        let now = clock::now();
        metrics.reached(Reached {
            checked_at: now - TimeDelta::seconds(7),
            read_until: now - TimeDelta::days(29),
        });
        let text = shared::metrics::render(&registry);
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect(name);
            line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
        };
        assert!((7.0..8.0).contains(&value("workos_sync_tail_age_seconds")), "{text}");
        assert!((23.9..=24.0).contains(&value("workos_sync_recovery_hours")), "{text}");
        assert!(value("workos_sync_cursor_age_seconds") >= 29.0 * 86_400.0, "{text}");
    }
}
