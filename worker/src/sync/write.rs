//! Writing: one transaction that claims, compares, writes and buries, and what it means for the events.

use std::collections::{BTreeMap, HashMap, HashSet};

use shared::clock;
use shared::event::{Event, Member};
use shared::id::ObjectRef;
use sqlx::PgConnection;

use super::{Delivered, Ending, Entry, Sync};
use crate::database::{self, Trouble};
use crate::decide::{self, Verdict};
use crate::failure::Failure;
use crate::guard::{self, Claim, DeletedBy, Known, Question};
use crate::ledger::{self, Action, Audit};
use crate::object::columns::{Change, Shown};
use crate::object::{Record, Row};
use crate::outcome::Outcome;
use crate::{crash, object as kinds};

/// Deadlocks and serialization failures are tried again at once this often.
const CONFLICTS: u32 = 5;

/// What the steps of one transaction share.
#[derive(Clone, Copy)]
struct Pass<'a, 'b> {
    question: Question,
    batch: &'a [Delivered],
    entries: &'a [Entry],
    won: &'b guard::Won,
    /// Children whose parent went away, with that parent.
    orphans: &'b HashMap<&'a ObjectRef, &'a ObjectRef>,
}

impl Sync {
    /// Writes entries in one transaction. When one of them spoils it, halves them until the bad one is
    /// alone; the others go through.
    pub(super) async fn write(
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
                    if matches!(entry.verdict, Verdict::Wait(_)) && entry.ends.is_empty() {
                        // Even the ledger was refused: nothing of ours can be written.
                        return Err(Trouble::Refused(detail));
                    }
                    tracing::warn!(object.kind = %entry.object.kind, object.id = %entry.object.id, refusal = %detail,
                        "Postgres refused a row, the others of its batch go through");
                    entry.verdict = Verdict::Wait(Failure::RowRefused(detail));
                    entry.ends.clear();
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
            let (outcome, reason, failure) = match ending {
                Ending::Ends(outcome, reason) => (Some(*outcome), reason.map(str::to_owned), None),
                Ending::Duplicate => continue,
                // Also what is to be buried: it is dead only once it is a dead letter.
                Ending::Fails(failure) => (None, Some(failure.reason()), Some(failure)),
            };
            // Until it is a dead letter, an event that kills the worker must not be tried again.
            let begun = if failure == Some(&Failure::Crash) { delivered.begun } else { 0 };
            ledger.push(ledger::Entry {
                event: &delivered.event,
                sequence: delivered.sequence,
                attempts: delivered.attempts_after(failure),
                begun,
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
            let revives = self.purpose.revives(question.at);
            let won = guard::claim(connection, &self.env, question, revives, &claims).await?;
            crash::point("after_claim");
            let state = self.state_of_losers_and_parents(connection, entries, &won).await?;
            let orphans = orphans(entries, &won, &state);
            if !orphans.is_empty() {
                let objects: Vec<&ObjectRef> = orphans.keys().copied().collect();
                guard::cascade(connection, &self.env, question, &objects).await?;
            }
            for entry in entries {
                if let Some(ending) = lost(entry, &won, &state) {
                    result.insert(&entry.object, ending);
                }
            }
            let pass = Pass { question, batch, entries, won: &won, orphans: &orphans };
            let mut audits: Vec<Audit<'_>> = Vec::new();
            self.write_present(connection, &pass, &mut audits, &mut result).await?;
            let cascaded = self.bury_gone(connection, &pass, &mut audits, &mut result).await?;
            self.write_ends(connection, &pass, &mut audits, &mut result).await?;
            let mut log = audits;
            log.extend(cascaded.iter().map(|(parent, object, event)| Audit {
                object,
                action: Action::Deleted,
                changes: None,
                event: *event,
                cause: Some(parent.to_string()),
            }));
            if !log.is_empty() {
                let channel = self.purpose.channel();
                ledger::audit(connection, &self.env, question.fence, question.at, channel, &log).await?;
            }
        }
        let mut endings = BTreeMap::new();
        for entry in entries {
            let ending = match (&entry.verdict, result.remove(&entry.object)) {
                (Verdict::Wait(Failure::CannotAsk(_)), Some(ending)) => ending,
                (Verdict::Wait(Failure::CannotAsk(why)), None) => Ending::Ends(Outcome::Ignored, Some(why)),
                (Verdict::Wait(failure), _) => Ending::Fails(failure.clone()),
                (_, Some(Ending::Ends(..))) if let Some(failure) = &entry.held_back => {
                    Ending::Fails(failure.clone())
                }
                (Verdict::Missing, None) => Ending::Fails(Failure::Unconfirmed),
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
                // A parent that this very transaction won is known.
                Verdict::Present(record) if won.contains_key(&entry.object) => {
                    wanted.extend(record.parents.iter().filter(|parent| !won.contains_key(parent)));
                }
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

    async fn write_present<'a>(
        &self,
        connection: &mut PgConnection,
        pass: &Pass<'a, '_>,
        audits: &mut Vec<Audit<'a>>,
        result: &mut BTreeMap<&'a ObjectRef, Ending>,
    ) -> sqlx::Result<()> {
        let Pass { question, batch, entries, won, orphans } = *pass;
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
            kinds::load(connection, &self.env, &seen_before).await?
        };
        let mut beside: HashMap<ObjectRef, Vec<Change<'_>>> = HashMap::new();
        if self.purpose.is_thorough() && !mirror.is_empty() {
            let said: Vec<&Row> = present.iter().map(|(_, record)| &record.row).collect();
            for (object, column) in kinds::beside(connection, &said).await? {
                beside.entry(object).or_default().push(Change { column, old: Shown::Null, new: Shown::Null });
            }
        }
        let mut rows: Vec<&Row> = Vec::with_capacity(present.len());
        let mut unchanged: Vec<&ObjectRef> = Vec::new();
        for (entry, record) in present {
            let old = mirror.get(&entry.object);
            let changes = match old {
                Some(old) if self.purpose.is_thorough() => {
                    let mut changes = record.row.changes_in_full(old);
                    changes.extend(beside.remove(&entry.object).unwrap_or_default());
                    changes
                }
                old => record.row.changes(old),
            };
            let action = match old {
                // Nobody knew it, and there is nothing to know.
                None if record.row.is_empty() => {
                    unchanged.push(&entry.object);
                    result.insert(&entry.object, Ending::Ends(Outcome::Unchanged, None));
                    continue;
                }
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

    /// Writes how members of relations ended whose answers were not written: what is certain does not wait for them.
    async fn write_ends<'a>(
        &self,
        connection: &mut PgConnection,
        pass: &Pass<'a, '_>,
        audits: &mut Vec<Audit<'a>>,
        result: &mut BTreeMap<&'a ObjectRef, Ending>,
    ) -> sqlx::Result<()> {
        let Pass { question, batch, entries, won, .. } = *pass;
        let ended: Vec<&Entry> = entries
            .iter()
            .filter(|entry| match entry.verdict {
                Verdict::Present(_) | Verdict::Gone(_) => !won.contains_key(&entry.object),
                Verdict::Missing | Verdict::Wait(_) => true,
            })
            .filter(|entry| !entry.ends.is_empty())
            .collect();
        let relations: Vec<(&ObjectRef, &[Member])> =
            ended.iter().map(|entry| (&entry.object, entry.ends.as_slice())).collect();
        for (object, change) in kinds::end(connection, question.at, &relations).await? {
            let Some(entry) = ended.iter().find(|entry| entry.object == object) else { continue };
            audits.push(Audit {
                object: &entry.object,
                action: Action::Updated,
                changes: ledger::changes(&[change], kinds::personal(object.kind), self.keep_personal),
                event: credited(entry, batch),
                cause: None,
            });
            if matches!(entry.verdict, Verdict::Wait(Failure::CannotAsk(_))) {
                result.insert(&entry.object, Ending::Ends(Outcome::Applied, None));
            }
        }
        Ok(())
    }

    /// Turns what is gone into tombstones, and takes along what hangs on it. Returns what was taken
    /// along: parent, object, and the event that started it.
    async fn bury_gone<'a>(
        &self,
        connection: &mut PgConnection,
        pass: &Pass<'a, '_>,
        audits: &mut Vec<Audit<'a>>,
        result: &mut BTreeMap<&'a ObjectRef, Ending>,
    ) -> sqlx::Result<Vec<(ObjectRef, ObjectRef, Option<&'a Event>)>> {
        let Pass { question, batch, entries, won, orphans } = *pass;
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
            kinds::bury(connection, &self.env, question.at, &objects).await?.into_iter().collect();
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
                let parent = orphans.get(&entry.object);
                audits.push(Audit {
                    object: &entry.object,
                    action: Action::Deleted,
                    changes: None,
                    event,
                    cause: parent.map(ToString::to_string),
                });
            }
        }
        let mut cascaded = Vec::new();
        let part = |(parent, relation): (ObjectRef, ObjectRef),
                    events: &HashMap<ObjectRef, Option<&'a Event>>| {
            let event = events.get(&parent).copied().flatten();
            (parent, relation, event)
        };
        let left = kinds::leave(connection, question.at, &objects).await?;
        cascaded.extend(left.into_iter().map(|left| part(left, &events)));
        let mut parents: Vec<ObjectRef> = objects.into_iter().cloned().collect();
        while !parents.is_empty() {
            let borrowed: Vec<&ObjectRef> = parents.iter().collect();
            let mut dependants = kinds::dependants(connection, &borrowed, true).await?;
            dependants.sort_by(|(_, a), (_, b)| a.cmp(b));
            dependants.dedup_by(|(_, a), (_, b)| a == b);
            if dependants.is_empty() {
                break;
            }
            let taken: Vec<&ObjectRef> = dependants.iter().map(|(_, object)| object).collect();
            guard::cascade(connection, &self.env, question, &taken).await?;
            let buried: HashSet<ObjectRef> =
                kinds::bury(connection, &self.env, question.at, &taken).await?.into_iter().collect();
            // Audited with the whole, if the user goes too.
            let left = kinds::leave(connection, question.at, &taken).await?;
            parents = dependants.iter().map(|(_, object)| object.clone()).collect();
            for (parent, object) in dependants {
                let event = events.get(&parent).copied().flatten();
                events.insert(object.clone(), event);
                if buried.contains(&object) {
                    cascaded.push((parent, object, event));
                }
            }
            cascaded.extend(left.into_iter().map(|left| part(left, &events)));
        }
        Ok(cascaded)
    }
}

