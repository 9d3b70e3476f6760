//! What the worker counts. Labels come from small fixed sets, never an id.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use shared::catalogue;
use shared::event::Channel;
use shared::metrics::{latency_buckets, registry, render};

use crate::outcome::Outcome;
use crate::tail::metrics::TailMetrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    outcome: &'static str,
    channel: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    event_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

struct Inner {
    registry: Registry,
    events: Family<EventLabels, Counter>,
    ignored: Family<TypeLabels, Counter>,
    retries: Family<FailureLabels, Counter>,
    apply_lag: Histogram,
    batch_size: Histogram,
    coalesced: Counter,
    requests: Family<RequestLabels, Counter>,
    rate_limit_wait: Histogram,
    tail: TailMetrics,
    drift: Family<KindLabels, Gauge>,
    dead_letters: Family<FailureLabels, Counter>,
    dlq_depth: Gauge<u64, AtomicU64>,
    oldest_pending: Gauge<f64, AtomicU64>,
    breaker_open: Gauge<u64, AtomicU64>,
    workos_unwell: Family<FailureLabels, Gauge<u64, AtomicU64>>,
}

/// The worker's metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = registry();
        let events = Family::default();
        registry.register("events", "Events that have their outcome", events.clone());
        let ignored = Family::default();
        registry.register("ignored", "Events of types that are not mirrored, by type", ignored.clone());
        let retries = Family::default();
        registry.register("retries", "Deliveries that will come again, by reason", retries.clone());
        let apply_lag = Histogram::new(latency_buckets());
        registry.register(
            "apply_lag_seconds",
            "From WorkOS making an event to its commit",
            apply_lag.clone(),
        );
        let batch_size = Histogram::new(exponential_buckets(1.0, 2.0, 12));
        registry.register("batch_size", "Deliveries carried by one batch", batch_size.clone());
        let coalesced = Counter::default();
        registry.register(
            "events_coalesced",
            "Events answered by a question that was asked for another event",
            coalesced.clone(),
        );
        let requests = Family::default();
        registry.register("workos_requests", "Requests to WorkOS", requests.clone());
        let rate_limit_wait = Histogram::new(latency_buckets());
        registry.register(
            "rate_limit_wait_seconds",
            "How long a request waited for the budget",
            rate_limit_wait.clone(),
        );
        let tail = TailMetrics::register(&mut registry);
        let drift = Family::default();
        registry.register(
            "drift_objects",
            "Objects that the last scheduled verify found out of step, before it repaired them",
            drift.clone(),
        );
        let dead_letters = Family::default();
        registry.register("dead_letters", "Events set aside for a person, by reason", dead_letters.clone());
        let dlq_depth = Gauge::default();
        registry.register("dlq_depth", "Dead letters that wait for a person", dlq_depth.clone());
        let oldest_pending = Gauge::default();
        registry.register(
            "oldest_pending_seconds",
            "How long the oldest event waits that has no outcome yet; 0 when none waits",
            oldest_pending.clone(),
        );
        let breaker_open = Gauge::default();
        registry.register(
            "breaker_open",
            "1 while most events fail: nothing is buried, and pulling stops",
            breaker_open.clone(),
        );
        let workos_unwell = Family::default();
        registry.register(
            "workos_unwell",
            "1 while WorkOS answers nobody or refuses the key, by reason: nothing is asked",
            workos_unwell.clone(),
        );
        Self(Arc::new(Inner {
            registry,
            events,
            ignored,
            retries,
            apply_lag,
            batch_size,
            coalesced,
            requests,
            rate_limit_wait,
            tail,
            drift,
            dead_letters,
            dlq_depth,
            oldest_pending,
            breaker_open,
            workos_unwell,
        }))
    }

    /// The text for `/metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        render(&self.0.registry)
    }

    /// What concerns the Events API, and webhooks as seen from there.
    #[must_use]
    pub fn tail(&self) -> &TailMetrics {
        &self.0.tail
    }

    /// An event has its outcome.
    pub fn event(
        &self,
        outcome: Outcome,
        channel: Channel,
        created_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) {
        self.0.events.get_or_create(&EventLabels { outcome: outcome.name(), channel: channel.name() }).inc();
        if let Some(lag) = created_at.and_then(|created_at| (now - created_at).to_std().ok()) {
            self.0.apply_lag.observe(lag.as_secs_f64());
        }
    }

    /// An event was recorded and nothing else, because its type is not mirrored.
    pub fn ignored(&self, event_type: &str) {
        self.0.ignored.get_or_create(&TypeLabels { event_type: catalogue::label(event_type) }).inc();
    }

    /// A delivery will come again.
    pub fn retry(&self, reason: &'static str) {
        self.0.retries.get_or_create(&FailureLabels { reason }).inc();
    }

    /// A batch was pulled.
    #[expect(clippy::cast_precision_loss, reason = "a batch is far smaller than 2^52")]
    pub fn batch(&self, size: usize) {
        self.0.batch_size.observe(size as f64);
    }

    /// Events that needed no question of their own.
    pub fn coalesced(&self, events: u64) {
        self.0.coalesced.inc_by(events);
    }

    /// WorkOS answered about an object of this kind or a list, or not (`error`).
    pub fn workos_request(&self, kind: &'static str, status: &'static str) {
        self.0.requests.get_or_create(&RequestLabels { kind, status }).inc();
    }

    /// So many objects of a kind were out of step.
    pub fn drift(&self, kind: &'static str, objects: u64) {
        self.0.drift.get_or_create(&KindLabels { kind }).set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// A request waited for the budget.
    pub fn rate_limit_wait(&self, waited: Duration) {
        self.0.rate_limit_wait.observe(waited.as_secs_f64());
    }

    /// An event was set aside.
    pub fn dead_letter(&self, reason: &'static str) {
        self.0.dead_letters.get_or_create(&FailureLabels { reason }).inc();
    }

    /// So many dead letters there are.
    pub fn dlq_depth(&self, depth: u64) {
        self.0.dlq_depth.set(depth);
    }

    /// So long the oldest event waits.
    pub fn oldest_pending(&self, waits: Duration) {
        self.0.oldest_pending.set(waits.as_secs_f64());
    }

    /// The breaker opened or closed.
    pub fn breaker(&self, open: bool) {
        self.0.breaker_open.set(u64::from(open));
    }

    /// Why nobody asks WorkOS, or that all is well.
    pub fn workos_unwell(&self, reason: Option<&'static str>) {
        self.0.workos_unwell.clear();
        if let Some(reason) = reason {
            self.0.workos_unwell.get_or_create(&FailureLabels { reason }).set(1);
        }
    }
}
