//! Names of streams, subjects, consumers and headers.

/// What WorkOS announced.
pub const EVENTS_STREAM: &str = "WORKOS_EVENTS";
/// All subjects of [`EVENTS_STREAM`].
pub const EVENTS_SUBJECTS: &str = "workos.events.>";

/// W3C trace context of whoever published the message.
pub const TRACEPARENT: &str = "traceparent";

/// Where an event is published: `workos.events.<env>.<event type>`.
#[must_use]
pub fn event(env: &str, event_type: &str) -> String {
    format!("workos.events.{env}.{}", tokens(event_type))
}

/// All events of one environment.
#[must_use]
pub fn events_of(env: &str) -> String {
    format!("workos.events.{env}.>")
}

/// Where ingest tells, outside of any stream, that a webhook brought what was in the stream already.
#[must_use]
pub fn arrivals(env: &str) -> String {
    format!("workos.arrivals.{env}")
}

/// The durable consumer that all workers of one environment share.
#[must_use]
pub fn worker_consumer(env: &str) -> String {
    format!("worker-{env}")
}

/// Event types are an open set and come from outside: what a subject must not carry (wildcards,
/// spaces, control characters, empty tokens) becomes `_`, so that any type can be published.
fn tokens(event_type: &str) -> String {
    let clean: String = event_type
        .chars()
        .take(128)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' })
        .collect();
    clean.split('.').map(|token| if token.is_empty() { "_" } else { token }).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_type_keeps_its_name() {
        assert_eq!(event("production", "user.created"), "workos.events.production.user.created");
    }

    #[test]
    fn a_hostile_type_cannot_leave_its_subject() {
        assert_eq!(event("test", "a b.*.>..\r\nPUB"), "workos.events.test.a_b._._._.__PUB");
        assert_eq!(event("test", ""), "workos.events.test._");
    }
}
