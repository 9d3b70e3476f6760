//! One batch, start to finish: look up, coalesce, sync, settle.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use shared::clock;
use shared::event::{Channel, Event};
use shared::id::ObjectRef;

use crate::crash;
use crate::database::{self, Trouble};
use crate::decide::{self, Standing};
use crate::failure::{Failure, Remedy};
use crate::guard::{self, Covers, Found, Known, Life, Question, Wanted};
use crate::metrics::Metrics;
use crate::outcome::Outcome;
use crate::sync::{Delivered, Ending, Sync, Wish};

/// After how long a delivery that was handed back comes again.
const HAND_BACK: Duration = Duration::from_millis(50);

/// A handing-over of an event, to be settled.
pub struct Delivery {
    message: Message,
    delivered: Delivered,
    object: Option<ObjectRef>,
    covers: i64,
}

impl Delivery {
    /// Reads a message. One that holds no event is not lost: it becomes an event of its own, which ends
    /// as `dead`.
    #[must_use]
    pub fn read(message: Message) -> Option<Self> {
        let info = match message.info() {
            Ok(info) => info,
            Err(error) => {
                tracing::error!(error = %error, "a message without delivery information came from the broker");
                return None;
            }
        };
        let sequence = i64::try_from(info.stream_sequence).unwrap_or(i64::MAX);
        let pending = i64::try_from(info.pending).unwrap_or(0);
        let attempt = u32::try_from(info.delivered).unwrap_or(u32::MAX).max(1);
        let event = match serde_json::from_slice(&message.payload) {
            Ok(event) => without_nul(event),
            Err(error) => {
                // The error's own text quotes what it read.
                tracing::warn!(
                    stream.sequence = sequence,
                    line = error.line(),
                    column = error.column(),
                    "a message is not an event, it will be recorded as dead"
                );
                unreadable(&message, sequence, info.published)
            }
        };
        Some(Self {
            object: event.object(),
            delivered: Delivered { event, sequence, attempt },
            covers: sequence.saturating_add(pending),
            message,
        })
    }

    /// Messages that this delivery says are waiting behind it.
    #[must_use]
    pub fn pending(&self) -> i64 {
        self.covers.saturating_sub(self.delivered.sequence)
    }

    /// The object that its event is about, if we mirror it.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectRef> {
        self.object.as_ref()
    }

    /// Hands it back without having done anything.
    pub async fn hand_back(self) {
        settle(&self.message, AckKind::Nak(Some(HAND_BACK))).await;
    }
}

async fn settle(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        // It will be delivered again, and the ledger makes that harmless.
        tracing::debug!(error = %error, "failed to settle a delivery");
    }
}

/// Postgres cannot hold NUL characters, and no WorkOS name has one.
fn without_nul(mut event: Event) -> Event {
    let clean = |text: &mut String| {
        if text.contains('\0') {
            *text = text.replace('\0', "\u{FFFD}");
        }
    };
    clean(&mut event.id);
    clean(&mut event.event_type);
    for text in [&mut event.kind, &mut event.object_id, &mut event.organization_id, &mut event.actor] {
        text.as_mut().map(clean);
    }
    event
}

/// Stands for a message that holds no event. Its kind without an object makes it end as malformed.
fn unreadable(message: &Message, sequence: i64, published: chrono::DateTime<chrono::Utc>) -> Event {
    let id = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID))
        .map_or_else(|| format!("unreadable_{sequence}"), ToString::to_string);
    Event {
        id,
        event_type: "unreadable".to_owned(),
        kind: Some("unreadable".to_owned()),
        operation: None,
        object_id: None,
        organization_id: None,
        created_at: None,
        updated_at: None,
        actor: None,
        received_at: published,
        channel: Channel::Webhook,
    }
}

/// The stream as it was when the subscription began.
pub struct Begun<C> {
    /// Its life.
    pub life: Life,
    /// Its last sequence.
    pub last: i64,
    /// Asks the broker whether this is still its life, and for its last sequence by now.
    pub confirm: C,
}

