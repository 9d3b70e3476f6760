//! The verb: ask, decide, write. Webhook, tail, replay and immediate sync all end here. It takes many
//! objects, and one is a batch of one. Twice is the same as once.

mod ask;
mod write;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use shared::event::{Event, Member};
use shared::id::ObjectRef;
use sqlx::PgPool;

use crate::crash;
use crate::database::{self, Trouble};
use crate::decide::Verdict;
use crate::failure::{Blame, Failure};
use crate::guard::{self, Known, Question};
use crate::object::Record;
use crate::outcome::Outcome;
use crate::workos::{Lane, WorkOs};

/// An object to be made to agree, and why.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which object.
    pub object: ObjectRef,
    /// An event declared it deleted: no question, a tombstone.
    pub deleted: bool,
    /// Where its key may be used again: only what had it by then was deleted.
    pub ended: Option<DateTime<Utc>>,
    /// The newest `updated_at` that an event told of it.
    pub said: Option<DateTime<Utc>>,
    /// What the guard knew of it before the fence was taken.
    pub known: Option<Known>,
    /// Places, in the batch, of the events that led to it; the first is the one that gets the credit. A place
    /// beyond the batch is nobody's event; its ending is told all the same.
    pub events: Vec<usize>,
    /// What events told of single members of the relation that it is, the last word on each: an answer that differs is
    /// asked again.
    pub members: BTreeMap<String, Member>,
    /// How members of it ended, which only events tell.
    pub ends: Vec<Member>,
    /// What a list told of it after the fence was taken: then it is not asked for. (Boxed: most wishes carry none, and
    /// they are moved about.)
    pub told: Option<Box<Told>>,
    /// All that led to it was tried before.
    pub is_retry: bool,
}

impl Wish {
    /// To ask for an object, whatever the guard knows of it.
    #[must_use]
    pub fn asking(object: ObjectRef, known: Option<Known>) -> Self {
        Self {
            object,
            deleted: false,
            ended: None,
            said: None,
            known,
            events: Vec::new(),
            members: BTreeMap::new(),
            ends: Vec::new(),
            told: None,
            is_retry: false,
        }
    }

    /// To take what a list told of an object.
    #[must_use]
    pub fn told(told: Told, known: Option<Known>) -> Self {
        let object = told.record.object.clone();
        Self { told: Some(Box::new(told)), ..Self::asking(object, known) }
    }
}

/// An object as a list shows it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The object.
    pub record: Record,
    /// Other objects that came with it.
    pub embedded: Vec<Record>,
}

/// Why the mirror is made to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Events came.
    Events,
    /// Somebody asked for one object.
    Sync,
    /// Many objects of one directory wait, so they are listed.
    Burst,
    /// Everything is listed.
    Backfill,
    /// The mirror was compared, and differs.
    Verify,
}

impl Purpose {
    /// The channel in the audit log of a change that no event led to.
    const fn channel(self) -> &'static str {
        match self {
            Self::Events | Self::Sync => "sync",
            Self::Burst => "list",
            Self::Backfill => "backfill",
            Self::Verify => "verify",
        }
    }

    /// Whether what follows a row elsewhere is compared too. Events need not: whoever wrote the row wrote that.
    const fn is_thorough(self) -> bool {
        matches!(self, Self::Sync | Self::Verify)
    }

    /// Who compares everything may find that a deletion was not one: what an event declared deleted before this
    /// lives again when WorkOS still has it.
    fn revives(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        matches!(self, Self::Backfill | Self::Verify).then(|| now - guard::REVIVE_AFTER)
    }
}

/// One event of a batch.
pub struct Delivered {
    /// The event.
    pub event: Event,
    /// Its sequence in the stream.
    pub sequence: i64,
    /// When it was stored there, by the broker's clock.
    pub published: DateTime<Utc>,
    /// Which delivery this is, from 1.
    pub delivery: u32,
    /// Attempts that it used up before, by the ledger.
    pub attempts: u32,
    /// Redeliveries that were begun since the last one that ended, by the ledger.
    pub begun: u32,
}

impl Delivered {
    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempts.saturating_add(1)
    }

    /// Attempts used up once it ended so.
    #[must_use]
    pub fn attempts_after(&self, failure: Option<&Failure>) -> u32 {
        match failure.map(Failure::blame) {
            None | Some(Blame::Event) => self.attempt(),
            Some(Blame::World) => self.attempts,
        }
    }
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
    /// The newest `updated_at` that an event told of it.
    said: Option<DateTime<Utc>>,
    /// What events told of single members.
    members: BTreeMap<String, Member>,
    /// How members ended.
    ends: Vec<Member>,
    /// Why its events must come again although it was answered, if they must; its answer then settles no
    /// later event either.
    held_back: Option<Failure>,
    /// Where an event ended the life of a key that may be used again: when.
    ended: Option<DateTime<Utc>>,
    known: Option<Known>,
    events: Vec<usize>,
}

impl Entry {
    /// An object that must be asked for.
    fn asked(object: ObjectRef, known: Option<Known>) -> Self {
        Self {
            object,
            // Every question has a reply; until it is there, there is none.
            verdict: Verdict::Wait(Failure::Unreachable),
            said: None,
            members: BTreeMap::new(),
            ends: Vec::new(),
            held_back: None,
            ended: None,
            known,
            events: Vec::new(),
        }
    }
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
    /// On whose behalf WorkOS is asked.
    pub lane: Lane,
    /// Why.
    pub purpose: Purpose,
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
}

/// A question to Postgres that does not wait for ever.
pub(crate) async fn within_time<T>(question: impl Future<Output = sqlx::Result<T>>) -> Result<T, Trouble> {
    match tokio::time::timeout(database::TIMEOUT, question).await {
        Ok(answer) => answer.map_err(Trouble::from),
        Err(_) => Err(Trouble::Unavailable),
    }
}

impl From<database::Trouble> for Failure {
    fn from(trouble: database::Trouble) -> Self {
        match trouble {
            Trouble::Unavailable | Trouble::Conflict => Self::DatabaseUnavailable,
            Trouble::Refused(detail) => Self::RowRefused(detail),
        }
    }
}
