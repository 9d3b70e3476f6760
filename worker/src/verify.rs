//! Row by row, whether the mirror is in step with WorkOS: what it lacks, what it has besides, what differs.
//!
//! A difference is drift only when it is still there after everything that was on its way has had time to arrive:
//! it is looked at again, several times, with a fresh question and a fresh row.

mod schedule;
mod seen;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use shared::clock;
use shared::id::{Kind, ObjectRef};

use crate::environment;
use crate::failure::Failure;
use crate::guard::{self, DeletedBy, Known};
use crate::listing::{self, Interruption, Patience};
use crate::object::{self, Listed, Record, Row};
use crate::progress::Progress;
use crate::reconcile;
use crate::runs::{self, Lock};
use crate::sync::{Sync, Told, within_time};
use crate::walk::{Position, Visitor, Walk, Walker, narrowed, plan};
use crate::workos::Answer;

pub use schedule::{Schedule, scheduled};

use seen::Seen;

/// The name in the books.
const COMMAND: &str = "verify";
/// How long to wait before each look at what differs.
const LOOKS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Further looks, at the last distance, at what was written between the two sides of a look.
const MORE_LOOKS: usize = 3;
/// Suspects that are looked at together, and wait together.
const SUSPECTS: usize = 500;
/// Drifts that are told one by one; the others are only counted.
const TOLD: usize = 10_000;

/// What to do.
pub struct Verify {
    /// The verb, with the purpose `Verify`.
    pub sync: Sync,
    /// How long it is worth trying.
    pub patience: Patience,
    /// How many lists at a time.
    pub parallel: usize,
    /// Which kinds.
    pub only: Vec<Kind>,
    /// Ask again for what drifted.
    pub repair: bool,
    /// Whether WorkOS may have nothing of what the mirror has.
    pub even_if_all_is_gone: bool,
    /// Who runs it.
    pub actor: String,
    /// What is shown.
    pub progress: Progress,
}

/// How an object drifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// WorkOS has it, the mirror has no live row.
    Missing,
    /// The mirror has a live row, WorkOS does not have it.
    Extra,
    /// Both have it, and columns differ.
    Different,
}

/// An object that drifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Its kind.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// How.
    pub drift: What,
    /// In which columns.
    pub columns: Vec<&'static str>,
    /// Whether it was brought back in step.
    pub repaired: bool,
}

/// What was found of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Objects that agree.
    pub in_step: u64,
    /// Objects without a live row.
    pub missing: u64,
    /// Live rows without an object.
    pub extra: u64,
    /// Rows that differ.
    pub different: u64,
    /// Of those three, how many were brought back in step.
    pub repaired: u64,
    /// Of those that differ, how many do so only in columns that WorkOS changes without an event.
    pub unannounced: u64,
}

impl Counts {
    /// Adds those of another kind of the same table.
    pub fn add(&mut self, other: &Self) {
        self.in_step += other.in_step;
        self.missing += other.missing;
        self.extra += other.extra;
        self.different += other.different;
        self.repaired += other.repaired;
        self.unannounced += other.unannounced;
    }

    /// Objects that are not in step now.
    #[must_use]
    pub fn left(&self) -> u64 {
        (self.missing + self.extra + self.different).saturating_sub(self.repaired)
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By kind, every kind that was compared.
    pub counts: BTreeMap<Kind, Counts>,
    /// The drift, as far as it is told one by one.
    pub drifts: Vec<Drift>,
}

impl Report {
    /// Whether nothing is left that differs.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.counts.values().all(|counts| counts.left() == 0)
    }
}

