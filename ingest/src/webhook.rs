//! One webhook from its first header to its answer: read, verify, publish, answer.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{EXPECT, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use shared::clock;
use shared::envelope;
use shared::event::{Channel, Event};
use shared::telemetry::TraceParent;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::client_address::Allowed;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::publisher::Publisher;
use crate::signature::{Rejected, Verifier};
use crate::store::{Stored, Unstored};

const PATHS: [&str; 2] = ["/webhooks/workos", "/api/webhooks/workos"];
const SIGNATURE: HeaderName = HeaderName::from_static("workos-signature");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACEPARENT: HeaderName = HeaderName::from_static(shared::subject::TRACEPARENT);

/// How long a body may take from its first byte to its last.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What is read and thrown away of a body that was refused unread, so that the sender gets to see
/// the answer; then the connection is closed.
const DISCARD_BYTES: usize = 4 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Refusals are told in the log at most this often, with a count; the metric has them all.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How a request ended. The answer, the metric and the log line all read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The event is in the stream.
    Stored,
    /// It was there already.
    Duplicate,
    /// The body is not an event.
    NotAnEvent,
    /// The body ended early.
    BodyCut,
    /// No signature header.
    SignatureMissing,
    /// A signature header of another form, or more than one.
    SignatureMalformed,
    /// Signed too long ago or too far ahead.
    SignatureOutsideTolerance,
    /// Signed by nobody we know, or another body.
    SignatureMismatch,
    /// The sender's address is not on the list.
    AddressNotAllowed,
    /// No webhook is at this path.
    NotFound,
    /// Webhooks are posted.
    MethodNotAllowed,
    /// The body took too long.
    BodyTooSlow,
    /// The body is too large.
    BodyTooLarge,
    /// The bodies of all requests together are too large.
    BuffersFull,
    /// Too many events await their acknowledgement.
    Busy,
    /// No connection to the broker.
    NotConnected,
    /// The broker has no stream.
    NoStream,
    /// The broker did not acknowledge in time.
    Unacknowledged,
    /// The broker said no.
    Refused,
}

impl Outcome {
    /// Every outcome, in the order of its declaration.
    pub const ALL: [Self; 19] = [
        Self::Stored,
        Self::Duplicate,
        Self::NotAnEvent,
        Self::BodyCut,
        Self::SignatureMissing,
        Self::SignatureMalformed,
        Self::SignatureOutsideTolerance,
        Self::SignatureMismatch,
        Self::AddressNotAllowed,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTooSlow,
        Self::BodyTooLarge,
        Self::BuffersFull,
        Self::Busy,
        Self::NotConnected,
        Self::NoStream,
        Self::Unacknowledged,
        Self::Refused,
    ];

    /// The status it is answered with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Stored | Self::Duplicate => StatusCode::OK,
            Self::NotAnEvent | Self::BodyCut => StatusCode::BAD_REQUEST,
            Self::SignatureMissing
            | Self::SignatureMalformed
            | Self::SignatureOutsideTolerance
            | Self::SignatureMismatch => StatusCode::UNAUTHORIZED,
            Self::AddressNotAllowed => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BuffersFull
            | Self::Busy
            | Self::NotConnected
            | Self::NoStream
            | Self::Unacknowledged
            | Self::Refused => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason, for the metric and the log.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::NotAnEvent => "not_an_event",
            Self::BodyCut => "body_cut",
            Self::SignatureMissing => "signature_missing",
            Self::SignatureMalformed => "signature_malformed",
            Self::SignatureOutsideTolerance => "signature_outside_tolerance",
            Self::SignatureMismatch => "signature_mismatch",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTooSlow => "body_too_slow",
            Self::BodyTooLarge => "body_too_large",
            Self::BuffersFull => "buffers_full",
            Self::Busy => "busy",
            Self::NotConnected => "not_connected",
            Self::NoStream => "no_stream",
            Self::Unacknowledged => "unacknowledged",
            Self::Refused => "refused",
        }
    }
}

impl From<Stored> for Outcome {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::New => Self::Stored,
            Stored::Duplicate => Self::Duplicate,
        }
    }
}

impl From<Unstored> for Outcome {
    fn from(unstored: Unstored) -> Self {
        match unstored {
            Unstored::Busy => Self::Busy,
            Unstored::NotConnected => Self::NotConnected,
            Unstored::NoStream => Self::NoStream,
            Unstored::Unacknowledged => Self::Unacknowledged,
            Unstored::Refused => Self::Refused,
        }
    }
}

impl From<Rejected> for Outcome {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Malformed => Self::SignatureMalformed,
            Rejected::OutsideTolerance => Self::SignatureOutsideTolerance,
            Rejected::Mismatch => Self::SignatureMismatch,
        }
    }
}

/// What every request is held to, whichever thread takes it.
pub struct Bounds {
    verifier: Verifier,
    allowed: Allowed,
    max_body: usize,
    /// Bytes of bodies that may still be taken into memory.
    buffers: Semaphore,
    log: Throttle,
}

impl Bounds {
    /// The bounds that `config` sets.
    pub fn new(config: &Config) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            verifier: Verifier::new(&config.secrets, config.tolerance)?,
            allowed: Allowed::new(config.allowed.clone(), config.trusted_proxies.clone()),
            max_body: config.max_body,
            buffers: Semaphore::new(config.max_buffered.min(Semaphore::MAX_PERMITS)),
            log: Throttle::default(),
        }))
    }
}

/// Takes the webhooks of one thread.
pub struct Webhooks {
    bounds: Arc<Bounds>,
    publisher: Arc<Publisher>,
    metrics: Metrics,
}

