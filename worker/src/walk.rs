//! Walking every list of a kind, page by page: one list, or one for each object of another kind, a few at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use shared::id::{Kind, ObjectRef};

use crate::burst::Pace;
use crate::failure::Failure;
use crate::listing::{self, Interruption, Page, Patience};
use crate::object::{self, Listed};
use crate::runs;
use crate::sync::{Told, within_time};
use crate::whole;
use crate::workos::{Answer, Lane, WorkOs};

/// Objects of a page that are taken at a time.
const MOST: usize = 200;

/// How far a walk has come. Small, however many lists there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last object, in order of ids, whose list was begun. Empty for the one list of everything.
    pub begun: Option<String>,
    /// Lists that were begun and have not ended, by that object's id, each with the cursor of the last page that was
    /// taken.
    pub open: BTreeMap<String, Option<String>>,
    /// Items that could not be read. What has some is not complete.
    pub unreadable: u64,
}

/// What happens on the way.
pub trait Visitor: Sync {
    /// A page is about to be asked for.
    fn leaving(&self) -> impl Future<Output = Result<i64, Interruption>> + Send;

    /// A page is there, asked for under that fence.
    fn page(&self, fence: i64, told: Vec<Told>) -> impl Future<Output = Result<(), Interruption>> + Send;

    /// The next objects of a kind, in order of ids, each of which has a list of its own.
    fn parents(
        &self,
        kind: Kind,
        after: &str,
    ) -> impl Future<Output = Result<Vec<String>, Interruption>> + Send;

    /// So many lists ended and so many objects were taken, since it was last said.
    fn came(&self, ended: u64, objects: u64);

    /// The walk got further, to here: never to a place before one that was told earlier.
    fn moved(&self, position: Position) -> impl Future<Output = Result<(), Interruption>> + Send;
}

/// A kind that is read from lists, and the kinds that these lists bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Whose lists.
    pub kind: Kind,
    /// What is taken from them.
    pub brings: Vec<Kind>,
    /// Objects of this kind have too many lists of their own: those are not read.
    pub without: Option<Kind>,
}

/// The walks that bring these kinds and those whose objects have lists of them, parents first: WorkOS, not the
/// mirror, must say which lists there are.
#[must_use]
pub fn plan(only: &[Kind]) -> Vec<Walk> {
    let mut wanted = only.to_vec();
    for kind in Kind::ALL.into_iter().rev() {
        if wanted.contains(&kind) {
            wanted.extend(object::listed(kind).parents());
        }
    }
    let source = |kind: Kind| match object::listed(kind) {
        Listed::Inside(parent) => parent,
        Listed::Everywhere(_) | Listed::Under(..) | Listed::Composed(..) | Listed::Whole(_) => kind,
    };
    Kind::ALL
        .into_iter()
        .filter_map(|walked| {
            let brings: Vec<Kind> = Kind::ALL
                .into_iter()
                .filter(|kind| source(*kind) == walked && wanted.contains(kind))
                .collect();
            (!brings.is_empty()).then_some(Walk { kind: walked, brings, without: None })
        })
        .collect()
}

/// With more users, the lists that each of them has are only read when their kind is asked for by name.
const FEW_USERS: i64 = 1_000;

/// What of a walk belongs to everything: users' own lists do not when there are many users, for each needs a request. Says
/// so. `None` when nothing is left.
pub async fn narrowed(
    sync: &crate::sync::Sync,
    patience: &Patience,
    only: &[Kind],
    walk: Walk,
) -> Result<Option<Walk>, Interruption> {
    let Listed::Whole(owners) = object::listed(walk.kind) else { return Ok(Some(walk)) };
    if !owners.contains(&Kind::User) || only.len() < Kind::ALL.len() {
        return Ok(Some(walk));
    }
    let count = || within_time(runs::live_count(&sync.database, &sync.env, Kind::User.name()));
    let users = i64::try_from(patience.postgres(count).await?).unwrap_or(i64::MAX);
    if users <= FEW_USERS {
        return Ok(Some(walk));
    }
    let table = object::table(walk.kind);
    tracing::warn!(
        users,
        "{table} of users are left out, they need a request for each user; `--only {table}` lists them"
    );
    let narrowed = Walk { without: Some(Kind::User), ..walk };
    let is_left = narrowed.owners().next().is_some();
    Ok(is_left.then_some(narrowed))
}