/// Compares. A repair is one at a time, and kept in the books.
pub async fn run(verify: &Verify) -> Result<Report, Interruption> {
    let Verify { sync, patience, .. } = verify;
    let pool = &sync.database;
    let _lock: Option<Lock> = if verify.repair {
        let taken = patience.postgres(|| within_time(runs::lock(pool, &sync.env, COMMAND))).await?;
        Some(taken.ok_or(Interruption::Busy)?)
    } else {
        None
    };
    if verify.repair && !verify.even_if_all_is_gone {
        environment::check(sync, patience).await?;
    }
    let arguments = json!({"only": verify.only, "repair": verify.repair});
    let begin = || within_time(runs::begin(pool, &sync.env, COMMAND, &verify.actor, &arguments));
    let run = patience.postgres(begin).await?;
    let compared = verify.compare().await;
    let (result, counts) = match &compared {
        Ok(report) if report.is_in_step() => ("done", report.counts.clone()),
        Ok(report) => ("drift", report.counts.clone()),
        Err(_) => ("failed", BTreeMap::new()),
    };
    let noted = within_time(run.finished(pool, result, &counts)).await;
    if let Err(trouble) = noted {
        tracing::warn!(error = %trouble, "could not note how the verify ended");
    }
    compared
}

struct Found {
    report: Report,
    suspects: BTreeMap<ObjectRef, Suspicion>,
}

/// How an object seems to have drifted, and in which columns.
type Suspicion = (What, Vec<&'static str>);

/// One comparison.
struct Comparison<'a> {
    verify: &'a Verify,
    seen: Seen,
    found: Mutex<Found>,
}

impl Verify {
    async fn compare(&self) -> Result<Report, Interruption> {
        let seen = Seen::new(&self.sync.database).await?;
        let counts = self.only.iter().map(|kind| (*kind, Counts::default())).collect();
        let found = Found { report: Report { counts, drifts: Vec::new() }, suspects: BTreeMap::new() };
        let comparison = Comparison { verify: self, seen, found: Mutex::new(found) };
        for walk in plan(&self.only) {
            if let Some(walk) = narrowed(&self.sync, &self.patience, &self.only, walk).await? {
                comparison.carry_out(&walk).await?;
            }
        }
        comparison.confirm(1).await?;
        let report = std::mem::take(&mut comparison.found().report);
        Ok(report)
    }
}

