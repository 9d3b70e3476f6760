//! Stores events in `JetStream`: an event counts as stored when the broker acknowledged it.

use std::collections::HashMap;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, Subject};
use shared::admin::Readiness;
use shared::broker::Stream;
use shared::event::Event;
use shared::telemetry::TraceParent;
use shared::{catalogue, subject};
use tokio_util::sync::CancellationToken;

use crate::store::{Store, Stored, Unstored};

/// Room for a message of the usual size, about 350 bytes.
const USUAL_PAYLOAD: usize = 512;

/// The way into the stream of events.
pub struct Publisher {
    store: Store,
    env: String,
    /// The subjects of the types we know; others are made when they come.
    subjects: HashMap<&'static str, Subject>,
}

impl Publisher {
    /// Publishes through `client`, with at most `max_in_flight` acknowledgements awaited.
    #[must_use]
    pub fn new(client: Client, env: &str, max_in_flight: usize) -> Self {
        let subjects = catalogue::ENTRIES
            .iter()
            .map(|entry| (entry.event_type, subject::event(env, entry.event_type).into()))
            .collect();
        Self { store: Store::new(client, Stream::Events, max_in_flight), env: env.to_owned(), subjects }
    }

    /// Stores an event and waits for the acknowledgement.
    pub async fn publish(&self, event: &Event, trace: Option<&TraceParent>) -> Result<Stored, Unstored> {
        let mut payload = Vec::with_capacity(USUAL_PAYLOAD);
        serde_json::to_writer(&mut payload, event).map_err(|_| Unstored::Refused)?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message_id(&event.id));
        if let Some(trace) = trace {
            headers.insert(subject::TRACEPARENT, trace.as_str());
        }
        let message = PublishMessage::build().headers(headers).payload(payload.into());
        self.store.store(self.subject(&event.event_type), message).await
    }

    /// Keeps the stream in being, until `stop`; see [`Store::keep_stream`].
    pub async fn keep_stream(&self, replicas: usize, readiness: Readiness, stop: CancellationToken) {
        self.store.keep_stream(replicas, readiness, stop).await;
    }

    /// Leaves: sends what is written. Acknowledgements were awaited by the requests themselves.
    pub async fn close(&self) {
        self.store.close().await;
    }

    fn subject(&self, event_type: &str) -> Subject {
        match self.subjects.get(event_type) {
            Some(subject) => subject.clone(),
            None => subject::event(&self.env, event_type).into(),
        }
    }
}

/// The id by which the broker knows duplicates. WorkOS's ids are plain; one that would not survive as
/// a header goes as hexadecimal digits.
fn message_id(id: &str) -> String {
    if id.bytes().all(|byte| byte.is_ascii_graphic()) { id.to_owned() } else { hex::encode(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_any_text_is_a_header_of_one_word() {
        assert_eq!(message_id("event_01J8"), "event_01J8");
        assert_eq!(message_id("a b"), "612062");
        assert!(message_id("é\r\nX: y").bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}