/// The event that gets the credit for what happened to an object.
fn credited<'a>(entry: &Entry, batch: &'a [Delivered]) -> Option<&'a Event> {
    Some(&batch.get(*entry.events.first()?)?.event)
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
                Claim::Present {
                    updated_at: record.row.updated_at(),
                    born_at: record.row.born_at(),
                    complete: entry.held_back.is_none(),
                }
            }
            Verdict::Gone(DeletedBy::Event) if kinds::reuses_keys(entry.object.kind) => match entry.ended {
                Some(at) => Claim::Ended(at),
                // WorkOS was asked, and has nothing since the deletion.
                None => Claim::Gone(DeletedBy::Answer),
            },
            Verdict::Gone(by) => Claim::Gone(*by),
            Verdict::Missing => Claim::Missing,
            // Its members are written without an answer: nobody else may write them meanwhile.
            Verdict::Wait(_) if !entry.ends.is_empty() => Claim::Hold,
            Verdict::Wait(_) => continue,
        };
        claims.insert(&entry.object, claim);
    }
    claims.into_iter().collect()
}

/// Who won, but whose parent is gone, with that parent. Decided while the parents are locked.
fn orphans<'a>(
    entries: &'a [Entry],
    won: &guard::Won,
    state: &HashMap<ObjectRef, Known>,
) -> HashMap<&'a ObjectRef, &'a ObjectRef> {
    let buried: HashSet<&ObjectRef> = entries
        .iter()
        .filter(|entry| matches!(entry.verdict, Verdict::Gone(_)) && won.contains_key(&entry.object))
        .map(|entry| &entry.object)
        .collect();
    entries
        .iter()
        .filter(|entry| won.contains_key(&entry.object))
        .filter_map(|entry| {
            let Verdict::Present(record) = &entry.verdict else { return None };
            // What is at the other side of a relation takes its part along, not the whole.
            let parents = if kinds::is_relation(entry.object.kind) {
                &record.parents[..1]
            } else {
                &record.parents[..]
            };
            let gone = parents.iter().find(|parent| {
                buried.contains(parent) || state.get(*parent).is_some_and(|known| known.deleted_by.is_some())
            })?;
            Some((&entry.object, gone))
        })
        .collect()
}

