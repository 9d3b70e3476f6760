//! Asking WorkOS: bounded, rate limited, one request per object or page.

mod budget;
mod health;
mod places;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::clock;
use shared::config::Secret;
use shared::id::ObjectRef;
use tokio::sync::Semaphore;

pub use budget::{Budget, Rate, Sharing};
use health::{Fault, SharedHealth};
use places::Places;
use tokio::sync::watch;

use crate::failure::Failure;
use crate::listing;
use crate::metrics::Metrics;
use crate::object::{self, Misread, Record};
use crate::{backoff, crash};

/// Whole time of a request, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// No documented object comes near it; what does is not read.
const LARGEST_ANSWER: usize = 16 << 20;
/// Pages of a relation that are read at most: a cursor that runs in a circle has no end.
const LARGEST_WHOLE: usize = 1_000;
/// Requests for one object within one pass; after that the event is delivered again later.
const TRIES_IN_PASS: u32 = 2;
/// What always has an answer, and costs WorkOS little: it tells whether WorkOS is there and takes our key.
const PROBE: &str = "/organizations?limit=1";

/// Requests at once on behalf of somebody who waits, besides those of everything else: they stand in no queue.
const IMMEDIATE_AT_ONCE: usize = 16;

/// The list of a relation is refused although its owner may be there.
const NOT_LISTED: Failure = Failure::CannotAsk("not_listed");

/// What WorkOS says about an object. That it is not there is an answer, not an error.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The object.
    Found(Box<Record>),
    /// 404.
    NotFound,
}

/// On whose behalf WorkOS is asked: who goes first when the budget is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Somebody waits for the answer.
    Immediate,
    /// An event came.
    Events,
    /// An event comes again, or a dead letter is replayed.
    Retries,
    /// The Events API is read.
    Tail,
    /// Everything is listed.
    Backfill,
}

impl Lane {
    /// All of them, the first first.
    pub const ALL: [Self; 5] = [Self::Immediate, Self::Events, Self::Retries, Self::Tail, Self::Backfill];
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its items, as WorkOS wrote them.
    pub items: Vec<Box<RawValue>>,
    /// The cursor of the next page; `None` at the end.
    pub after: Option<String>,
}

/// One object's answer, and the objects that came with it.
pub struct Reply {
    /// What was asked for.
    pub object: ObjectRef,
    /// What WorkOS says.
    pub answer: Result<Answer, Failure>,
    /// Other objects that the answer held.
    pub embedded: Vec<Record>,
}

/// The header that carries a key, if a header can.
pub(crate) fn bearer(key: &Secret) -> Option<HeaderValue> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", key.reveal())).ok()?;
    bearer.set_sensitive(true);
    Some(bearer)
}

/// The WorkOS API.
#[derive(Clone)]
pub struct WorkOs {
    client: reqwest::Client,
    /// Ends with a slash.
    base: Arc<Url>,
    /// Requests at once, of each lane.
    in_flight: Arc<[Semaphore; Lane::ALL.len()]>,
    budget: Arc<Budget>,
    health: SharedHealth,
    places: Places,
    metrics: Metrics,
}

