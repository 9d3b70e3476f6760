//! Pulling deliveries in batches, several batches in flight, so that asking and writing overlap.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use futures_util::{FutureExt as _, StreamExt as _};
use shared::admin::Readiness;
use shared::id::ObjectRef;
use shared::{broker, subject};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::breaker::{self, Passage};
use crate::config::Config;
use crate::database::Trouble;
use crate::process::{self, Delivery, Means};
use crate::stream::Begun;
use crate::{backoff, database, durable};

/// Deliveries that all workers together may have in hand or waiting for a retry, or for a list: the first import of a
/// large directory alone is tens of thousands, which must not hold up all others.
const MAX_ACK_PENDING: i64 = 50_000;
/// Deliveries of one event, per attempt that it has. Many are not its fault (WorkOS down, or limiting us), so there
/// are many; what used them up is looked at, and goes on if it is well.
const DELIVERIES_PER_ATTEMPT: u32 = 8;
/// How long one pull request stands before it is renewed; also how soon a lost consumer is noticed.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// Batches in flight, the next one included, before a batch waits for company: alone it leaves at once.
const BUSY: usize = 1;
/// Deliveries that may wait because their object is being asked for by a batch in flight, in full batches.
const PARKED_BATCHES: usize = 4;
/// How long the batches in hand have to finish once the program is to leave.
const GRACE: Duration = Duration::from_secs(20);

/// Consumes events until `stop`, then finishes what is in hand.
pub async fn run(
    config: &Config,
    jetstream: jetstream::Context,
    means: Means,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let in_flight = in_flight(config);
    let consumer = Consumer {
        env: config.ask.env.clone(),
        replicas: config.broker.replicas,
        max_deliver: i64::from(config.retries.attempts.saturating_mul(DELIVERIES_PER_ATTEMPT)),
        batch_max: config.batch_max,
        batch_wait: config.batch_wait,
        slots: Arc::new(Semaphore::new(in_flight)),
        in_flight,
        jetstream,
        means,
        readiness,
        database_down: Arc::new(AtomicBool::new(false)),
        lanes: Arc::new(Lanes::default()),
        tasks: TaskTracker::new(),
    };
    let mut attempt = 0;
    while !stop.is_cancelled() {
        let subscribed = tokio::select! {
            subscribed = async { consumer.subscribe(consumer.passage().await).await } => subscribed,
            () = stop.cancelled() => break,
        };
        match subscribed {
            Ok(subscription) => {
                attempt = 0;
                consumer.readiness.ready("stream");
                if let Err(error) = consumer.consume(subscription, &stop).await {
                    tracing::warn!(error = format!("{error:#}"), "the subscription ended, subscribing again");
                    consumer.readiness.unready("stream", "not subscribed");
                }
            }
            Err(error) => {
                consumer.readiness.unready("stream", format!("{error:#}"));
                attempt += 1;
                if attempt == 1 {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "failed to subscribe, trying until it works"
                    );
                }
            }
        }
        pause(backoff::dependency(attempt.max(1)), &stop).await;
    }
    consumer.tasks.close();
    if tokio::time::timeout(GRACE, consumer.tasks.wait()).await.is_err() {
        tracing::warn!("batches are still in hand, leaving them to be delivered again");
    }
}

/// Batches in flight: enough to keep every permitted request busy while others are written.
#[must_use]
pub fn in_flight(config: &Config) -> usize {
    (2 * config.ask.fetch_concurrency.div_ceil(config.batch_max) + 2).max(4)
}

async fn pause(delay: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = stop.cancelled() => {}
    }
}

/// One batch at a time per object, within this process.
#[derive(Default)]
struct Lanes {
    inner: Mutex<Occupied>,
    /// A batch left.
    freed: Notify,
}

#[derive(Default)]
struct Occupied {
    busy: HashSet<ObjectRef>,
    parked: VecDeque<Delivery>,
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, Occupied> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    /// Parked deliveries whose object is free again, oldest first.
    fn ready(&self, most: usize) -> Vec<Delivery> {
        let mut lanes = self.lock();
        let Occupied { busy, parked } = &mut *lanes;
        let mut ready = Vec::new();
        for delivery in std::mem::take(parked) {
            if ready.len() < most && delivery.object().is_none_or(|object| !busy.contains(object)) {
                ready.push(delivery);
            } else {
                parked.push_back(delivery);
            }
        }
        ready
    }

    /// Keeps deliveries for later.
    fn park(&self, deliveries: Vec<Delivery>) {
        self.lock().parked.extend(deliveries);
    }

    /// Parks what must wait and returns the rest.
    fn sort(&self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let mut lanes = self.lock();
        let Occupied { busy, parked } = &mut *lanes;
        let (waiting, ready): (Vec<_>, Vec<_>) = deliveries
            .into_iter()
            .partition(|delivery| delivery.object().is_some_and(|object| busy.contains(object)));
        parked.extend(waiting);
        ready
    }

