//! One batch, start to finish: look up, coalesce, sync, settle.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use chrono::{DateTime, TimeDelta, Utc};
use shared::event::{Arrival, Channel, Event, Member};
use shared::id::{Kind, ObjectRef};
use shared::{clock, subject};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::breaker::Breaker;
use crate::burst::{self, Bursts, Waiting};
use crate::by_list::Lists;
use crate::database::{self, Trouble};
use crate::dead_letter::{DeadLetters, Doomed};
use crate::decide::{self, Place, Standing};
use crate::failure::{Failure, Remedy, Retries};
use crate::guard::{self, Covers, DeletedBy, Found, Known, Question, Wanted};
use crate::metrics::Metrics;
use crate::object;
use crate::outcome::Outcome;
use crate::stream::Begun;
use crate::sync::{Delivered, Ending, Sync, Wish, within_time};
use crate::{crash, ledger};

/// After how long a delivery that was handed back comes again.
const HAND_BACK: Duration = Duration::from_millis(50);
/// Tries that begin and never end, before an event counts as what kills the worker: so many at least, or its
/// neighbours could not be told from it.
const LEAST_CRASHES: u32 = 3;

/// An event that waits for a list is written down every so many deliveries.
const WAITS_LONG: u32 = 4;

/// How long after an event an answer about a relation is doubted that does not say what the event said: nothing in it
/// tells how old it is. After that it is believed, since a later event may have said the contrary.
const DOUBTED: TimeDelta = TimeDelta::seconds(10);

/// What a batch is carried out with.
#[derive(Clone)]
pub struct Means {
    /// The verb.
    pub sync: Sync,
    /// What is counted.
    pub metrics: Metrics,
    /// How long the broker waits for a sign of life.
    pub ack_wait: Duration,
    /// How often an event is tried, and how soon again.
    pub retries: Retries,
    /// Where events go that cannot be carried out.
    pub dead_letters: DeadLetters,
    /// Keeps them from being everything.
    pub breaker: Breaker,
    /// Lists instead, when many objects of one directory wait.
    pub bursts: Bursts,
    /// Lists instead, when a batch asks for much that one list shows.
    pub lists: Lists,
    /// Held while an event that may kill the worker is tried: one at a time.
    pub alone: Arc<Mutex<()>>,
}

/// A handing-over of an event, to be settled.
pub struct Delivery {
    message: Message,
    delivered: Delivered,
    object: Option<ObjectRef>,
    /// Messages that were waiting behind it when it was handed over, as the broker counts them: not exactly.
    pending: u64,
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
        let pending = info.pending;
        let delivery = u32::try_from(info.delivered).unwrap_or(u32::MAX).max(1);
        let event = read_event(&message.payload, message.headers.as_ref(), sequence, info.published);
        Some(Self {
            object: event.object(),
            // What it used up before stands in the ledger.
            delivered: Delivered {
                event,
                sequence,
                published: info.published,
                delivery,
                attempts: 0,
                begun: 0,
            },
            pending,
            message,
        })
    }

    /// Whether messages were waiting behind it when it was handed over.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.pending > 0
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

/// Reads what a message of the stream holds. One that holds no event becomes an event of its own, which ends as
/// `dead`.
pub(crate) fn read_event(
    payload: &[u8],
    headers: Option<&HeaderMap>,
    sequence: i64,
    published: DateTime<Utc>,
) -> Event {
    match serde_json::from_slice(payload) {
        Ok(event) => without_nul(event),
        Err(error) => {
            // The error's own text quotes what it read.
            tracing::warn!(
                stream.sequence = sequence,
                line = error.line(),
                column = error.column(),
                "a message is not an event, it will be a dead letter"
            );
            unreadable(headers, sequence, published)
        }
    }
}

/// A webhook brought what has its outcome already, most likely by the tail: the ledger is to know that it came.
/// (The broker forgot the first one, or it would have dropped this one, and ingest would tell.)
async fn tell_arrival(message: &Message, env: &str, event: &Event) {
    let Ok(payload) = serde_json::to_vec(&Arrival::from(event)) else { return };
    if let Err(error) = message.context.client().publish(subject::arrivals(env), payload.into()).await {
        tracing::debug!(error = %error, "failed to tell that a webhook came late");
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
    if let Some(member) = &mut event.member {
        clean(&mut member.id);
        member.tells.values_mut().for_each(clean);
    }
    for text in [
        &mut event.kind,
        &mut event.object_id,
        &mut event.organization_id,
        &mut event.directory_id,
        &mut event.actor,
    ] {
        text.as_mut().map(clean);
    }
    event
}

/// Stands for a message that holds no event. Its kind without an object makes it end as malformed.
fn unreadable(headers: Option<&HeaderMap>, sequence: i64, published: DateTime<Utc>) -> Event {
    let id = headers
        .and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID))
        .map_or_else(|| format!("unreadable_{sequence}"), ToString::to_string);
    Event {
        id,
        event_type: "unreadable".to_owned(),
        kind: Some("unreadable".to_owned()),
        operation: None,
        object_id: None,
        organization_id: None,
        directory_id: None,
        member: None,
        created_at: None,
        updated_at: None,
        actor: None,
        received_at: published,
        channel: Channel::Webhook,
    }
}