impl Webhooks {
    /// Takes webhooks within `bounds` and stores them with `publisher`.
    #[must_use]
    pub fn new(bounds: Arc<Bounds>, publisher: Arc<Publisher>, metrics: Metrics) -> Self {
        Self { bounds, publisher, metrics }
    }

    /// Takes one request to its end.
    pub async fn receive(&self, peer: IpAddr, request: Request<Incoming>) -> Outcome {
        let (parts, body) = request.into_parts();
        let outcome = match self.admit(peer, &parts, &body) {
            Ok(signature) => self.store(signature, &parts, body).await.unwrap_or_else(|refused| refused),
            Err(refused) => {
                discard(&parts, body);
                refused
            }
        };
        self.metrics.answered(outcome);
        self.tell(outcome);
        outcome
    }

    /// What can be told without reading the body: the signature header, or why not.
    fn admit<'a>(&self, peer: IpAddr, parts: &'a Parts, body: &Incoming) -> Result<&'a [u8], Outcome> {
        if !PATHS.contains(&parts.uri.path()) {
            return Err(Outcome::NotFound);
        }
        if parts.method != Method::POST {
            return Err(Outcome::MethodNotAllowed);
        }
        let forwarded = || {
            let lines: Vec<_> = parts.headers.get_all(FORWARDED_FOR).iter().collect();
            // A line that is no text is no address either.
            lines.into_iter().map(|line| line.to_str().unwrap_or("?"))
        };
        if !self.bounds.allowed.permits(peer, forwarded) {
            return Err(Outcome::AddressNotAllowed);
        }
        if body.size_hint().lower() > self.bounds.max_body as u64 {
            return Err(Outcome::BodyTooLarge);
        }
        let mut signatures = parts.headers.get_all(SIGNATURE).iter();
        match (signatures.next(), signatures.next()) {
            (None, _) => Err(Outcome::SignatureMissing),
            (Some(signature), None) => Ok(signature.as_bytes()),
            (Some(_), Some(_)) => Err(Outcome::SignatureMalformed),
        }
    }

    async fn store(&self, signature: &[u8], parts: &Parts, body: Incoming) -> Result<Outcome, Outcome> {
        let event = self.read_event(signature, body).await?;
        let trace =
            parts.headers.get(TRACEPARENT).and_then(|header| TraceParent::parse(header.to_str().ok()?));
        let started = Instant::now();
        let stored = self.publisher.publish(&event, trace.as_ref()).await?;
        self.metrics.published(started.elapsed());
        Ok(stored.into())
    }

    /// The body is given back before the acknowledgement is awaited: only ids and times stay.
    async fn read_event(&self, signature: &[u8], body: Incoming) -> Result<Event, Outcome> {
        let (body, _room) = self.read(body).await?;
        let now = clock::now();
        let verified = self.bounds.verifier.verify(signature, body, now)?;
        envelope::read(verified.as_bytes(), Channel::Webhook, now).map_err(|_| Outcome::NotAnEvent)
    }

    async fn read(&self, body: Incoming) -> Result<(Bytes, SemaphorePermit<'_>), Outcome> {
        tokio::time::timeout(BODY_TIMEOUT, self.collect(body)).await.map_err(|_| Outcome::BodyTooSlow)?
    }

    /// The whole body, and its share of the memory for bodies. Most arrive in one piece, which is
    /// then passed on as it is.
    async fn collect(&self, mut body: Incoming) -> Result<(Bytes, SemaphorePermit<'_>), Outcome> {
        let mut room = self.room(0)?;
        let mut first = Bytes::new();
        let mut joined = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Outcome::BodyCut)?.into_data() else { continue };
            if first.len().max(joined.len()) + data.len() > self.bounds.max_body {
                discard_rest(body);
                return Err(Outcome::BodyTooLarge);
            }
            room.merge(self.room(data.len())?);
            if first.is_empty() {
                first = data;
            } else {
                if joined.is_empty() {
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&data);
            }
            if body.is_end_stream() {
                break;
            }
        }
        let whole = if joined.is_empty() { first } else { joined.into() };
        Ok((whole, room))
    }

    fn room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Outcome> {
        let bytes = u32::try_from(bytes).map_err(|_| Outcome::BodyTooLarge)?;
        self.bounds.buffers.try_acquire_many(bytes).map_err(|_| Outcome::BuffersFull)
    }

    fn tell(&self, outcome: Outcome) {
        let status = outcome.status();
        if status != StatusCode::UNAUTHORIZED && status != StatusCode::SERVICE_UNAVAILABLE {
            return;
        }
        if let Some(unsaid) = self.bounds.log.admits(Instant::now()) {
            tracing::warn!(reason = outcome.reason(), unsaid, "answered a webhook with {}", status.as_u16());
        }
    }
}

/// Reads on for a while after a refusal, so that the answer is not lost in a reset connection.
pub(crate) fn discard(parts: &Parts, body: Incoming) {
    // Who waits to be asked for the body sends none after a refusal.
    if !parts.headers.contains_key(EXPECT) {
        discard_rest(body);
    }
}

fn discard_rest(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(DISCARD_TIMEOUT, async move {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    }));
}

/// Lets one line through in each [`LOG_EVERY`] and counts the rest.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// How many were kept back since the last one, if this one may be told.
    pub(crate) fn admits(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, unsaid) = &mut *state;
        if last.is_some_and(|last| now.duration_since(last) < LOG_EVERY) {
            *unsaid += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_one_line_a_second_with_a_count() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.admits(start), Some(0));
        for millis in 1..1000 {
            assert_eq!(throttle.admits(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(throttle.admits(start + Duration::from_secs(1)), Some(999));
        assert_eq!(throttle.admits(start + Duration::from_secs(3)), Some(0));
    }
}