impl WorkOs {
    /// A client for one environment; connects when first asked.
    pub fn new(
        base: &Url,
        key: &Secret,
        concurrency: usize,
        budget: Budget,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let base = Url::parse(&format!("{}/", base.as_str().trim_end_matches('/')))
            .context("WORKOS_API_BASE_URL is not a base of paths")?;
        // One TLS implementation for everything; a second call finds the first one's choice.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        let bearer = bearer(key).context("WORKOS_API_KEY holds characters that a header cannot carry")?;
        headers.insert(AUTHORIZATION, bearer);
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("workos-sync/", env!("CARGO_PKG_VERSION"))));
        let client = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(concurrency)
            .tcp_nodelay(true)
            // What is tried again is tried by us, within the budget.
            .retry(reqwest::retry::never().max_retries_per_request(0))
            // A redirect of the API would be a mistake somewhere, and would carry the key along.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("failed to set up the HTTP client")?;
        Ok(Self {
            client,
            base: Arc::new(base),
            in_flight: Arc::new(Lane::ALL.map(|lane| {
                Semaphore::new(if lane == Lane::Immediate { IMMEDIATE_AT_ONCE } else { concurrency })
            })),
            budget: Arc::new(budget),
            health: SharedHealth::default(),
            places: Places::default(),
            metrics,
        })
    }

    /// Asks for each of these objects once. A failure is an answer too, so that one object cannot
    /// spoil the others.
    pub async fn ask(&self, objects: &[ObjectRef], lane: Lane) -> Vec<Reply> {
        let mut asking: FuturesUnordered<_> =
            objects.iter().map(|object| self.ask_one(object, lane)).collect();
        let mut replies = Vec::with_capacity(objects.len());
        while let Some(reply) = asking.next().await {
            replies.push(reply);
        }
        replies
    }

    /// Why nobody is asked now, if so: WorkOS is down, or refuses the key. Questions fail at once then.
    #[must_use]
    pub fn unwell(&self) -> watch::Receiver<Option<Failure>> {
        self.health.watch()
    }

    /// A failure with the blame where it belongs: if WorkOS answers nobody, nobody asks until it does.
    async fn blame(&self, failure: Failure, before: u64) -> Failure {
        let hints_at_an_outage = matches!(
            failure,
            Failure::KeyRefused | Failure::ServerFault { .. } | Failure::Unreachable | Failure::TimedOut
        );
        if hints_at_an_outage && let Some(rest) = self.budget.long_pause() {
            // WorkOS wants quiet: until then nothing can be found out.
            return Failure::RateLimited { retry_after: Some(rest) };
        }
        match self.health.fault(failure, before, self.probe()).await {
            Fault::Own(failure) | Fault::Known(failure) => failure,
            Fault::Found(failure) => {
                match &failure {
                    Failure::KeyRefused => tracing::error!(
                        "WorkOS refuses the key: nothing is asked until it is taken again; is WORKOS_API_KEY right?"
                    ),
                    outage => {
                        tracing::error!(reason = %outage.reason(), "{outage}; nothing is asked until it does");
                    }
                }
                let this = self.clone();
                tokio::spawn(async move {
                    let mut attempt = 1;
                    loop {
                        tokio::time::sleep(backoff::probe(attempt)).await;
                        // A pause that WorkOS asked for says nothing of how it is by now.
                        if this.budget.long_pause().is_none() && this.health.probed(this.probe().await) {
                            break;
                        }
                        attempt += 1;
                    }
                    tracing::info!("WorkOS answers again");
                });
                failure
            }
        }
    }

    async fn probe(&self) -> Result<(), Failure> {
        self.send(PROBE, "probe", Lane::Events).await.map(drop)
    }

    async fn ask_one(&self, object: &ObjectRef, lane: Lane) -> Reply {
        let before = self.health.answered();
        let mut attempt = 1;
        loop {
            let (failure, embedded) = match self.get(object, lane).await {
                Ok(Some(mut records)) => {
                    self.remember(&records);
                    let embedded = records.split_off(1);
                    match records.pop() {
                        Some(record) => {
                            let answer = Ok(Answer::Found(Box::new(record)));
                            return Reply { object: object.clone(), answer, embedded };
                        }
                        None => (Failure::NotUnderstood, Vec::new()),
                    }
                }
                Ok(None) if object::may_be_unlisted(object) => (NOT_LISTED, Vec::new()),
                Ok(None) => {
                    let answer = Ok(Answer::NotFound);
                    return Reply { object: object.clone(), answer, embedded: Vec::new() };
                }
                Err(failure) => (failure, Vec::new()),
            };
            let passing = matches!(
                failure,
                Failure::Unreachable
                    | Failure::ServerFault { status: 500..=599 }
                    | Failure::RateLimited { retry_after: None }
            );
            if !passing || attempt >= TRIES_IN_PASS {
                // Boxed: every question makes room for it, and few need it.
                let failure = match Box::pin(self.blame(failure, before)).await {
                    Failure::Forbidden if object::may_be_unlisted(object) => NOT_LISTED,
                    failure => failure,
                };
                return Reply { object: object.clone(), answer: Err(failure), embedded };
            }
            tokio::time::sleep(backoff::in_pass(attempt)).await;
            attempt += 1;
        }
    }

    /// Asks for one page of a list: `path` with its query. `what` names the list in metrics. `None` is 404: what
    /// the list belongs to is not there. A failure is the caller's to try again.
    pub async fn page(&self, path: &str, what: &'static str, lane: Lane) -> Result<Option<Page>, Failure> {
        let before = self.health.answered();
        let body = match self.request(path, what, lane).await {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(None),
            Err(failure) => return Err(self.blame(failure, before).await),
        };
        let list: List = serde_json::from_slice(&body).map_err(|error| {
            // The error's own text quotes what it read.
            tracing::warn!(
                list = what,
                line = error.line(),
                column = error.column(),
                "a list was not understood"
            );
            Failure::NotUnderstood
        })?;
        Ok(Some(Page { items: list.data, after: list.list_metadata.after }))
    }

    /// Keeps in mind within which object WorkOS keeps another.
    pub fn found_within(&self, object: &ObjectRef, holder: &str) {
        self.places.keep(object, holder);
    }

    /// The same for what was answered.
    pub fn remember(&self, records: &[Record]) {
        for record in records {
            if let Some(holder) = record.row.holder() {
                self.places.keep(&record.object, holder);
            }
        }
    }

    /// Those of these objects that cannot be asked for, because it is not known within which object they are.
    #[must_use]
    pub fn unplaced<'a>(&self, objects: &'a [ObjectRef]) -> Vec<&'a ObjectRef> {
        objects
            .iter()
            .filter(|object| object::is_within(object.kind) && self.places.holder(object).is_none())
            .collect()
    }

    /// Asks for one object; `None` is 404.
    async fn get(&self, object: &ObjectRef, lane: Lane) -> Result<Option<Vec<Record>>, Failure> {
        if object::is_relation(object.kind) {
            return self.get_whole(object, lane).await;
        }
        let holder = self.places.holder(object);
        let Some(path) = object::path(object, holder.as_deref()) else {
            return Err(Failure::CannotAsk("organization_unknown"));
        };
        let Some(body) = self.request(&path, object.kind.name(), lane).await? else { return Ok(None) };
        crash::object(object);
        match object::read(object, &body) {
            Ok(records) => Ok(Some(records)),
            Err(Misread::AnotherKind) => Ok(None),
            Err(error) => {
                tracing::warn!(object.id = %object.id, error = %error, "an answer of WorkOS was not understood");
                Err(Failure::NotUnderstood)
            }
        }
    }

    /// Asks for a relation, page by page; `None` is 404.
    async fn get_whole(&self, object: &ObjectRef, lane: Lane) -> Result<Option<Vec<Record>>, Failure> {
        let Some(path) = object::path(object, None) else { return Err(NOT_LISTED) };
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..LARGEST_WHOLE {
            let page = listing::paged(&path, after.as_deref());
            let Some(body) = self.request(&page, object.kind.name(), lane).await? else { return Ok(None) };
            let list: List = serde_json::from_slice(&body).map_err(|_| Failure::NotUnderstood)?;
            items.extend(list.data);
            after = list.list_metadata.after;
            if after.is_none() {
                return object::read_whole(object, &items).map(Some).map_err(|error| {
                    tracing::warn!(object.id = %object.id, error = %error, "a list of WorkOS was not understood");
                    Failure::NotUnderstood
                });
            }
        }
        tracing::warn!(object.id = %object.id, pages = LARGEST_WHOLE, "a relation is larger than is read");
        Err(Failure::NotUnderstood)
    }

    /// One request, unless nobody is to ask; `None` is 404.
    async fn request(&self, path: &str, what: &'static str, lane: Lane) -> Result<Option<Bytes>, Failure> {
        if let Some(unwell) = self.health.unwell() {
            return Err(unwell);
        }
        let answer = self.send(path, what, lane).await?;
        self.health.answers();
        Ok(answer)
    }

    async fn send(&self, path: &str, what: &'static str, lane: Lane) -> Result<Option<Bytes>, Failure> {
        // The permit first: it is handed out in order, so that few requests at a time wait for the budget.
        // The semaphore is never closed.
        let _permit = self.in_flight[lane as usize].acquire().await.map_err(|_| Failure::Unreachable)?;
        let waited = self.budget.admit(path, lane).await?;
        self.metrics.rate_limit_wait(waited);
        let path = path.split_once('#').map_or(path, |(path, _for_the_budget)| path);
        // Relative to a base that is parsed already: a host is not cheap to parse.
        let url = self.base.join(path.trim_start_matches('/')).map_err(|_| Failure::Unreachable)?;
        let response = match self.client.get(url).send().await {
            Ok(response) => response,
            Err(error) => {
                self.metrics.workos_request(what, "error");
                let failure = if error.is_timeout() { Failure::TimedOut } else { Failure::Unreachable };
                tracing::debug!(error = %error.without_url(), what, "no answer from WorkOS");
                return Err(failure);
            }
        };
        let status = response.status();
        self.metrics.workos_request(what, metric_label(status));
        match status {
            StatusCode::OK => body_of(response).await.map(Some),
            StatusCode::NOT_FOUND => {
                let body = body_of(response).await?;
                if speaks_for_workos(&body) {
                    Ok(None)
                } else {
                    tracing::warn!("a 404 that is not from WorkOS's API, is WORKOS_API_BASE_URL right?");
                    Err(Failure::ServerFault { status: 404 })
                }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = retry_after(response.headers());
                self.budget.pause(retry_after);
                Err(Failure::RateLimited { retry_after })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Failure::KeyRefused),
            other => Err(Failure::ServerFault { status: other.as_u16() }),
        }
    }
}