/// How a delivery is settled. Chosen once; the ledger, the log, the metrics and the acknowledgement read it.
enum Settlement {
    /// It had its outcome before.
    Known,
    /// It has its outcome.
    Done(Outcome),
    /// It comes again.
    Again(Failure, Duration),
    /// It is set aside.
    Dies(Failure),
}

/// Carries a batch from start to finish and settles every delivery. Returns what Postgres said when it was
/// not available, so that the caller stops pulling.
pub async fn batch(means: &Means, deliveries: Vec<Delivery>, begun: Begun) -> Result<(), Trouble> {
    means.metrics.batch(deliveries.len());
    let last = deliveries.iter().max_by_key(|delivery| delivery.delivered.sequence);
    let is_followed = last.is_some_and(Delivery::is_followed);
    let mut messages = Vec::with_capacity(deliveries.len());
    let mut objects = Vec::with_capacity(deliveries.len());
    let mut batch = Vec::with_capacity(deliveries.len());
    for Delivery { message, delivered, object, pending: _ } in deliveries {
        messages.push(message);
        objects.push(object);
        batch.push(delivered);
    }
    let mut endings = BTreeMap::new();
    let result = {
        let work = carry_out(means, &mut batch, &objects, is_followed, &begun, &mut endings);
        tokio::pin!(work);
        let mut heartbeat = tokio::time::interval(means.ack_wait / 3);
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
    let mut settlements = settlements(means, &batch, endings, &result);
    bury(means, &batch, &mut settlements).await;
    let now = clock::now();
    for ((message, delivered), settlement) in messages.iter().zip(&batch).zip(&settlements) {
        let Delivered { event, .. } = delivered;
        let ack = match settlement {
            Settlement::Known => {
                if event.channel == Channel::Webhook {
                    tell_arrival(message, &means.sync.env, event).await;
                }
                AckKind::Ack
            }
            Settlement::Done(outcome) => {
                means.metrics.event(*outcome, event.channel, event.created_at, now);
                if *outcome == Outcome::Ignored {
                    means.metrics.ignored(&event.event_type);
                }
                if event.channel == Channel::Webhook {
                    means.metrics.tail().webhook(event.created_at, event.received_at);
                }
                tracing::debug!(event.id = %event.id, event.r#type = %event.event_type, outcome = %outcome, "settled");
                AckKind::Ack
            }
            Settlement::Again(failure, delay) => {
                means.metrics.retry(failure.class());
                if !matches!(failure, Failure::AwaitsList(_)) {
                    tracing::info!(
                        event.id = %event.id,
                        event.r#type = %event.event_type,
                        delivery.attempt = delivered.attempt(),
                        wait_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                        reason = %failure.reason(),
                        "could not be settled, will come again"
                    );
                }
                AckKind::Nak(Some(*delay))
            }
            Settlement::Dies(failure) => {
                tell_of_a_death(&means.metrics, event, delivered.attempt(), failure);
                AckKind::Term
            }
        };
        settle(message, ack).await;
        crash::point("mid_settle");
    }
    match result {
        Err(Trouble::Unavailable | Trouble::Conflict) => Err(Trouble::Unavailable),
        Err(Trouble::Refused(_)) | Ok(()) => Ok(()),
    }
}

/// Chooses how each delivery of a batch is settled.
fn settlements(
    means: &Means,
    batch: &[Delivered],
    mut endings: BTreeMap<usize, Ending>,
    result: &Result<(), Trouble>,
) -> Vec<Settlement> {
    let endings: Vec<Ending> = (0..batch.len())
        .map(|place| {
            endings.remove(&place).unwrap_or(Ending::Fails(match result {
                Err(trouble) => Failure::from(trouble.clone()),
                Ok(()) => Failure::DatabaseUnavailable,
            }))
        })
        .collect();
    // All of the batch first: what it shows may keep its own events from being buried.
    let now = Instant::now();
    for (delivered, ending) in batch.iter().zip(&endings) {
        match ending {
            Ending::Fails(failure) if failure.hints_at_us() => means.breaker.failed(&delivered.event.id, now),
            // That they need nothing says nothing.
            Ending::Fails(_) | Ending::Duplicate | Ending::Ends(Outcome::Ignored | Outcome::Dead, _) => {}
            Ending::Ends(..) => means.breaker.settled(&delivered.event.id, now),
        }
    }
    batch
        .iter()
        .zip(endings)
        .map(|(delivered, ending)| match ending {
            Ending::Duplicate => Settlement::Known,
            Ending::Ends(outcome, _) => Settlement::Done(outcome),
            Ending::Fails(failure) => {
                match failure.remedy(&means.retries, delivered.attempt(), delivered.delivery) {
                    Remedy::Retry(delay) => Settlement::Again(failure, delay),
                    Remedy::Bury if means.breaker.is_open() => spared(means, delivered, failure),
                    Remedy::Bury => Settlement::Dies(failure),
                }
            }
        })
        .collect()
}

/// It was to be set aside, but cannot be now.
fn spared(means: &Means, delivered: &Delivered, failure: Failure) -> Settlement {
    let delay = failure.delay(&means.retries, delivered.attempt(), delivered.delivery);
    Settlement::Again(failure, delay)
}

/// Sets aside what is to be set aside. What could not be comes again.
async fn bury(means: &Means, batch: &[Delivered], settlements: &mut [Settlement]) {
    let doomed: Vec<Doomed<'_>> = batch
        .iter()
        .zip(&*settlements)
        .filter_map(|(delivered, settlement)| match settlement {
            Settlement::Dies(failure) => Some(Doomed {
                event: &delivered.event,
                sequence: delivered.sequence,
                attempts: delivered.attempt(),
                failure,
            }),
            _ => None,
        })
        .collect();
    if doomed.is_empty() {
        return;
    }
    let Err(error) = means.dead_letters.bury(&means.sync.database, &doomed).await else { return };
    tracing::warn!(
        events = doomed.len(),
        error = format!("{error:#}"),
        "events could not be set aside, they will come again"
    );
    for (delivered, settlement) in batch.iter().zip(settlements) {
        if let Settlement::Dies(failure) = settlement {
            *settlement = spared(means, delivered, failure.clone());
        }
    }
}

/// An event is a dead letter, and `dead` in the ledger.
pub(crate) fn tell_of_a_death(metrics: &Metrics, event: &Event, attempts: u32, failure: &Failure) {
    tracing::error!(
        event.id = %event.id,
        event.r#type = %event.event_type,
        object.id = event.object_id.as_deref().unwrap_or_default(),
        attempts,
        reason = %failure.reason(),
        "set aside as a dead letter, `worker dlq list` shows it: {failure}"
    );
    metrics.event(Outcome::Dead, event.channel, event.created_at, clock::now());
    metrics.dead_letter(failure.class());
}

/// A round with the whole batch, and then one for each event that may kill the worker: alone, so that its
/// neighbours are not harmed, and after leaving a trace of it.
async fn carry_out(
    means: &Means,
    batch: &mut [Delivered],
    objects: &[Option<ObjectRef>],
    is_followed: bool,
    begun: &Begun,
    endings: &mut BTreeMap<usize, Ending>,
) -> Result<(), Trouble> {
    let round = Round { means, objects, begun, covers: published(batch, is_followed, begun).await };
    let all: Vec<usize> = (0..batch.len()).collect();
    let Left { after, mut suspects } = round.go(batch, &all, Company::Others, endings).await?;
    if !after.is_empty() {
        suspects.extend(round.go(batch, &after, Company::Others, endings).await?.suspects);
    }
    for suspect in suspects {
        let _alone = means.alone.lock().await;
        round.go(batch, &[suspect], Company::Alone, endings).await?;
    }
    Ok(())
}

/// How far the stream is known to be published before a fence is taken. A delivery vouches for its own sequence; where
/// more was published, the broker is asked how far. (The pending count of a delivery does not tell: NATS 2.9 counts too many
/// once messages were delivered again, and what covers more than there is would cover events to come.)
async fn published(batch: &[Delivered], is_followed: bool, begun: &Begun) -> Covers {
    let own = batch.iter().map(|delivered| delivered.sequence).max().unwrap_or(0);
    let is_old = batch.iter().any(|delivered| delivered.delivery > 1);
    let last = if is_followed || is_old { begun.last_by_now().await } else { None };
    Covers { life: begun.life, sequence: last.unwrap_or(own) }
}

/// What a round leaves to later ones.
struct Left {
    /// Events about a key whose last object was deleted in this round: what has it now must be asked for after that.
    after: Vec<usize>,
    /// Events that must be tried alone.
    suspects: Vec<usize>,
}

/// With whom an event is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Company {
    /// With the others of its batch.
    Others,
    /// Alone in this process: if the worker dies now, it is this event's doing.
    Alone,
}

/// What the rounds of a batch share.
struct Round<'a> {
    means: &'a Means,
    objects: &'a [Option<ObjectRef>],
    begun: &'a Begun,
    covers: Covers,
}