    /// A batch takes its objects, until what is returned is dropped.
    fn occupy(self: &Arc<Self>, deliveries: &[Delivery]) -> Occupancy {
        let objects: Vec<ObjectRef> =
            deliveries.iter().filter_map(|delivery| delivery.object().cloned()).collect();
        self.lock().busy.extend(objects.iter().cloned());
        Occupancy { lanes: self.clone(), objects }
    }

    /// Takes everything that is parked.
    fn empty(&self) -> VecDeque<Delivery> {
        std::mem::take(&mut self.lock().parked)
    }
}

/// The objects of a batch in flight; dropped, however the batch ended, it frees them.
struct Occupancy {
    lanes: Arc<Lanes>,
    objects: Vec<ObjectRef>,
}

impl Drop for Occupancy {
    fn drop(&mut self) {
        let mut occupied = self.lanes.lock();
        for object in &self.objects {
            occupied.busy.remove(object);
        }
        drop(occupied);
        self.lanes.freed.notify_one();
    }
}

struct Consumer {
    env: String,
    replicas: usize,
    max_deliver: i64,
    batch_max: usize,
    batch_wait: Duration,
    slots: Arc<Semaphore>,
    in_flight: usize,
    jetstream: jetstream::Context,
    means: Means,
    readiness: Readiness,
    database_down: Arc<AtomicBool>,
    lanes: Arc<Lanes>,
    tasks: TaskTracker,
}

/// A pull subscription, and the stream as it was before it began.
struct Subscription {
    messages: pull::Stream,
    /// How much may be pulled.
    passage: Passage,
    /// The most deliveries of a batch.
    batch_max: usize,
    begun: Begun,
}

impl Consumer {
    /// Waits until WorkOS may be asked and something may be pulled.
    async fn passage(&self) -> Passage {
        let mut unwell = self.means.sync.workos.unwell();
        loop {
            // The client, which holds the other end, lives as long as we do.
            let _ = unwell.wait_for(Option::is_none).await;
            let passage = self.means.breaker.passage().await;
            if unwell.borrow().is_none() {
                return passage;
            }
        }
    }

    /// Whether nothing more may be pulled.
    fn is_closed(&self, passage: Passage) -> bool {
        self.means.sync.workos.unwell().borrow().is_some()
            || (passage == Passage::Free && self.means.breaker.is_open())
    }

    /// Resolves once nothing more may be pulled.
    async fn closed(&self, passage: Passage) {
        let mut unwell = self.means.sync.workos.unwell();
        let mut open = self.means.breaker.watch();
        tokio::select! {
            _ = unwell.wait_for(Option::is_some) => {}
            _ = open.wait_for(|open| *open), if passage == Passage::Free => {}
        }
    }

