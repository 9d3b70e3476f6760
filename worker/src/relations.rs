//! What belongs to an object and is synced along with it: the memberships of a user or an organization.
//! (The profile is written with its user, the domains come with the answer about their organization.)

use std::collections::HashSet;

use futures_util::future::try_join_all;
use shared::id::{Kind, ObjectRef};

use crate::database::{self, Trouble};
use crate::failure::Failure;
use crate::listing;
use crate::sync::{Sync, Told, Wish};
use crate::{guard, object};

/// Pages of one list that are read at most. What is beyond is left to its own events and to backfill.
const MOST_PAGES: usize = 20;

/// What a list shows.
struct Members {
    kind: Kind,
    told: Vec<Told>,
    /// Whether these are all.
    complete: bool,
}

/// Wishes for what belongs to an object: what WorkOS lists as such, told already, and what the mirror has
/// besides, to be asked for. The fence of the question must have been taken before this is called; the object
/// itself is not among them.
pub async fn wishes_for(sync: &Sync, object: &ObjectRef) -> Result<Vec<Wish>, Failure> {
    let lists = object::lists_of(object).map(|(kind, path)| list(sync, kind, object, path));
    let lists = try_join_all(lists).await?;
    if lists.is_empty() {
        return Ok(Vec::new());
    }
    let listed: HashSet<&ObjectRef> =
        lists.iter().flat_map(|list| list.told.iter().map(|told| &told.record.object)).collect();
    let kinds: Vec<Kind> = lists.iter().filter(|list| list.complete).map(|list| list.kind).collect();

    let look = async {
        let mut connection = sync.database.acquire().await?;
        let dependants = object::dependants(&mut connection, &[object], true).await?;
        let absent: Vec<ObjectRef> = dependants
            .into_iter()
            .map(|(_, dependant)| dependant)
            .filter(|dependant| kinds.contains(&dependant.kind) && !listed.contains(dependant))
            .collect();
        let wanted: Vec<&ObjectRef> = listed.iter().copied().chain(&absent).collect();
        let known = guard::known(&mut *connection, &sync.env, &wanted).await?;
        Ok::<_, sqlx::Error>((absent, known))
    };
    let (absent, mut known) = tokio::time::timeout(database::TIMEOUT, look)
        .await
        .map_err(|_| Failure::DatabaseUnavailable)?
        .map_err(Trouble::from)?;

    let told = lists.into_iter().flat_map(|list| list.told);
    let mut wishes: Vec<Wish> = Vec::new();
    for told in told {
        let before = known.remove(&told.record.object);
        wishes.push(Wish::told(told, before));
    }
    for object in absent {
        let before = known.remove(&object);
        wishes.push(Wish::asking(object, before));
    }
    Ok(wishes)
}

async fn list(sync: &Sync, kind: Kind, of: &ObjectRef, path: String) -> Result<Members, Failure> {
    let mut members = Members { kind, told: Vec::new(), complete: true };
    let mut after: Option<String> = None;
    for _ in 0..MOST_PAGES {
        // Not there: nothing belongs to it.
        let of = Some(of.id.as_str());
        let Some(page) = listing::page(&sync.workos, kind, of, &path, after.as_deref(), sync.lane).await?
        else {
            return Ok(members);
        };
        members.told.extend(page.told);
        members.complete &= page.unreadable == 0;
        after = page.after;
        if after.is_none() {
            return Ok(members);
        }
    }
    tracing::info!(object.kind = %kind, pages = MOST_PAGES, "a list is longer than is read at once");
    members.complete = false;
    Ok(members)
}
