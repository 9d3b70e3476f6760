//! Replaying and discarding dead letters. Both are done in steps of a few, each in an order that may break off
//! anywhere: what was done is recorded, then the events are published again, then the dead letters go. Run again,
//! it finds what is left; what was done already is not done twice.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use serde_json::Value;
use shared::event::{Channel, Event};
use shared::subject;
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{DeadLetter, DeadLetters};
use crate::crash;
use crate::database::Trouble;
use crate::workos::Rate;

/// Dead letters of one step.
const STEP: usize = 100;
/// Requests to the broker at once, to remove dead letters.
const REMOVALS: usize = 32;

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask again now.
    Replay,
    /// Mark it as done.
    Discard,
}

impl Action {
    /// The command, as in `workos_sync.runs`.
    #[must_use]
    pub const fn command(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }

    /// What was done, as in `workos_sync.dead_letter_actions`.
    #[must_use]
    pub const fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Discard => "discarded",
        }
    }
}

/// Who wants it, why, and how fast.
#[derive(Clone, Debug)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Who.
    pub actor: String,
    /// Why, as that person said.
    pub why: Option<String>,
    /// What it was to cover, for the record: the filter.
    pub arguments: Value,
    /// How many a second.
    pub rate: Rate,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Dead letters that were meant.
    pub selected: usize,
    /// Those that this run replayed or discarded.
    pub done: usize,
    /// Those that an earlier run had recorded already, before it broke off.
    pub already: usize,
}

/// A run, for the record.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Its number in `workos_sync.runs`.
    pub id: i64,
    /// What it did.
    pub counts: Counts,
    /// Whether it was told to stop.
    pub stopped: bool,
}

impl DeadLetters {
    /// Does it to these dead letters, and records who wanted it and why. `moved` is told after each step what was
    /// done so far. `stop` ends it after the step in hand.
    pub async fn act(
        &self,
        database: &PgPool,
        letters: &[DeadLetter],
        order: &Order,
        stop: &CancellationToken,
        moved: impl FnMut(Counts),
    ) -> anyhow::Result<Run> {
        let id = self.begin(database, order).await?;
        self.carry_out(database, id, letters, order, stop, moved).await
    }

