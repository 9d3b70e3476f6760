//! Asking: the objects that are wished for, then what their answers hang on, until nothing is missing.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use shared::id::ObjectRef;

use super::{Entry, Sync, Told, Wish, within_time};
use crate::database::Trouble;
use crate::decide::{self, Verdict};
use crate::failure::Failure;
use crate::guard::{self, DeletedBy};
use crate::object as kinds;
use crate::object::{Record, Row};
use crate::workos::{Answer, Lane, Reply};

impl Sync {
    /// Asks for the objects, then for what their answers hang on, until nothing is missing.
    pub(super) async fn ask(&self, now: DateTime<Utc>, wishes: Vec<Wish>) -> Result<Vec<Entry>, Trouble> {
        let mut entries: BTreeMap<ObjectRef, Entry> = BTreeMap::new();
        let mut embedded: Vec<Record> = Vec::new();
        let mut frontier: Vec<ObjectRef> = Vec::new();
        let mut told: Vec<Reply> = Vec::new();
        let mut retries: HashSet<ObjectRef> = HashSet::new();
        // How many of those that came along.
        let mut looked_up = 0;
        // An object that is both asked for and told of by a list is asked for.
        let (listed, asked): (Vec<Wish>, Vec<Wish>) =
            wishes.into_iter().partition(|wish| wish.told.is_some());
        for wish in asked.into_iter().chain(listed) {
            if wish.told.is_some() && entries.contains_key(&wish.object) {
                continue;
            }
            let mut entry = Entry::asked(wish.object, wish.known);
            if wish.deleted {
                entry.verdict = Verdict::Gone(DeletedBy::Event);
            } else if let Some(list) = wish.told {
                let Told { record, embedded } = *list;
                let answer = Ok(Answer::Found(Box::new(record)));
                told.push(Reply { object: entry.object.clone(), answer, embedded });
            } else {
                if wish.is_retry {
                    retries.insert(entry.object.clone());
                }
                frontier.push(entry.object.clone());
            }
            entry.said = wish.said;
            entry.members = wish.members;
            entry.ends = wish.ends;
            entry.ended = wish.ended;
            entry.events = wish.events;
            entries.insert(entry.object.clone(), entry);
        }
        let mut suspicions: Vec<(ObjectRef, ObjectRef)> = Vec::new();
        while !frontier.is_empty() || !told.is_empty() {
            let mut parents: HashSet<ObjectRef> = HashSet::new();
            let mut containers: HashMap<ObjectRef, HashSet<ObjectRef>> = HashMap::new();
            let mut revived: Vec<ObjectRef> = Vec::new();
            self.place(&frontier).await?;
            let (again, first): (Vec<ObjectRef>, Vec<ObjectRef>) =
                frontier.into_iter().partition(|object| retries.contains(object));
            let (first, again) =
                tokio::join!(self.workos.ask(&first, self.lane), self.workos.ask(&again, Lane::Retries));
            for reply in std::mem::take(&mut told).into_iter().chain(first).chain(again) {
                let Some(entry) = entries.get_mut(&reply.object) else { continue };
                entry.verdict = decide::judge(reply.answer, entry.said, entry.known.as_ref(), now);
                if let Verdict::Present(record) = &mut entry.verdict {
                    // How members ended is certain, whether or not the answer knows it yet.
                    record.row.hear(&entry.ends);
                    if record.lacks_a_change(&entry.members) {
                        entry.verdict = Verdict::Wait(Failure::Unconfirmed);
                    }
                }
                if let Verdict::Present(record) = &mut entry.verdict {
                    // What came along need not be asked for.
                    let came =
                        |parent: &&ObjectRef| reply.embedded.iter().all(|came| came.object != **parent);
                    let all =
                        record.parents.iter().chain(reply.embedded.iter().flat_map(|came| &came.parents));
                    parents.extend(all.filter(came).cloned());
                    if kinds::is_container(record.object.kind) {
                        let contained = reply.embedded.iter().map(|record| record.object.clone()).collect();
                        containers.insert(record.object.clone(), contained);
                    }
                    if entry.known.as_ref().is_some_and(|known| known.deleted_by.is_some()) {
                        revived.push(record.object.clone());
                    }
                    embedded.extend(reply.embedded);
                }
            }
            self.doubt(&mut entries, now).await?;
            let suspects = self.suspects(&containers).await?;
            revived.extend(self.revived_along(&mut looked_up, &embedded).await?);
            let fallen = self.fallen(&revived).await?;
            frontier = self.next_questions(&mut entries, parents, &suspects, fallen).await?;
            suspicions.extend(suspects);
        }
        merge_embedded(&mut entries, embedded);
        hold_back_suspicious(&mut entries, &suspicions);
        wait_for_parents(&mut entries);
        Ok(entries.into_values().collect())
    }

