//! `POST /sync/{kind}/{id}?wait=1500ms`: an application wants an object to be asked for now, most often after a
//! login, and perhaps to know when that is done. Whatever is down, the answer comes within the wait.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::HeaderMap;
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use shared::admin::Readiness;
use shared::broker::Stream;
use shared::config::Secret;
use shared::id::{Kind, ObjectRef};
use shared::sync_request::SyncRequest;
use shared::telemetry::TraceParent;
use shared::{clock, subject};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::flights::{Departure, Flights, State};
use crate::groups::Outgoing;
use crate::metrics::SyncMetrics;
use crate::problem;
use crate::store::{ACK_TIMEOUT, Store, Unstored};
use crate::webhook::{Throttle, discard};

/// What stands before the kind in the path.
const PREFIX: &str = "/sync/";

/// The longest wait; who wants to wait longer waits this long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long the broker may take to store the request of somebody who does not wait: they have their answer within 100 ms.
const ACK_BOUND: Duration = Duration::from_millis(75);

/// How much longer than the wait it may take, so that a very short wait is not a refusal.
const ACK_GRACE: Duration = Duration::from_millis(50);

/// Acknowledgements that are awaited at once; of webhooks there are others.
const MAX_IN_FLIGHT: usize = 256;

/// An id longer than this is not one: WorkOS's have about 35 characters.
const LONGEST_ID: usize = 256;

/// The object that a path names: `/sync/{kind}/{id}`, the id still as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    kind: Kind,
    id: String,
}

impl Named {
    /// What a path names, if it is one of ours.
    #[must_use]
    pub fn by(path: &str) -> Option<Self> {
        let (kind, id) = path.strip_prefix(PREFIX)?.split_once('/')?;
        let kind = kind.parse().ok()?;
        (!id.is_empty() && !id.contains('/')).then(|| Self { kind, id: id.to_owned() })
    }

    /// Whether a path that names no object was meant to.
    #[must_use]
    pub fn almost(path: &str) -> bool {
        path.starts_with(PREFIX)
    }
}

/// How a request ended. The answer, the metric and the log line all read it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// It is done.
    Done(String),
    /// It is stored.
    Queued,
    /// It is stored; a worker tried, and tries again.
    Retrying(String),
    /// A worker gave up.
    GivenUp(String),
    MethodNotAllowed,
    Unauthorized,
    MalformedId,
    /// It lacks a part.
    IncompleteId(&'static str),
    MalformedWait,
    /// It is not known to be stored.
    Unstored(Unstored),
}

impl Answer {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Done(_) => StatusCode::OK,
            Self::Queued | Self::Retrying(_) | Self::GivenUp(_) => StatusCode::ACCEPTED,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::MalformedId | Self::IncompleteId(_) | Self::MalformedWait => StatusCode::BAD_REQUEST,
            Self::Unstored(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The reason, for the metric and the log.
    const fn reason(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Queued => "queued",
            Self::Retrying(_) => "retrying",
            Self::GivenUp(_) => "given_up",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Unauthorized => "unauthorized",
            Self::MalformedId | Self::IncompleteId(_) => "malformed_id",
            Self::MalformedWait => "malformed_wait",
            Self::Unstored(Unstored::Busy) => "busy",
            Self::Unstored(Unstored::NotConnected) => "not_connected",
            Self::Unstored(Unstored::NoStream) => "no_stream",
            Self::Unstored(Unstored::Unacknowledged) => "unacknowledged",
            Self::Unstored(Unstored::Refused) => "refused",
        }
    }

