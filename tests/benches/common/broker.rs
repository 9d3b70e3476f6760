//! Streams: queueing events as `ingest` does, the bare publish loop, the bare pull loop.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer::{AckPolicy, Info, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use shared::event::Event;
use shared::{broker, clock, subject};
use support::services::Nats;

use super::payload::{self, User};
use super::{ENVIRONMENT, float};

/// Publishes whose acknowledgement is awaited.
pub(crate) const IN_FLIGHT: usize = 256;

/// How long a drain may take without any progress.
const PATIENCE: Duration = Duration::from_mins(1);

/// A message, ready to be published.
pub(crate) type Message = (String, HeaderMap, Bytes);

/// These events as WorkOS sends them.
pub(crate) fn whole_events(numbers: Range<usize>) -> Vec<Message> {
    let now = clock::now();
    let subject = subject::event(ENVIRONMENT, "user.updated");
    numbers
        .map(|number| {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, payload::event_id(number));
            (subject.clone(), headers, payload::body(number, &User::unknown(number), now).into())
        })
        .collect()
}

/// What `ingest` would publish for these events.
pub(crate) fn messages(events: &[Event]) -> anyhow::Result<Vec<Message>> {
    events
        .iter()
        .map(|event| {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, event.id.as_str());
            let payload = serde_json::to_vec(event)?.into();
            Ok((subject::event(ENVIRONMENT, &event.event_type), headers, payload))
        })
        .collect()
}

/// A broker in `directory`; `always` makes an acknowledgement survive a power loss.
pub(crate) async fn start(directory: &Path, always: bool) -> anyhow::Result<Nats> {
    if !always {
        return Nats::start(directory).await;
    }
    let store = directory.join("jetstream");
    let settings = format!("jetstream {{ store_dir: \"{}\", sync_interval: always }}\n", store.display());
    Nats::start_with(directory, &settings).await
}

/// Whether the installed broker knows `sync_interval: always`.
pub(crate) async fn can_sync_always(directory: &Path) -> bool {
    start(directory, true).await.is_ok()
}

/// A connection, and the stream of events.
pub(crate) async fn connect(url: &str) -> anyhow::Result<Context> {
    let client = async_nats::connect(url).await.context("failed to connect to the broker")?;
    let context = jetstream::new(client);
    broker::ensure_events(&context, 1).await?;
    Ok(context)
}

/// Publishes, each acknowledgement awaited, many in flight. Returns events a second.
pub(crate) async fn publish(context: &Context, messages: Vec<Message>) -> anyhow::Result<f64> {
    let count = messages.len();
    let started = Instant::now();
    futures_util::stream::iter(messages)
        .map(|(subject, headers, payload)| async move {
            let message = PublishMessage::build().headers(headers).payload(payload);
            context.send_publish(subject, message).await?.await
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(async |_| Ok(()))
        .await
        .context("failed to publish")?;
    Ok(float(count) / started.elapsed().as_secs_f64())
}

/// Queues events on a broker.
pub(crate) async fn fill(url: String, events: Vec<Event>) -> anyhow::Result<()> {
    super::aside(move || {
        super::on_one_thread(async { publish(&connect(&url).await?, messages(&events)?).await.map(drop) })
    })
    .await
}

/// Pulls so many messages, acknowledging each. Returns events a second.
pub(crate) async fn pull_and_ack(context: &Context, count: usize) -> anyhow::Result<f64> {
    let stream = context.get_stream_no_info(subject::EVENTS_STREAM).await?;
    let consumer = stream
        .get_or_create_consumer(
            "roof",
            pull::Config {
                durable_name: Some("roof".to_owned()),
                ack_policy: AckPolicy::Explicit,
                max_ack_pending: 10_000,
                ..pull::Config::default()
            },
        )
        .await?;
    let started = Instant::now();
    let mut messages = consumer.stream().max_messages_per_batch(200).messages().await?;
    for _ in 0..count {
        let message = messages.next().await.context("the pull ended")??;
        message.ack().await.map_err(|error| anyhow::anyhow!("failed to acknowledge: {error}"))?;
    }
    context.client().flush().await?;
    Ok(float(count) / started.elapsed().as_secs_f64())
}

/// Waits until the workers have acknowledged `count` messages. Returns how long that took from the moment
/// just before the first was delivered.
pub(crate) async fn drained(context: &Context, count: u64) -> anyhow::Result<Duration> {
    let mut last_look = Instant::now();
    let mut started = None;
    let mut progress = (0, Instant::now());
    loop {
        let now = Instant::now();
        if let Ok(info) = look(context).await {
            if info.delivered.stream_sequence > 0 && started.is_none() {
                started = Some(last_look);
            }
            let acknowledged = info.ack_floor.stream_sequence;
            if let (true, Some(started)) = (acknowledged >= count, started) {
                return Ok(started.elapsed());
            }
            if acknowledged > progress.0 {
                progress = (acknowledged, now);
            }
        }
        if progress.1.elapsed() > PATIENCE {
            bail!("{} of {count} events were acknowledged, and no more for {PATIENCE:?}", progress.0);
        }
        last_look = now;
        // A look is work too, for the broker and for us, on the cores that are measured.
        tokio::time::sleep(Duration::from_millis(if started.is_none() { 2 } else { 20 })).await;
    }
}

/// Events that the workers have not acknowledged yet.
pub(crate) async fn pending(context: &Context) -> anyhow::Result<u64> {
    let info = look(context).await?;
    Ok(info.num_pending + u64::try_from(info.num_ack_pending)?)
}

async fn look(context: &Context) -> anyhow::Result<Info> {
    let stream = context.get_stream_no_info(subject::EVENTS_STREAM).await?;
    Ok(stream.consumer_info(subject::worker_consumer(ENVIRONMENT)).await?)
}
