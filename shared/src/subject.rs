//! Names of streams, subjects, consumers and headers.

/// What WorkOS announced.
pub const EVENTS_STREAM: &str = "WORKOS_EVENTS";
/// All subjects of [`EVENTS_STREAM`].
pub const EVENTS_SUBJECTS: &str = "workos.events.>";

/// Events set aside for a person.
pub const DEAD_LETTERS_STREAM: &str = "WORKOS_DLQ";
/// All subjects of [`DEAD_LETTERS_STREAM`].
pub const DEAD_LETTERS_SUBJECTS: &str = "workos.dlq.>";

/// What the broker says of events that it will not deliver again.
pub const ADVISORIES_STREAM: &str = "WORKOS_ADVISORIES";
/// All subjects of [`ADVISORIES_STREAM`]: a consumer of [`EVENTS_STREAM`] had an event as often as it may.
pub const ADVISORIES_SUBJECTS: &str = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.WORKOS_EVENTS.>";

/// Header of a dead letter: the class of the failure.
pub const REASON: &str = "Workos-Reason";
/// Header of a dead letter: the failure in words, without personal data.
pub const ERROR: &str = "Workos-Error";
/// Header of a dead letter: attempts used up.
pub const ATTEMPTS: &str = "Workos-Attempts";
/// Header of a dead letter: when the event first reached us.
pub const FIRST_SEEN: &str = "Workos-First-Seen";
/// Header of a dead letter: the event's sequence in [`EVENTS_STREAM`].
pub const STREAM_SEQUENCE: &str = "Workos-Stream-Sequence";

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

/// The durable consumer that all workers of one environment share.
#[must_use]
pub fn worker_consumer(env: &str) -> String {
    format!("worker-{env}")
}

/// Where a dead letter is published: `workos.dlq.<env>.<event type>`.
#[must_use]
pub fn dead_letter(env: &str, event_type: &str) -> String {
    format!("workos.dlq.{env}.{}", tokens(event_type))
}

/// All dead letters of one environment.
#[must_use]
pub fn dead_letters_of(env: &str) -> String {
    format!("workos.dlq.{env}.>")
}

/// Where the broker says that it will not deliver an event of this environment again.
#[must_use]
pub fn advisories_of(env: &str) -> String {
    ADVISORIES_SUBJECTS.replace('>', &worker_consumer(env))
}

/// The durable consumer of [`ADVISORIES_STREAM`] that all workers of one environment share.
#[must_use]
pub fn advisories_consumer(env: &str) -> String {
    format!("advisories-{env}")
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
    fn advisories_are_those_of_the_workers_consumer() {
        assert_eq!(
            advisories_of("test"),
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.WORKOS_EVENTS.worker-test"
        );
    }

    #[test]
    fn a_hostile_type_cannot_leave_its_subject() {
        assert_eq!(event("test", "a b.*.>..\r\nPUB"), "workos.events.test.a_b._._._.__PUB");
        assert_eq!(event("test", ""), "workos.events.test._");
    }
}
