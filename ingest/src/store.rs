//! Stores messages in a stream of JetStream: one counts as stored when the broker acknowledged it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, jetstream};
use shared::admin::Readiness;
use shared::broker::{self, Stream, StreamFacts};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::groups::{Groups, Outgoing};

/// How long an acknowledgement may take. WorkOS does not say how long it waits; every guess is longer.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last words to the broker may take when we leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The stream is asked for after 0.2 s, 0.4 s, 0.8 s ... up to 5 s: soon, but a broker that is
/// starting is not pestered.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// How soon a new connection to the broker is noticed, to look for the stream there.
const CONNECTION_CHECK: Duration = Duration::from_secs(1);

/// What became of a message that the broker acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is in the stream now.
    New,
    /// It was there already.
    Duplicate,
}

/// Why a message is not known to be stored. Its sender sends it again, which is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstored {
    /// As many publishes await their acknowledgement as may.
    #[error("too many messages await their acknowledgement")]
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

/// The way into one stream.
pub struct Store {
    single: Single,
    groups: Groups,
    stream: Stream,
    max_in_flight: usize,
}

/// Stores messages by themselves.
#[derive(Clone)]
pub(crate) struct Single {
    client: Client,
    jetstream: jetstream::Context,
    stream_missed: Arc<Notify>,
}

impl Store {
    /// Publishes through `client` into `stream`, with at most `max_in_flight` acknowledgements awaited. Must be
    /// called within a runtime.
    #[must_use]
    pub fn new(client: Client, stream: Stream, max_in_flight: usize) -> Self {
        let jetstream = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            // For those whose sender went away before the acknowledgement came.
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(max_in_flight)
            // Over it the answer is "busy" at once: the sender would have given up before its turn came.
            .backpressure_on_inflight(false)
            .build(client.clone());
        let single = Single { client: client.clone(), jetstream, stream_missed: Arc::default() };
        Self { groups: Groups::new(client, single.clone()), single, stream, max_in_flight }
    }

    /// The connection to the broker.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.single.client
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.single.is_connected()
    }

    /// Stores a message and waits for the acknowledgement.
    pub async fn store(&self, outgoing: Outgoing) -> Result<Stored, Unstored> {
        // The client would queue it for the next connection, long after the sender gave up waiting.
        if !self.is_connected() {
            return Err(Unstored::NotConnected);
        }
        let _awaited = self.groups.awaited();
        if self.groups.are_better() {
            if self.groups.count() > self.max_in_flight {
                return Err(Unstored::Busy);
            }
            return self.groups.store(outgoing).await;
        }
        let started = Instant::now();
        let stored = self.single.store(outgoing).await;
        if stored.is_ok() {
            self.groups.took(started.elapsed());
        }
        stored
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
                    tracing::info!(stream = self.stream.name(), "stream is there: {}", facts.durability());
                }
                tokio::select! {
                    () = self.single.stream_missed.notified() => {
                        readiness.unready("stream", format!("the broker has no stream {}", self.stream.name()));
                        tracing::warn!(stream = self.stream.name(), "the stream is gone, making it again");
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
        if self.is_connected() {
            // Nothing depends on it: what was not acknowledged was not answered with 200.
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.client().flush()).await;
        }
    }

    fn connects(&self) -> u64 {
        self.client().statistics().connects.load(Ordering::Relaxed)
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
            match broker::ensure(&self.single.jetstream, self.stream, replicas).await {
                Ok(facts) => {
                    readiness.ready("stream");
                    self.groups.possible(facts.takes_groups);
                    return facts;
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    readiness.unready("stream", why.clone());
                    if why != told {
                        tracing::warn!(
                            stream = self.stream.name(),
                            error = why,
                            "no stream to store in, will keep trying"
                        );
                        told = why;
                    }
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_DELAY);
        }
    }
}

impl Single {
    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Stores a message and waits for the acknowledgement.
    pub(crate) async fn store(&self, outgoing: Outgoing) -> Result<Stored, Unstored> {
        if !self.is_connected() {
            return Err(Unstored::NotConnected);
        }
        let Outgoing { subject, headers, payload } = outgoing;
        let message = PublishMessage::build().headers(headers).payload(payload);
        let acknowledged = match self.jetstream.send_publish(subject, message).await {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(ack) if ack.duplicate => Ok(Stored::Duplicate),
            Ok(_) => Ok(Stored::New),
            Err(error) => Err(self.unstored(&error)),
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