impl Round<'_> {
    fn object(&self, place: usize) -> Option<&ObjectRef> {
        self.objects.get(place)?.as_ref()
    }

    /// The keys that may be used again, and whose last object these deletions end.
    fn lives_ended(&self, deletions: impl Iterator<Item = usize>) -> HashSet<&ObjectRef> {
        deletions
            .filter_map(|place| self.object(place))
            .filter(|object| object::reuses_keys(object.kind))
            .collect()
    }

    /// Takes a fence and looks up what is known, also of earlier attempts.
    async fn look_up(&self, batch: &mut [Delivered], places: &[usize]) -> Result<(i64, Vec<Found>), Trouble> {
        let sync = &self.means.sync;
        let wanted: Vec<Wanted<'_>> = places
            .iter()
            .map(|place| Wanted { event_id: &batch[*place].event.id, object: self.object(*place) })
            .collect();
        let look_up = guard::look_up(&sync.database, &sync.env, &wanted);
        let (fence, found) = tokio::time::timeout(database::TIMEOUT, look_up)
            .await
            .map_err(|_| Trouble::Unavailable)?
            .map_err(|error| Trouble::from(error).without_a_row())?;
        for (place, found) in places.iter().zip(&found) {
            batch[*place].attempts = found.attempts.max(found.begun);
            batch[*place].begun = found.begun;
        }
        Ok((fence, found))
    }

    /// Carries out the events at these places, but for those that it leaves to later rounds.
    async fn go(
        &self,
        batch: &mut [Delivered],
        places: &[usize],
        company: Company,
        endings: &mut BTreeMap<usize, Ending>,
    ) -> Result<Left, Trouble> {
        let Self { means, covers, .. } = *self;
        let sync = &means.sync;
        let (fence, found) = self.look_up(batch, places).await?;
        // The first try leaves no trace, so that what goes well costs nothing.
        let least_crashes = means.retries.attempts.max(LEAST_CRASHES);
        let batch = &*batch;
        crash::point("after_look_up");

        let standings = self.standings(batch, places, &found).await?;
        let deletions = places.iter().zip(&standings).filter(|(_, standing)| **standing == Standing::Deletes);
        let lives_ended = self.lives_ended(deletions.map(|(place, _)| *place));
        let mut ended = BTreeMap::new();
        self.divert(batch, places, &standings, &mut ended, endings).await?;
        let mut wishes: BTreeMap<ObjectRef, Wish> = BTreeMap::new();
        let mut left = Left { after: Vec::new(), suspects: Vec::new() };
        let mut traced = Vec::new();
        let mut asked = 0;
        let mut by_list = means.lists.questions();
        for ((place, found), standing) in places.iter().copied().zip(found).zip(standings) {
            if endings.contains_key(&place) || ended.contains_key(&place) {
                continue;
            }
            let delivered = &batch[place];
            let deleted = match standing {
                Standing::Settled => {
                    endings.insert(place, Ending::Duplicate);
                    continue;
                }
                Standing::Ends(outcome, reason) => {
                    ended.insert(place, Ending::Ends(outcome, Some(reason)));
                    continue;
                }
                Standing::Fails(failure) => {
                    ended.insert(place, Ending::Fails(failure));
                    continue;
                }
                Standing::Deletes => true,
                Standing::Asks => false,
            };
            let Some(object) = self.object(place) else { continue };
            if !deleted && lives_ended.contains(object) {
                left.after.push(place);
                continue;
            }
            if delivered.begun + 1 >= least_crashes {
                ended.insert(place, Ending::Fails(Failure::Crash));
                continue;
            }
            if delivered.begun > 0 && company == Company::Others {
                left.suspects.push(place);
                continue;
            }
            if delivered.delivery > 1 || delivered.begun > 0 {
                traced.push(delivered);
            }
            asked += 1;
            let wish = wishes
                .entry(object.clone())
                .or_insert_with(|| Wish { is_retry: true, ..Wish::asking(object.clone(), found.known) });
            wish.is_retry &= delivered.delivery > 1 || delivered.event.channel == Channel::Replay;
            if let Some(holder) = &delivered.event.organization_id {
                sync.workos.found_within(object, holder);
            }
            by_list.add(&delivered.event, object);
            add_event(wish, place, delivered, deleted);
        }
        means.metrics.coalesced(asked - wishes.len() as u64);
        leave_traces(sync, &traced).await?;
        // Written with the life in which the subscription began: in another one it will say nothing.
        let question = Question { fence, covers: Some(covers), at: clock::now() };
        if !wishes.is_empty() || !ended.is_empty() {
            by_list.answer(sync, &mut wishes).await;
            // If it fails, some parts may be committed; delivered again, they are known to be settled.
            let ran = sync.run(question, batch, wishes.into_values().collect(), &mut ended).await;
            if ran.is_err() {
                take_back_traces(sync, &traced).await;
            }
            ran?;
        }
        endings.append(&mut ended);
        Ok(left)
    }

    /// Where each event stands. Sequences say something only within one life of the stream, and only up to its end:
    /// before any is compared, the broker is asked. (Most batches compare none.)
    async fn standings(
        &self,
        batch: &[Delivered],
        places: &[usize],
        found: &[Found],
    ) -> Result<Vec<Standing>, Trouble> {
        let stand = |place: usize, found: &Found, last: Option<i64>| {
            let known = found.known.as_ref().map(|known| Known {
                covers: known.covers.filter(|(_, covers)| last.is_some_and(|last| *covers <= last)),
                ..known.clone()
            });
            let life = last.map(|_| self.covers.life);
            let Delivered { event, sequence, published, .. } = &batch[place];
            let place = Place { sequence: *sequence, published: *published };
            decide::standing(event, place, life, found.settled.is_some(), known.as_ref())
        };
        let all = || places.iter().copied().zip(found);
        let compares = all().any(|(place, found)| {
            matches!(stand(place, found, Some(i64::MAX)), Standing::Ends(_, decide::COVERED))
        });
        let last = if compares { self.begun.last_by_now().await } else { None };
        let mut standings: Vec<Standing> = all().map(|(place, found)| stand(place, found, last)).collect();
        self.doubt_covers(batch, places, &mut standings).await?;
        Ok(standings)
    }

    /// An answer about a relation that came before an event and does not say what the event says may have been too old:
    /// it is asked again. (Other answers tell by their `updated_at`.)
    async fn doubt_covers(
        &self,
        batch: &[Delivered],
        places: &[usize],
        standings: &mut [Standing],
    ) -> Result<(), Trouble> {
        let covered: Vec<(usize, &ObjectRef, &Member)> = places
            .iter()
            .zip(&*standings)
            .enumerate()
            .filter(|(_, (_, standing))| matches!(standing, Standing::Ends(_, decide::COVERED)))
            .filter_map(|(n, (place, _))| {
                Some((n, self.object(*place)?, batch[*place].event.member.as_ref()?))
            })
            .collect();
        if covered.is_empty() {
            return Ok(());
        }
        let relations: HashSet<&ObjectRef> = covered.iter().map(|(_, relation, _)| *relation).collect();
        let relations: Vec<&ObjectRef> = relations.into_iter().collect();
        let rows = within_time(async {
            let mut connection = self.means.sync.database.acquire().await?;
            object::load(&mut connection, &self.means.sync.env, &relations).await
        })
        .await
        .map_err(Trouble::without_a_row)?;
        for (n, relation, member) in covered {
            let agrees = rows.get(relation).map_or(!member.is_in, |row| row.agrees(member));
            if !agrees {
                standings[n] = Standing::Asks;
            }
        }
        Ok(())
    }

    /// Events that are not asked for one by one: those of a deleted directory, which end, and those of one of which many
    /// wait, which come again.
    async fn divert(
        &self,
        batch: &[Delivered],
        places: &[usize],
        standings: &[Standing],
        ended: &mut BTreeMap<usize, Ending>,
        endings: &mut BTreeMap<usize, Ending>,
    ) -> Result<(), Trouble> {
        let mut waiting: Vec<Waiting<'_>> = places
            .iter()
            .zip(standings)
            .filter(|(_, standing)| **standing == Standing::Asks)
            .filter_map(|(place, _)| {
                let kind = self.object(*place)?.kind;
                let Delivered { event, sequence, .. } = &batch[*place];
                let directory = event.directory_id.as_deref()?;
                burst::is_listed_by_directory(kind).then_some(Waiting {
                    place: *place,
                    kind,
                    directory,
                    sequence: *sequence,
                    received_at: event.received_at,
                })
            })
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let deleted = self.deleted_directories(&waiting).await?;
        waiting.retain(|event| {
            let is_gone = deleted.contains(event.directory);
            if is_gone {
                ended.insert(
                    event.place,
                    Ending::Ends(Outcome::Superseded, Some("deleted_with_its_directory")),
                );
            }
            !is_gone
        });
        let diverted = self.means.bursts.divert(self.covers.life, &waiting).await;
        for (place, delay) in diverted.map_err(Trouble::without_a_row)? {
            let ending = Ending::Fails(Failure::AwaitsList(delay));
            // The ledger knows of those that wait for long, so that it can be told why.
            if batch[place].delivery.is_multiple_of(WAITS_LONG) {
                ended.insert(place, ending);
            } else {
                endings.insert(place, ending);
            }
        }
        Ok(())
    }

    /// Directories that an event declared deleted: WorkOS says so only once for all that was in them.
    async fn deleted_directories(&self, waiting: &[Waiting<'_>]) -> Result<HashSet<String>, Trouble> {
        let sync = &self.means.sync;
        let directories: HashSet<ObjectRef> =
            waiting.iter().map(|event| ObjectRef::new(Kind::Directory, event.directory)).collect();
        let directories: Vec<&ObjectRef> = directories.iter().collect();
        let known = within_time(guard::known(&sync.database, &sync.env, &directories))
            .await
            .map_err(Trouble::without_a_row)?;
        let deleted = known.into_iter().filter(|(_, known)| known.deleted_by == Some(DeletedBy::Event));
        Ok(deleted.map(|(directory, _)| directory.id).collect())
    }
}

