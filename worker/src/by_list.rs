//! Burst to list, within a batch: when many questions of a batch are about objects that one list shows, that list is read,
//! a hundred objects a page, around the newest of them first, as long as the pages answer enough of them. Nothing waits for
//! it, and what the list does not show, or shows too old, is asked for by itself.
//!
//! The list of an organization shows what is in it. The list of the environment shows users or organizations from all of
//! WorkOS: it pays where many were made one after the other, as by an import, and is read only if that is wanted.
//!
//! (The users and groups of a directory are listed by [`crate::burst`] instead, which has a limit of its own to keep.)

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use shared::event::Event;
use shared::id::{Kind, ObjectRef};

use crate::decide;
use crate::listing::{self, PER_PAGE};
use crate::object::{self, Listed};
use crate::sync::{Sync, Told, Wish};

/// So many questions about objects that one list shows are a burst.
const MANY: usize = 20;
/// What a page must answer for the next one to be worth its request.
const WORTH: usize = 5;
/// A list of the environment whose page was not worth its request is left alone for one burst, then for two, and so on,
/// up to so many.
const LEFT_ALONE: u32 = 64;

/// Which lists are read, and how those of the environment proved.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// `SYNC_LIST_BURSTS`: also the lists of the environment.
    everywhere: bool,
    doubts: Arc<Mutex<HashMap<Kind, Doubt>>>,
}

/// A list of the environment that answered too little.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    /// Of so many questions. Where there are far more, they lie closer together.
    questions: usize,
    /// Bursts that it was left alone for the last time.
    last: u32,
    /// Bursts that it is still left alone.
    left: u32,
}

impl Lists {
    /// Those of organizations, and of the environment too if `everywhere`.
    #[must_use]
    pub fn new(everywhere: bool) -> Self {
        Self { everywhere, ..Self::default() }
    }

    /// No question yet.
    #[must_use]
    pub fn questions(&self) -> ByList<'_> {
        ByList { lists: self, questions: HashMap::new() }
    }

    /// Where the objects of a kind are listed, and the organization that has to be known for that.
    fn path<'a>(&self, kind: Kind, organization: Option<&'a str>) -> Option<(&'static str, Option<&'a str>)> {
        match object::listed(kind) {
            Listed::Under(Kind::Organization, path) => Some((path, Some(organization?))),
            // The cursor is an id, and questions about what is known by its slug do not tell it.
            Listed::Everywhere(path) if self.everywhere && !object::reuses_keys(kind) => Some((path, None)),
            _ => None,
        }
    }

    /// Whether the list of the environment is worth a try, with so many questions.
    fn is_due(&self, kind: Kind, questions: usize) -> bool {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(doubt) = doubts.get_mut(&kind) else { return true };
        let is_due = doubt.left == 0 || questions > 2 * doubt.questions;
        doubt.left = doubt.left.saturating_sub(1);
        is_due
    }

    /// How it proved, with so many questions.
    fn tell(&self, kind: Kind, questions: usize, was_worth_it: bool) {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        if was_worth_it {
            doubts.remove(&kind);
        } else {
            let doubt = doubts.entry(kind).or_default();
            doubt.last = (2 * doubt.last).clamp(1, LEFT_ALONE);
            doubt.left = doubt.last;
            doubt.questions = questions;
        }
    }
}

/// The questions that lists may answer, by kind and organization.
pub struct ByList<'a> {
    lists: &'a Lists,
    questions: HashMap<(Kind, Option<&'a str>), Vec<ObjectRef>>,
}

impl<'a> ByList<'a> {
    /// One more question, which this event led to.
    pub fn add(&mut self, event: &'a Event, object: &ObjectRef) {
        if let Some((_, organization)) = self.lists.path(object.kind, event.organization_id.as_deref()) {
            self.questions.entry((object.kind, organization)).or_default().push(object.clone());
        }
    }

    /// Reads the lists about which there are many questions, and lets the wishes know what they told. The fence of the
    /// questions must have been taken before. A list that cannot be read answers nothing.
    pub async fn answer(self, sync: &Sync, wishes: &mut BTreeMap<ObjectRef, Wish>) {
        let mut reading = Vec::new();
        for ((kind, organization), objects) in self.questions {
            let questions: BTreeMap<&ObjectRef, &Wish> = objects
                .iter()
                .filter_map(|object| wishes.get_key_value(object))
                .filter(|(_, wish)| !wish.deleted)
                .collect();
            let Some((path, _)) = self.lists.path(kind, organization) else { continue };
            if questions.len() >= MANY && (organization.is_some() || self.lists.is_due(kind, questions.len()))
            {
                reading.push(async move {
                    let asked = questions.len();
                    let told = read(sync, (kind, organization), path, questions).await?;
                    if organization.is_none() {
                        self.lists.tell(kind, asked, told.len() >= WORTH);
                    }
                    Some(told)
                });
            }
        }
        let told: Vec<Told> = join_all(reading).await.into_iter().flatten().flatten().collect();
        for told in told {
            if let Some(wish) = wishes.get_mut(&told.record.object) {
                wish.told = Some(Box::new(told));
            }
        }
    }
}

