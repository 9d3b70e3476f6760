//! The verb: ask, decide, write. Webhook, tail, replay and immediate sync all end here. It takes many
//! objects, and one is a batch of one. Twice is the same as once.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::json;
use shared::clock;
use shared::event::Event;
use shared::id::{Kind, ObjectRef};
use sqlx::{PgConnection, PgPool};

use crate::database::{self, Trouble};
use crate::decide::{self, Verdict};
use crate::failure::{Failure, Remedy};
use crate::guard::{self, Claim, DeletedBy, Known, Question};
use crate::ledger::{self, Action, Audit};
use crate::object::{self, Record, Row};
use crate::outcome::Outcome;
use crate::workos::WorkOs;
use crate::{crash, object as kinds};

/// Deadlocks and serialization failures are tried again at once this often.
const CONFLICTS: u32 = 5;

/// An object to be made to agree, and why.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which object.
    pub object: ObjectRef,
    /// An event declared it deleted: no question, a tombstone.
    pub deleted: bool,
    /// The newest `updated_at` that an event told of it.
    pub said: Option<DateTime<Utc>>,
    /// What the guard knew of it before the fence was taken.
    pub known: Option<Known>,
    /// Places, in the batch, of the events that led to it; the first is the one that gets the credit.
    pub events: Vec<usize>,
}

/// One event of a batch.
pub struct Delivered {
    /// The event.
    pub event: Event,
    /// Its sequence in the stream.
    pub sequence: i64,
    /// Which delivery this is, from 1.
    pub attempt: u32,
}

/// How an event ends, or that it must be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It has its outcome.
    Ends(Outcome, Option<&'static str>),
    /// It failed.
    Fails(Failure),
    /// It had its outcome before: nothing to write.
    Duplicate,
}

/// One object with its verdict, ready to be written.
#[derive(Clone)]
struct Entry {
    object: ObjectRef,
    verdict: Verdict,
    /// Whether the answer settles every event up to `covers`.
    complete: bool,
    /// The parent that takes it along, when it is gone because of it.
    cause: Option<ObjectRef>,
    known: Option<Known>,
    events: Vec<usize>,
}

/// Asks, decides, writes.
#[derive(Clone)]
pub struct Sync {
    /// Label of the WorkOS environment.
    pub env: String,
    /// The mirror.
    pub database: PgPool,
    /// The source of truth.
    pub workos: WorkOs,
    /// Whether the audit log keeps personal values.
    pub keep_personal: bool,
}

impl Sync {
    /// Makes the mirror agree about `wishes`, and records `endings` of events that need no question.
    /// Fills in an ending for every event of every wish. The question's fence must have been taken
    /// after the wishes were looked up and before this is called.
    pub async fn run(
        &self,
        question: Question,
        batch: &[Delivered],
        wishes: Vec<Wish>,
        endings: &mut BTreeMap<usize, Ending>,
    ) -> Result<(), Trouble> {
        let entries = self.ask(question.at, wishes).await?;
        crash::point("after_ask");
        let mut settled: Vec<usize> = endings.keys().copied().collect();
        self.write(question, batch, entries, &mut settled, endings).await
    }

