//! Everything of every kind: list it, make the mirror agree, then bury what a complete listing no longer has.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::clock;
use shared::id::{Kind, ObjectRef};

use crate::database::Trouble;
use crate::environment;
use crate::listing::{Interruption, Patience};
use crate::object::{self, Listed};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::reconcile::{self, Settled, Settlements};
use crate::runs::{self, Run};
use crate::sync::{Sync, Told, within_time};
use crate::walk::{Position, Visitor, Walk, Walker, narrowed, plan};

/// The name in the books.
const COMMAND: &str = "backfill";
/// After so long an interrupted run is begun anew: what it listed is too old to build on.
const RESUMED_WITHIN: TimeDelta = TimeDelta::days(1);
/// Rows that are looked through at a time, for what was not listed.
const ROWS: i64 = 1_000;
/// Objects that are asked for together because they were not listed: a 404 counts when it repeats after a delay,
/// which they wait out together.
const CANDIDATES: usize = 1_000;
/// Objects that could not be written and are told one by one; the others are only counted.
const TOLD: usize = 20;

/// What to do.
pub struct Backfill {
    /// The verb, with the purpose `Backfill`.
    pub sync: Sync,
    /// How long it is worth trying.
    pub patience: Patience,
    /// How many lists at a time.
    pub parallel: usize,
    /// Which kinds.
    pub only: Vec<Kind>,
    /// Not from the checkpoint.
    pub restart: bool,
    /// Whether WorkOS may have nothing of what the mirror has.
    pub even_if_all_is_gone: bool,
    /// Who runs it.
    pub actor: String,
    /// What is shown.
    pub progress: Progress,
}

/// What was done for a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Objects that lists showed.
    pub listed: u64,
    /// Rows that changed.
    pub written: u64,
    /// Rows that agreed already, or had a later answer.
    pub unchanged: u64,
    /// Rows that became tombstones.
    pub deleted: u64,
    /// Objects that could not be made to agree.
    pub failed: u64,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// By kind.
    pub counts: BTreeMap<Kind, Counts>,
    /// Some of the objects that could not be made to agree, and why.
    pub failed: Vec<(ObjectRef, String)>,
}

/// Where it stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Checkpoint {
    /// Walks that are done, by the kind whose lists they read.
    done: Vec<Kind>,
    /// The walk that is on its way.
    walk: Option<Walking>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Walking {
    kind: Kind,
    /// Taken before its first page: what has a lower one in the end was neither listed nor changed since.
    fence: i64,
    /// Every list was read.
    complete: bool,
    #[serde(flatten)]
    position: Position,
}

/// Begins, or goes on where an interrupted run with the same arguments stopped.
pub async fn run(backfill: &Backfill) -> Result<Summary, Interruption> {
    let Backfill { sync, patience, .. } = backfill;
    let pool = &sync.database;
    let Some(_lock) = lock(backfill).await? else { return Err(Interruption::Busy) };
    if !backfill.even_if_all_is_gone {
        environment::check(sync, patience).await?;
    }
    let arguments = json!({ "only": backfill.only });
    let since = clock::now() - RESUMED_WITHIN;
    let interrupted = if backfill.restart {
        None
    } else {
        patience
            .postgres(|| within_time(runs::interrupted(pool, &sync.env, COMMAND, &arguments, since)))
            .await?
    };
    let resumed = interrupted.and_then(|found| {
        // One of another version is not understood, and begun anew.
        let checkpoint: Checkpoint = serde_json::from_value(found.checkpoint).ok()?;
        let counts: BTreeMap<Kind, Counts> = serde_json::from_value(found.counts).ok()?;
        tracing::info!(started_at = %found.started_at, "going on with a backfill that was interrupted");
        Some((found.run, checkpoint, counts))
    });
    let (run, checkpoint, counts) = if let Some(resumed) = resumed {
        resumed
    } else {
        let begin = || within_time(runs::begin(pool, &sync.env, COMMAND, &backfill.actor, &arguments));
        (patience.postgres(begin).await?, Checkpoint::default(), BTreeMap::new())
    };
    let books = Books {
        run,
        state: Mutex::new(State { checkpoint, summary: Summary { counts, failed: Vec::new() } }),
    };
    for walk in plan(&backfill.only) {
        let is_done = books.state().checkpoint.done.contains(&walk.kind);
        if is_done {
            continue;
        }
        if let Some(walk) = narrowed(sync, patience, &backfill.only, walk).await? {
            backfill.carry_out(&books, &walk).await?;
        }
    }
    let summary = books.state().summary.clone();
    let result = if summary.counts.values().all(|counts| counts.failed == 0) { "done" } else { "failed" };
    patience.postgres(|| within_time(run.finished(pool, result, &summary.counts))).await?;
    Ok(summary)
}