/// How an entry ends that lost the guard. A later question answered it, unless what that question was told
/// is older than what this event or this answer says: then WorkOS must be asked again. So it must when events said
/// something of members of a relation: nothing in an answer tells whether it knew, and no answer tells how one ended.
fn lost(entry: &Entry, won: &guard::Won, state: &HashMap<ObjectRef, Known>) -> Option<Ending> {
    if won.contains_key(&entry.object) {
        return None;
    }
    let state = state.get(&entry.object)?;
    let answered = match &entry.verdict {
        Verdict::Wait(_) => return None,
        Verdict::Present(record) => record.row.updated_at(),
        Verdict::Gone(_) if state.deleted_by.is_none() && entry.ended.is_some() => {
            return Some(Ending::Ends(Outcome::Superseded, Some(decide::BORN_LATER)));
        }
        Verdict::Gone(_) if state.deleted_by.is_none() => return Some(Ending::Fails(Failure::Unconfirmed)),
        Verdict::Gone(_) => return Some(Ending::Ends(Outcome::Unchanged, Some("already_deleted"))),
        Verdict::Missing => None,
    };
    Some(match state.deleted_by {
        // A tombstone that may be wrong, and an answer that says so, only older than what was known.
        Some(DeletedBy::Answer | DeletedBy::Cascade) if answered.is_some() && answered < state.updated_at => {
            Ending::Fails(Failure::StaleRead)
        }
        Some(_) => Ending::Ends(Outcome::Superseded, Some("deleted")),
        None if entry.said.max(answered) > state.updated_at => Ending::Fails(Failure::StaleRead),
        None if !entry.ends.is_empty() || !entry.members.is_empty() => Ending::Fails(Failure::Unconfirmed),
        None => Ending::Ends(Outcome::Superseded, Some("later_answer")),
    })
}