    /// Asks for the objects, then for what their answers hang on, until nothing is missing.
    async fn ask(&self, now: DateTime<Utc>, wishes: Vec<Wish>) -> Result<Vec<Entry>, Trouble> {
        let mut entries: BTreeMap<ObjectRef, Entry> = BTreeMap::new();
        let mut embedded: Vec<Record> = Vec::new();
        let mut frontier: Vec<ObjectRef> = Vec::new();
        let mut said: HashMap<ObjectRef, DateTime<Utc>> = HashMap::new();
        for wish in wishes {
            let verdict = if wish.deleted {
                Verdict::Gone(DeletedBy::Event)
            } else {
                frontier.push(wish.object.clone());
                said.extend(wish.said.map(|said| (wish.object.clone(), said)));
                Verdict::Wait(Failure::Unreachable)
            };
            entries.insert(
                wish.object.clone(),
                Entry {
                    object: wish.object,
                    verdict,
                    complete: true,
                    cause: None,
                    known: wish.known,
                    events: wish.events,
                },
            );
        }
        let mut suspicions: Vec<(ObjectRef, ObjectRef)> = Vec::new();
        let mut parents: HashMap<ObjectRef, Known> = HashMap::new();
        while !frontier.is_empty() {
            let mut next: HashSet<ObjectRef> = HashSet::new();
            let mut organizations: Vec<(ObjectRef, HashSet<ObjectRef>)> = Vec::new();
            for reply in self.workos.ask(&frontier).await {
                let Some(entry) = entries.get_mut(&reply.object) else { continue };
                entry.verdict =
                    decide::judge(reply.answer, said.get(&reply.object).copied(), entry.known.as_ref(), now);
                if let Verdict::Present(record) = &entry.verdict {
                    next.extend(record.parents.iter().cloned());
                    if record.object.kind == Kind::Organization {
                        let listed = reply.embedded.iter().map(|record| record.object.clone()).collect();
                        organizations.push((record.object.clone(), listed));
                    }
                    embedded.extend(reply.embedded);
                }
            }
            let suspects = self.suspects(&organizations).await?;
            next.extend(suspects.iter().map(|(_, suspect)| suspect.clone()));
            suspicions.extend(suspects);
            next.retain(|object| !entries.contains_key(object) && !parents.contains_key(object));
            let wanted: Vec<&ObjectRef> = next.iter().collect();
            let mut known = if wanted.is_empty() {
                HashMap::new()
            } else {
                guard::known(&self.database, &self.env, &wanted).await.map_err(Trouble::from)?
            };
            frontier.clear();
            for object in next {
                let known = known.remove(&object);
                let suspected = suspicions.iter().any(|(_, suspect)| *suspect == object);
                match known {
                    Some(known) if !suspected && (known.has_row || known.deleted_by.is_some()) => {
                        parents.insert(object, known);
                    }
                    known => {
                        frontier.push(object.clone());
                        let entry = Entry {
                            object: object.clone(),
                            verdict: Verdict::Wait(Failure::Unreachable),
                            complete: true,
                            cause: None,
                            known,
                            events: Vec::new(),
                        };
                        entries.insert(object, entry);
                    }
                }
            }
        }
        merge_embedded(&mut entries, embedded);
        hold_back_suspicious(&mut entries, &suspicions);
        depend_on_parents(&mut entries, &parents);
        Ok(entries.into_values().collect())
    }

    /// Domains that the mirror has and the answer about their organization lacks.
    async fn suspects(
        &self,
        organizations: &[(ObjectRef, HashSet<ObjectRef>)],
    ) -> Result<Vec<(ObjectRef, ObjectRef)>, Trouble> {
        if organizations.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> =
            organizations.iter().map(|(organization, _)| organization.id.clone()).collect();
        let mut connection = self.database.acquire().await.map_err(Trouble::from)?;
        let domains = object::organization::domains(&mut connection, &ids).await.map_err(Trouble::from)?;
        Ok(domains
            .into_iter()
            .filter_map(|(parent, domain)| {
                let (organization, listed) =
                    organizations.iter().find(|(organization, _)| organization.id == parent)?;
                (!listed.contains(&domain)).then(|| (organization.clone(), domain))
            })
            .collect())
    }

