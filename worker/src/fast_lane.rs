//! Immediate syncs: somebody asked ingest for one object and perhaps waits for it. They have a stream of their
//! own, slots of their own, connections and permits of their own, and go first where the rate is short: no
//! backlog of events is before them.
//!
//! A request is no event: it has no row in the ledger. What it changes is in the audit log, and what became of it
//! is told to whoever waits and counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::Subject;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, AckKind, Message};
use futures_util::{FutureExt as _, StreamExt as _};
use shared::event::Channel;
use shared::id::ObjectRef;
use shared::sync_request::{SyncReply, SyncRequest};
use shared::{broker, clock, subject};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::database::{self, Trouble};
use crate::failure::{CONFIRM_DELAY, Failure};
use crate::guard::{self, DeletedBy, Question, Wanted};
use crate::metrics::Metrics;
use crate::outcome::Outcome;
use crate::sync::{Ending, Sync, Told, Wish};
use crate::workos::{Answer, Reply};
use crate::{backoff, durable, object, relations};

/// Objects that are synced at once.
const SLOTS: usize = 16;
/// Connections to Postgres that the lane needs besides those of events: it holds one only while it reads or writes.
pub const CONNECTIONS: u32 = 4;
/// How long one pull request stands before it is renewed; also how soon a lost consumer is noticed.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// After how long the broker gives a request to another worker. One that takes longer is done twice, which is
/// harmless.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// A request is tried this often, for some two minutes, and then dropped: its caller is long gone, and what
/// happened at WorkOS has an event of its own.
const ATTEMPTS: u32 = 30;
/// The longest wait that `Retry-After` can impose on one request.
const RETRY_AFTER_CAP: Duration = Duration::from_mins(2);
/// After how long a request that was handed back comes again.
const HAND_BACK: Duration = Duration::from_millis(50);
/// How long what is in hand has to finish once the program is to leave.
const GRACE: Duration = Duration::from_secs(20);
/// Replies go to inboxes only, whatever a message says.
const INBOX: &str = "_INBOX.";

/// Takes requests until `stop`, then finishes what is in hand. `sync` asks in its own lane.
pub async fn run(
    jetstream: jetstream::Context,
    replicas: usize,
    sync: Sync,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let lane = FastLane {
        jetstream,
        replicas,
        slots: Arc::new(Semaphore::new(SLOTS)),
        shared: Arc::new(Shared {
            sync,
            metrics,
            in_hand: Mutex::default(),
            database_down: AtomicBool::new(false),
        }),
        tasks: TaskTracker::new(),
    };
    let mut attempt = 0;
    while !stop.is_cancelled() {
        let Some(subscribed) = stop.run_until_cancelled(lane.subscribe()).await else { break };
        match subscribed {
            Ok(messages) => {
                attempt = 0;
                if let Err(error) = lane.consume(messages, &stop).await {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the fast lane's subscription ended, subscribing again"
                    );
                }
            }
            Err(error) => {
                attempt += 1;
                if attempt == 1 {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "failed to subscribe to the fast lane, trying until it works"
                    );
                }
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(backoff::dependency(attempt.max(1)))).await;
    }
    lane.tasks.close();
    if tokio::time::timeout(GRACE, lane.tasks.wait()).await.is_err() {
        tracing::warn!("sync requests are still in hand, leaving them to be delivered again");
    }
}

/// A handing-over of a request, to be settled.
struct Delivery {
    message: Message,
    object: Option<ObjectRef>,
    request_id: String,
    attempt: u32,
}

impl Delivery {
    /// What a message holds, if it is a request.
    fn read(message: &Message) -> Option<Self> {
        let attempt =
            message.info().map_or(1, |info| u32::try_from(info.delivered).unwrap_or(u32::MAX)).max(1);
        let request: SyncRequest = serde_json::from_slice(&message.payload).ok()?;
        let object = request.object();
        // An earlier version of ingest let ids pass that lack a part.
        let is_whole = object.as_ref().is_none_or(|object| object.kind.takes(&object.id));
        // Postgres cannot hold NUL characters, and no WorkOS id has one.
        (is_whole && !request.id.contains('\0')).then(|| Self {
            object,
            request_id: request.request_id,
            attempt,
            message: message.clone(),
        })
    }