    fn response(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let said = match self {
            Self::Done(outcome) => json!({"status": "done", "outcome": outcome}),
            Self::Queued => json!({"status": "queued"}),
            Self::Retrying(reason) => json!({"status": "retrying", "reason": reason}),
            Self::GivenUp(reason) => json!({"status": "given_up", "reason": reason}),
            Self::MethodNotAllowed => {
                let mut response = problem::words(status, "sync requests are posted");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                return response;
            }
            Self::Unauthorized => {
                let mut response =
                    problem::words(status, "wants `Authorization: Bearer` with the SYNC_TOKEN");
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                return response;
            }
            Self::MalformedId => {
                return problem::words(
                    status,
                    "the id is no text of 1 to 256 bytes without control characters",
                );
            }
            Self::IncompleteId(form) => {
                let wants = format!("the id of this kind is {form}; write its / as %2F");
                return problem::words(status, &wants);
            }
            Self::MalformedWait => {
                return problem::words(status, "`wait` wants one duration such as 1500ms or 2s");
            }
            Self::Unstored(_) => return problem::words(status, "the request was not stored, send it again"),
        };
        let mut response = Response::new(Full::new(said.to_string().into()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// The answer to a path that names no kind.
#[must_use]
pub fn no_such_kind() -> Response<Full<Bytes>> {
    let kinds = Kind::ALL.map(Kind::name).join(", ");
    problem::words(
        StatusCode::NOT_FOUND,
        &format!("wants POST /sync/{{kind}}/{{id}}, where kind is one of: {kinds}"),
    )
}

/// What somebody asked for.
struct Wanted {
    object: ObjectRef,
    wait: Duration,
    trace: Option<TraceParent>,
}

/// What every request needs.
pub struct Immediate {
    /// Digests are compared, so that the comparison tells not even the length of the token.
    token: [u8; 32],
    env: String,
    /// Where workers reply: this, and the number of the flight.
    inbox: String,
    store: Arc<Store>,
    flights: Arc<Flights>,
    /// Callers that may wait. Each holds a connection, and webhooks need some too.
    waiting: Semaphore,
    leaving: CancellationToken,
    metrics: SyncMetrics,
    log: Throttle,
}

impl Immediate {
    /// Takes requests that carry `token`, of which at most `max_waiting` wait at a time, none beyond `leaving`.
    #[must_use]
    pub fn new(
        token: &Secret,
        env: &str,
        client: Client,
        max_waiting: usize,
        metrics: SyncMetrics,
        leaving: CancellationToken,
    ) -> Self {
        Self {
            token: digest(token.reveal().as_bytes()),
            env: env.to_owned(),
            inbox: client.new_inbox(),
            store: Arc::new(Store::new(client, Stream::Sync, MAX_IN_FLIGHT)),
            flights: Arc::default(),
            waiting: Semaphore::new(max_waiting.min(Semaphore::MAX_PERMITS)),
            leaving,
            metrics,
            log: Throttle::default(),
        }
    }

    /// Listens for replies, and keeps the stream in being, until `stop`.
    pub async fn keep(&self, replicas: usize, stop: CancellationToken) {
        // Webhooks do not depend on this stream, so readiness does not either; a request that finds none is
        // answered with 503.
        let readiness = Readiness::default();
        let replies = stop.run_until_cancelled(async {
            match self.store.client().subscribe(format!("{}.*", self.inbox)).await {
                Ok(replies) => self.listen(replies).await,
                Err(error) => {
                    tracing::error!(error = %error, "cannot listen for what became of sync requests");
                }
            }
        });
        tokio::join!(replies, self.store.keep_stream(replicas, readiness, stop.clone()));
    }

    async fn listen(&self, mut replies: Subscriber) {
        while let Some(message) = replies.next().await {
            let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
            if let (Some(number), Ok(reply)) = (number, serde_json::from_slice(&message.payload)) {
                self.flights.replied(number, reply, Instant::now());
            }
        }
    }

    /// Takes one request to its end.
    pub async fn receive(&self, named: &Named, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        // Everything is said by the path.
        discard(&parts, body);
        let answer = match self.admit(named, &parts) {
            Ok(wanted) => self.answer(wanted).await,
            Err(refused) => refused,
        };
        self.metrics.answered(answer.status().as_u16(), answer.reason());
        self.tell(&answer);
        answer.response()
    }

    fn admit(&self, named: &Named, parts: &Parts) -> Result<Wanted, Answer> {
        if parts.method != Method::POST {
            return Err(Answer::MethodNotAllowed);
        }
        if !self.is_authorized(parts) {
            return Err(Answer::Unauthorized);
        }
        let id = percent_decode_str(&named.id).decode_utf8().map_err(|_| Answer::MalformedId)?;
        if id.len() > LONGEST_ID || id.contains(char::is_control) {
            return Err(Answer::MalformedId);
        }
        if let Some(form) = named.kind.form().filter(|_| !named.kind.takes(&id)) {
            return Err(Answer::IncompleteId(form));
        }
        let wait = wait(parts.uri.query().unwrap_or_default()).ok_or(Answer::MalformedWait)?;
        let trace = parts.headers.get(subject::TRACEPARENT);
        Ok(Wanted {
            object: ObjectRef::new(named.kind, id),
            wait,
            trace: trace.and_then(|header| TraceParent::parse(header.to_str().ok()?)),
        })
    }

    fn is_authorized(&self, parts: &Parts) -> bool {
        let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else { return false };
        let Some((scheme, token)) = header.as_bytes().split_at_checked("bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(digest(token.trim_ascii()).ct_eq(&self.token))
    }

    async fn answer(&self, wanted: Wanted) -> Answer {
        let called = Instant::now();
        // At once, even if the request is stored already: no reply could come.
        if !self.store.is_connected() {
            return Answer::Unstored(Unstored::NotConnected);
        }
        let wait = wanted.wait;
        let Some(mut place) = self.flights.join(&wanted.object, called) else {
            return Answer::Unstored(Unstored::Busy);
        };
        if let Some(departure) = place.departure.take() {
            self.publish(departure, wanted);
        }
        let patience = if wait.is_zero() { ACK_BOUND } else { (wait + ACK_GRACE).min(ACK_TIMEOUT) };
        match timeout_at(called + patience, place.state.wait_for(|state| *state != State::Leaving)).await {
            Ok(Ok(state)) => {
                if let State::Unstored(why) = *state {
                    return Answer::Unstored(why);
                }
            }
            Ok(Err(_)) | Err(_) => return Answer::Unstored(Unstored::Unacknowledged),
        }
        if wait.is_zero() {
            return Answer::Queued;
        }
        let Ok(_waits) = self.waiting.try_acquire() else { return Answer::Queued };
        let _counted = self.metrics.waits();
        self.wait(place.state, called + wait).await
    }

    /// Waits for the end, as long as it can still come in time.
    async fn wait(&self, mut state: tokio::sync::watch::Receiver<State>, deadline: Instant) -> Answer {
        loop {
            let so_far = match &*state.borrow_and_update() {
                State::Done { outcome } => return Answer::Done(outcome.clone()),
                State::GivenUp { reason } => return Answer::GivenUp(reason.clone()),
                State::Retrying { reason, at } if *at >= deadline => return Answer::Retrying(reason.clone()),
                State::Retrying { reason, .. } => Answer::Retrying(reason.clone()),
                State::Leaving | State::Unstored(_) | State::Queued => Answer::Queued,
            };
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return so_far },
                () = tokio::time::sleep_until(deadline) => return so_far,
                () = self.leaving.cancelled() => return so_far,
            }
        }
    }

    /// Stores the request, whether or not its caller stays: others may wait for it too.
    fn publish(&self, departure: Departure, wanted: Wanted) {
        let reply_to = format!("{}.{}", self.inbox, departure.number);
        let subject = subject::sync(&self.env, &wanted.object);
        let request = SyncRequest {
            kind: wanted.object.kind.name().to_owned(),
            id: wanted.object.id,
            request_id: reply_to.trim_start_matches("_INBOX.").to_owned(),
            requested_at: clock::now(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(subject::REPLY_TO, reply_to);
        if let Some(trace) = wanted.trace {
            headers.insert(subject::TRACEPARENT, trace.as_str());
        }
        let (store, flights) = (Arc::clone(&self.store), Arc::clone(&self.flights));
        tokio::spawn(async move {
            let stored = match serde_json::to_vec(&request) {
                Ok(payload) => {
                    let outgoing = Outgoing { subject: subject.into(), headers, payload: payload.into() };
                    store.store(outgoing).await.map(drop)
                }
                Err(_) => Err(Unstored::Refused),
            };
            flights.departed(&departure, stored);
        });
    }

    fn tell(&self, answer: &Answer) {
        let status = answer.status();
        if status != StatusCode::UNAUTHORIZED && status != StatusCode::SERVICE_UNAVAILABLE {
            return;
        }
        if let Some(unsaid) = self.log.admits(std::time::Instant::now()) {
            tracing::warn!(
                reason = answer.reason(),
                unsaid,
                "answered a sync request with {}",
                status.as_u16()
            );
        }
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// How long somebody waits: not at all when the query does not say. `None` when it says something else than one
/// duration.
fn wait(query: &str) -> Option<Duration> {
    let mut waits = query.split('&').filter_map(|pair| match pair.split_once('=') {
        Some((name, value)) => (name == "wait").then_some(value),
        None => (pair == "wait").then_some(""),
    });
    let Some(value) = waits.next() else { return Some(Duration::ZERO) };
    if waits.next().is_some() {
        return None;
    }
    let value = percent_decode_str(value).decode_utf8().ok()?;
    Some(humantime::parse_duration(&value).ok()?.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_kind_and_an_id() {
        let named = |path| Named::by(path).map(|named| (named.kind, named.id));
        assert_eq!(named("/sync/user/user_1"), Some((Kind::User, "user_1".to_owned())));
        assert_eq!(named("/sync/organization/a%2Fb"), Some((Kind::Organization, "a%2Fb".to_owned())));
        for none in
            ["/sync/planet/x", "/sync/user/", "/sync/user", "/sync/user/a/b", "/sync", "/synced/user/x"]
        {
            assert_eq!(named(none), None, "{none}");
        }
    }

    #[test]
    fn a_wait_is_one_duration_and_has_a_bound() {
        let millis = |query| wait(query).map(|wait| wait.as_millis());
        assert_eq!(millis(""), Some(0));
        assert_eq!(millis("wait=1500ms"), Some(1500));
        assert_eq!(millis("other=1&wait=1s%20500ms"), Some(1500));
        assert_eq!(millis("wait=0s"), Some(0));
        assert_eq!(millis("wait=1h"), Some(30_000));
        assert_eq!(millis("wait=999999999999999999999999years"), None);
        for bad in ["wait=", "wait", "wait=soon", "wait=1500", "wait=-1s", "wait=1s&wait=2s", "wait=%ff"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_unknown_kind_is_told_which_there_are() {
        let response = no_such_kind();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = format!("{:?}", response.into_body());
        assert!(Kind::ALL.iter().all(|kind| body.contains(kind.name())), "{body}");
    }
}