impl Walk {
    /// The kind of which a walk has as many steps as the mirror has rows.
    #[must_use]
    pub fn counted(&self) -> Kind {
        match object::listed(self.kind) {
            Listed::Under(parent, _) | Listed::Composed(parent, _) => parent,
            Listed::Whole(_) => self.owners().next().unwrap_or(self.kind),
            Listed::Everywhere(_) | Listed::Inside(_) => self.kind,
        }
    }

    /// The kinds of objects whose relations are asked for one by one.
    pub fn owners(&self) -> impl Iterator<Item = Kind> {
        let owners = match object::listed(self.kind) {
            Listed::Whole(owners) => owners,
            _ => &[],
        };
        owners.iter().copied().filter(|owner| Some(*owner) != self.without)
    }
}

/// How lists are asked for.
pub struct Walker<'a, V> {
    /// Which lists.
    pub walk: &'a Walk,
    /// WorkOS.
    pub workos: &'a WorkOs,
    /// How long it is worth trying.
    pub patience: &'a Patience,
    /// How many lists at a time.
    pub parallel: usize,
    /// What happens on the way.
    pub visitor: &'a V,
}

/// A list that is being read.
struct List {
    /// The id of the object whose list it is; empty for the one list of everything.
    of: String,
    path: String,
    /// The cursor of the last page that was taken.
    taken: Option<String>,
    /// The page after that, asked for while the last one was taken.
    ahead: Option<Result<Asked, Interruption>>,
    /// It goes on from a cursor of an earlier life, which WorkOS may not know any more.
    resumed: bool,
}

struct Asked {
    fence: i64,
    page: Option<Page>,
}

/// What is done at the same time as others.
enum Job {
    /// Find out which lists come after these.
    Look(Option<String>),
    /// Take a page of a list.
    Read(List),
}

/// What a job came to.
enum Turn {
    /// These lists come next.
    Found(Vec<String>),
    /// The list has more pages.
    GoesOn(List),
    /// The list has come to its end.
    Ended,
}

/// How far a walk is, shared by all its lists. Nothing of it is awaited beside them: a list that is not polled may
/// hold what is waited for.
struct Way {
    position: Mutex<(u64, Position)>,
    /// The last version of the position that was told.
    told: tokio::sync::Mutex<u64>,
}

impl Way {
    fn lock(&self) -> MutexGuard<'_, (u64, Position)> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on; returns the version that this made.
    fn change(&self, change: impl FnOnce(&mut Position)) -> u64 {
        let (version, position) = &mut *self.lock();
        change(position);
        *version += 1;
        *version
    }

    /// Tells where the walk is, unless somebody told that version while we waited to.
    async fn tell(&self, version: u64, visitor: &impl Visitor) -> Result<(), Interruption> {
        let mut told = self.told.lock().await;
        if *told >= version {
            return Ok(());
        }
        let (version, position) = self.lock().clone();
        visitor.moved(position).await?;
        *told = version;
        Ok(())
    }
}

