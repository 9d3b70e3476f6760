//! Stores events in `JetStream`: an event counts as stored when the broker acknowledged it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishErrorKind};
use async_nats::{Client, Subject, jetstream};
use shared::admin::Readiness;
use shared::broker::StreamFacts;
use shared::event::{Arrival, Event};
use shared::telemetry::TraceParent;
use shared::{broker, catalogue, message, subject};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long an acknowledgement may take. WorkOS does not say how long it waits; every guess is longer.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last words to the broker may take when we leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The stream is asked for after 0.2 s, 0.4 s, 0.8 s ... up to 5 s: soon, but a broker that is
/// starting is not pestered.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// How soon a new connection to the broker is noticed, to look for the stream there.
const CONNECTION_CHECK: Duration = Duration::from_secs(1);

/// What became of an event that the broker acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is in the stream now.
    New,
    /// It was there already.
    Duplicate,
}

/// Why an event is not known to be stored. WorkOS sends it again, and its id makes that harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstored {
    /// As many publishes await their acknowledgement as may.
    #[error("too many events await their acknowledgement")]
    Busy,
    /// There is no connection; nothing is queued for later.
    #[error("the broker is not connected")]
    NotConnected,
    /// Nobody takes the subject.
    #[error("the broker has no stream for it")]
    NoStream,
    /// No acknowledgement in time: it may be stored all the same.
    #[error("the broker did not acknowledge it in time")]
    Unacknowledged,
    /// The broker said no: full, out of resources, not permitted.
    #[error("the broker refused it")]
    Refused,
}

/// The way into the stream.
pub struct Publisher {
    client: Client,
    jetstream: jetstream::Context,
    env: String,
    /// The subjects of the types we know; others are made when they come.
    subjects: HashMap<&'static str, Subject>,
    arrivals: Subject,
    stream_missed: Arc<Notify>,
}

impl Publisher {
    /// Publishes through `client`, with at most `max_in_flight` acknowledgements awaited.
    #[must_use]
    pub fn new(client: Client, env: &str, max_in_flight: usize) -> Self {
        let jetstream = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            // For those whose sender went away before the acknowledgement came.
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(max_in_flight)
            .build(client.clone());
        let subjects = catalogue::ENTRIES
            .iter()
            .map(|entry| (entry.event_type, subject::event(env, entry.event_type).into()))
            .collect();
        let arrivals = subject::arrivals(env).into();
        Self { client, jetstream, env: env.to_owned(), subjects, arrivals, stream_missed: Arc::default() }
    }

    /// Stores an event and waits for the acknowledgement.
    pub async fn publish(&self, event: &Event, trace: Option<&TraceParent>) -> Result<Stored, Unstored> {
        // The client would queue it for the next connection, long after WorkOS gave up waiting.
        if self.client.connection_state() != State::Connected {
            return Err(Unstored::NotConnected);
        }
        let message = message::of(event, trace).map_err(|_| Unstored::Refused)?;
        let sent = self.jetstream.send_publish(self.subject(&event.event_type), message).await;
        let acknowledged = match sent {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(ack) if ack.duplicate => {
                self.tell_arrival(event).await;
                Ok(Stored::Duplicate)
            }
            Ok(_) => Ok(Stored::New),
            Err(error) => Err(self.unstored(&error)),
        }
    }

    /// Keeps the stream in being, until `stop`: makes sure of it now, again after each new connection,
    /// which may be to a broker that lost it, and whenever a publish found none.
    pub async fn keep_stream(&self, replicas: usize, readiness: Readiness, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            readiness.unready("stream", "not looked for yet");
            let mut known = None;
            loop {
                let connects = self.connects();
                let facts = self.ensure_stream(replicas, &readiness).await;
                if known.replace(facts.created) != Some(facts.created) {
                    tracing::info!(stream = subject::EVENTS_STREAM, "stream is there: {}", facts.durability());
                }
                tokio::select! {
                    () = self.stream_missed.notified() => {
                        readiness.unready("stream", "the broker has no stream for events");
                        tracing::warn!(stream = subject::EVENTS_STREAM, "the stream is gone, making it again");
                        // A broker that says "no stream" and "here it is" in turn is asked slowly.
                        tokio::time::sleep(FIRST_DELAY).await;
                    }
                    () = self.connected_again(connects) => {}
                }
            }
        })
        .await;
    }

    /// Leaves: sends what is written. Acknowledgements were awaited by the requests themselves.
    pub async fn close(&self) {
        if self.client.connection_state() == State::Connected {
            // Nothing depends on it: what was not acknowledged was not answered with 200.
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.client.flush()).await;
        }
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    async fn connected_again(&self, connects: u64) {
        while self.connects() == connects {
            tokio::time::sleep(CONNECTION_CHECK).await;
        }
    }

    async fn ensure_stream(&self, replicas: usize, readiness: &Readiness) -> StreamFacts {
        let mut delay = FIRST_DELAY;
        let mut told = String::new();
        loop {
            match broker::ensure_events(&self.jetstream, replicas).await {
                Ok(facts) => {
                    readiness.ready("stream");
                    return facts;
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    readiness.unready("stream", why.clone());
                    if why != told {
                        tracing::warn!(error = why, "no stream to store events in, will keep trying");
                        told = why;
                    }
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_DELAY);
        }
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
        if let Err(error) = self.client.publish(self.arrivals.clone(), payload.into()).await {
            tracing::debug!(error = %error, "failed to tell that a webhook brought what the stream had");
        }
    }

    fn unstored(&self, error: &jetstream::context::PublishError) -> Unstored {
        match error.kind() {
            PublishErrorKind::StreamNotFound => {
                self.stream_missed.notify_one();
                Unstored::NoStream
            }
            PublishErrorKind::TimedOut => Unstored::Unacknowledged,
            PublishErrorKind::BrokenPipe => Unstored::NotConnected,
            PublishErrorKind::MaxAckPending => Unstored::Busy,
            PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::WrongLastSequence
            | PublishErrorKind::MaxPayloadExceeded
            | PublishErrorKind::Other => Unstored::Refused,
        }
    }
}