/// A list as WorkOS answers it.
#[derive(Deserialize)]
struct List {
    data: Vec<Box<RawValue>>,
    #[serde(default)]
    list_metadata: ListMetadata,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(default)]
    after: Option<String>,
}

/// The whole body, up to a bound.
async fn body_of(mut response: reqwest::Response) -> Result<Bytes, Failure> {
    let mut whole: Option<Vec<u8>> = None;
    let mut first: Option<Bytes> = None;
    loop {
        let chunk = response.chunk().await.map_err(|error| {
            tracing::debug!(error = %error.without_url(), "an answer of WorkOS broke off");
            Failure::Unreachable
        })?;
        let Some(chunk) = chunk else { break };
        match (&mut whole, first.take()) {
            (None, None) => first = Some(chunk),
            (None, Some(before)) => {
                let mut all = before.to_vec();
                all.extend_from_slice(&chunk);
                whole = Some(all);
            }
            (Some(all), _) => all.extend_from_slice(&chunk),
        }
        if whole.as_ref().is_some_and(|all| all.len() > LARGEST_ANSWER) {
            return Err(Failure::NotUnderstood);
        }
    }
    Ok(whole.map(Bytes::from).or(first).unwrap_or_default())
}

/// Whether a 404 is WorkOS's word about an object: JSON, `{"message": ...}` as documented. A page of HTML is
/// a proxy's or another server's, and must not make tombstones.
fn speaks_for_workos(body: &[u8]) -> bool {
    body.is_empty() || serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).is_ok()
}

/// `Retry-After`. WorkOS documents neither its presence nor its form; its SDKs read seconds. HTTP allows a date, and
/// proxies write fractions.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some((DateTime::<Utc>::from(date) - clock::now()).to_std().unwrap_or_default())
}

/// The status as a label of a metric: a small fixed set.
fn metric_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        401 => "401",
        403 => "403",
        404 => "404",
        429 => "429",
        500..=599 => "5xx",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks_for(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().expect("a header"));
        retry_after(&headers)
    }

    #[test]
    fn retry_after_is_seconds_a_fraction_or_a_date() {
        assert_eq!(asks_for("7"), Some(Duration::from_secs(7)));
        assert_eq!(asks_for(" 1.5 "), Some(Duration::from_millis(1_500)));
        assert_eq!(asks_for("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let date = httpdate::fmt_http_date((clock::now() + Duration::from_secs(90)).into());
        assert!(asks_for(&date).is_some_and(|rest| rest > Duration::from_secs(30)));
        for nonsense in ["", "soon", "-3", "NaN", "1e300"] {
            assert_eq!(asks_for(nonsense), None, "{nonsense}");
        }
    }
}