    /// The same, in a run that was begun.
    pub async fn carry_out(
        &self,
        database: &PgPool,
        id: i64,
        letters: &[DeadLetter],
        order: &Order,
        stop: &CancellationToken,
        mut moved: impl FnMut(Counts),
    ) -> anyhow::Result<Run> {
        let stream = self.stream().await?;
        let mut counts = Counts { selected: letters.len(), ..Counts::default() };
        let started = Instant::now();
        for step in letters.chunks(step_of(order.rate)) {
            let due = started + pause(order.rate, counts.done + counts.already);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = stop.cancelled() => {}
            }
            if stop.is_cancelled() {
                break;
            }
            let done = self.record(database, &stream, step, order.action, id).await?;
            crash::point("after_recorded");
            if order.action == Action::Replay {
                self.publish_again(&stream, step).await?;
                crash::point("after_replayed");
            }
            self.remove(&stream, step).await?;
            counts.done += done;
            counts.already += step.len() - done;
            self.end(database, id, counts, None).await?;
            moved(counts);
        }
        let stopped = counts.done + counts.already < counts.selected;
        self.end(database, id, counts, Some(if stopped { "stopped" } else { "done" })).await?;
        Ok(Run { id, counts, stopped })
    }

    /// The outcomes of events, by id; those without are absent.
    pub async fn outcomes(
        &self,
        database: &PgPool,
        events: &[&str],
    ) -> anyhow::Result<Vec<(String, String)>> {
        let rows = sqlx::query!(
            r#"
            SELECT id, outcome AS "outcome!"
            FROM workos_sync.events
            WHERE env = $1 AND id = ANY($2) AND outcome IS NOT NULL
            "#,
            self.env,
            events as _
        )
        .fetch_all(database)
        .await
        .map_err(Trouble::from)
        .context("failed to look for outcomes")?;
        Ok(rows.into_iter().map(|row| (row.id, row.outcome)).collect())
    }

    /// Records that it begins; returns the number of the run.
    pub async fn begin(&self, database: &PgPool, order: &Order) -> anyhow::Result<i64> {
        sqlx::query_scalar!(
            r#"
            INSERT INTO workos_sync.runs (env, command, actor, reason, arguments)
            VALUES ($1, $2, $3, $4, $5)
            RETURNING id
            "#,
            self.env,
            order.action.command(),
            order.actor,
            order.why,
            order.arguments
        )
        .fetch_one(database)
        .await
        .map_err(Trouble::from)
        .context("failed to record the run")
    }

    async fn end(
        &self,
        database: &PgPool,
        id: i64,
        counts: Counts,
        result: Option<&str>,
    ) -> anyhow::Result<()> {
        let counts = serde_json::to_value(counts).context("failed to write the counts")?;
        sqlx::query!(
            r#"
            UPDATE workos_sync.runs
            SET counts = $2,
                moved_at = now(),
                result = $3,
                finished_at = CASE WHEN $3::text IS NOT NULL THEN now() END
            WHERE id = $1
            "#,
            id,
            counts,
            result
        )
        .execute(database)
        .await
        .map_err(Trouble::from)
        .context("failed to record the run")?;
        Ok(())
    }

    /// Records what is done with these; says with how many nothing was done before. What is to be replayed is no
    /// longer dead, so that a worker takes it on.
    async fn record(
        &self,
        database: &PgPool,
        stream: &Stream,
        letters: &[DeadLetter],
        action: Action,
        run: i64,
    ) -> anyhow::Result<usize> {
        self.try_record(database, super::life_of(stream), letters, action, run)
            .await
            .map_err(Trouble::from)
            .context("failed to record what is done")
    }

    async fn try_record(
        &self,
        database: &PgPool,
        life: DateTime<Utc>,
        letters: &[DeadLetter],
        action: Action,
        run: i64,
    ) -> sqlx::Result<usize> {
        let seqs: Vec<i64> =
            letters.iter().map(|letter| i64::try_from(letter.seq).unwrap_or(i64::MAX)).collect();
        let events: Vec<&str> = letters.iter().map(|letter| letter.event.id.as_str()).collect();
        let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
        let mut transaction = database.begin().await?;
        let done = sqlx::query!(
            r#"
            INSERT INTO workos_sync.dead_letter_actions (env, stream, seq, event_id, reason, action, run_id)
            SELECT $1, $2, seq, event_id, reason, $3, $4
            FROM unnest($5::bigint[], $6::text[], $7::text[]) AS done (seq, event_id, reason)
            ORDER BY seq
            ON CONFLICT (env, stream, seq, action) DO NOTHING
            "#,
            self.env,
            life,
            action.done(),
            run,
            &seqs,
            &events as _,
            &reasons as _
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        match action {
            Action::Replay => sqlx::query!(
                r#"
                UPDATE workos_sync.events
                SET outcome = NULL,
                    settled_at = NULL,
                    reason = 'replayed',
                    attempts = 0,
                    begun = 0
                WHERE env = $1 AND id = ANY($2) AND outcome = 'dead'
                "#,
                self.env,
                &events as _
            ),
            // A replay that broke off may have announced them, and nothing came of it.
            Action::Discard => sqlx::query!(
                r#"
                UPDATE workos_sync.events
                SET outcome = 'dead',
                    settled_at = now(),
                    reason = 'discarded'
                WHERE env = $1 AND id = ANY($2) AND outcome IS NULL AND reason = 'replayed'
                "#,
                self.env,
                &events as _
            ),
        }
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(usize::try_from(done).unwrap_or(usize::MAX))
    }

    /// Publishes the events again. Each has a message id of its own, so that a run that broke off in between and is
    /// run again soon publishes it once; and later than soon, the ledger knows it.
    async fn publish_again(&self, stream: &Stream, letters: &[DeadLetter]) -> anyhow::Result<()> {
        let life = super::life_of(stream).timestamp_micros();
        let mut acknowledgements = Vec::with_capacity(letters.len());
        for letter in letters {
            let event = Event { channel: Channel::Replay, ..letter.event.clone() };
            let payload = serde_json::to_vec(&event).context("failed to write an event")?;
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, format!("replay/{life}/{}", letter.seq));
            let message = PublishMessage::build().headers(headers).payload(payload.into());
            let sent =
                self.jetstream.send_publish(subject::event(&self.env, &event.event_type), message).await;
            acknowledgements.push(sent.context("failed to publish an event again")?);
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await.context("failed to publish an event again")?;
        }
        Ok(())
    }

    /// Removes them, and the earlier ones they stand for.
    async fn remove(&self, stream: &Stream, letters: &[DeadLetter]) -> anyhow::Result<()> {
        let mut seqs = Vec::with_capacity(letters.len());
        for letter in letters {
            seqs.extend(&letter.earlier);
            seqs.push(letter.seq);
        }
        let mut removals = stream::iter(seqs)
            .map(|seq| async move {
                let Err(error) = stream.delete_message(seq).await else { return Ok(()) };
                match stream.get_raw_message(seq).await {
                    // Another run was faster, or it grew too old.
                    Err(gone) if gone.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(()),
                    _ => Err(error).context("failed to remove a dead letter"),
                }
            })
            .buffer_unordered(REMOVALS);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        Ok(())
    }
}

/// Steps are smaller when it is to be slow, so that it goes evenly.
fn step_of(rate: Rate) -> usize {
    match rate {
        Rate::Unlimited => STEP,
        Rate::Per(count, period) => {
            let per_second = u64::from(count.get()) / period.as_secs().max(1);
            usize::try_from(per_second / 4).unwrap_or(STEP).clamp(1, STEP)
        }
    }
}

/// When the next one is due, after so many.
fn pause(rate: Rate, done: usize) -> Duration {
    match rate {
        Rate::Unlimited => Duration::ZERO,
        Rate::Per(count, period) => {
            (period / count.get()).saturating_mul(u32::try_from(done).unwrap_or(u32::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_pauses_keep_the_rate() {
        let rate = |text: &str| text.parse::<Rate>().expect("a rate");
        assert_eq!(step_of(Rate::Unlimited), STEP);
        assert_eq!(step_of(rate("1/m")), 1);
        assert_eq!(step_of(rate("20/s")), 5);
        assert_eq!(step_of(rate("100000/s")), STEP);
        assert_eq!(pause(rate("20/s"), 100), Duration::from_secs(5));
        assert_eq!(pause(Rate::Unlimited, 100), Duration::ZERO);
    }
}