    fn reply_to(&self) -> Option<Subject> {
        let reply_to = self.message.headers.as_ref()?.get(subject::REPLY_TO)?.as_str();
        reply_to.starts_with(INBOX).then(|| reply_to.into())
    }
}

/// What all requests share.
struct Shared {
    sync: Sync,
    metrics: Metrics,
    /// Objects that are being asked for, and who asked for them meanwhile: one answer serves all.
    in_hand: Mutex<HashMap<ObjectRef, Vec<Delivery>>>,
    database_down: AtomicBool,
}

/// The turn of an object; dropped, however it ended, the next request for it begins anew.
struct Turn {
    shared: Arc<Shared>,
    /// None once it ended.
    object: Option<ObjectRef>,
}

impl Turn {
    /// Ends it: who asked meanwhile.
    fn end(&mut self) -> Vec<Delivery> {
        let object = self.object.take();
        object.and_then(|object| self.shared.in_hand().remove(&object)).unwrap_or_default()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Those who joined are delivered again.
        self.end();
    }
}

struct FastLane {
    jetstream: jetstream::Context,
    replicas: usize,
    slots: Arc<Semaphore>,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl FastLane {
    async fn subscribe(&self) -> anyhow::Result<pull::Stream> {
        broker::ensure_sync(&self.jetstream, self.replicas).await?;
        let stream = self
            .jetstream
            .get_stream_no_info(subject::SYNC_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::SYNC_STREAM))?;
        let env = &self.shared.sync.env;
        let name = subject::sync_consumer(env);
        let wanted = pull::Config {
            durable_name: Some(name.clone()),
            description: Some("The fast lane of all workers of one environment".to_owned()),
            filter_subject: subject::syncs_of(env),
            ack_policy: jetstream::consumer::AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            ..pull::Config::default()
        };
        let consumer = durable::consumer(&stream, &name, wanted).await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(SLOTS)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_EXPIRES / 3)
            .messages()
            .await
            .context("failed to pull")?;
        tracing::info!(consumer = name, "subscribed");
        Ok(messages)
    }

    /// Works on a subscription until it ends, and hands back what was pulled and not begun.
    async fn consume(&self, mut messages: pull::Stream, stop: &CancellationToken) -> anyhow::Result<()> {
        let ended = stop.run_until_cancelled(self.pull_and_work(&mut messages)).await.unwrap_or(Ok(()));
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            settle(&message, AckKind::Nak(Some(HAND_BACK))).await;
        }
        ended
    }

    async fn pull_and_work(&self, messages: &mut pull::Stream) -> anyhow::Result<()> {
        loop {
            self.wait_for_the_database().await;
            // The semaphore is never closed.
            let slot = self.slots.clone().acquire_owned().await?;
            let message = messages.next().await.context("the pull ended")?.context("failed to pull")?;
            let shared = Arc::clone(&self.shared);
            let Some(delivery) = Delivery::read(&message) else {
                tracing::warn!("a message is not a sync request, dropping it");
                settle(&message, AckKind::Term).await;
                continue;
            };
            let Some(object) = delivery.object.clone() else {
                let jetstream = self.jetstream.clone();
                self.tasks.spawn(async move {
                    shared.finish(&jetstream, &[delivery], &Ending::Fails(Failure::LaterVersion)).await;
                });
                continue;
            };
            let Some((delivery, mut turn)) = shared.take_turn(&object, delivery) else { continue };
            let jetstream = self.jetstream.clone();
            self.tasks.spawn(async move {
                let ending = shared.attempt(&object).await;
                let mut deliveries = turn.end();
                deliveries.push(delivery);
                shared.finish(&jetstream, &deliveries, &ending).await;
                drop(slot);
            });
        }
    }

    async fn wait_for_the_database(&self) {
        let mut attempt = 0;
        while self.shared.database_down.load(Ordering::SeqCst) {
            attempt += 1;
            tokio::time::sleep(backoff::dependency(attempt)).await;
            if database::complaint(&self.shared.sync.database).await.is_none() {
                self.shared.database_down.store(false, Ordering::SeqCst);
            }
        }
    }
}

