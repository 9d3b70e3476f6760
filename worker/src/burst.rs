//! Burst to list: when many objects of one directory wait, its list is read, a hundred objects a page, instead of asking
//! for each. What a page shows goes through the same claim and write as everything else; the events, which come again
//! meanwhile, then find themselves answered.
//!
//! A fence is taken before each page leaves, and with it goes the last event that was published by then: what the page
//! shows answers the events up to that one. An object that the list does not show is not thereby gone: its events ask
//! for it by itself. One list at a time per directory, over all copies: whoever does not get the lock lets the events
//! come again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use chrono::{DateTime, Utc};
use shared::id::{Kind, ObjectRef};
use shared::{clock, subject};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::database::Trouble;
use crate::guard::{self, Covers, Life, Question};
use crate::listing::{self, Interruption, Patience};
use crate::object::{self, Composition, Listed};
use crate::stream::{last_of, life_of};
use crate::sync::{Purpose, Sync, Told, Wish, within_time};
use crate::whole::Composing;
use crate::{crash, runs};

/// So many waiting objects of one directory are a burst.
const MANY: usize = 20;
/// Those that were asked for one by one within this time count too.
const RECENTLY: Duration = Duration::from_secs(10);
/// A list begins when no event of its directory was published for so long: what comes while it is read may be missing.
const QUIET: Duration = Duration::from_secs(1);
/// At the latest after this: events may come for hours.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Between two looks whether it is quiet.
const LOOK: Duration = Duration::from_millis(100);
/// WorkOS allows four requests a second for the users of one directory.
const PACE: Duration = Duration::from_millis(255);
/// Objects on a page.
const A_PAGE: u64 = 100;
/// The least that an event waits for a list that is being read, and how much longer than the list is likely to take.
const SOONEST: Duration = Duration::from_secs(1);
/// Pages of a list that an event waits for, which may be on any of them.
const SOME_PAGES: u64 = 8;
/// The most.
const LATEST: Duration = Duration::from_secs(40);
/// Directories whose lists are read at once.
const AT_ONCE: usize = 4;
/// Relations that are written in one transaction.
const WRITTEN_AT_ONCE: usize = 100;
/// How long an outage of WorkOS is waited out in the middle of a list.
const OUTAGE: Duration = Duration::from_mins(1);
/// Directories that are remembered because few of their objects waited: more are forgotten.
const REMEMBERED: usize = 1_000;

/// An event whose object is to be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// Its place in the batch.
    pub place: usize,
    /// The kind of its object.
    pub kind: Kind,
    /// The directory that holds it.
    pub directory: &'a str,
    /// Its sequence in the stream.
    pub sequence: i64,
    /// When it reached us.
    pub received_at: DateTime<Utc>,
}

/// Whether there is a list of everything of a kind in one directory.
#[must_use]
pub fn is_listed_by_directory(kind: Kind) -> bool {
    matches!(object::listed(kind), Listed::Under(Kind::Directory, _) | Listed::Composed(Kind::Directory, _))
}

/// A list of a directory.
type List = (String, Kind);

/// Reads lists when many objects wait.
#[derive(Clone)]
pub struct Bursts(Arc<Inner>);

struct Inner {
    sync: Sync,
    jetstream: jetstream::Context,
    patience: Patience,
    state: Mutex<State>,
    at_once: Semaphore,
}

#[derive(Default)]
struct State {
    /// Directories some of whose lists are wanted.
    going: HashMap<String, Going>,
    /// Objects that were asked for one by one lately.
    recent: HashMap<List, Recent>,
    /// Events up to this sequence are asked one by one: there were too few of them.
    declined: HashMap<List, (Life, i64)>,
}

#[derive(Default)]
struct Going {
    wanted: BTreeMap<Kind, Wanted>,
    /// The list that is being read.
    reading: Option<Kind>,
    /// About how many requests it still takes.
    left: Arc<AtomicU64>,
}

/// A list that is to be read.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    since: Instant,
    /// When the last of its events was published.
    published: DateTime<Utc>,
    /// The highest sequence of its events.
    highest: i64,
    /// How many wait for it. Some may be counted twice.
    waiting: u64,
}

