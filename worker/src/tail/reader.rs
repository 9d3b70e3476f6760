//! Reading and publishing, by the copy that holds the role.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use futures_util::future::join_all;
use shared::event::Event;
use shared::{broker, clock, message, subject};
use tokio::time::Instant;

use super::page::{self, From, Item};
use super::records::{self, Position};
use super::role::Role;
use super::window::{Stored, Stream, Window};
use super::{TICK, Tail};
use crate::backoff;
use crate::crash;
use crate::database::Trouble;
use crate::failure::Failure;
use crate::guard::Life;
use crate::workos::{Lane, Page};

/// Events that were read and that the ledger does not have. With more the workers are behind, and reading on
/// would only fill our memory.
const MOST_UNRECORDED: u16 = 10_000;
/// Events looked up, published or counted at once.
const AT_ONCE: u16 = 500;

/// WorkOS shows an event for so long at most.
const RETENTION: TimeDelta = TimeDelta::days(90);
/// A cursor this old is not used, but the time up to which everything was read: an event is forgotten one day,
/// also where nothing happens.
const CURSOR_AGES: TimeDelta = TimeDelta::days(7);
/// How far our clock and that of WorkOS may be apart, where only a time says from where to read.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(10);
/// The first start reads from this long before.
const FIRST_OVERLAP: TimeDelta = TimeDelta::minutes(1);

/// After failing for this long the role is given back: another copy may do better.
const GIVES_UP_AFTER: Duration = Duration::from_mins(1);

/// What keeps a round from its end.
#[derive(Debug, thiserror::Error)]
enum Hindrance {
    /// Postgres, and with it the role.
    #[error("Postgres failed")]
    Database(#[from] Trouble),
    /// The broker did not say how its stream is, or did not acknowledge.
    #[error("the broker failed: {0}")]
    Broker(String),
    /// WorkOS did not answer.
    #[error("WorkOS did not answer: {}", .0.reason())]
    WorkOs(Failure),
}

/// The reading of the Events API.
pub(super) struct Reader<'a> {
    tail: &'a Tail,
    jetstream: jetstream::Context,
    role: Role,
    position: Position,
    window: Window,
    /// Events that are being retried and whose message was lost: where they were published again.
    again: HashMap<String, Stored>,
    poll_at: Instant,
}