#[cfg(test)]
mod tests {
    use shared::id::Kind;

    use super::*;

    /// The sessions of a user, of which the answer shows none, and what the guard knows of them by now.
    fn outrun(deleted_by: Option<DeletedBy>) -> (Entry, HashMap<ObjectRef, Known>) {
        let object = ObjectRef::new(Kind::Session, "user_1");
        let record = kinds::composed(&object, []).expect("a relation");
        let entry =
            Entry { verdict: Verdict::Present(Box::new(record)), ..Entry::asked(object.clone(), None) };
        let later = Known { fence: 9, has_row: true, deleted_by, ..Known::default() };
        (entry, HashMap::from([(object, later)]))
    }

    fn end() -> Member {
        let tells = BTreeMap::from([("status".to_owned(), "revoked".to_owned())]);
        Member { id: "session_1".to_owned(), is_in: false, tells }
    }

    #[test]
    fn what_events_said_of_members_is_not_lost_with_the_guard() {
        let unconfirmed = Some(Ending::Fails(Failure::Unconfirmed));
        let nobody_won = guard::Won::new();
        let (entry, state) = outrun(None);
        let later_answer = Some(Ending::Ends(Outcome::Superseded, Some("later_answer")));
        assert_eq!(lost(&entry, &nobody_won, &state), later_answer, "the later answer says it all");
        let ended = Entry { ends: vec![end()], ..entry.clone() };
        assert_eq!(lost(&ended, &nobody_won, &state), unconfirmed);
        let joined = Entry { members: BTreeMap::from([(end().id, end())]), ..entry };
        assert_eq!(lost(&joined, &nobody_won, &state), unconfirmed);
    }

    #[test]
    fn what_is_said_of_members_of_a_relation_whose_owner_is_gone_is_of_no_account() {
        let (entry, state) = outrun(Some(DeletedBy::Cascade));
        let ended = Entry { ends: vec![end()], ..entry };
        let deleted = Some(Ending::Ends(Outcome::Superseded, Some("deleted")));
        assert_eq!(lost(&ended, &guard::Won::new(), &state), deleted);
    }
}
