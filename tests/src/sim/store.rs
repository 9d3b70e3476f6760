//! Every object with all its versions, so that any question can be answered as of any moment.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;
use shared::id::Kind;

use super::object::{self, Fields, text};

/// A moment in the order of changes: after the change with this number.
pub(super) type Revision = usize;

/// The moment after every change.
pub(super) const NOW: Revision = usize::MAX;

/// The objects and their history.
#[derive(Default)]
pub(super) struct Store {
    collections: BTreeMap<Kind, Collection>,
    /// The objects that point to one as their parent, in order of creation.
    children: HashMap<String, Vec<(Kind, String)>>,
    /// When each change happened; revision `n` is the `n`th.
    journal: Vec<DateTime<Utc>>,
}

#[derive(Default)]
struct Collection {
    entries: HashMap<String, Entry>,
    /// Ids in order of creation, of deleted objects too: cursors point into it.
    order: Vec<String>,
}

/// One object, alive or deleted.
struct Entry {
    position: usize,
    versions: Vec<Version>,
    /// The last change of what a GET shows: of the object, or of something shown inside it.
    shown: Revision,
    /// Until when a GET still answers, after an asynchronous deletion.
    lingers_until: Option<DateTime<Utc>>,
    /// What a GET answers now, once somebody asked.
    cached: Option<Bytes>,
    /// How many GETs asked for it.
    asked: u64,
    /// How many of them were answered with 200.
    answered: u64,
}

struct Version {
    revision: Revision,
    at: DateTime<Utc>,
    /// None: deleted.
    fields: Option<Fields>,
}

/// The world as of one moment.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    store: &'a Store,
    as_of: Revision,
}

impl<'a> View<'a> {
    /// The own fields of an object, if it was there.
    pub(super) fn fields(self, kind: Kind, id: &str) -> Option<&'a Fields> {
        let versions = &self.store.entry(kind, id)?.versions;
        versions.iter().rev().find(|version| version.revision <= self.as_of)?.fields.as_ref()
    }

    /// The own fields of every object of a kind that was there, oldest first.
    pub(super) fn all(self, kind: Kind) -> impl Iterator<Item = &'a Fields> {
        self.store.order(kind).iter().filter_map(move |id| self.fields(kind, id))
    }

    /// The children of an object, oldest first.
    pub(super) fn children(self, parent: &str, kind: Kind) -> impl Iterator<Item = &'a Fields> {
        self.store.children(parent, kind).filter_map(move |id| self.fields(kind, id))
    }

    /// What a GET shows, if it was there.
    pub(super) fn represent(self, kind: Kind, id: &str) -> Option<Value> {
        self.fields(kind, id).map(|fields| Value::Object(object::of(kind).represent(self, fields)))
    }
}