/// One more event that leads to a wish.
fn add_event(wish: &mut Wish, place: usize, delivered: &Delivered, deleted: bool) {
    let event = &delivered.event;
    wish.said = wish.said.max(event.updated_at);
    if let Some(member) = &event.member {
        // What ended does not begin again, in whatever order that is told.
        let has_ended = wish.ends.iter().any(|end| end.id == member.id);
        if clock::now() - event.received_at < DOUBTED && !has_ended {
            wish.members.insert(member.id.clone(), member.clone());
        }
        if member.tells_its_end() {
            wish.ends.push(member.clone());
        }
    }
    if deleted && object::reuses_keys(wish.object.kind) {
        wish.ended = wish.ended.max(Some(event.happened_at()));
    }
    if deleted && !wish.deleted {
        wish.deleted = true;
        wish.events.insert(0, place);
    } else {
        wish.events.push(place);
    }
}

/// Notes that these are tried, before they are: if that is the last that is heard of them, they may be what
/// killed the worker.
async fn leave_traces(sync: &Sync, traced: &[&Delivered]) -> Result<(), Trouble> {
    if traced.is_empty() {
        return Ok(());
    }
    let entries: Vec<ledger::Entry<'_>> = traced
        .iter()
        .map(|delivered| ledger::Entry {
            event: &delivered.event,
            sequence: delivered.sequence,
            attempts: delivered.attempts,
            begun: delivered.begun + 1,
            outcome: None,
            reason: None,
        })
        .collect();
    let leave = async {
        let mut connection = sync.database.acquire().await?;
        ledger::record(&mut connection, &sync.env, None, clock::now(), &entries).await
    };
    tokio::time::timeout(database::TIMEOUT, leave)
        .await
        .map_err(|_| Trouble::Unavailable)?
        .map_err(Trouble::from)
}

/// The tries ended, though without an outcome: they are no sign of what kills the worker. If this fails too, they count
/// until the next one that ends.
async fn take_back_traces(sync: &Sync, traced: &[&Delivered]) {
    if traced.is_empty() {
        return;
    }
    let ids: Vec<&str> = traced.iter().map(|delivered| delivered.event.id.as_str()).collect();
    let taken_back = within_time(async {
        let mut connection = sync.database.acquire().await?;
        ledger::take_back(&mut connection, &sync.env, &ids).await
    });
    if let Err(trouble) = taken_back.await {
        tracing::debug!(reason = %trouble, "could not tell that tries ended");
    }
}
