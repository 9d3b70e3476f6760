//! Setting events aside: first the dead letter, then the ledger. Whatever dies in between, the event is delivered
//! again and the same is done once more: a dead letter that is published twice is listed once.

use anyhow::Context as _;
use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use shared::clock;
use shared::event::Event;
use shared::subject;
use sqlx::PgPool;

use super::DeadLetters;
use crate::crash;
use crate::database::Trouble;
use crate::failure::Failure;
use crate::ledger;
use crate::outcome::Outcome;

/// An event to be set aside.
#[derive(Clone, Debug)]
pub struct Doomed<'a> {
    /// The event.
    pub event: &'a Event,
    /// Its sequence in `WORKOS_EVENTS`.
    pub sequence: i64,
    /// Attempts that it used up.
    pub attempts: u32,
    /// Why.
    pub failure: &'a Failure,
}

impl DeadLetters {
    /// Sets events aside: they are dead letters, and `dead` in the ledger, once this returns. Otherwise they must be
    /// delivered again.
    pub async fn bury(&self, database: &PgPool, doomed: &[Doomed<'_>]) -> anyhow::Result<()> {
        self.publish(doomed).await?;
        crash::point("after_dead_letter");
        let entries: Vec<ledger::Entry<'_>> = doomed
            .iter()
            .map(|doomed| ledger::Entry {
                event: doomed.event,
                sequence: doomed.sequence,
                attempts: doomed.attempts,
                begun: 0,
                outcome: Some(Outcome::Dead),
                reason: Some(doomed.failure.reason()),
            })
            .collect();
        let mut connection = database.acquire().await.context("failed to connect to Postgres")?;
        ledger::record(&mut connection, &self.env, None, clock::now(), &entries)
            .await
            // Its own text may quote a value.
            .map_err(Trouble::from)
            .context("failed to record dead letters")?;
        crash::point("after_dead");
        Ok(())
    }

    /// Publishes dead letters and waits until the broker has them.
    async fn publish(&self, doomed: &[Doomed<'_>]) -> anyhow::Result<()> {
        let mut acknowledgements = Vec::with_capacity(doomed.len());
        for doomed in doomed {
            // A replay that dies has another sequence, and is another dead letter.
            let id = format!("{}/{}", one_line(&doomed.event.id), doomed.sequence);
            acknowledgements.push((doomed, self.send(doomed, &id).await?));
        }
        for (doomed, acknowledgement) in acknowledgements {
            let stored = acknowledgement.await.context("failed to publish a dead letter")?;
            if stored.duplicate && !self.has(stored.sequence).await? {
                // It was replayed meanwhile, and the broker remembers it all the same.
                let id = format!("{}/{}/{}", one_line(&doomed.event.id), doomed.sequence, clock::now());
                self.send(doomed, &id).await?.await.context("failed to publish a dead letter")?;
            }
        }
        Ok(())
    }

    /// Sends a dead letter, under this message id.
    async fn send(&self, doomed: &Doomed<'_>, id: &str) -> anyhow::Result<PublishAckFuture> {
        let payload = serde_json::to_vec(doomed.event).context("failed to write a dead letter")?;
        let message = PublishMessage::build().headers(headers(doomed, id)).payload(payload.into());
        let subject = subject::dead_letter(&self.env, &doomed.event.event_type);
        self.jetstream.send_publish(subject, message).await.context("failed to publish a dead letter")
    }

    /// Whether the dead letter of this sequence is there.
    async fn has(&self, sequence: u64) -> anyhow::Result<bool> {
        let stream = self
            .jetstream
            .get_stream_no_info(subject::DEAD_LETTERS_STREAM)
            .await
            .with_context(|| format!("failed to open the stream {}", subject::DEAD_LETTERS_STREAM))?;
        match stream.get_raw_message(sequence).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
            Err(error) => Err(error).context("failed to look for a dead letter"),
        }
    }
}

fn headers(doomed: &Doomed<'_>, id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, id);
    headers.insert(subject::REASON, doomed.failure.class());
    headers.insert(subject::ERROR, one_line(&doomed.failure.to_string()));
    headers.insert(subject::ATTEMPTS, doomed.attempts.to_string());
    headers.insert(subject::FIRST_SEEN, doomed.event.received_at.to_rfc3339());
    headers.insert(subject::STREAM_SEQUENCE, doomed.sequence.to_string());
    headers
}

/// Ids come from outside, and a header must not break its line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}
