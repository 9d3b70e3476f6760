//! Relations that are only answered as a whole, composed for everything that one object holds: all groups, then what is
//! in each of them. The fence of all of them is taken before the first page.

use std::collections::{BTreeMap, BTreeSet};

use shared::id::{Kind, ObjectRef};

use crate::burst::Pace;
use crate::failure::Failure;
use crate::listing::{self, Interruption, Page, Patience};
use crate::object::{self, Composition};
use crate::sync::Told;
use crate::workos::{Lane, WorkOs};

/// How relations are composed.
pub struct Composing<'a> {
    /// WorkOS.
    pub workos: &'a WorkOs,
    /// How long it is worth trying.
    pub patience: &'a Patience,
    /// On whose behalf.
    pub lane: Lane,
    /// The kind of the relations.
    pub kind: Kind,
    /// From what.
    pub composition: Composition,
}

impl Composing<'_> {
    /// The relation of each object that is in one of the groups which `holder` holds. Who is in none is not among them.
    pub async fn compose(&self, holder: &str, rhythm: &mut Pace) -> Result<Option<Page>, Interruption> {
        let (kind, path) = self.composition.groups;
        let Some(groups) = self.ids(kind, &object::list_under(path, holder), rhythm).await? else {
            return Ok(None);
        };
        let mut relations: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        rhythm.expect(groups.len());
        for group in groups {
            let path = object::list_under(self.composition.members, &group);
            let path = object::list_within(&path, holder);
            // Not there any more: nobody is in it.
            for owner in self.ids(self.kind, &path, rhythm).await?.unwrap_or_default() {
                relations.entry(owner).or_default().insert(group.clone());
            }
        }
        let told = relations
            .into_iter()
            .filter_map(|(owner, groups)| object::composed(&ObjectRef::new(self.kind, owner), groups))
            .map(|record| Told { record, embedded: Vec::new() })
            .collect();
        Ok(Some(Page { told, unreadable: 0, after: None }))
    }

    /// The ids of all objects of a list.
    async fn ids(
        &self,
        kind: Kind,
        path: &str,
        rhythm: &mut Pace,
    ) -> Result<Option<Vec<String>>, Interruption> {
        let mut ids = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut attempts = self.patience.attempts();
            let page = loop {
                rhythm.wait().await;
                let path = listing::paged(path, after.as_deref());
                let page = tokio::select! {
                    page = self.workos.page(&path, kind.name(), self.lane) => page,
                    () = self.patience.stop.cancelled() => return Err(Interruption::Stopped),
                };
                let failure = match page {
                    Ok(page) => break page,
                    Err(failure) => failure,
                };
                if !attempts.again(&failure).await? {
                    return Err(unreadable(kind, &failure));
                }
            };
            let Some(page) = page else { return Ok(None) };
            for item in &page.items {
                // A whole with a hole is none.
                ids.push(object::id_of(item).map_err(|_| unreadable(kind, &Failure::NotUnderstood))?);
            }
            if page.after == after && after.is_some() {
                return Err(unreadable(kind, &Failure::NotUnderstood));
            }
            after = page.after;
            if after.is_none() {
                return Ok(Some(ids));
            }
        }
    }
}

fn unreadable(kind: Kind, failure: &Failure) -> Interruption {
    let what = format!("a list of {}", object::table(kind));
    listing::interruption(failure).unwrap_or_else(|| Interruption::Unreadable(what, failure.reason()))
}