    /// Looks up within which objects WorkOS keeps these, where that must be known to ask for them.
    pub async fn place(&self, objects: &[ObjectRef]) -> Result<(), Trouble> {
        let unplaced = self.workos.unplaced(objects);
        if unplaced.is_empty() {
            return Ok(());
        }
        let look = async {
            let mut connection = self.database.acquire().await?;
            kinds::load(&mut connection, &self.env, &unplaced).await
        };
        for (object, row) in within_time(look).await? {
            if let Some(holder) = row.holder() {
                self.workos.found_within(&object, holder);
            }
        }
        Ok(())
    }

    /// Relations whose answer lacks a member that the mirror has, and no event says why, are asked for again, as long as
    /// what events said of them is weighed at all.
    async fn doubt(
        &self,
        entries: &mut BTreeMap<ObjectRef, Entry>,
        now: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        let rows: Vec<&Row> = entries
            .values()
            .filter(|entry| !entry.members.is_empty())
            .filter_map(|entry| match &entry.verdict {
                Verdict::Present(record) => Some(&record.row),
                _ => None,
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let look = async {
            let mut connection = self.database.acquire().await?;
            kinds::lacking(&mut connection, now, &rows).await
        };
        for relation in within_time(look).await? {
            if let Some(entry) = entries.get_mut(&relation) {
                entry.verdict = Verdict::Wait(Failure::Unconfirmed);
            }
        }
        Ok(())
    }

    /// What must be asked besides: parents that the mirror lacks, suspects, and what fell with a parent that
    /// is there after all. Makes an entry for each.
    async fn next_questions(
        &self,
        entries: &mut BTreeMap<ObjectRef, Entry>,
        parents: HashSet<ObjectRef>,
        suspects: &[(ObjectRef, ObjectRef)],
        fallen: Vec<ObjectRef>,
    ) -> Result<Vec<ObjectRef>, Trouble> {
        let suspects: HashSet<&ObjectRef> = suspects.iter().map(|(_, suspect)| suspect).collect();
        let fallen: HashSet<ObjectRef> = fallen.into_iter().collect();
        let mut wanted: HashSet<&ObjectRef> =
            parents.iter().chain(&fallen).chain(suspects.iter().copied()).collect();
        wanted.retain(|object| !entries.contains_key(object));
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<&ObjectRef> = wanted.into_iter().collect();
        let mut known = within_time(guard::known(&self.database, &self.env, &wanted)).await?;
        let mut questions = Vec::new();
        for object in wanted {
            let known = known.remove(object);
            let asks = match &known {
                _ if suspects.contains(object) => true,
                None => true,
                Some(known) if fallen.contains(object) => match known.deleted_by {
                    Some(by) => by == DeletedBy::Cascade,
                    // Only a part of a relation fell.
                    None => kinds::is_relation(object.kind),
                },
                // What an event declared deleted stays so; what only an answer or a parent took may be back.
                Some(known) => match known.deleted_by {
                    Some(DeletedBy::Event) => false,
                    Some(DeletedBy::Answer | DeletedBy::Cascade) => true,
                    None => !known.has_row,
                },
            };
            if asks {
                questions.push(object.clone());
                entries.insert(object.clone(), Entry::asked(object.clone(), known));
            }
        }
        Ok(questions)
    }

    /// Parts of relations that came along with answers and were taken for gone: others had a part in them too.
    async fn revived_along(
        &self,
        looked_up: &mut usize,
        embedded: &[Record],
    ) -> Result<Vec<ObjectRef>, Trouble> {
        let came = embedded.get(*looked_up..).unwrap_or_default();
        *looked_up = embedded.len();
        let parts: HashSet<&ObjectRef> =
            came.iter().map(|record| &record.object).filter(|object| kinds::is_part(object.kind)).collect();
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        let parts: Vec<&ObjectRef> = parts.into_iter().collect();
        let known = within_time(guard::known(&self.database, &self.env, &parts)).await?;
        let revived = known
            .into_iter()
            .filter(|(_, known)| matches!(known.deleted_by, Some(DeletedBy::Answer | DeletedBy::Cascade)));
        Ok(revived.map(|(part, _)| part).collect())
    }

    /// What went with these objects, which are there after all.
    async fn fallen(&self, revived: &[ObjectRef]) -> Result<Vec<ObjectRef>, Trouble> {
        if revived.is_empty() {
            return Ok(Vec::new());
        }
        let look = async {
            let mut connection = self.database.acquire().await?;
            kinds::dependants(&mut connection, &revived.iter().collect::<Vec<_>>(), false).await
        };
        Ok(within_time(look).await?.into_iter().map(|(_, object)| object).collect())
    }

    /// What the mirror has and the answer lacks that should bring it along, each with what that answer is about.
    async fn suspects(
        &self,
        containers: &HashMap<ObjectRef, HashSet<ObjectRef>>,
    ) -> Result<Vec<(ObjectRef, ObjectRef)>, Trouble> {
        if containers.is_empty() {
            return Ok(Vec::new());
        }
        let look = async {
            let mut connection = self.database.acquire().await?;
            kinds::contained(&mut connection, &containers.keys().collect::<Vec<_>>()).await
        };
        let mut contained = within_time(look).await?;
        contained.retain(|(parent, object)| {
            containers.get(parent).is_some_and(|brought| !brought.contains(object))
        });
        Ok(contained)
    }
}

/// Takes over what came along with other answers, unless it was asked for itself, or is older than
/// what is known.
fn merge_embedded(entries: &mut BTreeMap<ObjectRef, Entry>, embedded: Vec<Record>) {
    for record in embedded {
        let entry = entries
            .entry(record.object.clone())
            .or_insert_with_key(|object| Entry::asked(object.clone(), None));
        if matches!(entry.verdict, Verdict::Wait(_)) && entry.events.is_empty() {
            entry.verdict = Verdict::Present(Box::new(record));
        }
    }
}

/// An object whose answer lacks something that we have is written, but its event comes again until it is certain what
/// became of that.
fn hold_back_suspicious(entries: &mut BTreeMap<ObjectRef, Entry>, suspicions: &[(ObjectRef, ObjectRef)]) {
    for (parent, suspect) in suspicions {
        let uncertain = entries.get(suspect).and_then(|entry| match &entry.verdict {
            Verdict::Missing => Some(Failure::Unconfirmed),
            Verdict::Wait(failure) => Some(failure.clone()),
            Verdict::Present(_) | Verdict::Gone(_) => None,
        });
        if uncertain.is_some()
            && let Some(entry) = entries.get_mut(parent)
        {
            entry.held_back = uncertain;
        }
    }
}

/// A live object needs its parents: one whose parent could not be had waits. (One whose parent is gone is
/// found out when the parent is claimed or held, because only then is it certain.)
fn wait_for_parents(entries: &mut BTreeMap<ObjectRef, Entry>) {
    let keys: Vec<ObjectRef> = entries.keys().cloned().collect();
    // Parents stand before children, so what a parent waits for is known when its children are looked at.
    for key in keys {
        let Some(Entry { verdict: Verdict::Present(record), .. }) = entries.get(&key) else { continue };
        let waits = record.parents.iter().find_map(|parent| {
            let entry = entries.get(parent)?;
            // It stands in the mirror already: what is asked about it now does not hold up its children.
            if entry.known.as_ref().is_some_and(|known| known.has_row && known.deleted_by.is_none()) {
                return None;
            }
            match &entry.verdict {
                Verdict::Present(_) | Verdict::Gone(_) => None,
                Verdict::Missing => Some(Failure::ParentWaits(parent.clone())),
                Verdict::Wait(failure) => Some(failure.clone()),
            }
        });
        if let (Some(failure), Some(entry)) = (waits, entries.get_mut(&key)) {
            entry.verdict = Verdict::Wait(failure);
        }
    }
}