impl Shared {
    fn in_hand(&self) -> MutexGuard<'_, HashMap<ObjectRef, Vec<Delivery>>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of an object for this delivery; `None` when it joined one that another delivery began.
    fn take_turn(self: &Arc<Self>, object: &ObjectRef, delivery: Delivery) -> Option<(Delivery, Turn)> {
        let mut in_hand = self.in_hand();
        if let Some(joined) = in_hand.get_mut(object) {
            joined.push(delivery);
            self.metrics.coalesced(1);
            return None;
        }
        in_hand.insert(object.clone(), Vec::new());
        Some((delivery, Turn { shared: Arc::clone(self), object: Some(object.clone()) }))
    }

    /// Syncs one object with what belongs to it: how that ended.
    async fn attempt(&self, object: &ObjectRef) -> Ending {
        match self.sync_object(object).await {
            Ok(ending) => ending,
            Err(trouble) => {
                if matches!(trouble, Trouble::Unavailable | Trouble::Conflict) {
                    self.database_down.store(true, Ordering::SeqCst);
                }
                Ending::Fails(trouble.into())
            }
        }
    }

    async fn sync_object(&self, object: &ObjectRef) -> Result<Ending, Trouble> {
        let sync = &self.sync;
        let wanted = [Wanted { event_id: "", object: Some(object) }];
        let look_up = guard::look_up(&sync.database, &sync.env, &wanted);
        let (fence, found) =
            tokio::time::timeout(database::TIMEOUT, look_up).await.map_err(|_| Trouble::Unavailable)??;
        let known = found.into_iter().next().and_then(|found| found.known);
        let for_good = !object::reuses_keys(object.kind);
        if for_good && known.as_ref().is_some_and(|known| known.deleted_by == Some(DeletedBy::Event)) {
            return Ok(Ending::Ends(Outcome::Superseded, Some("deleted")));
        }
        // Sequences of this stream say nothing of events.
        let question = Question { fence, covers: None, at: clock::now() };

        // Both at once: somebody waits.
        let asked = std::slice::from_ref(object);
        sync.place(asked).await?;
        let (replies, belonging) =
            tokio::join!(sync.workos.ask(asked, sync.lane), relations::wishes_for(sync, object));
        let own = match replies.into_iter().next() {
            Some(Reply { answer: Ok(Answer::Found(record)), embedded, .. }) => {
                Wish::told(Told { record: *record, embedded }, known)
            }
            // Asked once more along with what its absence means.
            Some(Reply { answer: Ok(Answer::NotFound), .. }) | None => Wish::asking(object.clone(), known),
            Some(Reply { answer: Err(Failure::CannotAsk(why)), .. }) => {
                return Ok(Ending::Ends(Outcome::Ignored, Some(why)));
            }
            Some(Reply { answer: Err(failure), .. }) => return Ok(Ending::Fails(failure)),
        };
        let (belonging, failed) = match belonging {
            Ok(wishes) => (wishes, None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        let wishes = std::iter::once(own)
            .chain(belonging)
            .enumerate()
            .map(|(place, wish)| Wish { events: vec![place], ..wish })
            .collect();
        let mut endings = BTreeMap::new();
        sync.run(question, &[], wishes, &mut endings).await?;
        Ok(match failed {
            Some(failure) => Ending::Fails(failure),
            None => whole(endings.into_values()),
        })
    }

    /// Tells everybody who asked what became of it, and settles their deliveries.
    async fn finish(&self, jetstream: &jetstream::Context, deliveries: &[Delivery], ending: &Ending) {
        for delivery in deliveries {
            let reply = self.verdict(delivery, ending);
            if let (Some(reply_to), Ok(payload)) = (delivery.reply_to(), serde_json::to_vec(&reply))
                && let Err(error) = jetstream.client().publish(reply_to, payload.into()).await
            {
                tracing::debug!(error = %error, "failed to tell what became of a sync request");
            }
            let ack = match reply {
                SyncReply::Done { .. } | SyncReply::GivenUp { .. } => AckKind::Ack,
                SyncReply::Retrying { again_in_ms, .. } => {
                    AckKind::Nak(Some(Duration::from_millis(again_in_ms)))
                }
            };
            settle(&delivery.message, ack).await;
        }
    }

    /// What an ending means for one delivery; counted and logged here.
    fn verdict(&self, delivery: &Delivery, ending: &Ending) -> SyncReply {
        let Delivery { request_id, attempt, .. } = delivery;
        match ending {
            Ending::Ends(outcome, _) => {
                self.metrics.event(*outcome, Channel::Sync, None, clock::now());
                tracing::debug!(request.id = %request_id, outcome = %outcome, "synced");
                SyncReply::Done { outcome: outcome.name().to_owned() }
            }
            Ending::Duplicate => SyncReply::Done { outcome: Outcome::Superseded.name().to_owned() },
            Ending::Fails(failure) if *attempt >= ATTEMPTS => {
                self.metrics.event(Outcome::Dead, Channel::Sync, None, clock::now());
                tracing::warn!(request.id = %request_id, delivery.attempt = attempt, reason = %failure.reason(),
                    "dropped a sync request; what happens at WorkOS still comes as events");
                SyncReply::GivenUp { reason: failure.class().to_owned() }
            }
            Ending::Fails(failure) => {
                let delay = again(failure, *attempt);
                self.metrics.retry(failure.class());
                tracing::info!(
                    request.id = %request_id,
                    delivery.attempt = attempt,
                    wait_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                    reason = %failure.reason(),
                    "a sync request could not be carried out, will try again"
                );
                SyncReply::retrying(failure.class(), delay)
            }
        }
    }
}

async fn settle(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        // It will be delivered again, and asking again is harmless.
        tracing::debug!(error = %error, "failed to settle a sync request");
    }
}

/// How the whole ended, the object first: it is done when all of it is, and something was applied when anything
/// was.
fn whole(endings: impl IntoIterator<Item = Ending>) -> Ending {
    let mut whole = None;
    for ending in endings {
        match (&whole, ending) {
            (_, Ending::Fails(failure)) => return Ending::Fails(failure),
            (None, ending) => whole = Some(ending),
            (
                Some(Ending::Ends(Outcome::Unchanged | Outcome::Superseded, _)),
                Ending::Ends(Outcome::Applied | Outcome::Deleted, _),
            ) => whole = Some(Ending::Ends(Outcome::Applied, None)),
            (Some(_), _) => {}
        }
    }
    whole.unwrap_or(Ending::Fails(Failure::DatabaseUnavailable))
}

/// How long to wait before the next attempt: somebody may still be waiting, so it is soon, unless the failure
/// asks for more.
fn again(failure: &Failure, attempt: u32) -> Duration {
    let soon = backoff::soon(attempt);
    match failure {
        Failure::RateLimited { retry_after } => {
            soon.max(retry_after.unwrap_or_default().min(RETRY_AFTER_CAP))
        }
        Failure::Unconfirmed | Failure::ParentWaits(_) => soon.max(CONFIRM_DELAY),
        _ => soon,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(outcome: Outcome) -> Ending {
        Ending::Ends(outcome, None)
    }

    #[test]
    fn the_whole_is_done_when_all_of_it_is() {
        let failed = Ending::Fails(Failure::Unconfirmed);
        assert_eq!(whole([ends(Outcome::Applied), failed.clone()]), failed);
        assert_eq!(whole([]), Ending::Fails(Failure::DatabaseUnavailable));
    }

    #[test]
    fn the_whole_was_changed_when_any_of_it_was() {
        let unchanged = || ends(Outcome::Unchanged);
        assert_eq!(whole([unchanged(), unchanged()]), unchanged());
        assert_eq!(whole([unchanged(), ends(Outcome::Applied)]), ends(Outcome::Applied));
        assert_eq!(whole([unchanged(), ends(Outcome::Deleted)]), ends(Outcome::Applied));
        assert_eq!(whole([ends(Outcome::Deleted), ends(Outcome::Deleted)]), ends(Outcome::Deleted));
        assert_eq!(whole([ends(Outcome::Applied), unchanged()]), ends(Outcome::Applied));
    }

    #[test]
    fn a_404_is_asked_again_when_it_counts_and_retry_after_is_honoured_but_capped() {
        assert!(again(&Failure::Unconfirmed, 1) >= CONFIRM_DELAY);
        let limited = |seconds| Failure::RateLimited { retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(again(&limited(30), 1), Duration::from_secs(30));
        assert_eq!(again(&limited(1_000_000), 1), RETRY_AFTER_CAP);
        assert!(again(&Failure::Unreachable, 1) <= Duration::from_millis(250));
    }
}