/// How the two sides of one object differ, if they do.
fn differs(said: Option<&Record>, row: Option<&Row>, beside: &[&'static str]) -> Option<Suspicion> {
    let row = row.filter(|row| !row.is_tombstone());
    match (said, row) {
        (None, None) => None,
        (None, Some(_)) => Some((What::Extra, Vec::new())),
        (Some(record), None) if record.row.is_empty() => None,
        (Some(_), None) => Some((What::Missing, Vec::new())),
        (Some(record), Some(row)) => {
            let changes = record.row.changes_in_full(row);
            let columns: Vec<&'static str> =
                changes.iter().map(|change| change.column).chain(beside.iter().copied()).collect();
            (!columns.is_empty()).then_some((What::Different, columns))
        }
    }
}

/// Whether a deletion event took it so lately that an answer of WorkOS that shows it means nothing.
fn lately_deleted(known: Option<&Known>) -> bool {
    known.is_some_and(|known| {
        known.deleted_by == Some(DeletedBy::Event)
            && known.deleted_at.is_some_and(|at| clock::now() - at < guard::REVIVE_AFTER)
    })
}

/// What a fresh look at an object shows.
struct Look {
    suspicion: Option<Suspicion>,
    /// It was written between the two sides of the look, so they may not be compared.
    moved: bool,
    present: bool,
}

impl Comparison<'_> {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads every list of a walk, then looks for rows that none of them had.
    async fn carry_out(&self, walk: &Walk) -> Result<(), Interruption> {
        let Verify { sync, patience, progress, .. } = self.verify;
        let count = || within_time(runs::live_count(&sync.database, &sync.env, walk.counted().name()));
        let steps = patience.postgres(count).await?;
        progress.begin(
            &format!("comparing {}", object::table(walk.kind)),
            Some(steps).filter(|steps| *steps > 0),
        );
        let visitor = Reading { comparison: self, walk };
        let walker = Walker {
            walk,
            workos: &sync.workos,
            patience,
            parallel: self.verify.parallel,
            visitor: &visitor,
        };
        let position = walker.walk(Position::default()).await?;
        if position.unreadable > 0 {
            let what = format!("the list of {}", object::table(walk.kind));
            return Err(Interruption::Unreadable(
                what,
                format!("{} items are no objects", position.unreadable),
            ));
        }
        progress.end();
        for kind in walk.brings.iter().filter(|kind| self.verify.only.contains(kind)) {
            self.look_for_extra(*kind).await?;
        }
        Ok(())
    }

    /// Live rows that no list had.
    async fn look_for_extra(&self, kind: Kind) -> Result<(), Interruption> {
        let mut after = String::new();
        loop {
            let rows = self
                .verify
                .patience
                .postgres(|| crate::backfill::live(&self.verify.sync, kind, &after))
                .await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after.clone_from(last);
            let unseen = self.seen.absent(kind, &rows).await?;
            for id in unseen {
                self.found().suspects.insert(ObjectRef::new(kind, id), (What::Extra, Vec::new()));
            }
            self.confirm(SUSPECTS).await?;
        }
    }

    /// Compares a page.
    async fn page(&self, records: &[&Record]) -> Result<(), Interruption> {
        let Verify { sync, patience, .. } = self.verify;
        let objects: Vec<&ObjectRef> = records.iter().map(|record| &record.object).collect();
        let said: Vec<&Row> = records.iter().map(|record| &record.row).collect();
        let (rows, beside) = patience.postgres(|| sides(sync, &objects, &said)).await?;
        {
            let mut found = self.found();
            for record in records {
                let beside = beside.get(&record.object).map_or(&[][..], Vec::as_slice);
                match differs(Some(record), rows.get(&record.object), beside) {
                    None => found.report.counts.entry(record.object.kind).or_default().in_step += 1,
                    Some(suspicion) => {
                        found.suspects.insert(record.object.clone(), suspicion);
                    }
                }
            }
        }
        self.confirm(SUSPECTS).await
    }

    /// Looks again at what differs, if so many do: what still differs after every look is drift, and repaired if
    /// that is wanted.
    async fn confirm(&self, at_least: usize) -> Result<(), Interruption> {
        let suspects = {
            let mut found = self.found();
            if found.suspects.len() < at_least {
                return Ok(());
            }
            std::mem::take(&mut found.suspects)
        };
        let patience = &self.verify.patience;
        let mut open: Vec<ObjectRef> = suspects.into_keys().collect();
        let mut drifted: Vec<(ObjectRef, Suspicion)> = Vec::new();
        let last = LOOKS.len() - 1;
        for look in 0..LOOKS.len() + MORE_LOOKS {
            if open.is_empty() {
                break;
            }
            patience.pause(LOOKS[look.min(last)]).await?;
            let mut looks = self.look(&open).await?;
            let mut still = Vec::new();
            for object in open {
                match looks.remove(&object) {
                    Some(Look { suspicion: Some(suspicion), moved: false, .. }) if look >= last => {
                        drifted.push((object, suspicion));
                    }
                    Some(Look { suspicion: Some(_), .. }) => still.push(object),
                    Some(Look { present: true, .. }) => {
                        self.found().report.counts.entry(object.kind).or_default().in_step += 1;
                    }
                    Some(_) | None => {}
                }
            }
            open = still;
        }
        // What is written all the time is what the sync is at work on.
        tracing::debug!(count = open.len(), "objects that changed under every look were not judged");
        if !drifted.is_empty() {
            self.report(drifted).await?;
        }
        Ok(())
    }

    /// A fresh question and a fresh row for each.
    async fn look(&self, objects: &[ObjectRef]) -> Result<HashMap<ObjectRef, Look>, Interruption> {
        let Verify { sync, patience, .. } = self.verify;
        let all: Vec<&ObjectRef> = objects.iter().collect();
        let before = reconcile::known(sync, patience, &all).await?;
        let said = self.ask(objects).await?;
        let rows: Vec<&Row> = said.values().flatten().map(|record| &record.row).collect();
        let (rows, beside) = patience.postgres(|| sides(sync, &all, &rows)).await?;
        let after = reconcile::known(sync, patience, &all).await?;
        Ok(objects
            .iter()
            .map(|object| {
                let record = said.get(object).and_then(Option::as_ref);
                let beside = beside.get(object).map_or(&[][..], Vec::as_slice);
                let fence =
                    |known: &HashMap<ObjectRef, Known>| known.get(object).map_or(0, |known| known.fence);
                let suspicion = differs(record, rows.get(object), beside)
                    .filter(|_| said.contains_key(object))
                    .filter(|(what, _)| *what != What::Missing || !lately_deleted(after.get(object)));
                let look =
                    Look { suspicion, moved: fence(&before) != fence(&after), present: record.is_some() };
                (object.clone(), look)
            })
            .collect())
    }

    /// What WorkOS says of each; `None` is 404.
    async fn ask(&self, objects: &[ObjectRef]) -> Result<HashMap<ObjectRef, Option<Record>>, Interruption> {
        let Verify { sync, patience, .. } = self.verify;
        let mut said = HashMap::with_capacity(objects.len());
        let mut left_out = HashSet::new();
        let mut open = objects.to_vec();
        let mut attempts = patience.attempts();
        while !open.is_empty() {
            let mut failed = None;
            open.clear();
            let left: Vec<ObjectRef> = objects
                .iter()
                .filter(|object| !said.contains_key(*object) && !left_out.contains(*object))
                .cloned()
                .collect();
            patience.postgres(|| sync.place(&left)).await?;
            for reply in sync.workos.ask(&left, sync.lane).await {
                match reply.answer {
                    Ok(Answer::Found(record)) => drop(said.insert(reply.object, Some(*record))),
                    Ok(Answer::NotFound) => drop(said.insert(reply.object, None)),
                    // Nothing can be said of it.
                    Err(Failure::CannotAsk(_)) => drop(left_out.insert(reply.object)),
                    Err(failure) => {
                        failed = Some((reply.object.clone(), failure));
                        open.push(reply.object);
                    }
                }
            }
            if let Some((object, failure)) = failed
                && !attempts.again(&failure).await?
            {
                return Err(listing::interruption(&failure)
                    .unwrap_or_else(|| Interruption::Unreadable(object.to_string(), failure.reason())));
            }
        }
        Ok(said)
    }

    /// Takes it down, and repairs it first if that is wanted.
    async fn report(&self, drifted: Vec<(ObjectRef, Suspicion)>) -> Result<(), Interruption> {
        let Verify { sync, patience, repair, .. } = self.verify;
        let objects: Vec<ObjectRef> = drifted.iter().map(|(object, _)| object.clone()).collect();
        let mut left: HashMap<ObjectRef, Look> = HashMap::new();
        if *repair {
            for (object, settled) in reconcile::settle(sync, patience, objects.clone()).await? {
                if let reconcile::Settled::Failed(reason) = settled {
                    tracing::warn!(object.kind = %object.kind, object.id = %object.id, reason, "could not be repaired");
                }
            }
            left = self.look(&objects).await?;
        }
        let mut found = self.found();
        for (object, (what, columns)) in drifted {
            let repaired = left.get(&object).is_some_and(|look| look.suspicion.is_none());
            let counts = found.report.counts.entry(object.kind).or_default();
            match what {
                What::Missing => counts.missing += 1,
                What::Extra => counts.extra += 1,
                What::Different => counts.different += 1,
            }
            counts.repaired += u64::from(repaired);
            let unannounced = object::unannounced(object.kind);
            let quiet = what == What::Different && columns.iter().all(|column| unannounced.contains(column));
            counts.unannounced += u64::from(quiet);
            if found.report.drifts.len() < TOLD {
                let ObjectRef { kind, id } = object;
                found.report.drifts.push(Drift { kind, id, drift: what, columns, repaired });
            }
        }
        Ok(())
    }
}