#[derive(Clone, Copy)]
struct Recent {
    since: Instant,
    count: usize,
}

impl Bursts {
    /// Nothing is listed yet.
    #[must_use]
    pub fn new(
        sync: &Sync,
        jetstream: jetstream::Context,
        stop: tokio_util::sync::CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            sync: Sync { purpose: Purpose::Burst, ..sync.clone() },
            jetstream,
            patience: Patience { limit: OUTAGE, stop },
            state: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
        }))
    }

    /// Which of these events wait for a list, and how long until they come again. The others are to be asked for.
    pub async fn divert(
        &self,
        life: Life,
        waiting: &[Waiting<'_>],
    ) -> Result<BTreeMap<usize, Duration>, Trouble> {
        let mut by_list: BTreeMap<(&str, Kind), Vec<Waiting<'_>>> = BTreeMap::new();
        for event in waiting {
            by_list.entry((event.directory, event.kind)).or_default().push(*event);
        }
        let mut diverted = BTreeMap::new();
        for ((directory, kind), mut events) in by_list {
            let list = (directory.to_owned(), kind);
            if !self.0.is_going(directory) && !self.0.are_many(&list, events.len()) {
                continue;
            }
            let listed = self.0.listed(&list, life).await?;
            events.retain(|event| event.sequence > listed);
            if !events.is_empty() {
                diverted.extend(self.want(list, &events));
            }
        }
        Ok(diverted)
    }

    /// Wants a list to be read, unless it is wanted already. Returns when these events come again.
    fn want(&self, list: List, events: &[Waiting<'_>]) -> Vec<(usize, Duration)> {
        let (directory, kind) = list;
        let mut state = self.0.state();
        let begins = !state.going.contains_key(&directory);
        let going = state.going.entry(directory.clone()).or_default();
        let mut ahead = 0;
        if going.reading != Some(kind) {
            let wanted = going.wanted.entry(kind).or_insert_with(|| Wanted {
                since: Instant::now(),
                published: DateTime::UNIX_EPOCH,
                highest: 0,
                waiting: 0,
            });
            ahead = wanted.waiting;
            for event in events {
                wanted.published = wanted.published.max(event.received_at);
                wanted.highest = wanted.highest.max(event.sequence);
                wanted.waiting += 1;
            }
        }
        let delay = going.delay(kind, ahead);
        drop(state);
        if begins {
            let inner = self.0.clone();
            tokio::spawn(async move {
                let ended = inner.read_lists_of(&directory).await;
                inner.state().going.remove(&directory);
                match ended {
                    Ok(()) | Err(Interruption::Stopped) => {}
                    Err(interruption) => {
                        tracing::warn!(
                            object.id = directory,
                            "a list was not read to its end: {interruption}"
                        );
                    }
                }
            });
        }
        events.iter().map(|event| (event.place, delay)).collect()
    }
}

impl Going {
    /// How long an event waits for the list of its kind, with so many ahead of it: about as long as that takes.
    fn delay(&self, kind: Kind, ahead: u64) -> Duration {
        let at_once = matches!(object::listed(kind), Listed::Composed(..));
        let left = self.left.load(Ordering::Relaxed);
        let (requests, begins) = match self.reading {
            Some(reading) if reading == kind && at_once => (left, Duration::ZERO),
            Some(reading) if reading == kind => (left.min(SOME_PAGES), Duration::ZERO),
            reading => {
                let earlier =
                    self.wanted.range(..kind).map(|(_, wanted)| wanted.waiting / A_PAGE).sum::<u64>();
                let now = if reading.is_some() { left } else { 0 };
                (now + earlier + ahead / A_PAGE, QUIET)
            }
        };
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        (SOONEST + begins + PACE.saturating_mul(requests)).min(LATEST)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_going(&self, directory: &str) -> bool {
        self.state().going.contains_key(directory)
    }

    /// Whether so many more are a burst. If not, they count as asked for one by one.
    fn are_many(&self, list: &List, more: usize) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        if state.recent.len() > REMEMBERED {
            state.recent.retain(|_, recent| now - recent.since < RECENTLY);
        }
        let recent = state.recent.entry(list.clone()).or_insert(Recent { since: now, count: 0 });
        if now - recent.since >= RECENTLY {
            *recent = Recent { since: now, count: 0 };
        }
        recent.count += more;
        recent.count >= MANY
    }

    /// Up to which sequence events were published before the list was last read, or were too few to read it.
    async fn listed(&self, list: &List, life: Life) -> Result<i64, Trouble> {
        let declined =
            self.state().declined.get(list).filter(|(of, _)| *of == life).map_or(0, |(_, up_to)| *up_to);
        let (directory, kind) = list;
        let listed = within_time(
            sqlx::query_scalar!(
                r#"
                SELECT covers
                FROM workos_sync.lists
                WHERE env = $1 AND kind = $2 AND holder = $3 AND stream = $4
                "#,
                self.sync.env,
                kind.name(),
                directory,
                life,
            )
            .fetch_optional(&self.sync.database),
        )
        .await?;
        Ok(listed.unwrap_or(0).max(declined))
    }

    /// Reads the lists of a directory that are wanted, one after the other, until none is.
    async fn read_lists_of(&self, directory: &str) -> Result<(), Interruption> {
        // The semaphore is never closed.
        let _permit = self.at_once.acquire().await.map_err(|_| Interruption::Stopped)?;
        self.wait_for_quiet(directory).await?;
        let what = format!("lists of {directory}");
        let lock = || within_time(runs::lock(&self.sync.database, &self.sync.env, &what));
        let Some(_lock) = self.patience.postgres(lock).await? else {
            tracing::debug!(object.id = directory, "another copy reads lists of this directory");
            return Ok(());
        };
        let mut rhythm = Pace::default();
        loop {
            self.wait_for_quiet(directory).await?;
            let next = {
                let mut state = self.state();
                let Some(going) = state.going.get_mut(directory) else { return Ok(()) };
                going.reading = None;
                let next = going.wanted.pop_first();
                going.reading = next.map(|(kind, _)| kind);
                rhythm.left = going.left.clone();
                next
            };
            let Some((kind, wanted)) = next else { return Ok(()) };
            rhythm.left.store(wanted.waiting / A_PAGE, Ordering::Relaxed);
            self.read_list(directory, kind, wanted, &mut rhythm).await?;
        }
    }

    /// Waits until no more events come for a list that is wanted.
    async fn wait_for_quiet(&self, directory: &str) -> Result<(), Interruption> {
        loop {
            let is_quiet = {
                let state = self.state();
                let Some(going) = state.going.get(directory) else { return Ok(()) };
                going.wanted.values().all(|wanted| {
                    let silence = (clock::now() - wanted.published).to_std().unwrap_or_default();
                    let waited = wanted.since.elapsed();
                    waited >= LONGEST_WAIT || (waited >= QUIET && silence >= QUIET)
                })
            };
            if is_quiet {
                return Ok(());
            }
            self.patience.pause(LOOK).await?;
        }
    }

    async fn read_list(
        &self,
        directory: &str,
        kind: Kind,
        wanted: Wanted,
        rhythm: &mut Pace,
    ) -> Result<(), Interruption> {
        let list = (directory.to_owned(), kind);
        let Some(first) = self.published().await else { return Ok(()) };
        let listed = self.patience.postgres(|| self.listed(&list, first.life)).await?;
        if listed >= wanted.highest {
            return Ok(());
        }
        let pages = self.patience.postgres(|| self.pages(directory, kind)).await?;
        if wanted.waiting < pages {
            tracing::debug!(object.id = directory, object.kind = %kind, waiting = wanted.waiting, "asking one by one");
            let mut state = self.state();
            if state.declined.len() > REMEMBERED {
                state.declined.clear();
            }
            state.declined.insert(list, (first.life, wanted.highest));
            return Ok(());
        }
        tracing::info!(
            object.id = directory,
            waiting = wanted.waiting,
            "many objects of a directory wait, listing its {}",
            object::table(kind)
        );
        let objects = match object::listed(kind) {
            Listed::Under(_, path) => {
                self.read_pages(kind, &object::list_under(path, directory), first.life, rhythm).await?
            }
            Listed::Composed(_, composition) => {
                self.read_composed(kind, composition, directory, first.life, rhythm).await?
            }
            Listed::Everywhere(_) | Listed::Inside(_) | Listed::Whole(_) => 0,
        };
        self.patience.postgres(|| self.record(&list, first)).await?;
        tracing::info!(object.id = directory, objects, "listed the {} of a directory", object::table(kind));
        Ok(())
    }

    /// Reads a list page by page, each under a fence of its own.
    async fn read_pages(
        &self,
        kind: Kind,
        path: &str,
        life: Life,
        rhythm: &mut Pace,
    ) -> Result<usize, Interruption> {
        let mut after: Option<String> = None;
        let mut objects = 0;
        loop {
            let (question, page) = self.page(kind, path, after.as_deref(), life, rhythm).await?;
            // The directory is not there, and so is its list.
            let Some(page) = page else { return Ok(objects) };
            objects += page.told.len();
            self.take(question, page.told).await?;
            crash::point("mid_list");
            after = page.after;
            if after.is_none() {
                return Ok(objects);
            }
        }
    }

    /// Composes the relations of a directory, all under one fence.
    async fn read_composed(
        &self,
        kind: Kind,
        composition: Composition,
        directory: &str,
        life: Life,
        rhythm: &mut Pace,
    ) -> Result<usize, Interruption> {
        let question = self.question(life).await?;
        let Sync { workos, lane, .. } = &self.sync;
        let composing = Composing { workos, patience: &self.patience, lane: *lane, kind, composition };
        let Some(mut page) = composing.compose(directory, rhythm).await? else { return Ok(0) };
        let objects = page.told.len();
        while !page.told.is_empty() {
            let rest = page.told.split_off(page.told.len().min(WRITTEN_AT_ONCE));
            self.take(question, std::mem::replace(&mut page.told, rest)).await?;
        }
        Ok(objects)
    }

    /// What was published by now, and then a fence, before a question leaves.
    async fn question(&self, life: Life) -> Result<Question, Interruption> {
        let covers = self.published().await.filter(|covers| covers.life == life);
        let fence = self.patience.postgres(|| within_time(guard::fence(&self.sync.database))).await?;
        Ok(Question { fence, covers, at: clock::now() })
    }

    /// Asks for a page, under a fence that is taken before.
    async fn page(
        &self,
        kind: Kind,
        path: &str,
        after: Option<&str>,
        life: Life,
        rhythm: &mut Pace,
    ) -> Result<(Question, Option<listing::Page>), Interruption> {
        let mut attempts = self.patience.attempts();
        loop {
            rhythm.wait().await;
            let question = self.question(life).await?;
            let page = tokio::select! {
                page = listing::page(&self.sync.workos, kind, None, path, after, self.sync.lane) => page,
                () = self.patience.stop.cancelled() => return Err(Interruption::Stopped),
            };
            match page {
                Ok(page) => return Ok((Question { at: clock::now(), ..question }, page)),
                Err(failure) => {
                    if !attempts.again(&failure).await? {
                        let what = format!("a list of {}", object::table(kind));
                        return Err(listing::interruption(&failure)
                            .unwrap_or_else(|| Interruption::Unreadable(what, failure.reason())));
                    }
                }
            }
        }
    }

    /// Takes what a page told. What could not be taken, its own events will ask for.
    async fn take(&self, question: Question, told: Vec<Told>) -> Result<(), Interruption> {
        let objects: Vec<ObjectRef> = told.iter().map(|told| told.record.object.clone()).collect();
        let objects: Vec<&ObjectRef> = objects.iter().collect();
        self.patience
            .postgres(|| async {
                let mut known =
                    within_time(guard::known(&self.sync.database, &self.sync.env, &objects)).await?;
                let wishes = told
                    .iter()
                    .map(|told| Wish::told(told.clone(), known.remove(&told.record.object)))
                    .collect();
                self.sync.run(question, &[], wishes, &mut BTreeMap::new()).await
            })
            .await
    }

    /// The last event that is published by now; `None` when the broker does not tell.
    async fn published(&self) -> Option<Covers> {
        let stream = self.jetstream.get_stream(subject::EVENTS_STREAM).await.ok()?;
        let info = stream.cached_info();
        Some(Covers { life: life_of(info), sequence: last_of(info) })
    }

    /// How many requests the list takes, as far as the mirror knows.
    async fn pages(&self, directory: &str, kind: Kind) -> Result<u64, Trouble> {
        let (counted, a_request) = match object::listed(kind) {
            Listed::Composed(_, composition) => (composition.groups.0, 1),
            Listed::Everywhere(_) | Listed::Under(..) | Listed::Inside(_) | Listed::Whole(_) => (kind, 100),
        };
        within_time(async {
            let mut connection = self.sync.database.acquire().await?;
            let held = ObjectRef::new(Kind::Directory, directory);
            let dependants = object::dependants(&mut connection, &[&held], true).await?;
            let rows = dependants.iter().filter(|(_, object)| object.kind == counted).count() as u64;
            Ok(rows.div_ceil(a_request))
        })
        .await
    }

    async fn record(&self, list: &List, first: Covers) -> Result<(), Trouble> {
        let (directory, kind) = list;
        within_time(
            sqlx::query!(
                r#"
                INSERT INTO workos_sync.lists (env, kind, holder, stream, covers, listed_at)
                VALUES ($1, $2, $3, $4, $5, $6)
                ON CONFLICT (env, kind, holder) DO UPDATE
                SET stream = EXCLUDED.stream,
                    covers = EXCLUDED.covers,
                    listed_at = EXCLUDED.listed_at
                "#,
                self.sync.env,
                kind.name(),
                directory,
                first.life,
                first.sequence,
                clock::now(),
            )
            .execute(&self.sync.database),
        )
        .await?;
        Ok(())
    }
}

/// Keeps requests about one directory apart.
#[derive(Default)]
pub struct Pace {
    last: Option<Instant>,
    /// About how many are still to come.
    left: Arc<AtomicU64>,
}

impl Pace {
    /// So many are still to come.
    pub fn expect(&self, requests: usize) {
        self.left.store(requests as u64, Ordering::Relaxed);
    }

    /// Waits until the next request may leave.
    pub async fn wait(&mut self) {
        if let Some(last) = self.last {
            tokio::time::sleep_until(last + PACE).await;
        }
        self.last = Some(Instant::now());
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(waiting: u64) -> Wanted {
        Wanted { since: Instant::now(), published: DateTime::UNIX_EPOCH, highest: 0, waiting }
    }

    #[test]
    fn an_event_comes_again_about_when_a_list_answers_it() {
        let mut going = Going::default();
        going.wanted.insert(Kind::DirectoryUser, wanted(2_000));
        let seconds = |going: &Going, kind, ahead| going.delay(kind, ahead).as_secs();
        assert_eq!(seconds(&going, Kind::DirectoryUser, 0), 2);
        assert_eq!(seconds(&going, Kind::DirectoryUser, 2_000), 7);
        assert_eq!(seconds(&going, Kind::DirectoryGroupMembership, 0), 7, "users are listed first");
        going.wanted.clear();
        going.reading = Some(Kind::DirectoryUser);
        going.left.store(100, Ordering::Relaxed);
        assert_eq!(seconds(&going, Kind::DirectoryUser, 0), 3, "it may be on any page");
        assert_eq!(seconds(&going, Kind::DirectoryGroupMembership, 0), 27);
        going.reading = Some(Kind::DirectoryGroupMembership);
        assert_eq!(seconds(&going, Kind::DirectoryGroupMembership, 0), 26);
        going.left.store(1_000_000, Ordering::Relaxed);
        assert_eq!(going.delay(Kind::DirectoryGroupMembership, 0), LATEST);
    }
}
