//! Pages of objects.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared::id::Kind;

use super::answer::Reply;
use super::faults::chance;
use super::object;
use super::paging::{Paging, Place};
use super::query::Query;
use super::state::{State, milliseconds};
use super::store::{NOW, Store};

/// The ids that a list looks through, in order of creation, deleted ones too.
enum Candidates<'a> {
    All(&'a [String]),
    Children(Vec<&'a String>),
}

impl<'a> Candidates<'a> {
    fn of(store: &'a Store, kind: Kind, parent: Option<&str>) -> Self {
        match parent {
            Some(parent) => Self::Children(store.children(parent, kind).collect()),
            None => Self::All(store.order(kind)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::All(ids) => ids.len(),
            Self::Children(ids) => ids.len(),
        }
    }

    fn id(&self, index: usize) -> &'a str {
        match self {
            Self::All(ids) => &ids[index],
            Self::Children(ids) => ids[index],
        }
    }

    /// The first index for which `is_before` says no, when it says yes to all before that.
    fn partition(&self, is_before: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if is_before(self.id(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl State {
    /// The first of these objects, whose list is wanted, that is not there.
    fn missing<'a>(&self, whose: &'a str, now: DateTime<Utc>) -> Option<&'a str> {
        let is_there = |id: &str| {
            Kind::ALL
                .into_iter()
                .any(|kind| self.is_alive(kind, id) || self.store.lingering(kind, id, now).is_some())
        };
        whose.split('/').find(|id| !is_there(id))
    }

    /// `GET` of the list of a kind.
    pub(super) fn list(&mut self, kind: Kind, query: &Query, now: DateTime<Utc>) -> Result<Bytes, Reply> {
        let as_of = if let Some(as_of) = self.lists_as_of {
            as_of
        } else if chance(self.knobs.stale_list, &mut self.rng) {
            let back = self.rng.u64(0..=self.knobs.stale_window_ms);
            self.store.as_of(now - milliseconds(back))
        } else {
            NOW
        };

        let store = &self.store;
        if let Some(whole) = object::of(kind).whole(store.view(as_of), query.whose()) {
            return whole.map(|items| Bytes::from(json!({"object": "list", "data": items}).to_string()));
        }
        if let Some(missing) = query.whose().and_then(|whose| self.missing(whose, now)) {
            return Err(Reply::message(404, &format!("Not found: '{missing}'.")));
        }
        let store = &self.store;
        let selection = object::of(kind).select(query)?;
        let paging = Paging::parse(query)?;
        let candidates = Candidates::of(store, kind, selection.of.as_deref());
        let place = match paging.cursor() {
            None => None,
            Some(id) => {
                let cursor = store
                    .position(kind, id)
                    .ok_or_else(|| Reply::message(400, &format!("Cursor not found: '{id}'.")))?;
                let position = |id: &str| store.position(kind, id).unwrap_or(0);
                Some(Place {
                    below: candidates.partition(|id| position(id) < cursor),
                    above: candidates.partition(|id| position(id) <= cursor),
                })
            }
        };
        let view = store.view(as_of);
        let page = paging.page(candidates.len(), place, |index| {
            view.fields(kind, candidates.id(index)).is_some_and(|fields| (selection.accept)(view, fields))
        });
        let (before, after) = page.ends();
        let id = |index: usize| candidates.id(index).to_owned();
        let (before, after) = (before.map(id), after.map(id));
        let shown: Vec<String> = page.indexes.into_iter().map(id).collect();

        let mut body = br#"{"object":"list","data":["#.to_vec();
        for (count, id) in shown.iter().enumerate() {
            if count > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&self.show(kind, id, as_of).unwrap_or_default());
        }
        let (before, after) = (Value::from(before), Value::from(after));
        let ends = format!(r#"],"list_metadata":{{"before":{before},"after":{after}}}}}"#);
        body.extend_from_slice(ends.as_bytes());
        Ok(Bytes::from(body))
    }
}