/// Rows by object, and the columns beside each that do not agree with what is said.
type Sides = (HashMap<ObjectRef, Row>, HashMap<ObjectRef, Vec<&'static str>>);

/// What the mirror has of these objects, and what beside it does not agree with what is said.
async fn sides(
    sync: &Sync,
    objects: &[&ObjectRef],
    said: &[&Row],
) -> Result<Sides, crate::database::Trouble> {
    within_time(async {
        let mut connection = sync.database.acquire().await?;
        let rows = object::load(&mut connection, &sync.env, objects).await?;
        let mut beside: HashMap<ObjectRef, Vec<&'static str>> = HashMap::new();
        for (object, column) in object::beside(&mut connection, said).await? {
            beside.entry(object).or_default().push(column);
        }
        Ok((rows, beside))
    })
    .await
}

/// Compares what lists show.
struct Reading<'a> {
    comparison: &'a Comparison<'a>,
    walk: &'a Walk,
}

impl Visitor for Reading<'_> {
    async fn leaving(&self) -> Result<i64, Interruption> {
        // Nothing that a list shows is written.
        Ok(0)
    }

    async fn page(&self, _fence: i64, told: Vec<Told>) -> Result<(), Interruption> {
        let Comparison { verify, seen, .. } = self.comparison;
        let shown: Vec<&Record> = told
            .iter()
            .flat_map(|told| std::iter::once(&told.record).chain(&told.embedded))
            .filter(|record| self.walk.brings.contains(&record.object.kind))
            .collect();
        for kind in &self.walk.brings {
            let ids: Vec<&str> = shown
                .iter()
                .filter(|record| record.object.kind == *kind)
                .map(|record| record.object.id.as_str())
                .collect();
            if !ids.is_empty() {
                seen.add(*kind, &ids).await?;
            }
        }
        let compared: Vec<&Record> =
            shown.into_iter().filter(|record| verify.only.contains(&record.object.kind)).collect();
        self.comparison.page(&compared).await
    }

    async fn parents(&self, kind: Kind, after: &str) -> Result<Vec<String>, Interruption> {
        self.comparison.seen.after(kind, after).await
    }

    fn came(&self, ended: u64, objects: u64) {
        let steps = match object::listed(self.walk.kind) {
            Listed::Under(..) | Listed::Composed(..) | Listed::Whole(_) => ended,
            Listed::Everywhere(_) | Listed::Inside(_) => objects,
        };
        self.comparison.verify.progress.advance(steps, objects);
    }

    async fn moved(&self, _position: Position) -> Result<(), Interruption> {
        // It is begun anew when it was interrupted.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(fields: &serde_json::Value) -> Record {
        let object = ObjectRef::new(Kind::User, "user_1");
        let mut records = object::read(&object, fields.to_string().as_bytes()).expect("a user");
        records.remove(0)
    }

    #[test]
    fn the_two_sides_agree_or_it_is_named_how_they_do_not() {
        let ada = record(&json!({"id": "user_1", "email": "ada@example.com"}));
        let bob = record(&json!({"id": "user_1", "email": "bob@example.com"}));
        assert_eq!(differs(None, None, &[]), None);
        assert_eq!(differs(Some(&ada), Some(&ada.row), &[]), None);
        assert_eq!(differs(Some(&ada), None, &[]), Some((What::Missing, vec![])));
        assert_eq!(differs(None, Some(&ada.row), &[]), Some((What::Extra, vec![])));
        let different = |columns| Some((What::Different, columns));
        assert_eq!(differs(Some(&ada), Some(&bob.row), &[]), different(vec!["email"]));
        assert_eq!(
            differs(Some(&ada), Some(&ada.row), &["profiles.first_name"]),
            different(vec!["profiles.first_name"])
        );
    }

    #[test]
    fn a_tombstone_is_no_live_row() {
        let ada = record(&json!({"id": "user_1"}));
        let Row::User(mut row) = ada.row.clone() else { panic!("not a user") };
        row.deleted_at = Some(chrono::DateTime::UNIX_EPOCH);
        assert_eq!(differs(None, Some(&Row::User(row.clone())), &[]), None);
        assert_eq!(differs(Some(&ada), Some(&Row::User(row)), &[]), Some((What::Missing, vec![])));
    }

    #[test]
    fn a_deletion_event_is_believed_for_a_while() {
        let known = |by, ago| Known {
            deleted_by: Some(by),
            deleted_at: Some(clock::now() - ago),
            ..Known::default()
        };
        assert!(lately_deleted(Some(&known(DeletedBy::Event, chrono::TimeDelta::minutes(1)))));
        assert!(!lately_deleted(Some(&known(DeletedBy::Event, guard::REVIVE_AFTER))));
        assert!(!lately_deleted(Some(&known(DeletedBy::Answer, chrono::TimeDelta::minutes(1)))));
    }
}