/// Carries a batch from start to finish and settles every delivery. Returns what Postgres said when it was
/// not available, so that the caller stops pulling.
pub async fn batch(
    sync: &Sync,
    metrics: &Metrics,
    deliveries: Vec<Delivery>,
    begun: Begun<impl Future<Output = Option<i64>>>,
    ack_wait: Duration,
) -> Result<(), Trouble> {
    metrics.batch(deliveries.len());
    let covers = deliveries.iter().map(|delivery| delivery.covers).max().unwrap_or(0);
    let mut messages = Vec::with_capacity(deliveries.len());
    let mut objects = Vec::with_capacity(deliveries.len());
    let mut batch = Vec::with_capacity(deliveries.len());
    for Delivery { message, delivered, object, covers: _ } in deliveries {
        messages.push(message);
        objects.push(object);
        batch.push(delivered);
    }
    let mut endings = BTreeMap::new();
    let result = {
        let work = carry_out(sync, metrics, &batch, &objects, covers, begun, &mut endings);
        tokio::pin!(work);
        let mut heartbeat = tokio::time::interval(ack_wait / 3);
        heartbeat.tick().await;
        loop {
            tokio::select! {
                result = &mut work => break result,
                _ = heartbeat.tick() => {
                    for message in &messages {
                        // Without it the broker hands the event to another worker, which is harmless.
                        let _ = message.ack_with(AckKind::Progress).await;
                    }
                }
            }
        }
    };
    crash::point("before_settle");
    let now = clock::now();
    for (place, (message, delivered)) in messages.iter().zip(&batch).enumerate() {
        let ending = endings.remove(&place).unwrap_or(Ending::Fails(match &result {
            Err(trouble) => Failure::from(trouble.clone()),
            Ok(()) => Failure::DatabaseUnavailable,
        }));
        let Delivered { event, attempt, .. } = delivered;
        let ack = match &ending {
            Ending::Duplicate => AckKind::Ack,
            Ending::Ends(outcome, _) => {
                metrics.event(*outcome, event.channel, event.created_at, now);
                tracing::debug!(event.id = %event.id, event.r#type = %event.event_type, outcome = %outcome, "settled");
                AckKind::Ack
            }
            Ending::Fails(failure) => match failure.remedy(*attempt) {
                Remedy::Retry(delay) => {
                    metrics.retry(failure.class());
                    tracing::info!(
                        event.id = %event.id,
                        event.r#type = %event.event_type,
                        delivery.attempt = attempt,
                        wait_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                        reason = %failure.reason(),
                        "could not be settled, will come again"
                    );
                    AckKind::Nak(Some(delay))
                }
                Remedy::Bury => {
                    metrics.event(Outcome::Dead, event.channel, event.created_at, now);
                    AckKind::Ack
                }
            },
        };
        settle(message, ack).await;
        crash::point("mid_settle");
    }
    match result {
        Err(Trouble::Unavailable | Trouble::Conflict) => Err(Trouble::Unavailable),
        Err(Trouble::Refused(_)) | Ok(()) => Ok(()),
    }
}

async fn carry_out(
    sync: &Sync,
    metrics: &Metrics,
    batch: &[Delivered],
    objects: &[Option<ObjectRef>],
    covers: i64,
    begun: Begun<impl Future<Output = Option<i64>>>,
    endings: &mut BTreeMap<usize, Ending>,
) -> Result<(), Trouble> {
    let wanted: Vec<Wanted<'_>> = batch
        .iter()
        .zip(objects)
        .map(|(delivered, object)| Wanted { event_id: &delivered.event.id, object: object.as_ref() })
        .collect();
    let look_up = guard::look_up(&sync.database, &sync.env, &wanted);
    let (fence, found) = tokio::time::timeout(database::TIMEOUT, look_up)
        .await
        .map_err(|_| Trouble::Unavailable)?
        .map_err(Trouble::from)?;
    crash::point("after_look_up");

    // Sequences say something only within one life of the stream, and only up to its end: before any is
    // compared, the broker is asked. (Most batches compare none.)
    let stand = |delivered: &Delivered, found: &Found, last: Option<i64>| {
        let known = found.known.as_ref().map(|known| Known {
            covers: known.covers.filter(|(_, covers)| last.is_some_and(|last| *covers <= last)),
            ..known.clone()
        });
        let life = last.map(|_| begun.life);
        decide::standing(&delivered.event, delivered.sequence, life, found.settled.is_some(), known.as_ref())
    };
    let compares = batch.iter().zip(&found).any(|(delivered, found)| {
        matches!(stand(delivered, found, Some(i64::MAX)), Standing::Ends(_, decide::COVERED))
    });
    let last = if compares { begun.confirm.await } else { None };

    let mut wishes: BTreeMap<ObjectRef, Wish> = BTreeMap::new();
    let mut duplicates = Vec::new();
    let mut asked = 0;
    for (place, ((delivered, object), found)) in batch.iter().zip(objects).zip(found).enumerate() {
        let standing = stand(delivered, &found, last);
        let deleted = match standing {
            Standing::Settled => {
                duplicates.push(place);
                continue;
            }
            Standing::Ends(outcome, reason) => {
                endings.insert(place, Ending::Ends(outcome, Some(reason)));
                continue;
            }
            Standing::Waits => {
                endings.insert(place, Ending::Fails(Failure::LaterVersion));
                continue;
            }
            Standing::Deletes => true,
            Standing::Asks => false,
        };
        let Some(object) = object else { continue };
        asked += 1;
        let wish = wishes.entry(object.clone()).or_insert_with(|| Wish {
            object: object.clone(),
            deleted: false,
            said: None,
            known: found.known,
            events: Vec::new(),
            told: None,
        });
        wish.said = wish.said.max(delivered.event.updated_at);
        if deleted && !wish.deleted {
            wish.deleted = true;
            wish.events.insert(0, place);
        } else {
            wish.events.push(place);
        }
    }
    metrics.coalesced(asked - wishes.len() as u64);
    // Written with the life in which the subscription began: in another one it will say nothing.
    let covers = Some(Covers { life: begun.life, sequence: covers, last: begun.last.max(covers) });
    let question = Question { fence, covers, at: clock::now() };
    let result = if wishes.is_empty() && endings.is_empty() {
        Ok(())
    } else {
        sync.run(question, batch, wishes.into_values().collect(), endings).await
    };
    if result.is_err() {
        // Some parts may be committed; delivered again, they are known to be settled.
        endings.clear();
    }
    for place in duplicates {
        endings.insert(place, Ending::Duplicate);
    }
    result
}
