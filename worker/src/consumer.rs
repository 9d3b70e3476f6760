//! Pulling deliveries in batches, several batches in flight, so that asking and writing overlap.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::Stream;
use futures_util::{FutureExt as _, StreamExt as _};
use shared::admin::Readiness;
use shared::{broker, subject};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::database::Trouble;
use crate::guard::Life;
use crate::metrics::Metrics;
use crate::process::{self, Delivery};
use crate::sync::Sync;
use crate::{backoff, database};

/// Deliveries that all workers together may have in hand or waiting for a retry.
const MAX_ACK_PENDING: i64 = 10_000;
/// How long one pull request stands before it is renewed; also how soon a lost consumer is noticed.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// Batches that may be in flight before a batch waits for company: one asks while another writes.
const BUSY: usize = 2;
/// How long the batches in hand have to finish once the program is to leave.
const GRACE: Duration = Duration::from_secs(20);

/// Consumes events until `stop`, then finishes what is in hand.
pub async fn run(
    config: &Config,
    jetstream: jetstream::Context,
    sync: Sync,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let in_flight = in_flight(config);
    let consumer = Consumer {
        env: config.env.clone(),
        replicas: config.broker.replicas,
        ack_wait: config.ack_wait,
        batch_max: config.batch_max,
        batch_wait: config.batch_wait,
        slots: Arc::new(Semaphore::new(in_flight)),
        in_flight,
        jetstream,
        sync,
        metrics,
        readiness,
        database_down: Arc::new(AtomicBool::new(false)),
        reborn: Arc::new(Notify::new()),
        tasks: TaskTracker::new(),
    };
    let mut attempt = 0;
    while !stop.is_cancelled() {
        let subscribed = tokio::select! {
            subscribed = consumer.subscribe() => subscribed,
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
    consumer.readiness.unready("shutdown", "leaving");
    consumer.tasks.close();
    if tokio::time::timeout(GRACE, consumer.tasks.wait()).await.is_err() {
        tracing::warn!("batches are still in hand, leaving them to be delivered again");
    }
}

/// Batches in flight: enough to keep every permitted request busy while others are written.
#[must_use]
pub fn in_flight(config: &Config) -> usize {
    (2 * config.fetch_concurrency.div_ceil(config.batch_max) + 2).max(4)
}

async fn pause(delay: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = stop.cancelled() => {}
    }
}

struct Consumer {
    env: String,
    replicas: usize,
    ack_wait: Duration,
    batch_max: usize,
    batch_wait: Duration,
    slots: Arc<Semaphore>,
    in_flight: usize,
    jetstream: jetstream::Context,
    sync: Sync,
    metrics: Metrics,
    readiness: Readiness,
    database_down: Arc<AtomicBool>,
    /// The stream was made anew under our feet.
    reborn: Arc<Notify>,
    tasks: TaskTracker,
}

/// A pull subscription, and the life of the stream sampled before it began.
struct Subscription {
    messages: pull::Stream,
    stream: Arc<Stream<()>>,
    life: Life,
}

impl Consumer {
    async fn subscribe(&self) -> anyhow::Result<Subscription> {
        let facts = broker::ensure_events(&self.jetstream, self.replicas).await?;
        let stream = self
            .jetstream
            .get_stream_no_info(subject::EVENTS_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::EVENTS_STREAM))?;
        let name = subject::worker_consumer(&self.env);
        let consumer: jetstream::consumer::Consumer<pull::Config> = stream
            .get_or_create_consumer(
                &name,
                pull::Config {
                    durable_name: Some(name.clone()),
                    description: Some("All workers of one environment".to_owned()),
                    filter_subject: subject::events_of(&self.env),
                    ack_policy: jetstream::consumer::AckPolicy::Explicit,
                    ack_wait: self.ack_wait,
                    max_ack_pending: MAX_ACK_PENDING,
                    ..pull::Config::default()
                },
            )
            .await
            .with_context(|| format!("failed to create the consumer {name}"))?;
        // The life is sampled before anything is pulled: a batch whose life is the same afterwards was
        // pulled within it.
        let life = stream.get_info().await.context("failed to ask the broker about the stream")?.created;
        let messages = consumer
            .stream()
            .max_messages_per_batch(self.batch_max)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_EXPIRES / 3)
            .messages()
            .await
            .context("failed to pull")?;
        tracing::info!(consumer = name, durability = %facts.durability(), "subscribed");
        Ok(Subscription { messages, stream: Arc::new(stream), life })
    }

    async fn consume(&self, mut subscription: Subscription, stop: &CancellationToken) -> anyhow::Result<()> {
        loop {
            self.wait_for_the_database(stop).await;
            let slot = tokio::select! {
                // The semaphore is never closed.
                slot = self.slots.clone().acquire_owned() => slot?,
                () = stop.cancelled() => return Ok(()),
            };
            let deliveries = tokio::select! {
                collected = self.collect(&mut subscription.messages) => collected?,
                () = self.reborn.notified() => {
                    anyhow::bail!("the stream {} was made anew", subject::EVENTS_STREAM)
                }
                () = stop.cancelled() => return Ok(()),
            };
            let life = self.same_life(&subscription);
            let (sync, metrics, ack_wait) = (self.sync.clone(), self.metrics.clone(), self.ack_wait);
            let (readiness, database_down) = (self.readiness.clone(), self.database_down.clone());
            self.tasks.spawn(async move {
                if let Err(trouble) = process::batch(&sync, &metrics, deliveries, life, ack_wait).await {
                    debug_assert_eq!(trouble, Trouble::Unavailable);
                    if !database_down.swap(true, Ordering::SeqCst) {
                        tracing::warn!("Postgres is not available, pulling stops until it is");
                        readiness.unready("database", "not available");
                    }
                }
                drop(slot);
            });
        }
    }

    /// The life of the stream, if it is still the one that the subscription began in.
    fn same_life(&self, subscription: &Subscription) -> impl Future<Output = Option<Life>> + Send + 'static {
        let (stream, before, reborn) = (subscription.stream.clone(), subscription.life, self.reborn.clone());
        async move {
            match stream.get_info().await {
                Ok(info) if info.created == before => Some(before),
                Ok(_) => {
                    reborn.notify_one();
                    None
                }
                Err(error) => {
                    tracing::debug!(error = %error, "could not ask the broker about the stream");
                    None
                }
            }
        }
    }

    /// A first delivery, and what comes with it: up to a full batch while more is pending; when nothing
    /// is, it leaves at once, unless others are in flight: then it waits a little for company.
    async fn collect(&self, messages: &mut pull::Stream) -> anyhow::Result<Vec<Delivery>> {
        let mut deliveries = Vec::new();
        let mut deadline = None;
        while deliveries.len() < self.batch_max {
            let next = match deadline {
                None => Some(messages.next().await),
                Some(deadline) => {
                    let alone = deliveries.last().is_none_or(|last: &Delivery| last.pending() <= 0)
                        && self.in_flight - self.slots.available_permits() <= BUSY;
                    if alone {
                        messages.next().now_or_never()
                    } else {
                        tokio::time::timeout_at(deadline, messages.next()).await.ok()
                    }
                }
            };
            let Some(next) = next else { break };
            let message = next.context("the pull ended")?.context("failed to pull")?;
            deliveries.extend(Delivery::read(message));
            deadline = deadline.or_else(|| Some(Instant::now() + self.batch_wait));
        }
        Ok(deliveries)
    }

    async fn wait_for_the_database(&self, stop: &CancellationToken) {
        let mut attempt = 0;
        while self.database_down.load(Ordering::SeqCst) && !stop.is_cancelled() {
            attempt += 1;
            pause(backoff::dependency(attempt), stop).await;
            if database::answers(&self.sync.database).await {
                self.database_down.store(false, Ordering::SeqCst);
                self.readiness.ready("database");
                tracing::info!("Postgres is available again");
            }
        }
    }
}
