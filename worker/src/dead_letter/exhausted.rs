//! What the broker will not deliver again, because it did so often enough. It says so once, in an advisory that a
//! stream of its own keeps until a worker has seen to it.
//!
//! Most of what was delivered so often is well: WorkOS was down, or limited us, for long. It is published again, and
//! its attempts stand in the ledger. What no worker ever said a word about killed each of them, and is buried.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, AckKind};
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use serde::Deserialize;
use shared::subject;
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{DeadLetters, Doomed};
use crate::breaker::Breaker;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::{backoff, process};

/// How long one pull request stands; also how soon a lost consumer is noticed.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// How long an advisory that could not be seen to waits.
const AGAIN: Duration = Duration::from_secs(5);

/// An advisory of the broker.
#[derive(Deserialize)]
struct Advisory {
    timestamp: DateTime<Utc>,
    stream_seq: u64,
    deliveries: u64,
}

/// Sees to exhausted events until `stop`. Any number of workers share this.
pub async fn watch(
    letters: DeadLetters,
    database: PgPool,
    breaker: Breaker,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let watching = async {
        let mut attempt = 0;
        loop {
            attempt += 1;
            if let Err(error) = letters.see_to_exhausted(&database, &breaker, &metrics, &mut attempt).await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the watch over exhausted events broke off, starting again"
                );
            }
            tokio::time::sleep(backoff::dependency(attempt)).await;
        }
    };
    Box::pin(stop.run_until_cancelled(watching)).await;
}

impl DeadLetters {
    async fn see_to_exhausted(
        &self,
        database: &PgPool,
        breaker: &Breaker,
        metrics: &Metrics,
        attempt: &mut u32,
    ) -> anyhow::Result<()> {
        let advisories = self
            .jetstream
            .get_stream_no_info(subject::ADVISORIES_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::ADVISORIES_STREAM))?;
        let name = subject::advisories_consumer(&self.env);
        let consumer: jetstream::consumer::Consumer<pull::Config> = advisories
            .get_or_create_consumer(
                &name,
                pull::Config {
                    durable_name: Some(name.clone()),
                    description: Some("All workers of one environment".to_owned()),
                    filter_subject: subject::advisories_of(&self.env),
                    ack_policy: AckPolicy::Explicit,
                    ..pull::Config::default()
                },
            )
            .await
            .with_context(|| format!("failed to create the consumer {name}"))?;
        let events = self
            .jetstream
            .get_stream(subject::EVENTS_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::EVENTS_STREAM))?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(1)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_EXPIRES / 3)
            .messages()
            .await
            .context("failed to pull advisories")?;
        loop {
            let message = messages.next().await.context("the pull ended")?.context("failed to pull")?;
            *attempt = 0;
            let ack = match serde_json::from_slice::<Advisory>(&message.payload) {
                Ok(advisory) => match self.see_to(&events, &advisory, database, breaker, metrics).await {
                    Ok(true) => AckKind::Ack,
                    Ok(false) => AckKind::Nak(Some(AGAIN)),
                    Err(error) => {
                        tracing::warn!(
                            stream.sequence = advisory.stream_seq,
                            error = format!("{error:#}"),
                            "an event that is no longer delivered could not be seen to, trying again"
                        );
                        AckKind::Nak(Some(AGAIN))
                    }
                },
                Err(_) => AckKind::Term,
            };
            message.ack_with(ack).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
    }

    /// Says whether it was seen to.
    async fn see_to(
        &self,
        events: &Stream,
        advisory: &Advisory,
        database: &PgPool,
        breaker: &Breaker,
        metrics: &Metrics,
    ) -> anyhow::Result<bool> {
        let message = match events.get_raw_message(advisory.stream_seq).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(true),
            Err(error) => return Err(error).context("failed to read the event"),
        };
        // The stream may have been made anew since.
        if message.time > advisory.timestamp {
            return Ok(true);
        }
        let sequence = i64::try_from(message.sequence).unwrap_or(i64::MAX);
        let event = process::read_event(&message.payload, Some(&message.headers), sequence, message.time);
        let entry =
            super::entry(database, &self.env, &event.id).await.map_err(crate::database::Trouble::from)?;
        match entry {
            Some(entry) if entry.outcome.is_some() => {}
            Some(_) => {
                let mut headers = HeaderMap::new();
                let life = super::life_of(events).timestamp_micros();
                headers.insert(NATS_MESSAGE_ID, format!("again/{life}/{}", message.sequence));
                let again = PublishMessage::build().headers(headers).payload(message.payload);
                self.jetstream
                    .send_publish(message.subject, again)
                    .await
                    .context("failed to publish the event again")?
                    .await
                    .context("failed to publish the event again")?;
                tracing::info!(event.id = %event.id, deliveries = advisory.deliveries, "delivered often, goes on afresh");
            }
            None if breaker.is_open() => return Ok(false),
            None => {
                let attempts = u32::try_from(advisory.deliveries).unwrap_or(u32::MAX);
                let doomed = Doomed { event: &event, sequence, attempts, failure: &Failure::Crash };
                self.bury(database, &[doomed]).await?;
                breaker.failed(&event.id, Instant::now());
                process::tell_of_a_death(metrics, &event, attempts, &Failure::Crash);
            }
        }
        Ok(true)
    }
}
