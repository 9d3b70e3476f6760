//! The registry that both programs fill and the admin address shows.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An empty registry with the prefix of every name, `workos_sync_`.
#[must_use]
pub fn registry() -> Registry {
    Registry::with_prefix("workos_sync")
}

/// The text that Prometheus scrapes.
#[must_use]
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = encode(&mut text, registry);
    text
}

/// Histogram buckets from 0.5 ms to a minute, for latencies in seconds.
pub fn latency_buckets() -> impl Iterator<Item = f64> {
    [
        0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
        60.0,
    ]
    .into_iter()
}