impl Store {
    /// The world as of `as_of`.
    pub(super) fn view(&self, as_of: Revision) -> View<'_> {
        View { store: self, as_of }
    }

    fn entry(&self, kind: Kind, id: &str) -> Option<&Entry> {
        self.collections.get(&kind)?.entries.get(id)
    }

    fn entry_mut(&mut self, kind: Kind, id: &str) -> Option<&mut Entry> {
        self.collections.get_mut(&kind)?.entries.get_mut(id)
    }

    /// Ids of a kind in order of creation, deleted ones too.
    pub(super) fn order(&self, kind: Kind) -> &[String] {
        self.collections.get(&kind).map_or(&[], |collection| &collection.order)
    }

    /// Where an object stands in that order.
    pub(super) fn position(&self, kind: Kind, id: &str) -> Option<usize> {
        self.entry(kind, id).map(|entry| entry.position)
    }

    /// Ids of the children of an object, oldest first, deleted ones too.
    pub(super) fn children(&self, parent: &str, kind: Kind) -> impl Iterator<Item = &String> {
        self.children
            .get(parent)
            .into_iter()
            .flatten()
            .filter(move |(child, _)| *child == kind)
            .map(|(_, id)| id)
    }

    /// The living children of an object, of every kind.
    pub(super) fn living_children(&self, parent: &str) -> Vec<(Kind, String)> {
        let view = self.view(NOW);
        let children = self.children.get(parent).into_iter().flatten();
        children.filter(|(kind, id)| view.fields(*kind, id).is_some()).cloned().collect()
    }

    /// Now, and not before the last change.
    pub(super) fn moment(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.journal.last().map_or(now, |last| now.max(*last))
    }

    /// Writes the next version of an object; no fields delete it.
    pub(super) fn write(&mut self, kind: Kind, id: &str, fields: Option<Fields>, now: DateTime<Utc>) {
        // A clock that steps back must not unsort the journal.
        let at = self.journal.last().map_or(now, |last| now.max(*last));
        self.journal.push(at);
        let revision = self.journal.len();

        let parents: Vec<(Kind, String)> = object::of(kind)
            .parents()
            .iter()
            .filter_map(|(field, parent)| {
                let known = fields.as_ref().or_else(|| self.view(NOW).fields(kind, id))?;
                Some((*parent, text(known, field)?.to_owned()))
            })
            .collect();
        let collection = self.collections.entry(kind).or_default();
        if !collection.entries.contains_key(id) {
            collection.order.push(id.to_owned());
            for (_, parent) in &parents {
                self.children.entry(parent.clone()).or_default().push((kind, id.to_owned()));
            }
        }
        let position = collection.order.len() - 1;
        let entry = collection.entries.entry(id.to_owned()).or_insert_with(|| Entry {
            position,
            versions: Vec::with_capacity(1),
            shown: revision,
            lingers_until: None,
            cached: None,
            asked: 0,
            answered: 0,
        });
        entry.versions.push(Version { revision, at, fields });
        entry.lingers_until = None;
        self.touch(kind, id, revision);

        let children = self.children.get(id).cloned().unwrap_or_default();
        for (relative, relative_id) in parents.into_iter().chain(children) {
            let alive = self.view(NOW).fields(relative, &relative_id).is_some();
            if alive && object::of(relative).embeds().contains(&kind) {
                self.touch(relative, &relative_id, revision);
            }
        }
    }

    /// What a GET of this object shows has changed.
    fn touch(&mut self, kind: Kind, id: &str, revision: Revision) {
        if let Some(entry) = self.entry_mut(kind, id) {
            entry.shown = revision;
            entry.cached = None;
        }
    }

    /// Lets GETs of a deleted object answer for a while.
    pub(super) fn linger(&mut self, kind: Kind, id: &str, until: DateTime<Utc>) {
        if let Some(entry) = self.entry_mut(kind, id) {
            entry.lingers_until = Some(until);
        }
    }

    /// The moment before the deletion of an object that lingers.
    pub(super) fn lingering(&self, kind: Kind, id: &str, now: DateTime<Utc>) -> Option<Revision> {
        let entry = self.entry(kind, id)?;
        let last = entry.versions.last()?;
        (last.fields.is_none() && entry.lingers_until.is_some_and(|until| now < until))
            .then(|| last.revision - 1)
    }

    /// The moment before the last change of what a GET of this object shows.
    pub(super) fn before_last_change(&self, kind: Kind, id: &str) -> Option<Revision> {
        self.entry(kind, id).map(|entry| entry.shown - 1)
    }

    /// When what a GET of this object shows last changed.
    pub(super) fn changed_at(&self, kind: Kind, id: &str) -> Option<DateTime<Utc>> {
        self.entry(kind, id).and_then(|entry| self.journal.get(entry.shown - 1).copied())
    }

    /// The moment after the last change that had happened by `time`.
    pub(super) fn as_of(&self, time: DateTime<Utc>) -> Revision {
        self.journal.partition_point(|at| *at <= time)
    }

    /// What a GET answers now, if the object is there.
    pub(super) fn bytes(&mut self, kind: Kind, id: &str) -> Option<Bytes> {
        if let Some(bytes) = self.entry(kind, id).and_then(|entry| entry.cached.clone()) {
            return Some(bytes);
        }
        let bytes = Bytes::from(self.view(NOW).represent(kind, id)?.to_string());
        if let Some(entry) = self.entry_mut(kind, id) {
            entry.cached = Some(bytes.clone());
        }
        Some(bytes)
    }

    /// Counts a GET of this object, and what it was answered with.
    pub(super) fn count(&mut self, kind: Kind, id: &str, status: u16) {
        if let Some(entry) = self.entry_mut(kind, id) {
            entry.asked += 1;
            entry.answered += u64::from(status == 200);
        }
    }

    /// How often this object was asked for.
    pub(super) fn asked(&self, kind: Kind, id: &str) -> u64 {
        self.entry(kind, id).map_or(0, |entry| entry.asked)
    }

    /// How often it was asked for and the answer was 200.
    pub(super) fn answered(&self, kind: Kind, id: &str) -> u64 {
        self.entry(kind, id).map_or(0, |entry| entry.answered)
    }

    /// Forgets how often objects were asked for.
    pub(super) fn reset_asked(&mut self) {
        for collection in self.collections.values_mut() {
            for entry in collection.entries.values_mut() {
                entry.asked = 0;
                entry.answered = 0;
            }
        }
    }

    /// Every version of an object, oldest first: when it began, and what a GET showed then.
    pub(super) fn versions(&self, kind: Kind, id: &str) -> Vec<(DateTime<Utc>, Option<Value>)> {
        let versions = self.entry(kind, id).map_or(&[][..], |entry| &entry.versions);
        versions.iter().map(|version| (version.at, self.view(version.revision).represent(kind, id))).collect()
    }
}
