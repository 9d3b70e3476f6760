//! Names of streams, subjects, consumers and headers.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::id::ObjectRef;

/// What WorkOS announced.
pub const EVENTS_STREAM: &str = "WORKOS_EVENTS";
/// All subjects of [`EVENTS_STREAM`].
pub const EVENTS_SUBJECTS: &str = "workos.events.>";

/// The fast lane: immediate syncs that somebody asked for.
pub const SYNC_STREAM: &str = "WORKOS_SYNC";
/// All subjects of [`SYNC_STREAM`].
pub const SYNC_SUBJECTS: &str = "workos.sync.>";

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
/// Where whoever published the message listens for its outcome.
pub const REPLY_TO: &str = "sync-reply-to";

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

/// Where an immediate sync of an object is asked for: `workos.sync.<env>.<kind>.<id>`.
#[must_use]
pub fn sync(env: &str, object: &ObjectRef) -> String {
    format!("workos.sync.{env}.{}.{}", object.kind, token(&object.id))
}

/// All immediate syncs of one environment.
#[must_use]
pub fn syncs_of(env: &str) -> String {
    format!("workos.sync.{env}.>")
}

/// The durable consumer of the fast lane that all workers of one environment share.
#[must_use]
pub fn sync_consumer(env: &str) -> String {
    format!("sync-{env}")
}

/// Ids are opaque: what one token of a subject must not carry is escaped, so that two ids never share a
/// subject. The message itself holds the id as it is.
fn token(id: &str) -> String {
    utf8_percent_encode(id, TOKEN).to_string()
}

/// What may stand in a token as it is: letters, digits, `_` and `-`.
const TOKEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

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
    use crate::id::Kind;

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

    #[test]
    fn an_id_of_any_text_is_one_token_of_its_own() {
        let subject = |id| sync("test", &ObjectRef::new(Kind::User, id));
        assert_eq!(subject("user_01J8-x"), "workos.sync.test.user.user_01J8-x");
        assert_eq!(subject("a.b *>\r\n"), "workos.sync.test.user.a%2Eb%20%2A%3E%0D%0A");
        assert_ne!(subject("a%2Eb"), subject("a.b"));
    }
}