    /// Writes entries in one transaction. When one of them spoils it, halves them until the bad one is
    /// alone; the others go through.
    async fn write(
        &self,
        question: Question,
        batch: &[Delivered],
        entries: Vec<Entry>,
        settled: &mut Vec<usize>,
        endings: &mut BTreeMap<usize, Ending>,
    ) -> Result<(), Trouble> {
        let mut parts = vec![entries];
        while let Some(mut part) = parts.pop() {
            match self.write_part(question, batch, &part, settled, endings).await {
                Ok(mut written) => {
                    endings.append(&mut written);
                    settled.clear();
                }
                Err(Trouble::Refused(_)) if part.len() > 1 => {
                    // Parents stand before children: the first half must be written first.
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
                Err(Trouble::Refused(detail)) => {
                    let Some(entry) = part.first_mut() else { return Err(Trouble::Refused(detail)) };
                    if matches!(entry.verdict, Verdict::Wait(_)) {
                        // Even the ledger was refused: nothing of ours can be written.
                        return Err(Trouble::Refused(detail));
                    }
                    tracing::warn!(object.kind = %entry.object.kind, object.id = %entry.object.id, refusal = %detail,
                        "Postgres refused a row, the others of its batch go through");
                    entry.verdict = Verdict::Wait(Failure::RowRefused(detail));
                    parts.push(part);
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }

    async fn write_part(
        &self,
        question: Question,
        batch: &[Delivered],
        entries: &[Entry],
        settled: &[usize],
        endings: &BTreeMap<usize, Ending>,
    ) -> Result<BTreeMap<usize, Ending>, Trouble> {
        let mut conflicts = 0;
        loop {
            let transaction = self.transact(question, batch, entries, settled, endings);
            match tokio::time::timeout(database::TIMEOUT, transaction)
                .await
                .unwrap_or(Err(Trouble::Unavailable))
            {
                Err(Trouble::Conflict) if conflicts < CONFLICTS => conflicts += 1,
                Err(Trouble::Conflict) => return Err(Trouble::Unavailable),
                other => return other,
            }
        }
    }

    async fn transact(
        &self,
        question: Question,
        batch: &[Delivered],
        entries: &[Entry],
        settled: &[usize],
        endings: &BTreeMap<usize, Ending>,
    ) -> Result<BTreeMap<usize, Ending>, Trouble> {
        let mut transaction = self.database.begin().await?;
        let written = self.write_objects(&mut transaction, question, batch, entries).await?;
        crash::point("after_write");

        let now = clock::now();
        let mut ledger: Vec<ledger::Entry<'_>> = Vec::with_capacity(batch.len());
        for (place, ending) in
            settled.iter().filter_map(|place| Some((place, endings.get(place)?))).chain(&written)
        {
            let Some(delivered) = batch.get(*place) else { continue };
            let (outcome, reason) = match ending {
                Ending::Ends(outcome, reason) => (Some(*outcome), reason.map(str::to_owned)),
                Ending::Duplicate => continue,
                Ending::Fails(failure) => match failure.remedy(delivered.attempt) {
                    Remedy::Retry(_) => (None, Some(failure.reason())),
                    Remedy::Bury => (Some(Outcome::Dead), Some(failure.reason())),
                },
            };
            ledger.push(ledger::Entry {
                event: &delivered.event,
                sequence: delivered.sequence,
                attempt: i32::try_from(delivered.attempt).unwrap_or(i32::MAX),
                outcome,
                reason,
            });
        }
        if !ledger.is_empty() {
            ledger::record(&mut transaction, &self.env, question.fence, now, &ledger).await?;
        }
        crash::point("before_commit");
        transaction.commit().await?;
        crash::point("after_commit");
        Ok(written)
    }

    /// Claims, compares, writes, buries. Everything that an answer changes happens here.
    async fn write_objects(
        &self,
        connection: &mut PgConnection,
        question: Question,
        batch: &[Delivered],
        entries: &[Entry],
    ) -> sqlx::Result<BTreeMap<usize, Ending>> {
        let mut result: BTreeMap<&ObjectRef, Ending> = BTreeMap::new();
        let claims = claims(entries);
        if !claims.is_empty() {
            let won = guard::claim(connection, &self.env, question, &claims).await?;
            crash::point("after_claim");
            let state = self.state_of_losers_and_parents(connection, entries, &won).await?;
            let orphans = orphans(entries, &won, &state);
            if !orphans.is_empty() {
                let objects = orphans.keys().copied().collect();
                guard::cascade(connection, &self.env, question, &objects).await?;
            }
            for entry in entries {
                if let Some(ending) = lost(entry, &won, &state) {
                    result.insert(&entry.object, ending);
                }
            }
            let mut audits: Vec<Audit<'_>> = Vec::new();
            self.write_present(
                connection,
                question,
                batch,
                entries,
                &won,
                &orphans,
                &mut audits,
                &mut result,
            )
            .await?;
            let cascaded = self
                .bury_gone(connection, question, batch, entries, &won, &orphans, &mut audits, &mut result)
                .await?;
            let mut audits = audits;
            audits.extend(cascaded.iter().map(|(parent, object, event)| Audit {
                object,
                action: Action::Deleted,
                changes: json!({}),
                event: *event,
                cause: Some(parent.to_string()),
            }));
            if !audits.is_empty() {
                ledger::audit(connection, &self.env, question.fence, question.at, &audits).await?;
            }
        }
        let mut endings = BTreeMap::new();
        for entry in entries {
            let ending = match (&entry.verdict, result.remove(&entry.object)) {
                (Verdict::Wait(failure), _) => Ending::Fails(failure.clone()),
                (Verdict::Missing, None) => Ending::Fails(Failure::Unconfirmed),
                (_, Some(Ending::Ends(..))) if !entry.complete => Ending::Fails(Failure::Unconfirmed),
                (_, Some(ending)) => ending,
                (_, None) => Ending::Ends(Outcome::Superseded, Some("later_answer")),
            };
            for (n, place) in entry.events.iter().enumerate() {
                let ending = match &ending {
                    Ending::Ends(..) if n > 0 => Ending::Ends(Outcome::Superseded, Some("coalesced")),
                    ending => ending.clone(),
                };
                endings.insert(*place, ending);
            }
        }
        Ok(endings)
    }

    /// Who lost, why; and whether the parents of who won are still there. One question for both.
    async fn state_of_losers_and_parents(
        &self,
        connection: &mut PgConnection,
        entries: &[Entry],
        won: &guard::Won,
    ) -> sqlx::Result<HashMap<ObjectRef, Known>> {
        let mut wanted: HashSet<&ObjectRef> = HashSet::new();
        for entry in entries {
            match &entry.verdict {
                Verdict::Wait(_) => {}
                Verdict::Present(record) if won.contains_key(&entry.object) => wanted.extend(&record.parents),
                _ if won.contains_key(&entry.object) => {}
                _ => {
                    wanted.insert(&entry.object);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        let wanted: Vec<&ObjectRef> = wanted.into_iter().collect();
        guard::known(connection, &self.env, &wanted).await
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a transaction, cut out to be read")]
    async fn write_present<'a>(
        &self,
        connection: &mut PgConnection,
        question: Question,
        batch: &'a [Delivered],
        entries: &'a [Entry],
        won: &guard::Won,
        orphans: &HashMap<&ObjectRef, &ObjectRef>,
        audits: &mut Vec<Audit<'a>>,
        result: &mut BTreeMap<&'a ObjectRef, Ending>,
    ) -> sqlx::Result<()> {
        let present: Vec<(&Entry, &Record)> = entries
            .iter()
            .filter_map(|entry| match &entry.verdict {
                Verdict::Present(record) => Some((entry, &**record)),
                _ => None,
            })
            .filter(|(entry, _)| won.contains_key(&entry.object) && !orphans.contains_key(&entry.object))
            .collect();
        let seen_before: Vec<&ObjectRef> = present
            .iter()
            .map(|(entry, _)| &entry.object)
            .filter(|object| won.get(object) == Some(&false))
            .collect();
        let mirror = if seen_before.is_empty() {
            HashMap::new()
        } else {
            kinds::load(connection, &seen_before).await?
        };
        let mut rows: Vec<&Row> = Vec::with_capacity(present.len());
        let mut unchanged: Vec<&ObjectRef> = Vec::new();
        for (entry, record) in present {
            let old = mirror.get(&entry.object);
            let changes = record.row.changes(old);
            let action = match old {
                None => Action::Created,
                Some(old) if old.is_tombstone() => Action::Revived,
                Some(_) if changes.is_empty() => {
                    unchanged.push(&entry.object);
                    result.insert(&entry.object, Ending::Ends(Outcome::Unchanged, None));
                    continue;
                }
                Some(_) => Action::Updated,
            };
            rows.push(&record.row);
            audits.push(Audit {
                object: &entry.object,
                action,
                changes: ledger::changes(&changes, kinds::personal(entry.object.kind), self.keep_personal),
                event: credited(entry, batch),
                cause: None,
            });
            result.insert(&entry.object, Ending::Ends(Outcome::Applied, None));
        }
        if !rows.is_empty() {
            kinds::write(connection, &self.env, question.at, &rows).await?;
        }
        if !unchanged.is_empty() {
            guard::unchanged(connection, &self.env, &unchanged).await?;
        }
        Ok(())
    }

    /// Turns what is gone into tombstones, and takes along what hangs on it. Returns what was taken
    /// along: parent, object, and the event that started it.
    #[expect(clippy::too_many_arguments, reason = "one step of a transaction, cut out to be read")]
    async fn bury_gone<'a>(
        &self,
        connection: &mut PgConnection,
        question: Question,
        batch: &'a [Delivered],
        entries: &'a [Entry],
        won: &guard::Won,
        orphans: &HashMap<&'a ObjectRef, &'a ObjectRef>,
        audits: &mut Vec<Audit<'a>>,
        result: &mut BTreeMap<&'a ObjectRef, Ending>,
    ) -> sqlx::Result<Vec<(ObjectRef, ObjectRef, Option<&'a Event>)>> {
        let gone: Vec<&Entry> = entries
            .iter()
            .filter(|entry| {
                orphans.contains_key(&entry.object)
                    || (matches!(entry.verdict, Verdict::Gone(_)) && won.contains_key(&entry.object))
            })
            .collect();
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        let objects: Vec<&ObjectRef> = gone.iter().map(|entry| &entry.object).collect();
        let were_live: HashSet<ObjectRef> =
            kinds::bury(connection, question.at, &objects).await?.into_iter().collect();
        let mut events: HashMap<ObjectRef, Option<&'a Event>> = HashMap::new();
        for entry in &gone {
            let was_deleted = entry.known.as_ref().is_some_and(|known| known.deleted_by.is_some());
            let outcome = if was_deleted && !were_live.contains(&entry.object) {
                Outcome::Unchanged
            } else {
                Outcome::Deleted
            };
            result.insert(&entry.object, Ending::Ends(outcome, None));
            let event = credited(entry, batch);
            events.insert(entry.object.clone(), event);
            if were_live.contains(&entry.object) {
                let parent = entry.cause.as_ref().or_else(|| orphans.get(&entry.object).copied());
                audits.push(Audit {
                    object: &entry.object,
                    action: Action::Deleted,
                    changes: json!({}),
                    event,
                    cause: parent.map(ToString::to_string),
                });
            }
        }
        let mut cascaded = Vec::new();
        let mut parents: Vec<ObjectRef> = objects.into_iter().cloned().collect();
        while !parents.is_empty() {
            let borrowed: Vec<&ObjectRef> = parents.iter().collect();
            let mut dependants = kinds::dependants(connection, &borrowed).await?;
            dependants.sort_by(|(_, a), (_, b)| a.cmp(b));
            dependants.dedup_by(|(_, a), (_, b)| a == b);
            if dependants.is_empty() {
                break;
            }
            let taken: HashSet<&ObjectRef> = dependants.iter().map(|(_, object)| object).collect();
            guard::cascade(connection, &self.env, question, &taken).await?;
            let taken: Vec<&ObjectRef> = dependants.iter().map(|(_, object)| object).collect();
            kinds::bury(connection, question.at, &taken).await?;
            parents = dependants.iter().map(|(_, object)| object.clone()).collect();
            for (parent, object) in dependants {
                let event = events.get(&parent).copied().flatten();
                events.insert(object.clone(), event);
                cascaded.push((parent, object, event));
            }
        }
        Ok(cascaded)
    }
}

/// The event that gets the credit for what happened to an object.
fn credited<'a>(entry: &Entry, batch: &'a [Delivered]) -> Option<&'a Event> {
    Some(&batch.get(*entry.events.first()?)?.event)
}

/// Takes over what came along with other answers, unless it was asked for itself, or is older than
/// what is known.
fn merge_embedded(entries: &mut BTreeMap<ObjectRef, Entry>, embedded: Vec<Record>) {
    for record in embedded {
        match entries.get_mut(&record.object) {
            Some(entry) if matches!(entry.verdict, Verdict::Wait(_)) && entry.events.is_empty() => {
                entry.verdict = Verdict::Present(Box::new(record));
            }
            Some(_) => {}
            None => {
                let entry = Entry {
                    object: record.object.clone(),
                    verdict: Verdict::Present(Box::new(record)),
                    complete: true,
                    cause: None,
                    known: None,
                    events: Vec::new(),
                };
                entries.insert(entry.object.clone(), entry);
            }
        }
    }
}

/// An organization whose answer lacks a domain that we have is written, but its event comes again
/// until it is certain what became of the domain.
fn hold_back_suspicious(entries: &mut BTreeMap<ObjectRef, Entry>, suspicions: &[(ObjectRef, ObjectRef)]) {
    for (organization, domain) in suspicions {
        let uncertain = entries
            .get(domain)
            .is_some_and(|entry| matches!(entry.verdict, Verdict::Missing | Verdict::Wait(_)));
        if uncertain && let Some(entry) = entries.get_mut(organization) {
            entry.complete = false;
        }
    }
}

/// A live object needs its parents: one whose parent is gone goes with it, one whose parent could not
/// be had waits.
fn depend_on_parents(entries: &mut BTreeMap<ObjectRef, Entry>, parents: &HashMap<ObjectRef, Known>) {
    enum Fate {
        Gone(ObjectRef),
        Waits(Failure),
    }
    let keys: Vec<ObjectRef> = entries.keys().cloned().collect();
    // Parents stand before children, so a parent's fate is settled when its children are looked at.
    for key in keys {
        let Some(Entry { verdict: Verdict::Present(record), .. }) = entries.get(&key) else { continue };
        let fate = record.parents.iter().find_map(|parent| match entries.get(parent) {
            Some(entry) => match &entry.verdict {
                Verdict::Present(_) => None,
                Verdict::Gone(_) => Some(Fate::Gone(parent.clone())),
                // It stands in the mirror already: what is asked about it now does not hold up its children.
                Verdict::Missing | Verdict::Wait(_)
                    if entry
                        .known
                        .as_ref()
                        .is_some_and(|known| known.has_row && known.deleted_by.is_none()) =>
                {
                    None
                }
                Verdict::Missing => Some(Fate::Waits(Failure::ParentWaits(parent.clone()))),
                Verdict::Wait(failure) => Some(Fate::Waits(failure.clone())),
            },
            None => {
                let known = parents.get(parent)?;
                known.deleted_by.is_some().then(|| Fate::Gone(parent.clone()))
            }
        });
        let Some(entry) = entries.get_mut(&key) else { continue };
        match fate {
            None => {}
            Some(Fate::Gone(parent)) => {
                entry.verdict = Verdict::Gone(DeletedBy::Cascade);
                entry.cause = Some(parent);
            }
            Some(Fate::Waits(failure)) => entry.verdict = Verdict::Wait(failure),
        }
    }
}

/// What the entries claim. Parents that are not entries themselves are held, so that they cannot go
/// away while their children are written.
fn claims(entries: &[Entry]) -> Vec<(&ObjectRef, Claim)> {
    let mut claims: BTreeMap<&ObjectRef, Claim> = BTreeMap::new();
    for entry in entries {
        let claim = match &entry.verdict {
            Verdict::Present(record) => {
                for parent in &record.parents {
                    claims.entry(parent).or_insert(Claim::Hold);
                }
                Claim::Present { updated_at: record.row.updated_at(), complete: entry.complete }
            }
            Verdict::Gone(by) => Claim::Gone(*by),
            Verdict::Missing => Claim::Missing,
            Verdict::Wait(_) => continue,
        };
        claims.insert(&entry.object, claim);
    }
    claims.into_iter().collect()
}

/// Who won, but whose parent went away between the question and the claim.
fn orphans<'a>(
    entries: &'a [Entry],
    won: &guard::Won,
    state: &HashMap<ObjectRef, Known>,
) -> HashMap<&'a ObjectRef, &'a ObjectRef> {
    entries
        .iter()
        .filter(|entry| won.contains_key(&entry.object))
        .filter_map(|entry| {
            let Verdict::Present(record) = &entry.verdict else { return None };
            let gone = record
                .parents
                .iter()
                .find(|parent| state.get(parent).is_some_and(|known| known.deleted_by.is_some()))?;
            Some((&entry.object, gone))
        })
        .collect()
}

/// How an entry ends that lost the guard.
fn lost(entry: &Entry, won: &guard::Won, state: &HashMap<ObjectRef, Known>) -> Option<Ending> {
    if won.contains_key(&entry.object) || matches!(entry.verdict, Verdict::Wait(_)) {
        return None;
    }
    let state = state.get(&entry.object)?;
    Some(match &entry.verdict {
        Verdict::Present(record)
            if state.deleted_by.is_none()
                && matches!((record.row.updated_at(), state.updated_at), (Some(answered), Some(stored)) if answered < stored) =>
        {
            Ending::Fails(Failure::StaleRead)
        }
        Verdict::Gone(_) if state.deleted_by.is_none() => Ending::Fails(Failure::Unconfirmed),
        Verdict::Gone(_) => Ending::Ends(Outcome::Unchanged, Some("already_deleted")),
        _ if state.deleted_by.is_some() => Ending::Ends(Outcome::Superseded, Some("deleted")),
        _ => Ending::Ends(Outcome::Superseded, Some("later_answer")),
    })
}

impl From<database::Trouble> for Failure {
    fn from(trouble: database::Trouble) -> Self {
        match trouble {
            Trouble::Unavailable | Trouble::Conflict => Self::DatabaseUnavailable,
            Trouble::Refused(detail) => Self::RowRefused(detail),
        }
    }
}