/// Reads a list as long as it is worth it. What it shows of these objects, and is not too old; `None` if no page could be
/// read.
async fn read(
    sync: &Sync,
    (kind, organization): (Kind, Option<&str>),
    path: &str,
    mut questions: BTreeMap<&ObjectRef, &Wish>,
) -> Option<Vec<Told>> {
    let path = organization.map_or_else(|| path.to_owned(), |id| object::list_under(path, id));
    let mut answers = None;
    // Where the pages began that are being read, and the cursor of the next one.
    let mut onward: Option<(Option<&ObjectRef>, String)> = None;
    while questions.len() >= WORTH {
        let goes_on = onward.is_some();
        let (begun, cursor) = if let Some((begun, cursor)) = onward.take() {
            (begun, Some(cursor))
        } else {
            let begun = before_the_newest(&questions).filter(|_| object::is_paged(kind));
            (begun, begun.map(|object| object.id.clone()))
        };
        let page = listing::page(&sync.workos, kind, organization, &path, cursor.as_deref(), sync.lane);
        // Whatever it is, single questions meet it too, and tell what it means for each event.
        let Ok(Some(page)) = page.await else { break };
        let last = page.told.iter().map(|told| &told.record.object).max().cloned();
        let answers = answers.get_or_insert_with(Vec::new);
        let before = answers.len();
        for told in page.told {
            if let Some(wish) = questions.get(&told.record.object)
                && !decide::is_stale(&told.record, wish.said, wish.known.as_ref())
            {
                questions.remove(&told.record.object);
                answers.push(told);
            }
        }
        let was_worth_it = answers.len() - before >= WORTH;
        if !was_worth_it && !goes_on {
            break;
        }
        let is_older = |object: &ObjectRef| begun.is_some_and(|begun| object <= begun);
        // Those on it had their page. The next one is read while enough lie beyond; then the older ones have their turn.
        let is_beyond = |object: &ObjectRef| last.as_ref().is_some_and(|last| object > last);
        let beyond = questions.keys().filter(|object| !is_older(object) && is_beyond(object)).count();
        onward = page.after.filter(|_| was_worth_it && beyond >= WORTH).map(|cursor| (begun, cursor));
        questions.retain(|object, _| is_older(object) || (onward.is_some() && is_beyond(object)));
    }
    answers
}

/// The question before the newest hundred: a page that begins after it shows all of these, if nothing lies between them. Ids
/// of WorkOS sort by time. (The very first has none before it, and is asked for by itself.)
fn before_the_newest<'a>(questions: &BTreeMap<&'a ObjectRef, &Wish>) -> Option<&'a ObjectRef> {
    questions.keys().rev().nth(PER_PAGE).or_else(|| questions.keys().next()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_answers_too_little_is_left_alone_for_longer_and_longer() {
        let lists = Lists::new(true);
        let mut tries = Vec::new();
        for burst in 0..100 {
            if lists.is_due(Kind::User, MANY) {
                tries.push(burst);
                lists.tell(Kind::User, MANY, false);
            }
        }
        assert_eq!(tries, [0, 2, 5, 10, 19, 36, 69]);
        assert!(lists.is_due(Kind::Organization, MANY), "each for itself");
        assert!(lists.is_due(Kind::User, 10 * MANY), "far more are another matter");
        lists.tell(Kind::User, MANY, true);
        assert!(lists.is_due(Kind::User, MANY) && lists.is_due(Kind::User, MANY));
    }

    #[test]
    fn what_is_known_by_its_slug_and_what_nobody_wants_is_not_listed() {
        let everywhere = Lists::new(true);
        assert!(everywhere.path(Kind::User, None).is_some());
        assert_eq!(everywhere.path(Kind::Permission, None), None);
        assert_eq!(Lists::default().path(Kind::User, None), None);
        for lists in [Lists::default(), everywhere] {
            assert!(lists.path(Kind::OrganizationMembership, Some("org_1")).is_some());
            assert_eq!(lists.path(Kind::OrganizationMembership, None), None);
            assert_eq!(lists.path(Kind::DirectoryUser, Some("org_1")), None);
        }
    }
}
