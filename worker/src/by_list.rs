//! Burst to list, within a batch: when many questions of a batch are about objects of one organization, its list is
//! read, a hundred objects a page, from the first of them on, as long as the pages answer enough of them. Nothing waits
//! for it, and what the list does not show, or shows too old, is asked for by itself.
//!
//! (The users and groups of a directory are listed by [`crate::burst`] instead, which has a limit of its own to keep.)

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use shared::event::Event;
use shared::id::{Kind, ObjectRef};

use crate::decide::{self, Verdict};
use crate::listing;
use crate::object::{self, Listed};
use crate::sync::{Sync, Told, Wish};
use crate::workos::Answer;

/// So many questions about one organization's objects of a kind are a burst.
const MANY: usize = 20;
/// What a page must answer for the next one to be worth its request.
const WORTH: usize = 5;

/// The questions that lists may answer.
#[derive(Default)]
pub struct ByList<'a>(HashMap<(Kind, &'a str), Vec<ObjectRef>>);

impl<'a> ByList<'a> {
    /// One more question, which this event led to.
    pub fn add(&mut self, event: &'a Event, object: &ObjectRef) {
        let Some(organization) = event.organization_id.as_deref() else { return };
        if path(object.kind).is_some() {
            self.0.entry((object.kind, organization)).or_default().push(object.clone());
        }
    }

    /// Reads the lists of those organizations about which there are many questions, and lets the wishes know what they
    /// told. The fence of the questions must have been taken before. A list that cannot be read answers nothing.
    pub async fn answer(self, sync: &Sync, wishes: &mut BTreeMap<ObjectRef, Wish>, now: DateTime<Utc>) {
        let mut lists = Vec::new();
        for ((kind, organization), objects) in self.0 {
            let questions: BTreeMap<&ObjectRef, &Wish> = objects
                .iter()
                .filter_map(|object| wishes.get_key_value(object))
                .filter(|(_, wish)| !wish.deleted)
                .collect();
            if questions.len() >= MANY
                && let Some(path) = path(kind)
            {
                lists.push(read(sync, (kind, organization), path, questions, now));
            }
        }
        let told: Vec<Told> = join_all(lists).await.into_iter().flatten().collect();
        for told in told {
            if let Some(wish) = wishes.get_mut(&told.record.object) {
                wish.told = Some(told);
            }
        }
    }
}

/// Where the objects of a kind that are in one organization are listed, if they are.
fn path(kind: Kind) -> Option<&'static str> {
    match object::listed(kind) {
        Listed::Under(Kind::Organization, path) => Some(path),
        _ => None,
    }
}

/// Reads a list as long as it is worth it. What it shows of these objects, and is not too old.
async fn read(
    sync: &Sync,
    (kind, organization): (Kind, &str),
    path: &str,
    mut questions: BTreeMap<&ObjectRef, &Wish>,
    now: DateTime<Utc>,
) -> Vec<Told> {
    let path = object::list_under(path, organization);
    let mut answers = Vec::new();
    // The list goes on after the oldest of them, which is asked for by itself: ids of WorkOS sort by time.
    let mut after = if object::is_paged(kind) {
        questions.pop_first().map(|(oldest, _)| oldest.id.clone())
    } else {
        None
    };
    while questions.len() >= WORTH {
        let page = listing::page(&sync.workos, kind, Some(organization), &path, after.as_deref(), sync.lane);
        // Whatever it is, single questions meet it too, and tell what it means for each event.
        let Ok(Some(page)) = page.await else { break };
        let before = answers.len();
        for told in page.told {
            if let Some(wish) = questions.get(&told.record.object)
                && is_current(&told, wish, now)
            {
                questions.remove(&told.record.object);
                answers.push(told);
            }
        }
        after = page.after;
        if after.is_none() || answers.len() - before < WORTH {
            break;
        }
    }
    answers
}

/// Whether what a list told is as new as what is known.
fn is_current(told: &Told, wish: &Wish, now: DateTime<Utc>) -> bool {
    let answer = Ok(Answer::Found(Box::new(told.record.clone())));
    matches!(decide::judge(answer, wish.said, wish.known.as_ref(), now), Verdict::Present(_))
}