impl<'a> Reader<'a> {
    /// Begins where the last holder of the role stopped.
    pub(super) async fn begin(
        tail: &'a Tail,
        jetstream: jetstream::Context,
        mut role: Role,
    ) -> anyhow::Result<Reader<'a>> {
        let position = if let Some(position) = role.position().await? {
            position
        } else {
            let now = now();
            role.ask(async |connection, env| records::begin(connection, env, now - FIRST_OVERLAP, now).await)
                .await?;
            tracing::warn!("reading the Events API begins here; run `worker backfill` for what was before");
            role.position()
                .await?
                .ok_or_else(|| anyhow::anyhow!("the cursor that was just made is not there"))?
        };
        tail.show(&position);
        Ok(Self {
            tail,
            jetstream,
            role,
            position,
            window: Window::new(tail.config.overlap),
            again: HashMap::new(),
            poll_at: Instant::now(),
        })
    }

    /// Reads until the role is lost, or until it has not worked for a while.
    pub(super) async fn run(&mut self, attempt: &mut u32) -> anyhow::Result<()> {
        let mut failing: Option<(Instant, u32)> = None;
        loop {
            let pause = match self.round().await {
                Ok(()) => {
                    *attempt = 0;
                    if failing.take().is_some() {
                        tracing::info!("the Events API is read again");
                    }
                    TICK.min(self.poll_at.saturating_duration_since(Instant::now()))
                }
                Err(Hindrance::Database(trouble)) => return Err(trouble.into()),
                Err(hindrance) => {
                    let (since, times) = failing.get_or_insert((Instant::now(), 0));
                    if *times == 0 {
                        tracing::warn!(error = %hindrance, "cannot read on, trying until it works");
                    }
                    *times += 1;
                    if since.elapsed() > GIVES_UP_AFTER {
                        return Err(hindrance.into());
                    }
                    backoff::dependency(*times)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Gives the role back.
    pub(super) async fn leave(self) {
        self.role.leave().await;
    }

    /// Looks after what was read, and polls when it is time.
    async fn round(&mut self) -> Result<(), Hindrance> {
        self.count_missed().await?;
        let due = Instant::now() >= self.poll_at;
        if due || self.window.unrecorded() > 0 {
            let stream = self.look_at_the_stream().await?;
            self.settle(stream).await?;
            if due {
                self.rescue_open(stream).await?;
                self.position.stream = Some(stream.life);
                self.poll(stream).await?;
            }
            self.advance().await?;
        }
        if let Some(position) = self.role.position().await? {
            self.tail.show(&position);
        }
        Ok(())
    }

    /// Counts, once each, the events that no webhook told of within the time that it has.
    async fn count_missed(&mut self) -> Result<(), Hindrance> {
        let now = now();
        let grace = TimeDelta::from_std(self.tail.config.grace).unwrap_or(TimeDelta::MAX);
        let until = now.checked_sub_signed(grace).unwrap_or(DateTime::UNIX_EPOCH);
        loop {
            let records::Judged { events, missed } = self
                .role
                .ask(async |connection, env| {
                    records::count_missed(connection, env, until, now, AT_ONCE.into()).await
                })
                .await?;
            self.tail.metrics.tail().missed(missed);
            if events < usize::from(AT_ONCE) {
                return Ok(());
            }
        }
    }

    /// The stream as it is, made anew if it is gone.
    async fn look_at_the_stream(&self) -> Result<Stream, Hindrance> {
        let broker = |error: &dyn std::fmt::Display| Hindrance::Broker(error.to_string());
        let stream = self
            .jetstream
            .get_stream_no_info(subject::EVENTS_STREAM)
            .await
            .map_err(|error| broker(&error))?;
        let info = if let Ok(info) = stream.get_info().await {
            info
        } else {
            broker::ensure_events(&self.jetstream, self.tail.replicas)
                .await
                .map_err(|error| Hindrance::Broker(format!("{error:#}")))?;
            stream.get_info().await.map_err(|error| broker(&error))?
        };
        // Without its consumer nothing was handled yet.
        let consumer = stream.consumer_info(subject::worker_consumer(&self.tail.env)).await.ok();
        Ok(Stream {
            life: info.created.trunc_subsecs(6),
            last: info.state.last_sequence,
            floor: consumer.map_or(0, |consumer| consumer.ack_floor.stream_sequence),
        })
    }

    /// Finds out which of the events that were read are in the ledger by now, and publishes again what is neither
    /// there nor in the stream. `stream` was looked at before.
    async fn settle(&mut self, stream: Stream) -> Result<(), Hindrance> {
        let missing: Vec<(String, DateTime<Utc>)> =
            self.window.missing().map(|seen| (seen.event.id.clone(), seen.event.received_at)).collect();
        for some in missing.chunks(AT_ONCE.into()) {
            self.note_read(some).await?;
        }
        self.window.forget_lost(stream);
        self.publish(stream.life).await
    }

    /// Tells the ledger that these events were read, and learns which of them it has.
    async fn note_read(&mut self, events: &[(String, DateTime<Utc>)]) -> Result<(), Hindrance> {
        let ids: Vec<&str> = events.iter().map(|(id, _)| id.as_str()).collect();
        let times: Vec<DateTime<Utc>> = events.iter().map(|(_, read_at)| *read_at).collect();
        let recorded = self
            .role
            .ask(async |connection, env| {
                let recorded = records::note_read(&mut *connection, env, &ids, &times).await?;
                if let Some(last) = recorded.iter().filter_map(|recorded| recorded.webhook_at).max() {
                    records::note_webhook(connection, env, last).await?;
                }
                Ok(recorded)
            })
            .await?;
        self.window.record(&recorded.into_iter().map(|recorded| recorded.id).collect());
        Ok(())
    }

    /// Publishes what is neither in the ledger nor in the stream, and waits for each acknowledgement. The ledger
    /// was asked just before, over the connection that holds the role.
    async fn publish(&mut self, life: Life) -> Result<(), Hindrance> {
        let mut refused = None;
        let mut unstored: Vec<_> = self.window.unstored().collect();
        for some in unstored.chunks_mut(AT_ONCE.into()) {
            let published =
                join_all(some.iter().map(|seen| publish(&self.jetstream, &self.tail.env, &seen.event))).await;
            let mut new = 0;
            for (seen, published) in some.iter_mut().zip(published) {
                match published {
                    Ok(ack) => {
                        seen.stored = Some(Stored { life, sequence: ack.sequence });
                        new += usize::from(!ack.duplicate);
                    }
                    Err(error) => refused = Some(error),
                }
            }
            self.tail.metrics.tail().published(new);
            if let Some(error) = refused {
                return Err(Hindrance::Broker(error));
            }
        }
        Ok(())
    }

    /// Publishes again what is being retried and whose message the stream has lost.
    async fn rescue_open(&mut self, stream: Stream) -> Result<(), Hindrance> {
        let reborn = self.position.stream.is_some_and(|life| life != stream.life);
        let open = self
            .role
            .ask(async |connection, env| records::open(connection, env, MOST_UNRECORDED.into()).await)
            .await?;
        let ids: HashSet<&str> = open.iter().map(|open| open.event.id.as_str()).collect();
        self.again.retain(|id, stored| ids.contains(id.as_str()) && !stream.lost(*stored));
        let lost: Vec<&Event> = open
            .iter()
            .filter(|open| !self.again.contains_key(&open.event.id))
            .filter(|open| {
                let stored = open.sequence.map(|sequence| Stored { life: stream.life, sequence });
                reborn || stored.is_none_or(|stored| stream.lost(stored))
            })
            .map(|open| &open.event)
            .collect();
        if reborn || !lost.is_empty() {
            tracing::warn!(
                events = lost.len(),
                "the event stream has lost messages, publishing again what was not handled yet"
            );
            self.tail.metrics.tail().stream_lost();
        }
        for some in lost.chunks(AT_ONCE.into()) {
            let published =
                join_all(some.iter().map(|event| publish(&self.jetstream, &self.tail.env, event))).await;
            for (event, published) in some.iter().zip(published) {
                let sequence = published.map_err(Hindrance::Broker)?.sequence;
                self.again.insert(event.id.clone(), Stored { life: stream.life, sequence });
            }
        }
        Ok(())
    }

    /// Reads what WorkOS has, page by page, until that is all or the workers are too far behind.
    async fn poll(&mut self, stream: Stream) -> Result<(), Hindrance> {
        let began = now();
        let mut from = match self.window.begin(Instant::now(), began) {
            Some(id) => From::After(id),
            None => self.stored_place(began).await?,
        };
        loop {
            if self.window.unrecorded() >= usize::from(MOST_UNRECORDED) {
                tracing::debug!("the workers are behind, reading on when they are not");
                self.poll_at = Instant::now() + TICK;
                return Ok(());
            }
            let (page, end) = self.ask(&mut from).await?;
            let now = now();
            let items = page::read(&page.items, &from, now);
            let last = items.iter().rev().find(|item| item.named).map(|item| item.event.id.clone());
            let next = from.next(items.len(), last, page.after, end);
            let new = self.take(items);
            if !new.is_empty() {
                self.note_read(&new).await?;
                self.publish(stream.life).await?;
                crash::point("tail_published");
            }
            let Some(next) = next else { break };
            from = next;
        }
        self.window.end();
        self.tail.metrics.tail().polled();
        self.position.checked_at = now();
        self.poll_at = Instant::now() + self.tail.config.interval;
        let overlap = TimeDelta::from_std(self.tail.config.overlap).unwrap_or_default();
        let waiting = self.window.missing().filter_map(|seen| seen.event.created_at).min();
        let read_until = (began - overlap).min(waiting.unwrap_or(began));
        self.position.read_until = self.position.read_until.max(read_until);
        Ok(())
    }

    /// Where to go on when nothing after the cursor is in memory.
    async fn stored_place(&mut self, now: DateTime<Utc>) -> Result<From, Hindrance> {
        if self.position.read_until < now - RETENTION {
            tracing::error!(
                read_until = %self.position.read_until,
                "nothing was read for so long that WorkOS no longer has all of it; run `worker verify --repair`"
            );
            return self.begin_again(now).await;
        }
        Ok(match &self.position.cursor {
            Some(cursor) if self.position.event_at > now - CURSOR_AGES => From::After(cursor.clone()),
            // Before the first event, reading begins where it was said to; later, where it had come.
            _ => From::Since(self.position.event_at.max(self.position.read_until - CLOCKS_DIFFER)),
        })
    }

    /// The page from `from` on, and where its time ends. A cursor that WorkOS does not know is given up, but only
    /// if WorkOS answers without it.
    async fn ask(&mut self, from: &mut From) -> Result<(Page, Option<DateTime<Utc>>), Hindrance> {
        let (path, end) = from.request(now());
        let refusal = match self.tail.workos.page(&path, "events", Lane::Tail).await {
            Ok(Some(page)) => return Ok((page, end)),
            Ok(None) => Failure::ServerFault { status: 404 },
            Err(failure) => failure,
        };
        let refused = matches!(refusal, Failure::ServerFault { status: 400 | 404 | 410 | 422 });
        if !refused || !matches!(from, From::After(_)) {
            return Err(Hindrance::WorkOs(refusal));
        }
        let now = now();
        let since = From::Since(self.beginning(now));
        let (path, end) = since.request(now);
        match self.tail.workos.page(&path, "events", Lane::Tail).await {
            Ok(Some(page)) => {
                tracing::error!(
                    read_until = %self.position.read_until,
                    "WorkOS does not know the cursor of the Events API any more, events may be missed; starting \
                     again from what it has, run `worker verify --repair`"
                );
                *from = self.begin_again(now).await?;
                Ok((page, end))
            }
            Ok(None) => Err(Hindrance::WorkOs(refusal)),
            Err(failure) => Err(Hindrance::WorkOs(failure)),
        }
    }

    /// From when on to read without a cursor.
    fn beginning(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        (self.position.read_until - CLOCKS_DIFFER).max(now - RETENTION)
    }

    /// Gives the cursor up and requests a verify.
    async fn begin_again(&mut self, now: DateTime<Utc>) -> Result<From, Hindrance> {
        self.tail.metrics.tail().cursor_refused();
        let since = self.beginning(now);
        self.position.cursor = None;
        self.position.event_at = since;
        self.position.read_until = self.position.read_until.max(since);
        let position = self.position.clone();
        self.role
            .ask(async |connection, env| {
                records::request_verify(&mut *connection, env, now).await?;
                records::store(connection, env, &position, now).await
            })
            .await?;
        Ok(From::Since(since))
    }

    /// Takes the items of a page; returns those that were not read before.
    fn take(&mut self, items: Vec<Item>) -> Vec<(String, DateTime<Utc>)> {
        let now = Instant::now();
        let mut new = Vec::new();
        for Item { event, named, readable } in items {
            let (id, read_at) = (event.id.clone(), event.received_at);
            if !self.window.read(event, named, now) {
                continue;
            }
            if !readable {
                self.tail.metrics.tail().unreadable();
                tracing::error!(event.id = %id, "an item of the Events API is not an event, it will be recorded as dead");
            }
            new.push((id, read_at));
        }
        new
    }

    /// Lets the cursor pass what it may, and writes where it stands.
    async fn advance(&mut self) -> Result<(), Hindrance> {
        let now = now();
        if let Some(place) = self.window.pass(Instant::now(), now) {
            self.position.cursor = Some(place.id);
            self.position.event_at = place.created_at.unwrap_or(self.position.event_at);
            crash::point("tail_before_cursor");
        }
        let position = self.position.clone();
        self.role.ask(async |connection, env| records::store(connection, env, &position, now).await).await?;
        Ok(())
    }
}

/// The time, as Postgres keeps it.
fn now() -> DateTime<Utc> {
    clock::now().trunc_subsecs(6)
}

/// Publishes an event as ingest does, and waits until it is stored. One that the stream has already keeps its
/// sequence.
async fn publish(jetstream: &jetstream::Context, env: &str, event: &Event) -> Result<PublishAck, String> {
    let (headers, payload) = message::of(event, None).map_err(|error| error.to_string())?;
    let message = PublishMessage::build().headers(headers).payload(payload);
    let sent = jetstream.send_publish(subject::event(env, &event.event_type), message).await;
    let acknowledged = sent.map_err(|error| error.to_string())?.await;
    acknowledged.map_err(|error| error.to_string())
}
