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
    pub everywhere: bool,
    doubts: Arc<Mutex<HashMap<Kind, Doubt>>>,
}

/// A list of the environment that answered too little.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    /// Bursts that it was left alone for the last time.
    last: u32,
    /// Bursts that it is still left alone.
    left: u32,
}

impl Lists {
    /// Those of organizations, and of the environment too if `everywhere`.
    #[must_use]
    pub fn new(everywhere: bool) -> Self {
        Self { everywhere, doubts: Arc::default() }
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

    /// Whether the list of the environment is worth a try.
    fn is_due(&self, kind: Kind) -> bool {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(doubt) = doubts.get_mut(&kind) else { return true };
        let is_due = doubt.left == 0;
        doubt.left = doubt.left.saturating_sub(1);
        is_due
    }

    /// How it proved.
    fn tell(&self, kind: Kind, was_worth_it: bool) {
        let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        if was_worth_it {
            doubts.remove(&kind);
        } else {
            let doubt = doubts.entry(kind).or_default();
            doubt.last = (2 * doubt.last).clamp(1, LEFT_ALONE);
            doubt.left = doubt.last;
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
            if questions.len() >= MANY && (organization.is_some() || self.lists.is_due(kind)) {
                reading.push(async move {
                    let told = read(sync, (kind, organization), path, questions).await;
                    if organization.is_none() {
                        self.lists.tell(kind, told.len() >= WORTH);
                    }
                    told
                });
            }
        }
        let told: Vec<Told> = join_all(reading).await.into_iter().flatten().collect();
        for told in told {
            if let Some(wish) = wishes.get_mut(&told.record.object) {
                wish.told = Some(told);
            }
        }
    }
}

/// Reads a list as long as it is worth it. What it shows of these objects, and is not too old.
async fn read(
    sync: &Sync,
    (kind, organization): (Kind, Option<&str>),
    path: &str,
    mut questions: BTreeMap<&ObjectRef, &Wish>,
) -> Vec<Told> {
    let path = organization.map_or_else(|| path.to_owned(), |id| object::list_under(path, id));
    let mut answers = Vec::new();
    while questions.len() >= WORTH {
        // The page that ends with the newest of them, if nothing else lies between: ids of WorkOS sort by time. It begins
        // after the one before its hundred, which a later page shows, or which is asked for by itself.
        let after = questions.keys().rev().nth(PER_PAGE).or_else(|| questions.keys().next()).copied();
        let after = after.filter(|_| object::is_paged(kind));
        let cursor = after.map(|object| object.id.as_str());
        let page = listing::page(&sync.workos, kind, organization, &path, cursor, sync.lane);
        // Whatever it is, single questions meet it too, and tell what it means for each event.
        let Ok(Some(page)) = page.await else { break };
        let before = answers.len();
        answers.extend(page.told.into_iter().filter(|told| {
            let wish = questions.get(&told.record.object);
            wish.is_some_and(|wish| !decide::is_stale(&told.record, wish.said, wish.known.as_ref()))
        }));
        if answers.len() - before < WORTH {
            break;
        }
        // Those beyond had their page.
        questions.retain(|object, _| after.is_some_and(|after| *object <= after));
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_answers_too_little_is_left_alone_for_longer_and_longer() {
        let lists = Lists::new(true);
        let mut tries = Vec::new();
        for burst in 0..100 {
            if lists.is_due(Kind::User) {
                tries.push(burst);
                lists.tell(Kind::User, false);
            }
        }
        assert_eq!(tries, [0, 2, 5, 10, 19, 36, 69]);
        assert!(lists.is_due(Kind::Organization), "each for itself");
        lists.tell(Kind::User, true);
        assert!(lists.is_due(Kind::User) && lists.is_due(Kind::User));
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