/// One backfill at a time. One that was just killed may hold its lock for a moment longer.
async fn lock(backfill: &Backfill) -> Result<Option<runs::Lock>, Interruption> {
    const TRIES: u32 = 20;
    for attempt in 1..=TRIES {
        let taken = backfill
            .patience
            .postgres(|| within_time(runs::lock(&backfill.sync.database, &backfill.sync.env, COMMAND)))
            .await?;
        if taken.is_some() || attempt == TRIES {
            return Ok(taken);
        }
        backfill.patience.pause(std::time::Duration::from_millis(200)).await?;
    }
    Ok(None)
}

/// What is kept of a run: in Postgres, and here until it is there.
struct Books {
    run: Run,
    state: Mutex<State>,
}

struct State {
    checkpoint: Checkpoint,
    summary: Summary,
}

impl Books {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, settlements: &Settlements) {
        let State { summary, .. } = &mut *self.state();
        for (object, settled) in settlements {
            let counts = summary.counts.entry(object.kind).or_default();
            match settled {
                Settled::Agrees(Outcome::Applied) => counts.written += 1,
                Settled::Agrees(Outcome::Deleted) => counts.deleted += 1,
                Settled::Agrees(_) => counts.unchanged += 1,
                Settled::Failed(reason) => {
                    counts.failed += 1;
                    if summary.failed.len() < TOLD {
                        summary.failed.push((object.clone(), reason.clone()));
                    }
                }
            }
        }
    }
}

impl Backfill {
    /// Reads every list of a walk, then buries what they do not have.
    async fn carry_out(&self, books: &Books, walk: &Walk) -> Result<(), Interruption> {
        let resumed = books.state().checkpoint.walk.clone().filter(|walking| walking.kind == walk.kind);
        let mut walking = match resumed {
            Some(walking) => walking,
            None => Walking {
                kind: walk.kind,
                fence: reconcile::fence(&self.sync, &self.patience).await?,
                complete: false,
                position: Position::default(),
            },
        };
        if !walking.complete {
            self.progress.begin(&format!("listing {}", object::table(walk.kind)), self.steps(walk).await?);
            let visitor = Writing { backfill: self, books, walk, fence: walking.fence };
            let walker = Walker {
                walk,
                workos: &self.sync.workos,
                patience: &self.patience,
                parallel: self.parallel,
                visitor: &visitor,
            };
            walking.position = walker.walk(walking.position).await?;
            walking.complete = true;
            books.state().checkpoint.walk = Some(walking.clone());
            self.save(books).await?;
            self.progress.end();
        }
        if walking.position.unreadable == 0 {
            // Children first: a child that goes by itself is not taken along by its parent.
            for kind in walk.brings.iter().rev().filter(|kind| self.only.contains(kind)) {
                self.bury_what_was_not_listed(books, *kind, walking.fence).await?;
            }
        } else {
            tracing::warn!(
                items = walking.position.unreadable,
                "the lists of {} hold items that are not objects, so nothing of them is taken to be deleted",
                object::table(walk.kind)
            );
        }
        let checkpoint = &mut books.state().checkpoint;
        checkpoint.done.push(walk.kind);
        checkpoint.walk = None;
        Ok(())
    }

    /// How many steps the progress of a walk has, as far as the mirror knows.
    async fn steps(&self, walk: &Walk) -> Result<Option<u64>, Interruption> {
        let counted = walk.counted();
        let count = || within_time(runs::live_count(&self.sync.database, &self.sync.env, counted.name()));
        Ok(Some(self.patience.postgres(count).await?).filter(|count| *count > 0))
    }

