//! Stores events in `JetStream`: an event counts as stored when the broker acknowledged it.

use std::collections::HashMap;

use async_nats::{Client, Subject};
use shared::admin::Readiness;
use shared::broker::Stream;
use shared::event::{Arrival, Event};
use shared::telemetry::TraceParent;
use shared::{catalogue, message, subject};
use tokio_util::sync::CancellationToken;

use crate::groups::Outgoing;
use crate::store::{Store, Stored, Unstored};

/// The way into the stream of events.
pub struct Publisher {
    store: Store,
    env: String,
    /// The subjects of the types we know; others are made when they come.
    subjects: HashMap<&'static str, Subject>,
    arrivals: Subject,
}

impl Publisher {
    /// Publishes through `client`, with at most `max_in_flight` acknowledgements awaited.
    #[must_use]
    pub fn new(client: Client, env: &str, max_in_flight: usize) -> Self {
        let subjects = catalogue::ENTRIES
            .iter()
            .map(|entry| (entry.event_type, subject::event(env, entry.event_type).into()))
            .collect();
        Self {
            store: Store::new(client, Stream::Events, max_in_flight),
            env: env.to_owned(),
            subjects,
            arrivals: subject::arrivals(env).into(),
        }
    }

    /// Stores an event and waits for the acknowledgement.
    pub async fn publish(&self, event: &Event, trace: Option<&TraceParent>) -> Result<Stored, Unstored> {
        let (headers, payload) = message::of(event, trace).map_err(|_| Unstored::Refused)?;
        let subject = self.subject(&event.event_type);
        let stored = self.store.store(Outgoing { subject, headers, payload }).await?;
        if stored == Stored::Duplicate {
            self.tell_arrival(event).await;
        }
        Ok(stored)
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

    /// The stream drops what it has, so the ledger would not learn that the webhook came too. The event is safe;
    /// this only keeps the count of webhooks that never came.
    async fn tell_arrival(&self, event: &Event) {
        let Ok(payload) = serde_json::to_vec(&Arrival::from(event)) else { return };
        if let Err(error) = self.store.client().publish(self.arrivals.clone(), payload.into()).await {
            tracing::debug!(error = %error, "failed to tell that a webhook brought what the stream had");
        }
    }
}
