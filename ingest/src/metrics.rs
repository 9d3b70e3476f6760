//! What `/metrics` shows of ingest.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use shared::metrics::latency_buckets;

use crate::webhook::Outcome;

/// The labels of `workos_sync_webhooks_total` and `workos_sync_sync_requests_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    status: u16,
    reason: &'static str,
}

/// Counters that are found by position, so that a request costs no lookup of labels.
#[derive(Clone)]
pub struct Metrics {
    webhooks: Vec<(Outcome, Counter)>,
    publish_seconds: Histogram,
}

impl Metrics {
    /// Registers everything, each outcome at zero.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let webhooks = Family::<Labels, Counter>::default();
        let publish_seconds = Histogram::new(latency_buckets());
        registry.register("webhooks", "Requests answered, by status and reason", webhooks.clone());
        registry.register(
            "publish_seconds",
            "From handing an event to the broker to its acknowledgement",
            publish_seconds.clone(),
        );
        let counter = |outcome: Outcome| {
            let labels = Labels { status: outcome.status().as_u16(), reason: outcome.reason() };
            (outcome, webhooks.get_or_create_owned(&labels))
        };
        Self { webhooks: Outcome::ALL.into_iter().map(counter).collect(), publish_seconds }
    }

    /// A request was answered.
    pub fn answered(&self, outcome: Outcome) {
        if let Some((_, counter)) = self.webhooks.get(outcome as usize) {
            counter.inc();
        }
    }

    /// An event was acknowledged after this time.
    pub fn published(&self, after: Duration) {
        self.publish_seconds.observe(after.as_secs_f64());
    }
}

/// Counters of sync requests.
pub struct SyncMetrics {
    requests: Family<Labels, Counter>,
    waiting: Gauge,
}

impl SyncMetrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let requests = Family::default();
        registry.register(
            "sync_requests",
            "Requests for an immediate sync answered, by status and reason",
            requests.clone(),
        );
        let waiting = Gauge::default();
        registry.register(
            "sync_requests_waiting",
            "Requests for an immediate sync that wait for its outcome",
            waiting.clone(),
        );
        Self { requests, waiting }
    }

    /// A request was answered.
    pub fn answered(&self, status: u16, reason: &'static str) {
        self.requests.get_or_create(&Labels { status, reason }).inc();
    }

    /// A request waits until the guard goes.
    #[must_use]
    pub fn waits(&self) -> Waits {
        self.waiting.inc();
        Waits(self.waiting.clone())
    }
}

/// A request that waits for its outcome.
pub struct Waits(Gauge);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_counter_at_its_position() {
        let mut registry = shared::metrics::registry();
        let metrics = Metrics::new(&mut registry);
        for (position, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, position);
            assert_eq!(metrics.webhooks[position].0, outcome);
            metrics.answered(outcome);
        }
        metrics.published(Duration::from_millis(1));
        let text = shared::metrics::render(&registry);
        for outcome in Outcome::ALL {
            let line = format!(
                "workos_sync_webhooks_total{{status=\"{}\",reason=\"{}\"}} 1\n",
                outcome.status().as_u16(),
                outcome.reason()
            );
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("workos_sync_publish_seconds_count 1\n"), "{text}");
    }
}