impl<V: Visitor> Walker<'_, V> {
    /// Reads every list from `position` on. `Err` when it did not come to the end; what was taken by then, the
    /// visitor knows.
    pub async fn walk(&self, position: Position) -> Result<Position, Interruption> {
        let mut waiting: VecDeque<List> =
            position.open.iter().map(|(of, cursor)| self.list(of.clone(), cursor.clone())).collect();
        let mut begun = position.begun.clone();
        let way = Way { position: Mutex::new((0, position)), told: tokio::sync::Mutex::new(0) };
        let mut next: VecDeque<String> = VecDeque::new();
        let (mut looking, mut none_left) = (false, false);
        let mut turns = FuturesUnordered::new();
        let mut over: Option<Interruption> = None;
        let mut unreadable: Option<Interruption> = None;
        loop {
            if self.patience.stop.is_cancelled() {
                over.get_or_insert(Interruption::Stopped);
            }
            while over.is_none() && turns.len() < self.parallel {
                let job = if let Some(list) = waiting.pop_front() {
                    Job::Read(list)
                } else if let Some(of) = next.pop_front() {
                    way.change(|position| {
                        position.begun = Some(of.clone());
                        position.open.insert(of.clone(), None);
                    });
                    Job::Read(self.list(of, None))
                } else if looking || none_left {
                    break;
                } else {
                    looking = true;
                    Job::Look(begun.clone())
                };
                turns.push(self.turn(job, &way));
            }
            let Some(turn) = turns.next().await else { break };
            match turn {
                Ok(Turn::Found(found)) => {
                    (looking, none_left) = (false, found.is_empty());
                    begun = found.last().cloned().or(begun);
                    next.extend(found);
                }
                Ok(Turn::GoesOn(list)) => waiting.push_front(list),
                Ok(Turn::Ended) => {}
                // The others may be well; this one stays open.
                Err(interruption @ Interruption::Unreadable(..)) => {
                    tracing::warn!("{interruption}");
                    unreadable.get_or_insert(interruption);
                }
                Err(interruption) => over = over.or(Some(interruption)),
            }
        }
        drop(turns);
        match over.or(unreadable) {
            Some(interruption) => Err(interruption),
            None => Ok(std::mem::take(&mut way.lock().1)),
        }
    }

    async fn turn(&self, job: Job, way: &Way) -> Result<Turn, Interruption> {
        match job {
            Job::Look(begun) => self.next_lists(begun.as_deref()).await.map(Turn::Found),
            Job::Read(list) => self.step(list, way).await,
        }
    }

    /// Whose lists come next, after those of `begun`.
    async fn next_lists(&self, begun: Option<&str>) -> Result<Vec<String>, Interruption> {
        match object::listed(self.walk.kind) {
            Listed::Under(parent, _) | Listed::Composed(parent, _) => {
                self.visitor.parents(parent, begun.unwrap_or_default()).await
            }
            Listed::Whole(_) => self.next_owners(begun).await,
            // One list, begun or not.
            Listed::Everywhere(_) | Listed::Inside(_) if begun.is_some() => Ok(Vec::new()),
            Listed::Everywhere(_) | Listed::Inside(_) => Ok(vec![String::new()]),
        }
    }

    /// Whose relations come next: those of one kind of owners, then those of the next.
    async fn next_owners(&self, begun: Option<&str>) -> Result<Vec<String>, Interruption> {
        let name = |owner: Kind, id: &str| object::relation_of(self.walk.kind, owner, id).id;
        for owner in self.walk.owners() {
            let before = name(owner, "");
            let begun = begun.unwrap_or_default();
            let after = match begun.strip_prefix(&before) {
                Some(after) => after,
                None if begun > before.as_str() => continue,
                None => "",
            };
            let next = self.visitor.parents(owner, after).await?;
            if !next.is_empty() {
                return Ok(next.iter().map(|id| name(owner, id)).collect());
            }
        }
        Ok(Vec::new())
    }

    fn list(&self, of: String, cursor: Option<String>) -> List {
        let path = match object::listed(self.walk.kind) {
            Listed::Everywhere(path) => path.to_owned(),
            Listed::Under(_, path) => object::list_under(path, &of),
            // Walked is what brings it, or asked for is what it is composed of.
            Listed::Inside(_) | Listed::Composed(..) | Listed::Whole(_) => String::new(),
        };
        List { of, path, resumed: cursor.is_some(), taken: cursor, ahead: None }
    }

    /// Takes the next page of a list, and asks for the one after it meanwhile.
    async fn step(&self, mut list: List, way: &Way) -> Result<Turn, Interruption> {
        let asked = match list.ahead.take() {
            Some(asked) => asked,
            None => self.ask(&list, list.taken.as_deref()).await,
        };
        let Asked { fence, page } = match asked {
            Err(Interruption::Unreadable(..)) if list.resumed => {
                tracing::info!(
                    of = list.of,
                    "WorkOS does not know the cursor any more, reading the list from its start"
                );
                self.ask(&list, None).await?
            }
            asked => asked?,
        };
        list.resumed = false;
        let page = match page {
            Some(page) => page,
            None if list.of.is_empty() => {
                return Err(Interruption::Unreadable(self.name(&list), "404".to_owned()));
            }
            // What the list belongs to is gone, and so is the list.
            None => Page { told: Vec::new(), unreadable: 0, after: None },
        };
        let Page { told, unreadable, after } = page;
        let objects = told.len() as u64;
        let (taken, ahead) = join(self.take(fence, told), async {
            match &after {
                Some(after) => Some(self.ask(&list, Some(after)).await),
                None => None,
            }
        })
        .await;
        taken?;
        (list.taken, list.ahead) = (after, ahead);
        let ended = list.taken.is_none();
        let version = way.change(|position| {
            position.unreadable += unreadable;
            if ended {
                position.open.remove(&list.of);
            } else {
                position.open.insert(list.of.clone(), list.taken.clone());
            }
        });
        self.visitor.came(u64::from(ended), objects);
        way.tell(version, self.visitor).await?;
        Ok(if ended { Turn::Ended } else { Turn::GoesOn(list) })
    }

    /// Takes a page, or what was composed of many, in parts as large as a page.
    async fn take(&self, fence: i64, mut told: Vec<Told>) -> Result<(), Interruption> {
        while told.len() > MOST {
            let rest = told.split_off(MOST);
            self.visitor.page(fence, std::mem::replace(&mut told, rest)).await?;
        }
        self.visitor.page(fence, told).await
    }

    async fn ask(&self, list: &List, after: Option<&str>) -> Result<Asked, Interruption> {
        if let Listed::Composed(_, composition) = object::listed(self.walk.kind) {
            let fence = self.visitor.leaving().await?;
            let composing = whole::Composing {
                workos: self.workos,
                patience: self.patience,
                lane: Lane::Backfill,
                kind: self.walk.kind,
                composition,
            };
            let page = composing.compose(&list.of, &mut Pace::default()).await?;
            return Ok(Asked { fence, page });
        }
        let is_whole = matches!(object::listed(self.walk.kind), Listed::Whole(_));
        let mut attempts = self.patience.attempts();
        let of = Some(list.of.as_str()).filter(|of| !of.is_empty());
        loop {
            let fence = self.visitor.leaving().await?;
            let page = tokio::select! {
                page = self.whole(&list.of), if is_whole => page,
                page = listing::page(self.workos, self.walk.kind, of, &list.path, after, Lane::Backfill), if !is_whole => page,
                () = self.patience.stop.cancelled() => return Err(Interruption::Stopped),
            };
            let failure = match page {
                Ok(page) => return Ok(Asked { fence, page }),
                Err(failure) => failure,
            };
            if !attempts.again(&failure).await? {
                return Err(listing::interruption(&failure)
                    .unwrap_or_else(|| Interruption::Unreadable(self.name(list), failure.reason())));
            }
        }
    }

    /// Asks for a relation; `None` when its owner is gone, or WorkOS does not list it.
    async fn whole(&self, owner: &str) -> Result<Option<Page>, Failure> {
        let relation = ObjectRef::new(self.walk.kind, owner);
        let Some(reply) = self.workos.ask(&[relation], Lane::Backfill).await.pop() else { return Ok(None) };
        match reply.answer {
            Ok(Answer::Found(record)) => {
                let told = Told { record: *record, embedded: reply.embedded };
                Ok(Some(Page { told: vec![told], unreadable: 0, after: None }))
            }
            Ok(Answer::NotFound) | Err(Failure::CannotAsk(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn name(&self, list: &List) -> String {
        let table = object::table(self.walk.kind);
        if list.of.is_empty() {
            format!("the list of {table}")
        } else {
            format!("the list of {table} of {}", list.of)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_brought_by_one_walk_and_parents_come_first() {
        let walks = plan(&Kind::ALL);
        let mut brought: Vec<Kind> = walks.iter().flat_map(|walk| walk.brings.clone()).collect();
        brought.sort_unstable();
        assert_eq!(brought, Kind::ALL);
        for (place, walk) in walks.iter().enumerate() {
            for parent in object::listed(walk.kind).parents() {
                assert!(walks[..place].iter().any(|earlier| earlier.brings.contains(&parent)));
            }
        }
    }

    #[test]
    fn what_is_listed_by_parent_needs_the_list_of_parents() {
        let walked: Vec<Kind> = plan(&[Kind::OrganizationMembership]).iter().map(|walk| walk.kind).collect();
        assert_eq!(walked, [Kind::Organization, Kind::OrganizationMembership]);
    }

    #[test]
    fn what_has_no_list_is_brought_by_what_holds_it() {
        let walks = plan(&[Kind::OrganizationDomain]);
        assert_eq!(
            walks,
            [Walk { kind: Kind::Organization, brings: vec![Kind::OrganizationDomain], without: None }]
        );
    }
}