    async fn subscribe(&self, passage: Passage) -> anyhow::Result<Subscription> {
        let facts = broker::ensure_events(&self.jetstream, self.replicas).await?;
        broker::ensure_dead_letters(&self.jetstream, self.replicas).await?;
        let batch_max = match passage {
            Passage::Free => self.batch_max,
            Passage::Trial => self.batch_max.min(breaker::TRIAL),
        };
        let stream = self
            .jetstream
            .get_stream_no_info(subject::EVENTS_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::EVENTS_STREAM))?;
        let name = subject::worker_consumer(&self.env);
        let wanted = pull::Config {
            durable_name: Some(name.clone()),
            description: Some("All workers of one environment".to_owned()),
            filter_subject: subject::events_of(&self.env),
            ack_policy: jetstream::consumer::AckPolicy::Explicit,
            ack_wait: self.means.ack_wait,
            max_deliver: self.max_deliver,
            max_ack_pending: MAX_ACK_PENDING,
            ..pull::Config::default()
        };
        let consumer = durable::consumer(&stream, &name, wanted).await?;
        let info = stream.get_info().await.context("failed to ask the broker about the stream")?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(batch_max)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_EXPIRES / 3)
            .messages()
            .await
            .context("failed to pull")?;
        tracing::info!(consumer = name, durability = %facts.durability(), "subscribed");
        Ok(Subscription { messages, passage, batch_max, begun: Begun::new(stream, &info) })
    }

    /// Works on a subscription until it ends, and hands back what was pulled and not begun.
    async fn consume(&self, mut subscription: Subscription, stop: &CancellationToken) -> anyhow::Result<()> {
        let ended = self.pull_and_work(&mut subscription, stop).await;
        while let Some(Some(Ok(message))) = subscription.messages.next().now_or_never() {
            if let Some(delivery) = Delivery::read(message) {
                delivery.hand_back().await;
            }
        }
        for delivery in self.lanes.empty() {
            delivery.hand_back().await;
        }
        ended
    }

    async fn pull_and_work(
        &self,
        subscription: &mut Subscription,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            self.wait_for_the_database(stop).await;
            let slot = tokio::select! {
                // The semaphore is never closed.
                slot = self.slots.clone().acquire_owned() => slot?,
                () = stop.cancelled() => return Ok(()),
            };
            let passage = subscription.passage;
            let Some(deliveries) = self.next_batch(subscription, stop).await? else {
                return Ok(());
            };
            let busy = self.lanes.occupy(&deliveries);
            let begun = subscription.begun.clone();
            let means = self.means.clone();
            let (readiness, database_down) = (self.readiness.clone(), self.database_down.clone());
            self.tasks.spawn(async move {
                let batch = Box::pin(process::batch(&means, deliveries, begun)).await;
                drop(busy);
                if let Err(trouble) = batch {
                    debug_assert_eq!(trouble, Trouble::Unavailable);
                    if !database_down.swap(true, Ordering::SeqCst) {
                        tracing::warn!("Postgres is not available, pulling stops until it is");
                        readiness.unready("database", "not available");
                    }
                }
                drop(slot);
            });
            if passage == Passage::Trial {
                self.end_trial().await;
                return Ok(());
            }
        }
    }

    /// Waits until everything in flight has ended, and lets the breaker decide.
    async fn end_trial(&self) {
        let all = u32::try_from(self.in_flight).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _idle = self.slots.acquire_many(all).await;
        self.means.breaker.end_trial(Instant::now());
    }

    /// Deliveries to work on next: those that waited for their object, or new ones. A delivery whose object
    /// is being asked for by a batch in flight waits for that batch, whose answer most likely covers it.
    /// `None` when it is time to leave, or nothing more may be pulled.
    async fn next_batch(
        &self,
        subscription: &mut Subscription,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Vec<Delivery>>> {
        // Outside the race below, so that what was pulled is kept when something else wins it.
        let mut pulled = Vec::new();
        let ended = loop {
            let freed = self.lanes.freed.notified();
            if self.is_closed(subscription.passage) {
                break Ok(None);
            }
            let ready = self.lanes.ready(subscription.batch_max);
            if !ready.is_empty() {
                self.lanes.park(pulled);
                return Ok(Some(ready));
            }
            let full = self.lanes.parked() >= PARKED_BATCHES * self.batch_max;
            tokio::select! {
                () = freed => {}
                collected = self.collect(&mut subscription.messages, subscription.passage, subscription.batch_max, &mut pulled), if !full => {
                    let ready = self.lanes.sort(std::mem::take(&mut pulled));
                    if let Err(error) = collected {
                        self.lanes.park(ready);
                        break Err(error);
                    }
                    if !ready.is_empty() {
                        return Ok(Some(ready));
                    }
                }
                () = subscription.begun.reborn() => {
                    break Err(anyhow::anyhow!("the stream {} was made anew", subject::EVENTS_STREAM));
                }
                () = self.closed(subscription.passage) => break Ok(None),
                () = stop.cancelled() => break Ok(None),
            }
        };
        self.lanes.park(pulled);
        ended
    }

    /// A first delivery, and what comes with it: up to a full batch while more is pending; when nothing
    /// is, it leaves at once, unless others are in flight, or it is a trial: then it waits a little for company.
    async fn collect(
        &self,
        messages: &mut pull::Stream,
        passage: Passage,
        most: usize,
        pulled: &mut Vec<Delivery>,
    ) -> anyhow::Result<()> {
        let wait = match passage {
            Passage::Free => self.batch_wait,
            Passage::Trial => breaker::TRIAL_WAIT,
        };
        let mut deadline = None;
        while pulled.len() < most {
            let next = if let Some(last) = pulled.last() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + wait);
                let alone = passage == Passage::Free
                    && !last.is_followed()
                    && self.in_flight - self.slots.available_permits() <= BUSY;
                if alone {
                    messages.next().now_or_never()
                } else {
                    tokio::time::timeout_at(deadline, messages.next()).await.ok()
                }
            } else {
                Some(messages.next().await)
            };
            let Some(next) = next else { break };
            let message = next.context("the pull ended")?.context("failed to pull")?;
            pulled.extend(Delivery::read(message));
        }
        Ok(())
    }

    async fn wait_for_the_database(&self, stop: &CancellationToken) {
        let mut attempt = 0;
        while self.database_down.load(Ordering::SeqCst) && !stop.is_cancelled() {
            attempt += 1;
            pause(backoff::dependency(attempt), stop).await;
            if let Some(complaint) = database::complaint(&self.means.sync.database).await {
                self.readiness.unready("database", complaint);
                continue;
            }
            self.database_down.store(false, Ordering::SeqCst);
            self.readiness.ready("database");
            tracing::info!("Postgres is available again");
        }
    }
}