    async fn save(&self, books: &Books) -> Result<(), Interruption> {
        let (checkpoint, counts) = {
            let state = books.state();
            (state.checkpoint.clone(), state.summary.counts.clone())
        };
        self.patience
            .postgres(|| within_time(books.run.moved(&self.sync.database, &checkpoint, &counts)))
            .await
    }

    /// Live rows that were neither listed nor changed since `fence` was taken: each is asked for, and becomes a
    /// tombstone when WorkOS says 404, twice.
    async fn bury_what_was_not_listed(
        &self,
        books: &Books,
        kind: Kind,
        fence: i64,
    ) -> Result<(), Interruption> {
        let mut candidates: Vec<ObjectRef> = Vec::new();
        let mut after = String::new();
        loop {
            let rows = self.live(kind, &after).await?;
            let Some(last) = rows.last() else { break };
            after.clone_from(last);
            let rows: Vec<ObjectRef> = rows.into_iter().map(|id| ObjectRef::new(kind, id)).collect();
            let known =
                reconcile::known(&self.sync, &self.patience, &rows.iter().collect::<Vec<_>>()).await?;
            candidates.extend(
                rows.into_iter().filter(|row| known.get(row).is_none_or(|known| known.fence < fence)),
            );
            if candidates.len() >= CANDIDATES {
                self.bury(books, kind, std::mem::take(&mut candidates)).await?;
            }
        }
        self.bury(books, kind, candidates).await
    }

    async fn bury(&self, books: &Books, kind: Kind, candidates: Vec<ObjectRef>) -> Result<(), Interruption> {
        if candidates.is_empty() {
            return Ok(());
        }
        tracing::info!(count = candidates.len(), "asking for {} that were not listed", object::table(kind));
        let settled = reconcile::settle(&self.sync, &self.patience, candidates).await?;
        books.count(&settled);
        self.save(books).await
    }

    /// Ids of live rows after `after`.
    async fn live(&self, kind: Kind, after: &str) -> Result<Vec<String>, Interruption> {
        self.patience.postgres(|| live(&self.sync, kind, after)).await
    }
}

/// Ids of the next live rows of a kind.
pub(crate) async fn live(sync: &Sync, kind: Kind, after: &str) -> Result<Vec<String>, Trouble> {
    within_time(async {
        let mut connection = sync.database.acquire().await?;
        object::live(&mut connection, kind, &sync.env, after, ROWS).await
    })
    .await
}

/// Writes what lists tell.
struct Writing<'a> {
    backfill: &'a Backfill,
    books: &'a Books,
    walk: &'a Walk,
    fence: i64,
}

impl Visitor for Writing<'_> {
    async fn leaving(&self) -> Result<i64, Interruption> {
        reconcile::fence(&self.backfill.sync, &self.backfill.patience).await
    }

    async fn page(&self, fence: i64, told: Vec<Told>) -> Result<(), Interruption> {
        let Backfill { sync, patience, .. } = self.backfill;
        {
            let State { summary, .. } = &mut *self.books.state();
            for told in &told {
                for record in std::iter::once(&told.record).chain(&told.embedded) {
                    summary.counts.entry(record.object.kind).or_default().listed += 1;
                }
            }
        }
        let settled = reconcile::take(sync, patience, fence, told).await?;
        self.books.count(&settled);
        Ok(())
    }

    async fn parents(&self, kind: Kind, after: &str) -> Result<Vec<String>, Interruption> {
        self.backfill.live(kind, after).await
    }

    fn came(&self, ended: u64, objects: u64) {
        let steps = match object::listed(self.walk.kind) {
            Listed::Under(..) | Listed::Composed(..) | Listed::Whole(_) => ended,
            Listed::Everywhere(_) | Listed::Inside(_) => objects,
        };
        self.backfill.progress.advance(steps, objects);
    }

    async fn moved(&self, position: Position) -> Result<(), Interruption> {
        self.books.state().checkpoint.walk =
            Some(Walking { kind: self.walk.kind, fence: self.fence, complete: false, position });
        self.backfill.save(self.books).await
    }
}
